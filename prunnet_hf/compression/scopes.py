"""Which weights are compared with each other when a network is pruned: a neuron's, a layer's, or the whole network's.

Such a set of weights is called a scope. In each scope the smallest magnitudes are pruned first, and of two equal ones
the one that comes later. Zero marks a weight as pruned, and pruned weights stay pruned. Each scope and each layer
keeps at least one weight if it has any left, so that pruning never cuts off a layer completely.

In the code a scope is a row of a matrix `(rows, d)`: a row for each neuron of a layer, or a single row with all
weights of a layer or of all layers, one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

Scope = Literal["neuron", "layer", "global"]
Masks = dict[str, Tensor]
"""Which weights are kept, boolean and of the weight's shape, by the name of the parameter."""
KeepCounts = Callable[[Tensor, Tensor], Tensor]
"""`(weights, kept) -> counts`: how many weights to keep in each row of `(rows, d)`, int64, `(rows,)`."""


@torch.no_grad()
def keep_largest(weights: Mapping[str, Tensor], scope: Scope, keep_counts: KeepCounts) -> Masks:
    """Choose which weights of a network to keep.

    Args:
        weights: Weights of the prunable layers, finite, by name. Those that are zero are pruned already and stay so.
        scope: Which weights are compared.
        keep_counts: How many weights each scope keeps.

    Returns:
        The masks, by the same names. They never keep a weight that is zero.

    Raises:
        ValueError: If `keep_counts` raises one; the message names the layer.

    Example:
        >>> weights = {"a": torch.tensor([[4.0, -1.0], [0.5, 3.0]]), "b": torch.tensor([[0.2, 0.1]])}
        >>> keep_largest(weights, "layer", lambda values, kept: kept.sum(1) // 2)["a"].tolist()
        [[True, False], [False, True]]
    """
    if scope != "global":
        return {name: _keep_of_layer(name, weight, scope, keep_counts) for name, weight in weights.items()}
    together = torch.cat([weight.flatten() for weight in weights.values()])[None]
    largest_of_layers = torch.cat([_is_largest(weight.flatten()[None]) for weight in weights.values()], dim=1)
    mask = _keep_of_rows("all prunable layers", together, largest_of_layers, keep_counts)[0]
    parts = mask.split([weight.numel() for weight in weights.values()])
    return {name: part.view(weight.shape) for (name, weight), part in zip(weights.items(), parts, strict=True)}


def _keep_of_layer(name: str, weight: Tensor, scope: Scope, keep_counts: KeepCounts) -> Tensor:
    rows = weight.flatten(1) if scope == "neuron" else weight.flatten()[None]
    largest = _is_largest(rows)
    return _keep_of_rows(f"layer {name.removesuffix('.weight')!r}", rows, largest, keep_counts).view(weight.shape)


def _keep_of_rows(name: str, rows: Tensor, largest: Tensor, keep_counts: KeepCounts) -> Tensor:
    """The mask of the weights to keep, `(rows, d)`; those in `largest` are always kept."""
    kept = rows != 0
    try:
        counts = keep_counts(rows, kept)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    counts = torch.minimum(torch.maximum(counts, largest.sum(1)), kept.sum(1))
    ranked = rows.abs().masked_fill(largest, torch.inf).masked_fill(~kept, -1.0)
    order = ranked.sort(dim=1, descending=True, stable=True).indices
    is_kept = torch.arange(rows.shape[1], device=rows.device) < counts[:, None]
    return torch.zeros_like(kept).scatter(1, order, is_kept)


def _is_largest(rows: Tensor) -> Tensor:
    """Marks the largest magnitude of each row, the first of equal ones, and nothing in a row of zeros."""
    is_largest = rows.abs() == rows.abs().amax(1, keepdim=True)
    return is_largest & (is_largest.cumsum(1) == 1) & (rows != 0)
