"""The files of a run directory: where they lie, and how they are written whole or not at all."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from ..masking import format_capacity

TRAINING_FACTS = (
    "method",
    "seed",
    "num_train_classes",
    "num_train_images",
    "training_seconds",
    "waiting_for_data",
    "skipped_steps",
    "base_model",
    "training_device",
)
"""Entries of `metrics.json` that only the training itself knows."""
CONCLUSIONS = (
    "metrics.json",
    "README.md",
    "compatibility.png",
    "curve.png",
    "usage.json",
    "compressibility.json",
    "compressibility.png",
)


def write_text(path: Path, text: str) -> None:
    """Write `text` beside its place and move it there, so that a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def write_json(path: Path, content: Any) -> None:
    """Write `content` as JSON, whole or not at all."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def subnetwork_directory(run: Path, capacity: float) -> Path:
    """Where the subnetwork of a capacity is saved."""
    return run / "subnetworks" / f"capacity-{format_capacity(capacity)}"


def recorded_training(run: Path, dataset: str) -> dict[str, Any]:
    """What `metrics.json` of a run says of its training; nothing where there is none.

    Args:
        run: A run directory that is evaluated again.
        dataset: What it is evaluated on.

    Raises:
        ValueError: If the run was evaluated on another data set, whose results would be lost.
    """
    file = run / "metrics.json"
    if not file.is_file():
        return {}
    metrics = json.loads(file.read_text(encoding="utf-8"))
    if metrics["dataset"] != dataset:
        raise ValueError(
            f"{file} holds results on dataset {metrics['dataset']!r}, which --eval_only on {dataset!r} would replace. "
            f"Choose another --output_dir, with --model_name_or_path {run / 'model'}."
        )
    return {fact: metrics.get(fact) for fact in TRAINING_FACTS}


def discard_conclusions(run: Path) -> None:
    """Remove what an earlier run said of its model and cut from it, before another model takes its place."""
    for name in CONCLUSIONS:
        (run / name).unlink(missing_ok=True)
    shutil.rmtree(run / "subnetworks", ignore_errors=True)
