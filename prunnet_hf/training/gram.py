"""Combines the gradients of a step's passes, with coefficients that may depend on their dot products.

A step has N+1 gradients `g_0..g_N` of every tensor: the dense network's and those of N subnetworks. The long vectors
are read at most twice, by batched matmuls: once for their `(N+1, N+1)` Gram matrices, once to combine them. Nothing
here waits for a device.

"Row" means a slice along the first dimension of a tensor: an output channel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

# On a CPU, this many numbers stay in the cache between two operations.
_CPU_BLOCK_NUMEL = 2**18

# A float32 norm is exact within these powers of two and is clamped outside. In both cases the squares and dot products
# of the scaled vector neither overflow nor underflow.
_SMALLEST_NORM, _LARGEST_NORM = 2.0**-96, 2.0**96

Coefficients = Callable[[Tensor], Tensor] | Tensor
"""Coefficients `(rows, N+1)` of `g_0..g_N`, or what makes them of Gram matrices `(rows, N+1, N+1)`, float64.

There is one row for the tensor as a whole unless it is merged row by row.
"""


@torch.no_grad()
def merge(gradients: Sequence[Tensor], coefficients: Coefficients, *, per_row: bool) -> Tensor:
    """Combine the N+1 gradients of one tensor.

    It is computed in float32, also within an autocast and with gradients of another dtype. A non-finite gradient gives
    a non-finite result.

    Args:
        gradients: N+1 tensors `(*shape)` of any floating dtype, or one `(N+1, *shape)`.
        coefficients: See `Coefficients`.
        per_row: whether each row of `shape` has coefficients of its own.

    Returns:
        `(*shape)`, in the dtype of `gradients`.
    """
    like = gradients[0]
    rows = [_as_rows(gradient, like) for gradient in gradients]
    with torch.autocast(like.device.type, enabled=False):
        if not isinstance(coefficients, Tensor):
            coefficients = coefficients(_of_unit(_row_grams(rows), per_row))
        return _from_rows(_combine(rows, [coefficients])[0], like).to(like.dtype)


@torch.no_grad()
def merge_weight_and_scores(
    gradients: Sequence[Tensor],
    weight: Tensor,
    scores: Tensor,
    of_weight: Coefficients,
    of_scores: Coefficients,
    *,
    per_row: bool,
) -> tuple[Tensor, Tensor]:
    """Combine the N+1 gradients of a prunable weight and those of its scores.

    The scores' gradients are the weight's times `weight * sign(scores)`, element by element. They are never stored as
    a whole: a block of them exists while its Gram matrices are computed, and their combination is a combination of the
    weight's gradients times the same factor. A score of exactly 0 gets a gradient of exactly 0.

    Args:
        gradients: `mask_c * dL/dV` for each capacity, V being the effective weight: N+1 tensors `(*shape)`, or one
            `(N+1, *shape)`.
        weight: `(*shape)`.
        scores: `(*shape)`. For scores of another shape see `merge`.
        of_weight: see `Coefficients`; for the weight's gradients.
        of_scores: the same for those of the scores. Both are tensors, or both are functions.
        per_row: whether each row of `shape` has coefficients of its own.

    Returns:
        The gradients of `weight` and of `scores`, each `(*shape)`, in the dtypes of `gradients` and of `scores`.

    Raises:
        ValueError: if the shapes differ.
    """
    rows, factor = _rows_and_factor(gradients, weight, scores)
    with torch.autocast(weight.device.type, enabled=False):
        coefficients = [each for each in (of_weight, of_scores) if isinstance(each, Tensor)]
        if not coefficients:
            grams = _weight_and_score_grams(rows, factor)
            makers = [each for each in (of_weight, of_scores) if not isinstance(each, Tensor)]
            coefficients = [make(_of_unit(gram, per_row)) for make, gram in zip(makers, grams, strict=True)]
        weight_gradient, score_gradient = _combine(rows, coefficients)
    score_gradient.mul_(factor)
    weight_gradient, score_gradient = _from_rows(weight_gradient, weight), _from_rows(score_gradient, weight)
    return weight_gradient.to(gradients[0].dtype), score_gradient.to(scores.dtype)


@torch.no_grad()
def gram_matrix(gradients: Sequence[Tensor]) -> Tensor:
    """The dot products of N+1 gradients of one tensor, `(1, N+1, N+1)`, float64."""
    rows = [_as_rows(gradient, gradients[0]) for gradient in gradients]
    with torch.autocast(gradients[0].device.type, enabled=False):
        return _of_unit(_row_grams(rows), per_row=False)


@torch.no_grad()
def gram_matrix_with_scores(gradients: Sequence[Tensor], weight: Tensor, scores: Tensor) -> Tensor:
    """The dot products of N+1 gradients of a prunable weight and its scores together, `(1, N+1, N+1)`, float64."""
    rows, factor = _rows_and_factor(gradients, weight, scores)
    with torch.autocast(weight.device.type, enabled=False):
        return _of_unit(torch.add(*_weight_and_score_grams(rows, factor)), per_row=False)


def _rows_and_factor(gradients: Sequence[Tensor], weight: Tensor, scores: Tensor) -> tuple[list[Tensor], Tensor]:
    """The gradients as rows, and what makes of them those of the scores."""
    _check_same_shape(gradients, weight, scores)
    rows = [_as_rows(gradient, weight) for gradient in gradients]
    return rows, _as_rows(scores.float().sign().mul_(weight), weight)


def _row_grams(rows: Sequence[Tensor]) -> Tensor:
    return torch.cat([_gram(block, scale) for _, block, scale in _scaled_blocks(rows)])


def _as_rows(tensor: Tensor, like: Tensor) -> Tensor:
    """View `(*shape)` as `(rows, k)` float32. A vector is one row. Rows have the order that `like` has in memory.

    Dot products don't depend on that order, and copying into another would take as long as all the rest.
    """
    if tensor.ndim < 2:
        return tensor.reshape(1, -1).float()
    return tensor.permute(_row_order(like)).reshape(len(tensor), -1).float()


def _from_rows(rows: Tensor, like: Tensor) -> Tensor:
    """Undo `_as_rows`."""
    if like.ndim < 2:
        return rows.reshape(like.shape)
    order = _row_order(like)
    ordered = rows.reshape([like.shape[dimension] for dimension in order])
    return ordered.permute(sorted(range(like.ndim), key=order.__getitem__))


def _row_order(like: Tensor) -> list[int]:
    """The first dimension, then the others from the widest stride to the narrowest."""
    return [0, *sorted(range(1, like.ndim), key=lambda dimension: -like.stride()[dimension])]


def _blocks(rows: Sequence[Tensor]) -> Iterator[tuple[slice, Tensor]]:
    """Yield the position of a block of rows, and a copy of it, `(block, N+1, k)`.

    Blocks avoid a second copy of all N+1 vectors in memory. On other devices than the CPU everything is one block: a
    small kernel takes longer there than a pass over memory.
    """
    num_rows, length = rows[0].shape
    on_cpu = rows[0].device.type == "cpu"
    step = max(1, _CPU_BLOCK_NUMEL // (len(rows) * length)) if on_cpu else num_rows
    for start in range(0, num_rows, step):
        where = slice(start, start + step)
        yield where, torch.stack([vectors[where] for vectors in rows], dim=1)


def _scaled_blocks(rows: Sequence[Tensor]) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield blocks multiplied by scales `(block, N+1, 1)`, and these scales."""
    for where, block in _blocks(rows):
        scale = _scale(block)
        yield where, block.mul_(scale), scale


def _scale(vectors: Tensor) -> Tensor:
    """The power of two that brings the norm of each vector `(..., k)` near 1, without rounding: `(..., 1)`."""
    norm = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True).clamp(_SMALLEST_NORM, _LARGEST_NORM)
    return torch.ldexp(torch.ones_like(norm), -torch.frexp(norm).exponent)


def _gram(block: Tensor, scale: Tensor) -> Tensor:
    """Gram matrices `(block, N+1, N+1)`, float64, of vectors that were multiplied by `scale`."""
    scale = scale.double()
    return torch.bmm(block, block.transpose(1, 2)).double() / (scale * scale.transpose(1, 2))


def _weight_and_score_grams(rows: Sequence[Tensor], factor: Tensor) -> tuple[Tensor, Tensor]:
    """Gram matrices `(rows, N+1, N+1)` of the rows, and of the rows times `factor` `(rows, k)`."""
    factor_scale = _scale(factor)
    weight_grams, score_grams = [], []
    for where, block, scale in _scaled_blocks(rows):
        weight_grams.append(_gram(block, scale))
        scaled_factor = factor[where] * factor_scale[where]
        score_grams.append(_gram(block.mul_(scaled_factor[:, None]), scale * factor_scale[where, None]))
    return torch.cat(weight_grams), torch.cat(score_grams)


def _of_unit(gram: Tensor, per_row: bool) -> Tensor:
    """Gram matrices of each row, or of the tensor as one vector, `(1, N+1, N+1)`."""
    return gram if per_row else gram.sum(dim=0, keepdim=True)


def _combine(rows: Sequence[Tensor], coefficients: Sequence[Tensor]) -> Tensor:
    """Combine N+1 tensors `(rows, k)`, once for each of the coefficients `(rows or 1, N+1)`: `(times, rows, k)`."""
    # A coefficient beyond float32 belongs to a vector so small that its zeros times infinity would give NaN.
    largest = torch.finfo(torch.float32).max
    num_rows, length = rows[0].shape
    expanded = [each.clamp(-largest, largest).float().expand(num_rows, -1) for each in coefficients]
    per_row = torch.stack(expanded, dim=1)
    combined = torch.empty(len(coefficients), num_rows, length, device=rows[0].device)
    for where, block in _blocks(rows):
        combined[:, where] = torch.bmm(per_row[where], block).transpose(0, 1)
    return combined


def _check_same_shape(gradients: Sequence[Tensor], weight: Tensor, scores: Tensor) -> None:
    for name, shape in (("scores", scores.shape), ("gradients[0]", gradients[0].shape)):
        if shape != weight.shape:
            raise ValueError(f"{name} has shape {tuple(shape)}; it must be the weight's, {tuple(weight.shape)}.")
