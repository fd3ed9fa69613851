"""Weights that are pruned for good while a network trains: masks by the name of the parameter."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..modeling_prunnet import PrunNetForImageClassification


def prunable_weights(model: PrunNetForImageClassification) -> dict[str, Tensor]:
    """The weights of the prunable layers, by the name of the parameter."""
    return {f"{name}.weight": layer.weight for name, layer in model.prunable_layers().items()}


def check_kept(weights: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> None:
    """Make sure that there is one mask for each weight, of its shape.

    Raises:
        ValueError: If not.
    """
    strange = sorted(weights.keys() ^ kept.keys())
    if strange:
        raise ValueError(f"kept must have a mask for each prunable weight and no others; these differ: {strange}.")
    for name, weight in weights.items():
        if kept[name].shape != weight.shape:
            raise ValueError(f"kept[{name!r}] must have shape {tuple(weight.shape)}; got {tuple(kept[name].shape)}.")


@torch.no_grad()
def leave_out(model: PrunNetForImageClassification, kept: Mapping[str, Tensor]) -> None:
    """Set prunable weights to zero in place, but for those that `kept` holds, masks by name.

    Raises:
        ValueError: If there isn't one mask for each prunable weight, of its shape.
    """
    weights = prunable_weights(model)
    check_kept(weights, kept)
    for name, weight in weights.items():
        weight.masked_fill_(~kept[name].to(weight.device), 0.0)
