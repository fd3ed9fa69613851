"""The best model so far, by its score on classes held out: kept whole beside the checkpoints that know of it."""

from __future__ import annotations

import shutil
from pathlib import Path

from ..image_processing_prunnet import PrunNetImageProcessor
from ..modeling_prunnet import PrunNetForImageClassification

_PARTIAL = ".partial"


def best_directory(run: Path, step: int) -> Path:
    """Where the model is that was the best after `step`."""
    return run / "best" / f"step-{step}"


def keep_best(run: Path, step: int, model: PrunNetForImageClassification, processor: PrunNetImageProcessor) -> None:
    """Save `model` as the best after `step`, whole or not at all; earlier ones stay, for checkpoints may name them."""
    final = best_directory(run, step)
    partial = final.with_name(final.name + _PARTIAL)
    for leftover in (partial, final):
        shutil.rmtree(leftover, ignore_errors=True)
    model.renew_embedding_space()
    model.save_pretrained(partial)
    processor.save_pretrained(partial)
    partial.rename(final)


def forget_others(run: Path, step: int) -> None:
    """Remove all but the best after `step`, once the newest checkpoint names it."""
    for path in (run / "best").glob("step-*"):
        if path != best_directory(run, step):
            shutil.rmtree(path)
