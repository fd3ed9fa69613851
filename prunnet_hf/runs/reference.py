"""What a run that trains into a space that exists is compared with: the space's own vectors of the test images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..modeling_prunnet import PrunNetModel


@dataclass(frozen=True, eq=False)
class Reference:
    """A space that exists.

    Attributes:
        embedding_space: Its id.
        teacher: The model that made the targets; None if they are a gallery's.
        gallery: The gallery that was given; None without one.
        losses: What `--into_loss` named.
        query: `(num_queries, embedding_dim)`, its vectors of the queries; None if they aren't known.
        gallery_vectors: `(num_gallery, embedding_dim)`, those of the gallery; None if they aren't known.
        before: The network as it was before the run, if it was of this space; see `runs/criterion.py`.
    """

    embedding_space: str
    teacher: str | None
    gallery: str | None
    losses: list[str]
    query: NDArray[np.float32] | None
    gallery_vectors: NDArray[np.float32] | None
    before: PrunNetModel | None = None
