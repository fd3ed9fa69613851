"""Folders of galleries that one command at a time makes, or adds to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..retrieval.gallery_files import refuse_other_folder
from ..storage.lock import locked

_LOCK = ".indexing.lock"


@contextmanager
def claimed(output: Path) -> Iterator[None]:
    """Keep other commands from making, or adding to, the same gallery."""
    refuse_other_folder(output)
    output.mkdir(parents=True, exist_ok=True)
    try:
        with locked(output / _LOCK, f"output={str(output)!r}", "Wait until it is done, or choose another name."):
            yield
    finally:
        with suppress(OSError):
            output.rmdir()  # only if nothing came of it
