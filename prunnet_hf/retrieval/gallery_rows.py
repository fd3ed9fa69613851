"""The rows of a gallery: an index, the table of its images, and their vectors, which change together or not at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .gallery_index import changed_index, stored_vectors

Vectors = NDArray[np.float32]


class Rows:
    """An index and what its ids stand for.

    Attributes:
        index: Of faiss; its ids are rows of the table.
        images: The columns of `gallery_images.IMAGES_SCHEMA`.
    """

    def __init__(
        self, index: Any, images: pa.Table, vectors: Callable[[], Vectors | None], *, mapped: bool = False
    ) -> None:
        """Hold them.

        Args:
            index: Of faiss.
            images: A row for each of its ids.
            vectors: Gives the vectors; not called, nor held, if the index itself has them exactly.
            mapped: Whether the index lies in a file that is mapped into memory, and can't change.
        """
        self.index = index
        self.images = images
        self._mapped = mapped
        self.hold(vectors)

    def __len__(self) -> int:
        return len(self.images)

    def hold(self, vectors: Callable[[], Vectors | None]) -> None:
        """Have `vectors` give the vectors, unless the index itself has them exactly."""
        self._apart = vectors if stored_vectors(self.index) is None else _none

    def vectors(self) -> Vectors | None:
        """The vectors, `(n, dim)`, until the rows change; None if they aren't known any more."""
        inside = stored_vectors(self.index)
        return self._apart() if inside is None else inside

    def change(self, removed: Sequence[int], added: Vectors, images: pa.Table) -> bool:
        """Remove rows and append others; all stays as it is if that fails.

        Args:
            removed: Rows to remove.
            added: Vectors of the new rows.
            images: Their images.

        Returns:
            False if the index would have to be made again, and the vectors aren't known.

        Raises:
            ValueError: If the index is mapped from a file.
        """
        if self._mapped:
            raise ValueError("a gallery that was loaded with mmap=True can't change: load it without.")
        left = np.delete(np.arange(len(self)), removed)
        table = pa.concat_tables([self.images.take(pa.array(left)) if len(removed) else self.images, images])

        def together() -> Vectors | None:
            before = self.vectors()
            return None if before is None else np.concatenate([before[left], added])

        held = None if stored_vectors(self.index) is not None else together()
        index = changed_index(self.index, removed, added, together if held is None else lambda: held)
        if index is None:
            return False
        self.index, self.images = index, table
        self.hold(lambda: held)
        return True


def _none() -> None:
    """Vectors that aren't known apart from the index."""
