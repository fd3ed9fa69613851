"""The weights that lie in units: those of convolutions and linear layers that get smaller when units are left out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .channel_rules import find_units


def unit_weights(network: nn.Module) -> dict[str, Tensor]:
    """The weights in `network` that lie in units, by name; once pruned, what is left of them."""
    names = {axis.tensor for group in find_units(network).values() for axis in group.axes}
    return {name: weight for name, weight in network.named_parameters() if name in names and weight.ndim > 1}


def dense_twin(model: Any) -> Any:
    """The dense network of a model of granularity `"channel"`, for its names and shapes.

    Args:
        model: A PrunNet model, prunable or pruned.

    Returns:
        The model itself if it is prunable; else a network on the meta device, which has no data.
    """
    if model.config.prunable:
        return model
    before = {"prunable": True, "capacity": 1.0, "kept_units": None, "statistics_capacities": None}
    with torch.device("meta"):
        return type(model)(type(model.config)(**{**model.config.to_dict(), **before}))
