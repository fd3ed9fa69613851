"""What a search in a gallery has found."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .embedding_table import LABEL, PATH


@dataclass(frozen=True, eq=False)
class Found:
    """What a search has found: `k` images for each query, best first.

    Attributes:
        rows: `(num_queries, k)`, places in the gallery; -1 where an approximate index found fewer.
        scores: `(num_queries, k)` float32, cosines; of an index that quantises, close to them.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    images: pa.Table

    @cached_property
    def paths(self) -> list[list[str | None]]:
        """For each query the paths of its `k` images; None where there are fewer."""
        return self._column(PATH)

    @cached_property
    def labels(self) -> list[list[str | None]]:
        """For each query the labels of its `k` images; None for images without one."""
        return self._column(LABEL)

    def _column(self, name: str) -> list[list[str | None]]:
        rows = pa.array(self.rows.reshape(-1), mask=self.rows.reshape(-1) < 0)
        flat = self.images.column(name).take(rows).to_pylist()
        k = self.rows.shape[1]
        return [flat[start : start + k] for start in range(0, len(flat), k)]

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        queries, k = self.rows.shape
        if not queries:
            return "Found(no queries)"
        first = ", ".join(
            f"{path} {score:.3f}" for path, score in zip(self.paths[0][:3], self.scores[0], strict=False)
        )
        more = f", and {queries - 1} more queries" if queries > 1 else ""
        return f"Found({k} images for a query: {first}{', ...' if k > 3 else ''}{more})"
