"""Weights that a subnetwork leaves out stay left out, and its configuration doesn't say otherwise.

A subnetwork is made of plain layers, in which what was left out is zero. Training it, for instance by transformers'
Trainer, would fill the zeros. So their gradients are zero too: optimisers then leave them alone, with weight decay as
well. Whoever fills them in another way has a network of a larger capacity, which the configuration says when it is
saved.
"""

import warnings
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .allocation import UNIFORM
from .masking import format_capacity, kept_count

FOUND = "adaptive"
"""The allocation of a subnetwork whose weights weren't chosen by `prune`."""


def keep_dropped_at_zero(model: Any) -> None:
    """Let the gradients of the weights that a subnetwork leaves out be zero from now on."""
    if model.config.prunable or model.config.capacity == 1.0 or model.config.granularity != "weight":
        return
    for name in model.packable_weights():
        weight = model.get_parameter(name)
        if weight.requires_grad:
            weight.register_hook(_OfKept(weight))


class _OfKept:
    """Sets the gradient of a weight to zero where the weight is."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weakref.ref(weight)  # which has this object among its hooks

    def __call__(self, gradient: Tensor) -> Tensor:
        weight = self.weight()
        return gradient if weight is None else gradient * (weight.detach() != 0)


def correct_capacity(model: Any, state_dict: Mapping[str, Tensor] | None = None) -> None:
    """Correct the capacity in a subnetwork's configuration if its weights are more than it says.

    Args:
        model: A PrunNet model. One that is prunable isn't looked at.
        state_dict: Tensors that take the place of the model's own of the same name.

    Warns:
        UserWarning: If the capacity is corrected.
    """
    config = model.config
    if config.prunable or config.capacity == 1.0 or config.granularity != "weight":
        return
    weights = [(state_dict or {}).get(name, model.get_parameter(name)) for name in model.packable_weights()]
    sizes = [weight.numel() for weight in weights]
    kept = [int(torch.count_nonzero(weight.detach())) for weight in weights]
    allowed = [kept_count(config.capacity, size) for size in sizes]
    if config.allocation == UNIFORM:
        if all(k <= a for k, a in zip(kept, allowed, strict=True)):
            return
    elif sum(kept) <= sum(allowed) + len(
        sizes
    ):  # a found capacity is a share of all layers, which round by themselves
        return
    found = sum(kept) / sum(sizes)
    warnings.warn(
        f"config.capacity was {format_capacity(config.capacity)}, which keeps {sum(allowed)} of {sum(sizes)} weights, "
        f"but this subnetwork has {sum(kept)} that aren't zero: it is saved as capacity {found:.4f}. Something has "
        "filled weights that were left out; to have them stay out, train the network that prune() returned itself, "
        "not a copy of it.",
        stacklevel=4,  # the line that called `save_pretrained`
    )
    config.capacity, config.allocation = found, FOUND
