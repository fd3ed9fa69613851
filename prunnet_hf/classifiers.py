"""The classifiers that training can share among all capacities: plain softmax, or softmax of cosines with a margin."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Classifier = Literal["softmax", "cosface", "arcface"]
LOGIT_SCALE = 16.0
MARGIN = 0.2


def create_classifier(
    kind: str, embedding_dim: int, num_classes: int, logit_scale: float
) -> nn.Linear | CosineClassifier:
    """The classifier of this kind, from embeddings `(batch, embedding_dim)` to logits `(batch, num_classes)`."""
    if kind == "softmax":
        return nn.Linear(embedding_dim, num_classes)
    return CosineClassifier(embedding_dim, num_classes, logit_scale)


class CosineClassifier(nn.Module):
    """Cosines between embeddings and a vector for each class, times a scale; lengths don't count, as in retrieval.

    Args:
        in_features: Length of an embedding.
        out_features: Number of classes.
        logit_scale: Above 0.
    """

    def __init__(self, in_features: int, out_features: int, logit_scale: float) -> None:
        super().__init__()
        self.in_features, self.out_features, self.logit_scale = in_features, out_features, logit_scale
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        nn.init.normal_(self.weight, std=in_features**-0.5)

    def forward(self, embeddings: Tensor) -> Tensor:
        """From embeddings `(batch, in_features)`, of any length, to logits `(batch, out_features)`."""
        # Cosines of half precision would be too coarse once they are scaled.
        with torch.autocast(embeddings.device.type, enabled=False):
            wide = torch.promote_types(embeddings.dtype, torch.float32)
            unit = F.normalize(embeddings.to(wide), dim=1)
            return self.logit_scale * F.linear(unit, F.normalize(self.weight.to(wide), dim=1))

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"{self.in_features}, {self.out_features}, logit_scale={self.logit_scale}"


def with_margin(logits: Tensor, labels: Tensor, kind: str, logit_scale: float, margin: float) -> Tensor:
    """Make it harder to be right, so that training pulls classes further apart.

    CosFace (arXiv 1801.09414, equation 4) takes `margin` from the cosine of the right class; ArcFace (arXiv
    1801.07698, equation 3) adds it to the angle. Where the angle would go beyond pi, at which its cosine would rise
    again, the cosine is lowered by the constant `margin * sin(margin)` instead, as is usual.

    Args:
        logits: `(batch, num_classes)`, of a `CosineClassifier`.
        labels: `(batch,)`.
        kind: `"cosface"` or `"arcface"`; `"softmax"` has no margin, and its logits are returned as they are.
        logit_scale: That of the classifier.
        margin: At least 0; of ArcFace in radians.

    Example:
        >>> with_margin(torch.tensor([[8.0, 4.0]]), torch.tensor([0]), "cosface", logit_scale=16.0, margin=0.25)
        tensor([[4., 4.]])
    """
    if kind == "softmax" or margin == 0:
        return logits
    right = labels.unsqueeze(1)
    cosine = logits.gather(1, right) / logit_scale
    lowered = cosine - margin if kind == "cosface" else _cosine_of_wider_angle(cosine, margin)
    return logits.scatter(1, right, logit_scale * lowered)


def _cosine_of_wider_angle(cosine: Tensor, margin: float) -> Tensor:
    # The sine's slope is infinite at a cosine of 1 or -1.
    sine = (1 - cosine.square()).clamp(min=1e-12).sqrt()
    wider = cosine * math.cos(margin) - sine * math.sin(margin)
    return torch.where(cosine > -math.cos(margin), wider, cosine - margin * math.sin(margin))
