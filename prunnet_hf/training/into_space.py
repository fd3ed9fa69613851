"""Training of all passes into a space that exists: what they learn, from targets that stay as they are.

A loss of another kind is a subclass of `TargetLoss`, a case in `create_losses`, and a row in `INTO_LOSSES` of
`runs/methods.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from ..classifiers import LOGIT_SCALE
from ..data.streams import ROW
from ..modeling_prunnet import PrunNetClassifierOutput, PrunNetForImageClassification
from .known_space import Targets
from .objectives import Gradients, Objective

TEMPERATURE = 0.05
"""Of `ContextualSimilarityLoss`: cosines are divided by it."""


class TargetLoss(ABC):
    """A loss that draws the embeddings of a pass towards targets."""

    @abstractmethod
    def __call__(self, unit: Tensor, rows: Tensor, outputs: PrunNetClassifierOutput) -> Tensor:
        """The mean over the batch, `()`.

        Args:
            unit: The embeddings of the pass, `(batch, embedding_dim)` of unit length.
            rows: Which training images they are of, `(batch,)`.
            outputs: What else the network gave.
        """


class RegressionLoss(TargetLoss):
    """16 * (1 - the cosine to the target), from the squared distance of the unit vectors (FitNets, arXiv 1412.6550).

    The factor, by which a classifier multiplies cosines as well, makes gradients as large as a classifier's, for which
    learning rates and weight decay were chosen.

    Args:
        targets: Of all training images, `(n, embedding_dim)` of unit length.

    Example:
        >>> loss = RegressionLoss(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        >>> loss(torch.tensor([[0.6, 0.8]]), torch.tensor([1]), PrunNetClassifierOutput())
        tensor(3.2000)
    """

    def __init__(self, targets: Tensor) -> None:
        self.targets = targets

    def __call__(self, unit: Tensor, rows: Tensor, outputs: PrunNetClassifierOutput) -> Tensor:
        """See `TargetLoss`."""
        return LOGIT_SCALE * (1 - (unit * self.targets[rows]).sum(dim=1).mean())


class ContextualSimilarityLoss(TargetLoss):
    """Contextual Similarity Distillation (CSD, CVPR 2022): embeddings see the target's neighbours as the target does.

    The cosines to them become probabilities, whose divergence from those of the target is the loss. Unlike the paper,
    one temperature serves both sides, so that the loss is 0 where an embedding is its target.

    Args:
        targets: Of all training images, `(n, embedding_dim)` of unit length.
        neighbours: The rows of each target's nearest ones, `(n, k)`.
        temperature: Cosines are divided by it; above 0.
    """

    def __init__(self, targets: Tensor, neighbours: Tensor, temperature: float = TEMPERATURE) -> None:
        self.targets, self.neighbours, self.temperature = targets, neighbours, temperature

    def __call__(self, unit: Tensor, rows: Tensor, outputs: PrunNetClassifierOutput) -> Tensor:
        """See `TargetLoss`."""
        near = self.targets[self.neighbours[rows]]
        found, wanted = (
            (torch.einsum("bd,bkd->bk", each, near) / self.temperature).log_softmax(dim=1)
            for each in (unit, self.targets[rows])
        )
        return F.kl_div(found, wanted, log_target=True, reduction="batchmean")


class FrozenClassifierLoss(TargetLoss):
    """Cross entropy through the network's classifier, which `freeze_classifier` has set (BCT, arXiv 2003.11942)."""

    def __call__(self, unit: Tensor, rows: Tensor, outputs: PrunNetClassifierOutput) -> Tensor:
        """See `TargetLoss`."""
        return cast("Tensor", outputs.loss)  # never None, as labels are given


class IntoSpaceObjective(Objective):
    """All passes learn targets instead of labels; their gradients are merged as another objective merges them.

    Args:
        merged_as: The other objective. Its own loss isn't used.

    Attributes:
        losses: What to learn, each with its weight; set before the first step.
    """

    def __init__(self, merged_as: Objective) -> None:
        self.merged_as = merged_as
        self.losses: Sequence[tuple[float, TargetLoss]] = ()

    def loss(self, outputs: PrunNetClassifierOutput, inputs: Mapping[str, Tensor], index: int, step: int) -> Tensor:
        """See `Objective`; `inputs` also has `row`, the place of each image among the training images."""
        with torch.autocast(inputs["pixel_values"].device.type, enabled=False):
            unit = F.normalize(cast("Tensor", outputs.pooler_output).float(), dim=1)
            parts = [weight * loss(unit, inputs[ROW], outputs) for weight, loss in self.losses]
            return torch.stack(parts).sum()

    def agree(self, mean: Callable[[Tensor], Tensor]) -> None:
        """See `Objective`."""
        self.merged_as.agree(mean)

    def merge(self, passes: Sequence[Gradients], generator: torch.Generator) -> None:
        """See `Objective`."""
        self.merged_as.merge(passes, generator)


def create_losses(weights: Mapping[str, float], targets: Targets) -> list[tuple[float, TargetLoss]]:
    """The losses of these names, each with its weight.

    Args:
        weights: By names of `INTO_LOSSES`.
        targets: With neighbours if `csd` is among them.

    Raises:
        ValueError: If they are missing.
    """
    losses: dict[str, Callable[[], TargetLoss]] = {
        "regression": lambda: RegressionLoss(targets.vectors),
        "csd": lambda: ContextualSimilarityLoss(targets.vectors, _known(targets.neighbours)),
        "classifier": FrozenClassifierLoss,
    }
    return [(weight, losses[name]()) for name, weight in weights.items()]


def _known(neighbours: Tensor | None) -> Tensor:
    if neighbours is None:
        raise ValueError("targets must have neighbours for the loss csd; got None.")
    return neighbours


def class_means(vectors: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """The mean of each class's vectors, of unit length, `(num_classes, embedding_dim)`.

    Args:
        vectors: `(n, embedding_dim)`.
        labels: `(n,)`, from 0; every class has some.
        num_classes: Number of classes.

    Example:
        >>> class_means(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 1, 0]), 2)
        tensor([[1., 0.],
                [0., 1.]])
    """
    sums = torch.zeros(num_classes, vectors.shape[1], dtype=torch.float64)
    return F.normalize(sums.index_add_(0, labels, vectors.double().cpu()), dim=1).float()


@torch.no_grad()
def freeze_classifier(model: PrunNetForImageClassification, class_vectors: Tensor) -> None:
    """Let the classifier compare embeddings with these vectors for good.

    Args:
        model: The network in training.
        class_vectors: `(num_classes, embedding_dim)`.

    Raises:
        ValueError: If its classifier doesn't compare by cosines.
    """
    if model.config.classifier == "softmax":
        raise ValueError(
            "classifier must be cosface or arcface with --into_loss classifier, which compares embeddings with a "
            "vector for each class; got 'softmax'."
        )
    model.classifier.requires_grad_(False)
    model.classifier.weight.copy_(class_vectors)
