"""Folders of the machine a run was made on: they mean nothing elsewhere, may name people, and are not published."""

from __future__ import annotations

import json
import shlex
from pathlib import PurePosixPath
from pathlib import PureWindowsPath
from typing import Any

OF_THIS_MACHINE = ("data_dir", "output_dir")
"""Arguments that mean nothing on another machine."""


def without_local_paths(content: Any) -> Any:
    """What a JSON or YAML file holds, absolute paths cut down to their last part.

    Args:
        content: Made of mappings, lists and plain values. Entries that name folders of this machine (`data_dir`,
            `output_dir`) are left out, and an entry `command` is read as a command line.

    Example:
        >>> without_local_paths({"model_name_or_path": "/home/me/base", "command": "train.py --config=/home/me/a"})
        {'model_name_or_path': 'base', 'command': 'train.py --config=a'}
    """
    if isinstance(content, dict):
        return {
            key: _shorten_command(value) if key == "command" and isinstance(value, str) else without_local_paths(value)
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


def _shorten(text: str) -> str:
    """The last part of a path that is absolute on any system, leads upwards, or lies below a home; else the text."""
    if text.startswith("{"):  # backbone_kwargs, as a command line has them
        try:
            return json.dumps(without_local_paths(json.loads(text)))
        except ValueError:
            return text
    path = text.removeprefix("file://")
    for kind in (PurePosixPath, PureWindowsPath):
        first = (kind(path).parts or ("",))[0]
        if kind(path).is_absolute() or first.startswith("~") or first == "..":
            return kind(path).name
    return text
