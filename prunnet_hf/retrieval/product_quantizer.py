"""A faiss index of product-quantised embeddings as torch sees it: rotation, codes and centroids.

faiss scores an image of code `k_1 ... k_M` by `<R q, (c_1[k_1], ..., c_M[k_M])>`: the rotation `R` (OPQ) spreads what
an embedding says over its `M` parts, and each part is one of 256 centroids, named by one byte. Here the same score has
gradients, and centroids that were changed go back into the index, which is then searched by them. Codes never change.

Source: JPQ, arXiv 2108.00644, section 4; faiss's `OPQ32,PQ32x8np`.
"""

from __future__ import annotations

import hashlib
from typing import Any

import faiss
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

CENTROIDS = 256
"""So many each part of a vector has: a code is one byte."""
_ADVICE = "`prunnet quantize` (quantize_gallery) makes one of a gallery's embeddings."


class ProductQuantizer:
    """Rotation, codes and centroids of a faiss index.

    Args:
        index: `OPQ32,PQ32x8np` or `PQ32x8np` by inner product, filled. It is kept: `write` changes it.

    Attributes:
        index: The index.
        rotation: `(d_out, dim)`; the identity if the index has none. It doesn't change.
        codes: `(num_images, M)` uint8, in the index's own memory. They don't change.

    Raises:
        ValueError: If the index is of another kind or metric, its vectors are coded relative to inverted lists, its
            rotation adds a bias, or it holds numbers that aren't finite.

    Example:
        >>> index = faiss.index_factory(8, "OPQ4,PQ4x8np", faiss.METRIC_INNER_PRODUCT)
        >>> vectors = np.random.default_rng(0).standard_normal((300, 8)).astype(np.float32)
        >>> index.train(vectors)
        >>> index.add(vectors)
        >>> quantizer = ProductQuantizer(index)
        >>> quantizer.codes.shape, quantizer.centroids().shape
        ((300, 4), torch.Size([4, 256, 2]))
    """

    def __init__(self, index: Any) -> None:
        self.index = index
        inner: Any = faiss.downcast_index(index)
        self.rotation = torch.eye(index.d)
        if isinstance(inner, faiss.IndexPreTransform):
            self.rotation = _rotation(inner)
            inner = faiss.downcast_index(inner.index)
        _check(inner)
        self._inner = inner
        self._shape = (inner.pq.M, CENTROIDS, inner.pq.dsub)
        self.codes: NDArray[np.uint8] = np.empty((0, inner.pq.M), dtype=np.uint8)
        if inner.ntotal:
            self.codes = faiss.rev_swig_ptr(inner.codes.data(), inner.ntotal * inner.pq.M).reshape(-1, inner.pq.M)
        for name, tensor in (("rotation", self.rotation), ("centroids", self.centroids())):
            _check_finite(tensor, name)

    def centroids(self) -> Tensor:
        """A copy of the index's centroids, `(M, 256, d_out / M)`."""
        return torch.from_numpy(faiss.vector_to_array(self._inner.pq.centroids).reshape(self._shape).copy())

    def write(self, centroids: Tensor) -> None:
        """Let the index search by these centroids, at once. Its codes stay as they are.

        Args:
            centroids: `(M, 256, d_out / M)`.

        Raises:
            ValueError: If they have another shape, or aren't finite.
        """
        if tuple(centroids.shape) != self._shape:
            raise ValueError(
                f"centroids must have the shape {self._shape} of the index; got {tuple(centroids.shape)}."
            )
        _check_finite(centroids, "centroids")
        array = centroids.detach().cpu().contiguous().float().numpy()
        faiss.copy_array_to_vector(array.reshape(-1), self._inner.pq.centroids)

    def scores(self, queries: Tensor, rows: NDArray[np.int64], centroids: Tensor) -> Tensor:
        """The scores that faiss gives images, differentiable in queries and centroids.

        Args:
            queries: `(batch, dim)` of unit length, on the device of `centroids`.
            rows: `(batch, k)`: the images, by their place in the index.
            centroids: `(M, 256, d_out / M)`.

        Returns:
            `(batch, k)`.
        """
        codes = torch.from_numpy(self.codes[rows].astype(np.int64)).to(centroids.device)  # (batch, k, M)
        parts = (queries @ self.rotation.to(queries).T).unflatten(1, (len(centroids), -1))  # (batch, M, dsub)
        tables = torch.einsum("bmd,mcd->bmc", parts, centroids)  # what each code of a part adds to the score
        return tables.gather(2, codes.transpose(1, 2)).sum(1)

    def search(self, queries: Tensor, k: int) -> NDArray[np.int64]:
        """What faiss finds now, `(batch, k)`, best first."""
        _, rows = self.index.search(queries.detach().cpu().float().numpy(), k)
        return np.asarray(rows, dtype=np.int64)


def own_space(index: Any, embedding_space: str) -> str | None:
    """The id of the space of queries that were trained for one index alone.

    It is a digest of the rotation and the centroids: another index of the same embeddings has another one.

    Args:
        index: Of faiss.
        embedding_space: The space of the embeddings that it was made of.

    Returns:
        16 hexadecimal digits; None if no queries can be trained for such an index.
    """
    try:
        quantizer = ProductQuantizer(index)
    except ValueError:
        return None
    digest = hashlib.sha256(embedding_space.encode())
    for tensor in (quantizer.rotation, quantizer.centroids()):
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def unit(queries: Tensor) -> Tensor:
    """Queries of unit length."""
    return F.normalize(queries, dim=1)


def _rotation(index: Any) -> Tensor:
    """The matrix of an index's transform `(d_out, d_in)`."""
    chain: Any = index.chain  # faiss's stubs take it for a list
    transforms: list[Any] = [faiss.downcast_VectorTransform(chain.at(place)) for place in range(chain.size())]
    if len(transforms) != 1 or not isinstance(transforms[0], faiss.LinearTransform):
        names = ", ".join(type(transform).__name__ for transform in transforms)
        raise ValueError(f"index must rotate vectors once (OPQ) before it quantises them; it has {names}. {_ADVICE}")
    (transform,) = transforms
    if transform.have_bias:
        raise ValueError(f"index: its rotation ({type(transform).__name__}) adds a bias; it must have none. {_ADVICE}")
    matrix = faiss.vector_to_array(transform.A).reshape(transform.d_out, transform.d_in)
    return torch.from_numpy(matrix.copy())


def _check(inner: Any) -> None:
    if getattr(inner, "by_residual", False):
        raise ValueError(
            f"index: {type(inner).__name__} codes what is left of a vector beside the centre of its list "
            f"(by_residual), so that a code alone is no vector; it must be OPQ and PQ without lists. {_ADVICE}"
        )
    if not isinstance(inner, faiss.IndexPQ):
        raise ValueError(
            f"index must be of product quantisation, such as 'OPQ32,PQ32x8np'; got {type(inner).__name__}. {_ADVICE}"
        )
    if inner.pq.nbits != 8:
        raise ValueError(f"index must have codes of 8 bits (PQ32x8np); it has {inner.pq.nbits}. {_ADVICE}")
    if inner.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise ValueError(f"index must compare by inner product; its metric is {inner.metric_type}. {_ADVICE}")
    if not inner.is_trained:
        raise ValueError(f"index must be trained; it isn't. {_ADVICE}")


def _check_finite(tensor: Tensor, name: str) -> None:
    bad = int((~tensor.isfinite()).sum())
    if bad:
        raise ValueError(
            f"{name} must be finite; {bad} of {tensor.numel()} numbers aren't. Make the index again from finite "
            "embeddings, or learn with a smaller learning rate."
        )
