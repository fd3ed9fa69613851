"""A frozen copy of the dense network, trained alone before, teaches the dense network and its subnetworks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from ..modeling_prunnet import PrunNetClassifierOutput, PrunNetForImageClassification
from .objectives import SumObjective


class DistillationObjective(SumObjective):
    """The sum of the losses of all passes, each with an added one towards the teacher's probabilities.

    Distillation as in arXiv 1503.02531: all passes learn from labels, and from how the teacher divides its belief
    among the classes, which says how alike they are.

    Args:
        model: The network in training.
        weight: Of the added loss.
        temperature: Both logits are divided by it; above 0.

    Attributes:
        teacher: From images to logits, without gradients; without one, only labels count.
    """

    def __init__(self, model: PrunNetForImageClassification, *, weight: float, temperature: float) -> None:
        super().__init__(model)
        self.weight, self.temperature = weight, temperature
        self.teacher: Callable[[Tensor], Tensor] | None = None
        self._target = torch.empty(0)

    def loss(self, outputs: PrunNetClassifierOutput, inputs: Mapping[str, Tensor], index: int, step: int) -> Tensor:
        """See `Objective`; the teacher is asked once for each batch, in the dense pass."""
        loss = super().loss(outputs, inputs, index, step)
        if self.teacher is None:
            return loss
        if index == 0:
            self._target = self.teacher(inputs["pixel_values"])
        return loss + self.weight * distillation_loss(cast("Tensor", outputs.logits), self._target, self.temperature)


def distillation_loss(logits: Tensor, target: Tensor, temperature: float) -> Tensor:
    """`temperature ** 2` times the divergence of the softened probabilities from the teacher's, `()`.

    The factor keeps the size of gradients alike at all temperatures (arXiv 1503.02531, section 2.1).

    Args:
        logits: `(batch, num_classes)`.
        target: The teacher's logits, `(batch, num_classes)`.
        temperature: Above 0.

    Example:
        >>> distillation_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]]), 2.0)  # the same probabilities
        tensor(0.)
    """
    found, wanted = ((each.float() / temperature).log_softmax(dim=1) for each in (logits, target))
    return temperature**2 * F.kl_div(found, wanted, log_target=True, reduction="batchmean")
