"""Losses that train into a frozen network's space, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunnet_hf.classifiers import CosineClassifier
from prunnet_hf.modeling_prunnet import PrunNetClassifierOutput
from prunnet_hf.training.towards_teacher import BackwardCompatibleObjective, RegressionObjective
from tests.training.test_objectives import tiny_model

EMBEDDINGS = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
INPUTS = {"pixel_values": torch.zeros(2, 3, 4, 4), "labels": torch.tensor([0, 1])}


def outputs(embeddings: Tensor = EMBEDDINGS) -> PrunNetClassifierOutput:
    return PrunNetClassifierOutput(loss=torch.tensor(0.5), pooler_output=embeddings)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (EMBEDDINGS, 0.0),
        (7 * EMBEDDINGS, 0.0),  # lengths don't count
        (-EMBEDDINGS, 2.0),
        ([[1.0, 0.0], [1.0, 0.0]], ((1 - 0.6) + 1) / 2),
    ],
)
def test_regression_is_one_minus_the_cosine(target: Tensor | list[list[float]], expected: float) -> None:
    objective = RegressionObjective(tiny_model("resnet10t"), lambda pixel_values: torch.as_tensor(target))
    assert float(objective.loss(outputs(), INPUTS, 0, 0)) == pytest.approx(expected, abs=1e-6)
    # Labels don't count, nor does the loss through the own classifier.
    others = {**INPUTS, "labels": torch.tensor([1, 1])}
    assert float(objective.loss(outputs(), others, 0, 0)) == pytest.approx(expected, abs=1e-6)


def test_the_teachers_linear_classifier_adds_a_cross_entropy() -> None:
    classifier = nn.Linear(2, 2)
    with torch.no_grad():
        classifier.weight.zero_()
        classifier.bias.copy_(torch.tensor([math.log(3.0), 0.0]))
    objective = BackwardCompatibleObjective(tiny_model("resnet10t"), classifier.requires_grad_(False))
    # Probabilities 3/4 and 1/4 whatever the embedding.
    expected = 0.5 - (math.log(0.75) + math.log(0.25)) / 2
    assert float(objective.loss(outputs(), INPUTS, 0, 0)) == pytest.approx(expected)


def test_the_teachers_cosine_classifier_has_its_scale_and_no_margin() -> None:
    classifier = CosineClassifier(2, 2, 10.0)
    with torch.no_grad():
        classifier.weight.copy_(torch.tensor([[5.0, 0.0], [0.0, 1.0]]))
    objective = BackwardCompatibleObjective(tiny_model("resnet10t"), classifier.requires_grad_(False))
    cosines = torch.tensor([[0.6, 0.8], [0.0, 1.0]])
    expected = 0.5 + float(F.cross_entropy(10 * cosines, INPUTS["labels"]))
    assert float(objective.loss(outputs(), INPUTS, 0, 0)) == pytest.approx(expected, rel=1e-5)
