"""SFSC: passes that learn evidence for classes, and count by how uncertain they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from ..classifiers import with_margin
from ..modeling_prunnet import PrunNetClassifierOutput, PrunNetForImageClassification
from .gradients import project_sequentially, projection_orders
from .mergers import Merger
from .objectives import Gradients, MergingObjective

ANNEALING_EPOCHS = 10
"""The epochs over which the penalty for misleading evidence grows, as in evidential learning (arXiv 1806.01768)."""


class EvidentialObjective(MergingObjective):
    """SFSC's loss (arXiv 2206.08289), with an aggregation of ours.

    Each pass learns the evidence for each class, and its mean uncertainty weighs its gradient. Gradients are projected
    where they conflict as in PCGrad (arXiv 2001.06782), each parameter as one vector. All passes train all parameters.

    Args:
        model: The network in training.
        steps_per_epoch: For the weight of the penalty for misleading evidence, which grows from 0 to 1 over the first
            `ANNEALING_EPOCHS` epochs.
        penalty: A factor on that weight, at least 0.
    """

    def __init__(
        self, model: PrunNetForImageClassification, *, steps_per_epoch: int = 1, penalty: float = 1.0
    ) -> None:
        self.uncertainty = UncertaintyWeighted()
        super().__init__(model, self.uncertainty)
        self.annealing_steps = ANNEALING_EPOCHS * steps_per_epoch
        self.penalty = penalty
        self.config = model.config

    def loss(self, outputs: PrunNetClassifierOutput, inputs: Mapping[str, Tensor], index: int, step: int) -> Tensor:
        """See `Objective`; it also notes the uncertainty of the pass."""
        logits, labels = cast("Tensor", outputs.logits), inputs["labels"]
        self._note(index, uncertainty_of(logits.detach()).mean())
        config = self.config
        logits = with_margin(logits, labels, config.classifier, config.logit_scale, config.margin)
        return evidential_loss(logits, labels, penalty=self.penalty * min(1.0, step / self.annealing_steps))

    def merge(self, passes: Sequence[Gradients], generator: torch.Generator) -> None:
        """See `Objective`."""
        if self.noted is None:
            raise ValueError("loss must be called for each pass before merge, which weighs passes by what it notes.")
        self.uncertainty.weights = (self.noted / self.noted.sum()).double()
        self.noted = None
        super().merge(passes, generator)

    def _note(self, index: int, uncertainty: Tensor) -> None:
        """Add up over the batches of a step."""
        noted = uncertainty.new_zeros(index + 1) if self.noted is None else self.noted
        noted = F.pad(noted, (0, max(0, index + 1 - len(noted))))
        noted[index] += uncertainty
        self.noted = noted


class UncertaintyWeighted(Merger):
    """PCGrad's projection of each gradient off all that it conflicts with, then N+1 times a weighted mean.

    Attributes:
        weights: `(N+1,)`, of sum 1.
    """

    def __init__(self) -> None:
        self.weights = torch.ones(1, dtype=torch.float64)

    def coefficients(self, gram: Tensor, *, per_row: bool, generator: torch.Generator) -> Tensor:
        """See `Merger`."""
        orders = projection_orders(gram.shape[1], per_row=per_row, generator=generator)
        projected = project_sequentially(gram.double(), orders.to(gram.device, non_blocking=True))
        return len(orders) * (self.weights[:, None] * projected).sum(dim=1)


def uncertainty_of(logits: Tensor) -> Tensor:
    """The share of belief that the evidence `softplus(logits)` gives to no class, `(batch,)`, in (0, 1].

    Args:
        logits: `(batch, num_classes)`.

    Example:
        >>> uncertainty_of(torch.tensor([[-100.0, -100.0]]))
        tensor([1.])
    """
    return logits.shape[1] / (F.softplus(logits.float()) + 1).sum(dim=1)


def evidential_loss(logits: Tensor, labels: Tensor, *, penalty: float) -> Tensor:
    """The expected cross entropy under a Dirichlet distribution, and a penalty for evidence for wrong classes.

    With `alpha = softplus(logits) + 1` and `S` its sum, the loss is `digamma(S) - digamma(alpha_label) + penalty *
    KL(Dir(alpha~) || Dir(1))`, `alpha~` being alpha with 1 in place of the label's.

    Args:
        logits: `(batch, num_classes)`.
        labels: `(batch,)`.
        penalty: At least 0.

    Returns:
        The mean over the batch, `()`.
    """
    alpha = F.softplus(logits.float()) + 1
    right = labels.unsqueeze(1)
    fit = torch.digamma(alpha.sum(dim=1)) - torch.digamma(alpha.gather(1, right).squeeze(1))
    return (fit + penalty * divergence_from_uniform(alpha.scatter(1, right, 1.0))).mean()


def divergence_from_uniform(alpha: Tensor) -> Tensor:
    """`KL(Dir(alpha) || Dir(1))` of each row, `(batch,)`; 0 if alpha is 1 everywhere.

    Args:
        alpha: `(batch, num_classes)`, above 0.
    """
    total = alpha.sum(dim=1, keepdim=True)
    num_classes = alpha.new_tensor(float(alpha.shape[1]))
    normaliser = torch.lgamma(total).squeeze(1) - torch.lgamma(num_classes) - torch.lgamma(alpha).sum(dim=1)
    return normaliser + ((alpha - 1) * (torch.digamma(alpha) - torch.digamma(total))).sum(dim=1)
