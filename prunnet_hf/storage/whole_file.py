"""Files that are whole or absent: a reader never sees half of one, and a failed write leaves the old one in place."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def whole_file(path: str | os.PathLike[str], scratch: Path | None = None) -> Iterator[BinaryIO]:
    """Open a temporary file for writing, which becomes `path` when the block ends without an error.

    Its random name keeps writers of the same path apart: the last to finish wins. It is removed on any error; only a
    process that is killed leaves it behind, as `.<name>.<16 hexadecimal digits>.tmp`.

    Args:
        path: The file to write. Its directory must exist.
        scratch: The directory for the temporary file, on the same file system; by default that of `path`.

    Raises:
        OSError: If the file can't be written, for instance because the disk is full.
    """
    path = Path(path)
    # Not made by tempfile, whose files are for their owner only: the umask decides who may read it.
    temporary = (scratch or path.parent) / f".{path.name}.{secrets.token_hex(8)}.tmp"
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # else a power cut could leave an empty file at `path`
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` in UTF-8, whole or not at all."""
    with whole_file(path) as file:
        file.write(text.encode("utf-8"))
