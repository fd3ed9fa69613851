"""The files of a run directory: where they are, and how they are written."""

from __future__ import annotations

import json
import shlex
from datetime import datetime
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import TracebackType
from typing import Any, Self

from ..pruning.masking import format_capacity
from ..storage.json_text import load_json
from ..storage.whole_file import write_whole

EXAMPLES = "examples.png"
"""What networks find for a few queries of the test."""
CONCLUSIONS = (
    "metrics.json",
    "README.md",
    "compatibility.png",
    "curve.png",
    EXAMPLES,
    "usage.json",
    "compressibility.json",
    "compressibility.png",
)
"""What is written about a finished model."""
CARD_BEGINS, CARD_ENDS = "<!-- prunnet_hf: card begins -->", "<!-- prunnet_hf: card ends -->"
"""Lines around a card's generated text. What is outside them, after the YAML, was written by hand."""

LOG = "training.log"


def write_text(path: Path, text: str) -> None:
    """Write `text`, whole or not at all, into a directory that is created if necessary."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text)


def write_json(path: Path, content: Any) -> None:
    """Write `content` as JSON, whole or not at all."""
    write_text(path, json.dumps(content, indent=2) + "\n")


class RunLog:
    """The log of a run, `training.log`: a context that also notes the error that ends it.

    Args:
        run: The run directory.
        is_main_process: Whether this process writes it.
    """

    def __init__(self, run: Path, *, is_main_process: bool = True) -> None:
        self.file = run / LOG
        self.is_main_process = is_main_process
        self._has_begun = False

    def __enter__(self) -> Self:
        """Nothing is written before `begin`."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Note an error."""
        if isinstance(error, Exception):
            self.add(f"Ended by {type(error).__name__}: {error}")

    def begin(self, line: str) -> None:
        """Write the first line of this start of the run."""
        self._has_begun = True
        self.add(line)

    def add(self, line: str) -> None:
        """Add a line with the time."""
        if self.is_main_process and self._has_begun:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a", encoding="utf-8") as log:
                log.write(f"{datetime.now().isoformat(sep=' ', timespec='seconds')} {line}\n")


def subnetwork_directory(run: Path, capacity: float) -> Path:
    """The directory of the subnetwork of a capacity."""
    return run / "subnetworks" / f"capacity-{format_capacity(capacity)}"


OF_THIS_MACHINE = ("data_dir", "output_dir")
"""Arguments that mean nothing on another machine."""
COMMANDS = ("command", "training_command")
"""Entries that hold a command line."""


def without_local_paths(content: Any) -> Any:
    """The content of a JSON or YAML file, with absolute paths shortened to their last part.

    Args:
        content: Made of mappings, lists and plain values. Entries that name folders of this machine (`data_dir`,
            `output_dir`) are left out, and those of `COMMANDS` are read as command lines.

    Example:
        >>> without_local_paths({"model_name_or_path": "/home/me/base", "command": "train.py --config=/home/me/a"})
        {'model_name_or_path': 'base', 'command': 'train.py --config=a'}
    """
    if isinstance(content, dict):
        return {
            key: _shorten_command(value) if key in COMMANDS and isinstance(value, str) else without_local_paths(value)
            for key, value in content.items()
            if key not in OF_THIS_MACHINE
        }
    if isinstance(content, list):
        return [without_local_paths(value) for value in content]
    return _shorten(content) if isinstance(content, str) else content


def _shorten_command(command: str) -> str:
    words = []
    for word in shlex.split(command):
        flag, sign, value = word.partition("=")
        words.append(f"{flag}={_shorten(value)}" if sign else _shorten(word))
    return shlex.join(words)


_MODELS_IN_FOLDERS = ("timm:local-dir:", "transformers:")
"""What names of models begin with that may be in a folder of this machine."""


def _shorten(text: str) -> str:
    """The last part of a path that is absolute on any system, leads upwards, or lies below a home; else the text."""
    if text.startswith("{"):  # backbone_kwargs, as a command line has them
        try:
            return json.dumps(without_local_paths(load_json(text)))
        except ValueError:
            return text
    model = next((kind for kind in _MODELS_IN_FOLDERS if text.startswith(kind)), "")
    if model:
        return model + _shorten(text.removeprefix(model))
    path = text.removeprefix("file://")
    for kind in (PurePosixPath, PureWindowsPath):
        first = (kind(path).parts or ("",))[0]
        if kind(path).is_absolute() or first.startswith("~") or first == "..":
            return kind(path).name
    return text
