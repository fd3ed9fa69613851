"""Manifests: a list of a folder's files with their sizes and SHA-256, by which lost and damaged files are found."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from .run_directory import write_json

MANIFEST = "manifest.json"
_READ_AT_A_TIME = 1 << 20


def write_manifest(folder: Path) -> None:
    """List the files of a finished folder. All of them are on the disk before the list is, also after a power cut.

    Raises:
        OSError: If a file can't be read or the list not be written.
    """
    files = [{"name": name, **_facts(folder / name, sync=True)} for name in _file_names(folder)]
    write_json(folder / MANIFEST, {"files": files})
    for place in {folder, *((folder / entry["name"]).parent for entry in files)}:
        sync_directory(place)


def find_damage(folder: Path) -> str | None:
    """What is wrong with a folder that has a manifest, in words that follow its name; None if it is as it was written.

    A folder without manifest is damaged too: the manifest is written last.
    """
    try:
        expected = _read(folder / MANIFEST)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return f"has no {MANIFEST} that can be read ({type(error).__name__}: {error})"
    found = _file_names(folder)
    foreign = sorted(set(found) - set(expected))
    if foreign:
        return f"holds files that its {MANIFEST} doesn't name: {', '.join(foreign)}"
    for name, facts in expected.items():
        if name not in found:
            return f"lacks the file {name}"
        size = (folder / name).stat().st_size
        if size != facts["size"]:
            return f"has {size} bytes in {name} instead of {facts['size']}"
        if _facts(folder / name)["sha256"] != facts["sha256"]:
            return f"has other bytes in {name} than were written"
    return None


def sync_directory(folder: Path) -> None:
    """Make sure that the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(manifest: Path) -> dict[str, dict[str, Any]]:
    content = json.loads(manifest.read_text(encoding="utf-8"))
    return {str(entry["name"]): {"size": entry["size"], "sha256": entry["sha256"]} for entry in content["files"]}


def _file_names(folder: Path) -> list[str]:
    """All files, by their path in the folder; without hidden ones, which file systems and desktops may add."""
    files = (path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir())
    return sorted(file.as_posix() for file in files if file.name != MANIFEST and not file.name.startswith("."))


def _facts(file: Path, *, sync: bool = False) -> dict[str, Any]:
    found = hashlib.sha256()
    with file.open("rb") as opened:
        while part := opened.read(_READ_AT_A_TIME):
            found.update(part)
        if sync:
            os.fsync(opened.fileno())
    return {"size": file.stat().st_size, "sha256": found.hexdigest()}
