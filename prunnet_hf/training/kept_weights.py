"""Training with some weights pruned for good."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..modeling_prunnet import PrunNetForImageClassification
from .objectives import Gradients, Objective, summed


class KeptObjective(Objective):
    """One network alone, with some weights pruned for good: these get a gradient of zero, and scores get none.

    In SGD and AdamW, a weight of zero with a gradient and a momentum of zero stays exactly zero, also with weight
    decay.

    Args:
        model: The network in training.
        kept: Masks of the weights to train, by the name of each prunable weight: boolean, of the weight's shape.

    Raises:
        ValueError: If the names in `kept` aren't those of the prunable weights, or a mask has another shape.
    """

    def __init__(self, model: PrunNetForImageClassification, kept: Mapping[str, Tensor]) -> None:
        super().__init__(model)
        weights = prunable_weights(model)
        check_kept(weights, kept)
        # With the memory layout and device of the weights, whose gradients they multiply in every step.
        self.masks = {weight: torch.empty_like(weight).copy_(kept[name]) for name, weight in weights.items()}

    @torch.no_grad()
    def merge(self, passes: Sequence[Gradients], generator: torch.Generator) -> None:
        """Add up the gradients of the passes, and set those of pruned weights to zero."""
        for weight, mask in self.masks.items():
            weight.grad = summed(weight, passes) * mask
        for parameter in self.other_parameters:
            parameter.grad = summed(parameter, passes)


def prunable_weights(model: PrunNetForImageClassification) -> dict[str, Tensor]:
    """The weights of the prunable layers, by the name of the parameter."""
    return {f"{name}.weight": layer.weight for name, layer in model.prunable_layers().items()}


def check_kept(weights: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> None:
    """Make sure that there is one mask of the right shape for each weight.

    Raises:
        ValueError: If there isn't.
    """
    strange = sorted(weights.keys() ^ kept.keys())
    if strange:
        raise ValueError(f"kept must have a mask for each prunable weight and no others; these differ: {strange}.")
    for name, weight in weights.items():
        if kept[name].shape != weight.shape:
            raise ValueError(f"kept[{name!r}] must have shape {tuple(weight.shape)}; got {tuple(kept[name].shape)}.")


@torch.no_grad()
def leave_out(model: PrunNetForImageClassification, kept: Mapping[str, Tensor]) -> None:
    """Set to zero, in place, the prunable weights that `kept` leaves out.

    Raises:
        ValueError: If there isn't one mask of the right shape for each prunable weight.
    """
    weights = prunable_weights(model)
    check_kept(weights, kept)
    for name, weight in weights.items():
        weight.masked_fill_(~kept[name].to(weight.device), 0.0)
