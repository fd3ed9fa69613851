"""Conflict-aware gradient integration (PrunNet, arXiv 2504.11879), computed from Gram matrices.

A PrunNet step has N+1 gradients `g_0..g_N` of every tensor: the dense network's and those of N subnetworks. They are
merged into one: each is projected off those it conflicts with, then weighted by how much of its direction is left.
Whatever the projections do, the result is a linear combination of the `g_i`, and its coefficients depend on dot
products only: `gram.py` computes these and combines the long vectors, and what is here is arithmetic on tiny matrices.
Nothing waits for a device, and only `projection_orders` draws random numbers. `gradients_reference.py` computes the
same with plain loops over vectors.

Convolutions are projected row by row, which means channel by channel (`per_row=True`), all other tensors as one
vector. The weights `a_i` are taken over the whole tensor in both cases.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import get_args

import torch
from torch import Tensor

from ..runs.methods import Projection
from .gram import merge, merge_weight_and_scores

# If the squared norm of a projected gradient is below this share of the original's, the projection has cancelled it
# and only rounding errors are left. Their direction is noise, so it counts as a zero vector.
CANCELLED = 1e-6


def projection_orders(num_gradients: int, *, per_row: bool, generator: torch.Generator) -> Tensor:
    """Draw the random order in which each gradient meets the others.

    It is drawn on the CPU, so that processes with the same seed draw the same on any device.

    Args:
        num_gradients: number of gradients, N+1, with the dense network's.
        per_row: whether rows are projected one by one, as in convolutions. All gradients then share one order; if not,
            each has its own.
        generator: a seeded CPU generator.

    Returns:
        `(N+1, N+1)` int64: row i is a permutation of `0..N`, the order in which gradient i meets the others. It
        also meets itself, without effect.

    Raises:
        ValueError: if `num_gradients` is below 1 or `generator` is not on the CPU.
    """
    if num_gradients < 1:
        raise ValueError(f"num_gradients is {num_gradients}; it must be at least 1 (the dense network's gradient).")
    if generator.device.type != "cpu":
        raise ValueError(
            f"generator is on {generator.device}; pass a CPU generator, so that all processes draw the same."
        )
    num_orders = 1 if per_row else num_gradients
    draws = torch.rand(num_orders, num_gradients, generator=generator, dtype=torch.float64)
    return draws.argsort(dim=1).expand(num_gradients, num_gradients).contiguous()


def integration_coefficients(
    gram: Tensor, orders: Tensor, *, alpha: float = 0.5, projection: Projection = "last", eps: float = 0.0
) -> Tensor:
    """Coefficients of `g_0..g_N` in the integrated gradient `(N+1) * sum_i a_i g'_i`.

    Args:
        gram: `(rows, N+1, N+1)`, dot products of the gradients within each row.
        orders: `(N+1, N+1)`, from `projection_orders`.
        alpha: exponent, at least 0, of `a_i = ((cos(g'_i, g_i) + 1) / 2) ** alpha`, normalised to sum 1. The cosine is
            over all rows together, and 0 if one of the vectors is zero. With alpha 0 all gradients weigh the same.
        projection: `"last"`, as in the authors' released code: each projection starts from the original `g_i`, so of
            several conflicts the last one in the order counts. `"sequential"`, as in PCGrad (arXiv 2001.06782):
            each projection starts from the result of the one before, which also decides on conflicts.
        eps: added to the `|g_j|^2` that a projection divides by. The released code has 1e-8, which switches projection
            off for small gradients; with 0, scaling all gradients scales the result.

    Returns:
        `(rows, N+1)` float64.

    Raises:
        ValueError: if a shape, `alpha`, `projection` or `eps` isn't as described.
    """
    _check_arguments(gram, orders, alpha, projection, eps)
    gram = gram.double()
    orders = orders.to(gram.device, non_blocking=True)
    project = _project_last if projection == "last" else project_sequentially
    projected = project(gram, orders, eps)
    weights = ((_kept_cosines(gram, projected) + 1) / 2) ** alpha
    weights = weights / weights.sum()
    return len(orders) * (weights[:, None] * projected).sum(dim=1)


def integrate(
    gradients: Sequence[Tensor],
    orders: Tensor,
    *,
    per_row: bool,
    alpha: float = 0.5,
    projection: Projection = "last",
    eps: float = 0.0,
) -> Tensor:
    """Merge the N+1 gradients of one tensor.

    With `eps=0`, scaling all gradients scales the result. It is computed in float32, also within an autocast and with
    gradients of another dtype. A non-finite gradient gives a non-finite result.

    Args:
        gradients: N+1 tensors `(*shape)` of any floating dtype, or one `(N+1, *shape)`.
        orders: `(N+1, N+1)`, from `projection_orders`.
        per_row: whether each row, a slice along the first dimension of `shape`, is projected by itself.
        alpha: see `integration_coefficients`.
        projection: see `integration_coefficients`.
        eps: see `integration_coefficients`.

    Returns:
        `(*shape)`, in the dtype of `gradients`.

    Raises:
        ValueError: see `integration_coefficients`.
    """
    coefficients = partial(integration_coefficients, orders=orders, alpha=alpha, projection=projection, eps=eps)
    return merge(gradients, coefficients, per_row=per_row)


def integrate_weight_and_scores(
    gradients: Sequence[Tensor],
    weight: Tensor,
    scores: Tensor,
    weight_orders: Tensor,
    score_orders: Tensor,
    *,
    per_row: bool,
    alpha: float = 0.5,
    projection: Projection = "last",
    eps: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Merge the N+1 gradients of a prunable weight and those of its scores.

    See `gram.merge_weight_and_scores` for how the scores' gradients follow from the weight's.

    Args:
        gradients: `mask_c * dL/dV` for each capacity, V being the effective weight: N+1 tensors `(*shape)`, or one
            `(N+1, *shape)`.
        weight: `(*shape)`.
        scores: `(*shape)`. For scores of another shape see `integrate`.
        weight_orders: `(N+1, N+1)`, from `projection_orders`.
        score_orders: `(N+1, N+1)`, from `projection_orders`, drawn separately.
        per_row: whether each row, a slice along the first dimension of `shape`, is projected by itself.
        alpha: see `integration_coefficients`.
        projection: see `integration_coefficients`.
        eps: see `integration_coefficients`.

    Returns:
        The gradients of `weight` and of `scores`, each `(*shape)`, in the dtypes of `gradients` and of `scores`.

    Raises:
        ValueError: if the shapes differ, or as in `integration_coefficients`.
    """
    of_weight, of_scores = (
        partial(integration_coefficients, orders=orders, alpha=alpha, projection=projection, eps=eps)
        for orders in (weight_orders, score_orders)
    )
    return merge_weight_and_scores(gradients, weight, scores, of_weight, of_scores, per_row=per_row)


def _project_last(gram: Tensor, orders: Tensor, eps: float) -> Tensor:
    """Coefficients `(rows, i, m)` of `g_m` in `g'_i`, each projection starting from the original `g_i`."""
    squared_norms = gram.diagonal(dim1=1, dim2=2)[:, None, :]
    position = orders.argsort(dim=1)
    conflict_position = torch.where((gram < 0) & (squared_norms > 0), position, -1)
    latest = conflict_position.amax(dim=2, keepdim=True)
    wins = (conflict_position == latest) & (latest >= 0)
    removed = torch.where(wins, gram / (squared_norms + eps), 0.0)
    return _identity(gram) - removed


def project_sequentially(gram: Tensor, orders: Tensor, eps: float = 0.0) -> Tensor:
    """Coefficients `(rows, i, m)` of `g_m` in `g'_i`, each projection starting from the result of the one before.

    Args:
        gram: see `integration_coefficients`; float64.
        orders: see there; on the device of `gram`.
        eps: see there.
    """
    identity = _identity(gram)
    squared_norms = gram.diagonal(dim1=1, dim2=2)
    itself = torch.arange(len(orders), device=orders.device)
    coefficients = identity.expand_as(gram)
    for met in orders.unbind(dim=1):
        dots = (coefficients * gram.index_select(1, met)).sum(dim=2)
        met_squared_norms = squared_norms.index_select(1, met)
        conflicts = (dots < 0) & (met_squared_norms > 0) & (met != itself)
        removed = torch.where(conflicts, dots / (met_squared_norms + eps), 0.0)
        coefficients = coefficients - removed[..., None] * identity.index_select(0, met)
    return coefficients


def _kept_cosines(gram: Tensor, projected: Tensor) -> Tensor:
    """`cos(g'_i, g_i)` over all rows together, `(N+1,)`; 0 if one of the vectors is zero."""
    dots_with_originals = projected @ gram
    inner = dots_with_originals.diagonal(dim1=1, dim2=2).sum(dim=0)
    projected_squared = (dots_with_originals * projected).sum(dim=(0, 2))
    original_squared = gram.diagonal(dim1=1, dim2=2).sum(dim=0)
    vanished = projected_squared <= CANCELLED * original_squared
    cosines = inner / (projected_squared.sqrt() * original_squared.sqrt())
    return torch.where(vanished, 0.0, cosines).clamp(-1, 1)


def _identity(gram: Tensor) -> Tensor:
    return torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)


def _check_arguments(gram: Tensor, orders: Tensor, alpha: float, projection: str, eps: float) -> None:
    if gram.ndim != 3 or gram.shape[1] != gram.shape[2]:
        raise ValueError(f"gram has shape {tuple(gram.shape)}; it must be (rows, N+1, N+1).")
    if orders.shape != gram.shape[1:]:
        expected = tuple(gram.shape[1:])
        raise ValueError(f"orders has shape {tuple(orders.shape)}; {expected[0]} gradients need {expected}.")
    if projection not in get_args(Projection):
        raise ValueError(f"projection is {projection!r}; it must be one of {get_args(Projection)}.")
    for name, value in (("alpha", alpha), ("eps", eps)):
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} is {value}; it must be a finite number of at least 0.")
