"""The walk over a folder of images, for training and for galleries: the images in it, and what is passed over."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from pathlib import Path

from ..image_files import image_suffixes
from .splits import listed, refuse_alike

logger = logging.getLogger(__name__)

SUFFIXES_SHOWN = 10


@dataclass
class FoundImages:
    """What a walk has found in a folder.

    Attributes:
        images: Paths of the images, relative to the folder, ascending, with `/` between their parts.
        folders: Names of the folders that lie directly in it and were walked, ascending.
        passed_over: How many files were passed over, by suffix or by another reason.
        met_again: Folders that links lead to, and that were walked already under another name.
        broken_links: Links that lead nowhere, without the suffix of an image.
    """

    images: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)
    met_again: list[str] = field(default_factory=list)
    broken_links: list[str] = field(default_factory=list)


def find_images(folder: str | os.PathLike[str]) -> FoundImages:
    """Find the files in a folder, and in folders inside it, that have the suffix of an image.

    Links to folders are followed. A folder that can be reached under several names is walked under one: one without
    links if there is one, else the least deep, else the first by name. Hidden files and folders are passed over. What
    was passed over is logged in one line, which counts it by suffix.

    Args:
        folder: The folder.

    Raises:
        OSError: If a folder can't be read: its images would be missing.
        ValueError: If a name isn't valid UTF-8, or two names print alike.
    """
    found, suffixes = FoundImages(), image_suffixes()
    for place, entry in _entries(folder, found):
        suffix = os.path.splitext(entry.name)[1].lower()
        if entry.name.startswith("."):
            found.passed_over["hidden"] += 1
        elif suffix in suffixes:
            _refuse_undecodable(place)
            found.images.append(place)  # also a link that leads nowhere: opening it names it
        elif entry.is_symlink() and not os.path.exists(entry.path):
            found.broken_links.append(place)
        else:
            found.passed_over[suffix or "without a suffix"] += 1
    found.images.sort()
    found.folders.sort()
    refuse_alike([*found.folders, *found.images], f"{os.fspath(folder)!r}")
    _report(folder, found)
    return found


def _entries(folder: str | os.PathLike[str], found: FoundImages) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """All entries that aren't folders to walk, each with its path relative to `folder`."""
    seen: set[tuple[int, int]] = set()
    pending: list[tuple[bool, int, str]] = [(False, 0, "")]
    while pending:
        by_link, depth, place = heappop(pending)
        state = os.stat(os.path.join(folder, place))
        if (state.st_dev, state.st_ino) in seen:
            found.met_again.append(place)
            continue
        seen.add((state.st_dev, state.st_ino))
        if depth == 1:
            found.folders.append(place)
        with os.scandir(os.path.join(folder, place)) as entries:
            for entry in entries:
                path = f"{place}/{entry.name}" if place else entry.name
                if _is_folder(entry) and not entry.name.startswith("."):
                    _refuse_undecodable(path)
                    heappush(pending, (by_link or entry.is_symlink(), depth + 1, path))
                else:
                    yield path, entry


def _is_folder(entry: os.DirEntry[str]) -> bool:
    # isdir also handles links that lead to themselves; is_dir raises an error for them.
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def _refuse_undecodable(path: str) -> None:
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the name of {path!r} is not valid UTF-8, which Parquet needs: rename it.") from error


def _report(folder: str | os.PathLike[str], found: FoundImages) -> None:
    counts = found.passed_over.most_common()
    kinds = [f"{count} {kind if kind.isprintable() else ascii(kind)}" for kind, count in counts[:SUFFIXES_SHOWN]]
    if counts[SUFFIXES_SHOWN:]:
        kinds.append(f"{sum(count for _, count in counts[SUFFIXES_SHOWN:])} with other suffixes")
    sentences = [f"{found.passed_over.total()} files are passed over: {', '.join(kinds)}."] if kinds else []
    for places, what in (
        (found.broken_links, "links lead nowhere"),
        (found.met_again, "folders that links lead to were walked already under another name"),
    ):
        if places:
            shown = [place.encode(errors="backslashreplace").decode() for place in sorted(places)]
            sentences.append(f"{len(places)} {what}: {listed(shown)}.")
    if sentences:
        logger.warning("%s: %s", Path(folder), " ".join(sentences))
