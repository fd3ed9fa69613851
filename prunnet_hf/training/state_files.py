"""The state of a training on disk: accelerate's files, and JSON for the rest. Reading them runs no code.

Versions before 0.2 let accelerate pickle the rest (`custom_checkpoint_*.pkl`) and wrote no manifest. Such checkpoints
are still read, if they hold nothing but plain data.
"""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from accelerate import Accelerator
from accelerate.utils import load
from safetensors import SafetensorError, safe_open

from ..runs.manifest import MANIFEST, find_damage
from ..runs.run_directory import write_json

OLD_FILES = {"schedule": "custom_checkpoint_0.pkl", "progress": "custom_checkpoint_1.pkl"}
"""Where earlier versions kept what is now in `NAME.json`."""
RANDOM_STATES = {"random_state", "numpy_random_seed", "torch_manual_seed"}
UNREADABLE = (OSError, ValueError, KeyError, EOFError, RuntimeError, pickle.UnpicklingError, SafetensorError)
"""What torch, safetensors and zipfile raise on files that are damaged or hold more than plain data."""


class Stateful(Protocol):
    """What can be saved: its state is made of what JSON has."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint stores."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what a checkpoint stored."""


def write_state(folder: Path, states: Mapping[str, Stateful]) -> None:
    """Write each state as `NAME.json`."""
    for name, state in states.items():
        write_json(folder / f"{name}.json", state.state_dict())


def read_state(accelerator: Accelerator, folder: Path, states: Mapping[str, Stateful]) -> None:
    """Restore all that `accelerator` prepared, and `states`, from a checkpoint in which `what_is_wrong` found nothing.

    Raises:
        ValueError: If a file holds more than plain data, or doesn't fit; nothing that a file names is run.
    """
    # The states come first: progress knows whether the checkpoint fits the images.
    is_old = _is_old(folder)
    try:
        found = {name: _read_one(folder, name, is_old=is_old) for name in states}
        _check_random_states(accelerator, folder, found.get("progress", {}).get("num_processes"))
        _check_groups(folder, found, states)
        for name, state in states.items():
            state.load_state_dict(found[name])
        if is_old:
            _load_without_pickles(accelerator, folder)
        else:
            accelerator.load_state(str(folder))
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"The checkpoint {folder} holds more than plain data, which is refused because it could run code "
            f"({str(error).splitlines()[0]}). Remove it, and start without --resume or from another checkpoint."
        ) from error
    except RuntimeError as error:  # as torch says that a tensor has another shape
        raise ValueError(
            f"The checkpoint {folder} doesn't fit the network of this run ({' '.join(str(error).split())}). Give the "
            "arguments from before, such as --granularity and --backbone, and the same images, or start without "
            "--resume in another --output_dir."
        ) from error


def _check_groups(folder: Path, found: Mapping[str, dict[str, Any]], states: Mapping[str, Stateful]) -> None:
    """Refuse a schedule of other groups of parameters, which torch does in words that name nothing, or not at all."""
    before, now = (
        len(state.get("schedule", {}).get("base_lrs", ()))
        for state in (found, {name: state.state_dict() for name, state in states.items()})
    )
    if before != now:
        raise ValueError(
            f"The checkpoint {folder} doesn't fit this run: the groups of parameters with a learning rate of their "
            f"own were {before} and are {now}. Give the --granularity, --score_learning_rate and --score_weight_decay "
            "from before, or start without --resume in another --output_dir."
        )


def what_is_wrong(folder: Path) -> str | None:
    """Why a checkpoint can't be resumed from, in words that follow its name; None if it can."""
    return _what_is_wrong_with_old(folder) if _is_old(folder) else find_damage(folder)


def recipe_of_earlier_version(folder: Path) -> dict[str, Any]:
    """The arguments of the run that a checkpoint is of, if an earlier version wrote it; else none."""
    if not _is_old(folder):
        return {}
    try:
        recipe = _read_one(folder, "progress", is_old=True).get("recipe")
    except UNREADABLE:  # which is said when the checkpoint is loaded
        return {}
    return recipe if isinstance(recipe, dict) else {}


def _is_old(folder: Path) -> bool:
    newer = [folder / MANIFEST, *(folder / f"{name}.json" for name in OLD_FILES)]
    return not any(path.exists() for path in newer) and any((folder / name).exists() for name in OLD_FILES.values())


def _what_is_wrong_with_old(folder: Path) -> str | None:
    needed = {*OLD_FILES.values(), "model.safetensors", "optimizer.bin", "random_states_0.pkl"}
    for name in sorted(needed | {path.name for path in folder.iterdir() if path.suffix in (".bin", ".pkl", ".pt")}):
        try:
            _read_whole(folder / name)
        except UNREADABLE as error:
            return f"has no whole file {name} ({type(error).__name__}: {str(error).splitlines()[0]})"
    return None


def _read_whole(file: Path) -> None:
    """Read a file's checksums if it has any; the tensors of safetensors files have none."""
    if file.suffix == ".safetensors":
        with safe_open(str(file), framework="pt") as opened:
            opened.keys()
        return
    try:
        with zipfile.ZipFile(file) as archive:
            bad = archive.testzip()
    except zipfile.BadZipFile as error:
        raise ValueError(str(error)) from error
    if bad is not None:
        raise ValueError(f"wrong checksum of {bad}")


def _read_one(folder: Path, name: str, *, is_old: bool) -> dict[str, Any]:
    if is_old:
        content = load(folder / OLD_FILES[name], map_location="cpu", weights_only=True)
    else:
        content = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"The checkpoint {folder} must hold the {name} as a mapping; got {content!r:.80}.")
    return content


def _check_random_states(accelerator: Accelerator, folder: Path, num_processes: int | None) -> None:
    """Accelerate passes over random states that it can't read, and the run would end with other weights."""
    rank = accelerator.process_index
    if rank >= (num_processes or 1):  # a process that the run didn't have; see `warn_of_other_processes`
        return
    file = folder / f"random_states_{rank}.pkl"
    states = load(file, weights_only=True)
    if not isinstance(states, dict) or not states.keys() >= RANDOM_STATES:
        raise ValueError(f"{file} must hold the random states {', '.join(sorted(RANDOM_STATES))}.")


def _load_without_pickles(accelerator: Accelerator, folder: Path) -> None:
    """Accelerate would unpickle all `custom_checkpoint_*.pkl` that it sees."""
    with TemporaryDirectory() as seen:
        for path in folder.iterdir():
            if not path.name.startswith("custom_checkpoint_"):
                os.symlink(path.resolve(), Path(seen) / path.name)
        accelerator.load_state(seen)
