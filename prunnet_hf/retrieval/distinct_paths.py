"""Whether millions of paths are all different, in 16 bytes for each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from .embedding_table import PATH

_BYTES = 16
"""Of a digest: so long that two paths of one digest are the same path."""


class DistinctPaths:
    """Paths that files hold, of which only digests are kept."""

    def __init__(self) -> None:
        self._files: list[Path] = []
        self._digests: list[NDArray[np.uint64]] = []

    def add(self, paths: Iterable[str], file: Path) -> None:
        """Take note of the paths that come next in a file.

        Args:
            paths: The paths.
            file: The Parquet file whose column `path` holds them.
        """
        digests = b"".join(hashlib.blake2b(path.encode(), digest_size=_BYTES).digest() for path in paths)
        self._digests.append(np.frombuffer(digests, dtype=np.uint64).reshape(-1, 2))
        self._files.append(file)

    def check(self) -> None:
        """Refuse paths that came twice.

        Raises:
            ValueError: If one did; the message names it, and its files.
        """
        digests = np.concatenate([np.empty((0, 2), dtype=np.uint64), *self._digests])
        order = np.lexsort(digests.T)
        ordered = digests[order]
        same = np.flatnonzero((ordered[1:] == ordered[:-1]).all(axis=1))
        if same.size:
            first, second = sorted(order[same[0] : same[0] + 2].tolist())
            path, file = self._at(first)
            raise ValueError(
                f"{path!r} is in {file} and in {self._at(second)[1]}: paths must name each image once. Embed folders "
                "that overlap only once."
            )

    def _at(self, place: int) -> tuple[str, Path]:
        """The path that came at this place, and its file."""
        ends = np.cumsum([len(digests) for digests in self._digests])
        number = int(np.searchsorted(ends, place, side="right"))
        file = self._files[number]
        start = int(ends[self._files.index(file) - 1]) if self._files.index(file) else 0
        path: str = pq.read_table(file, columns=[PATH])[PATH][place - start].as_py()
        return path, file
