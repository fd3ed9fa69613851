"""Conflict-aware gradient integration in its most readable form: plain loops over rows and gradients, in float64.

It is for tests and readers. Training uses `gradients.py`, which computes the same from Gram matrices.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..runs.methods import Projection
from .gradients import CANCELLED


def integrate_reference(
    gradients: Tensor,
    orders: Tensor,
    *,
    per_row: bool,
    alpha: float = 0.5,
    projection: Projection = "last",
    eps: float = 0.0,
) -> Tensor:
    """Compute what `gradients.integrate` computes, from the same arguments.

    Args:
        gradients: `(N+1, *shape)`.
        orders: `(N+1, N+1)`, row i being the order in which gradient i meets the others.
        per_row: whether each slice along the first dimension of `shape` is projected by itself.
        alpha: exponent of the weights.
        projection: `"last"` or `"sequential"`.
        eps: added to the squared norm a projection divides by.

    Returns:
        `(*shape)` float64.
    """
    num_gradients, shape = len(gradients), gradients.shape[1:]
    originals = gradients.double().reshape(num_gradients, shape[0] if per_row else 1, -1)
    project = project_last if projection == "last" else project_sequentially

    projected = torch.empty_like(originals)
    for row in range(originals.shape[1]):
        for i in range(num_gradients):
            projected[i, row] = project(i, originals[:, row], orders[i].tolist(), eps)

    weights = [
        ((kept_cosine(projected[i].flatten(), originals[i].flatten()) + 1) / 2) ** alpha for i in range(num_gradients)
    ]
    result = torch.zeros_like(originals[0])
    for i in range(num_gradients):
        result += num_gradients * weights[i] / sum(weights) * projected[i]
    return result.reshape(shape)


def integrate_weight_and_scores_reference(
    gradients: Tensor,
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
    """Compute what `gradients.integrate_weight_and_scores` computes, from the same arguments.

    Args:
        gradients: `(N+1, *shape)`, the gradients of the weight.
        weight: `(*shape)`.
        scores: `(*shape)`.
        weight_orders: `(N+1, N+1)`, for the weight's gradients.
        score_orders: `(N+1, N+1)`, for the scores' gradients.
        per_row: whether each slice along the first dimension of `shape` is projected by itself.
        alpha: exponent of the weights.
        projection: `"last"` or `"sequential"`.
        eps: added to the squared norm a projection divides by.

    Returns:
        The gradients of `weight` and of `scores`, each `(*shape)` float64.
    """
    score_gradients = gradients.double() * weight.double() * scores.double().sign()
    weight_gradient, score_gradient = (
        integrate_reference(stack, orders, per_row=per_row, alpha=alpha, projection=projection, eps=eps)
        for stack, orders in ((gradients, weight_orders), (score_gradients, score_orders))
    )
    return weight_gradient, score_gradient


def project_last(i: int, vectors: Tensor, order: list[int], eps: float) -> Tensor:
    """Project vector i of `(N+1, k)` off the last vector in `order` that it conflicts with."""
    result = vectors[i]
    for j in order:
        dot = vectors[i] @ vectors[j]
        if j != i and dot < 0:
            result = vectors[i] - dot / (vectors[j] @ vectors[j] + eps) * vectors[j]
    return result


def project_sequentially(i: int, vectors: Tensor, order: list[int], eps: float) -> Tensor:
    """Project vector i of `(N+1, k)` off each vector in `order` that conflicts with what is left of it."""
    result = vectors[i]
    for j in order:
        dot = result @ vectors[j]
        if j != i and dot < 0:
            result = result - dot / (vectors[j] @ vectors[j] + eps) * vectors[j]
    return result


def kept_cosine(projected: Tensor, original: Tensor) -> float:
    """Cosine between a gradient before and after its projections; 0 if one of them is zero, up to rounding."""
    if projected @ projected <= CANCELLED * (original @ original):
        return 0.0
    return float((projected @ original / (projected.norm() * original.norm())).clamp(-1, 1))
