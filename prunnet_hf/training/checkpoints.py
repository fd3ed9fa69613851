"""Checkpoints to resume from: written beside their place, then renamed into it, so that each is whole or absent."""

import shutil
from pathlib import Path

from accelerate import Accelerator

PARTIAL = ".partial"


def save_checkpoint(accelerator: Accelerator, run: Path, step: int, *, keep: int) -> Path:
    """Save the state of all that `accelerator` prepared as `checkpoints/step-N`; called by all processes.

    Args:
        accelerator: Holds model, optimiser, random states and whatever was registered with it.
        run: The run directory.
        step: Optimiser steps done.
        keep: Older checkpoints beyond this number are removed, after the new one is in place.
    """
    final = run / "checkpoints" / f"step-{step}"
    partial = final.with_name(final.name + PARTIAL)
    if accelerator.is_main_process:
        for leftover in (final, partial):
            shutil.rmtree(leftover, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(partial))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        partial.rename(final)
        for old in list_checkpoints(run)[:-keep]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()
    return final


def load_checkpoint(accelerator: Accelerator, run: Path) -> None:
    """Restore the newest checkpoint of a run.

    Raises:
        FileNotFoundError: If there is none.
    """
    checkpoints = list_checkpoints(run)
    if not checkpoints:
        raise FileNotFoundError(
            f"--resume found no checkpoint under {run / 'checkpoints'}. Train with --checkpoint_every, or start without "
            "--resume."
        )
    accelerator.load_state(str(checkpoints[-1]))


def list_checkpoints(run: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    found = [path for path in (run / "checkpoints").glob("step-*") if path.suffix != PARTIAL]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))
