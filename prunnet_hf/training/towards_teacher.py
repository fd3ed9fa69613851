"""Training of one network into the space of a finished one, which is frozen: the teacher."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from ..modeling_prunnet import PrunNetClassifierOutput, PrunNetForImageClassification
from .objectives import SumObjective


class BackwardCompatibleObjective(SumObjective):
    """BCT (arXiv 2003.11942): the cross entropies through the own classifier and through the teacher's are added up.

    Args:
        model: The network in training.
        classifier: The teacher's, frozen: from embeddings to logits of the same classes. It has no margin.
    """

    def __init__(self, model: PrunNetForImageClassification, classifier: nn.Module) -> None:
        super().__init__(model)
        self.classifier = classifier

    def loss(self, outputs: PrunNetClassifierOutput, inputs: Mapping[str, Tensor], index: int, step: int) -> Tensor:
        """See `Objective`."""
        through_teacher = F.cross_entropy(self.classifier(outputs.pooler_output), inputs["labels"])
        return super().loss(outputs, inputs, index, step) + through_teacher


class RegressionObjective(SumObjective):
    """Regression onto the teacher's embedding of the same augmented image: 1 - cosine. Labels are not used.

    Args:
        model: The network in training.
        embed: The teacher: from images to embeddings, without gradients.
    """

    def __init__(self, model: PrunNetForImageClassification, embed: Callable[[Tensor], Tensor]) -> None:
        super().__init__(model)
        self.embed = embed

    def loss(self, outputs: PrunNetClassifierOutput, inputs: Mapping[str, Tensor], index: int, step: int) -> Tensor:
        """See `Objective`."""
        target = self.embed(inputs["pixel_values"])
        found = cast("Tensor", outputs.pooler_output)
        return 1 - F.cosine_similarity(found.float(), target.float(), dim=1).mean()
