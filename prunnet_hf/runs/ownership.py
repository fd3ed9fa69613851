"""Whose a run directory is: one run writes in it at a time, and only what runs write is ever removed."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from ..storage.forms import MODEL_FILES
from ..storage.json_text import load_json
from ..storage.lock import locked
from .run_directory import CARD_BEGINS, CONCLUSIONS, LOG
from .yaml_text import load_yaml

STEP = re.compile(r"step-\d+(\.partial|\.replaced)?")
"""Names of the folders in `checkpoints/` and `best/`."""
_CAPACITY = re.compile(r"capacity-[01]\.\d+")
_ROUND = re.compile(r"\d\d+")
_MARK = re.compile(r"\.seen-by-all-[0-9a-f]{32}")
_OF_RECIPES = {"dataset", "output_dir", "backbone", "capacities"}
_OF_RECORDS = {"format", "dataset", "results"}
DENSE, PHASE = "dense", "phase.json"
"""The folder of the first phase of a run by distillation, and the file in it that is written before its model."""
TARGETS = "targets"
"""The folder of what a run into a space that exists keeps: the teacher's embeddings of each split, and neighbours."""
_OF_TARGETS = re.compile(r"train|validation|query|gallery")
_WORK = ("metrics.json", "model", "trajectory.json", "initial", "rounds")
"""What a run that has come to something leaves, besides checkpoints and best models."""
_SHOWN = 3


def claim_run(run: Path) -> AbstractContextManager[None]:
    """Keep other processes from writing in a run directory during the block.

    The lock lies beside the directory, which need not exist yet; if nothing can be written there, inside it.

    Raises:
        BlockingIOError: If another process is writing in it; the message names it.
    """
    place = run.resolve()
    if place.parent.is_dir() and not os.access(place.parent, os.W_OK):
        lock = place / ".run.lock"
    else:
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = place.with_name(f".{place.name}.lock")
    return locked(lock, f"output_dir={str(run)!r}", "Wait until it ends, or choose another output_dir.")


def refuse_what_is_not_ours(run: Path) -> None:
    """Refuse a directory that is neither empty nor a run, and a README.md that no run wrote.

    Raises:
        NotADirectoryError: If `run` is a file.
        FileExistsError: If there is something that somebody else made.
    """
    if run.is_file():
        raise NotADirectoryError(f"output_dir must be a directory; {run} is a file.")
    found = _entries(run)
    card = run / "README.md"
    if card.exists() and not _is_card(card):
        raise FileExistsError(
            f"output_dir={str(run)!r} holds a README.md that no run wrote, where the model card would go. Choose "
            "another output_dir, or move it away."
        )
    if found and not is_run(run):
        held = ", ".join(found[:_SHOWN]) + (f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")
        raise FileExistsError(
            f"output_dir={str(run)!r} must be empty or hold an earlier run; it holds {held}. "
            "Choose another output_dir."
        )


def refuse_to_replace_sources(run: Path, sources: Mapping[str, str | None]) -> None:
    """Refuse to replace a run that the new one learns from: it would be gone when that goes on with --resume.

    Args:
        run: The run directory.
        sources: What the new run learns from, by the argument that names it.

    Raises:
        ValueError: If one lies in it.
    """
    for argument, source in sources.items():
        if source is not None and Path(source).resolve().is_relative_to(run.resolve()):
            raise ValueError(
                f"--{argument} {source} lies in output_dir={str(run)!r}, which --overwrite_output_dir would replace. "
                "Choose another output_dir."
            )


def is_run(run: Path) -> bool:
    """Whether a directory holds a run, finished or not: its recipe, its record, a checkpoint or its model."""
    return (
        _mapping(run / "config.yaml").keys() >= _OF_RECIPES
        or _mapping(run / "metrics.json").keys() >= _OF_RECORDS
        or _mapping(run / "model" / "config.json").get("model_type") == "prunnet"
        or bool(_own(run / "checkpoints", STEP))
    )


def was_trained_into(run: Path) -> bool:
    """Whether a run was trained into a space that exists, by its recipe."""
    recipe = _mapping(run / "config.yaml")
    return bool(recipe.get("into") or recipe.get("teacher"))


def earlier_work(run: Path) -> list[str]:
    """Names of what an earlier run has come to. A new one in its place would end it."""
    return [name for name in _WORK if (run / name).exists()] + _stages(run) + phase_work(run)


def phase_work(run: Path) -> list[str]:
    """As `earlier_work`, of the first phase of a run by distillation."""
    if _is_foreign_phase(run):
        return []
    model = ["model"] if (run / DENSE / "model").exists() else []
    return [f"{DENSE}/{name}" for name in (*model, *_stages(run / DENSE))]


def refuse_foreign_phase(run: Path) -> None:
    """Refuse a run whose first phase would be in the place of something else.

    Raises:
        FileExistsError: If there is a run or a model that no first phase made.
    """
    if _is_foreign_phase(run):
        raise FileExistsError(
            f"output_dir={str(run)!r} holds another run or model in {DENSE}/, where the dense network would be "
            "trained alone first. Choose another output_dir, or move it away."
        )


def _is_foreign_phase(run: Path) -> bool:
    """Whether `dense/` is not what a first phase leaves: a run of its own, which has a recipe, or a model."""
    folder = run / DENSE
    is_of_its_own = any((folder / name).exists() for name in ("config.yaml", "metrics.json"))
    return is_of_its_own or ((folder / "model").exists() and not (folder / PHASE).exists())


def _stages(run: Path) -> list[str]:
    return [name for name in ("best", "checkpoints") if any(map(_is_whole, _own(run / name, STEP)))]


def _is_whole(stage: Path) -> bool:
    return stage.suffix != ".partial"  # which a killed process has left half-written


def discard_conclusions(run: Path) -> None:
    """Remove what an earlier run wrote about its model, and its subnetworks, before a new model replaces it."""
    for name in CONCLUSIONS:
        if name != "README.md" or _is_card(run / name):
            (run / name).unlink(missing_ok=True)
    for folder in _own(run / "subnetworks", _CAPACITY):
        _remove_model(folder)
    _remove_if_empty(run / "subnetworks")


def discard_stages(run: Path) -> None:
    """Remove checkpoints and best models."""
    for name in ("checkpoints", "best"):
        for folder in _own(run / name, STEP):
            shutil.rmtree(folder)
        _remove_if_empty(run / name)


def discard_run(run: Path) -> None:
    """Remove all that an earlier run wrote. What else is in the directory stays."""
    discard_conclusions(run)
    discard_stages(run)
    for name in ("model", "initial"):
        _remove_model(run / name)
    if (run / DENSE).is_dir() and not _is_foreign_phase(run):
        discard_run(run / DENSE)
        (run / DENSE / PHASE).unlink(missing_ok=True)
        _remove_if_empty(run / DENSE)
    for folder in _own(run / TARGETS, _OF_TARGETS):
        shutil.rmtree(folder)
    for file in (run / TARGETS).glob("neighbours-*.npy"):
        file.unlink()
    _remove_if_empty(run / TARGETS)
    for directory in _own(run / "rounds", _ROUND):
        discard_run(directory)
        (directory / "round.json").unlink(missing_ok=True)
        _remove_if_empty(directory)
    _remove_if_empty(run / "rounds")
    for name in ("config.yaml", LOG, "data.json", "training.json", "trajectory.json", "trajectory.png"):
        (run / name).unlink(missing_ok=True)
    shutil.rmtree(run / "logs" / "prunnet", ignore_errors=True)  # accelerate's trackers write in it
    _remove_if_empty(run / "logs")


def _entries(run: Path) -> list[str]:
    if not run.is_dir():
        return []
    return sorted(path.name for path in run.iterdir() if path.name != ".run.lock" and not _MARK.fullmatch(path.name))


def _own(folder: Path, names: re.Pattern[str]) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if names.fullmatch(path.name) and path.is_dir())


def _mapping(file: Path) -> dict[str, Any]:
    """The mapping in a YAML or JSON file; empty if there is none."""
    with suppress(OSError, ValueError):
        text = file.read_text(encoding="utf-8")
        content = load_json(text) if file.suffix == ".json" else load_yaml(text)
        if isinstance(content, dict):
            return content
    return {}


def _is_card(file: Path) -> bool:
    with suppress(OSError, UnicodeDecodeError):
        return CARD_BEGINS in file.read_text(encoding="utf-8")
    return False


def _remove_model(folder: Path) -> None:
    for pattern in (*MODEL_FILES, "preprocessor_config.json", "manifest.json"):
        for file in folder.glob(pattern):
            file.unlink()
    _remove_if_empty(folder)


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()
