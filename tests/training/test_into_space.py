"""Losses towards targets that stay as they are, by hand and by their laws."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from prunnet_hf.modeling_prunnet import PrunNetClassifierOutput
from prunnet_hf.training.into_space import (
    ContextualSimilarityLoss,
    IntoSpaceObjective,
    RegressionLoss,
    class_means,
    create_losses,
    freeze_classifier,
)
from prunnet_hf.training.known_space import Targets
from prunnet_hf.training.objectives import Gradients, Objective
from tests.training.test_objectives import tiny_model

TARGETS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
OUTPUTS = PrunNetClassifierOutput(loss=torch.tensor(3.0))


def test_regression_compares_each_image_with_its_own_target() -> None:
    unit, rows = torch.tensor([[0.6, 0.8], [0.6, 0.8]]), torch.tensor([0, 2])
    assert float(RegressionLoss(TARGETS)(unit, rows, OUTPUTS)) == pytest.approx(16 * ((1 - 0.6) + (1 - 1)) / 2)


def test_csd_is_the_divergence_from_the_targets_own_similarities() -> None:
    # Of the target (1, 0), whose neighbours are itself and (0, 1): cosines 1 and 0. The embedding (0, 1) has 0 and 1.
    loss = ContextualSimilarityLoss(TARGETS, torch.tensor([[0, 1], [1, 0], [2, 1]]), temperature=1.0)
    high, low = math.e / (math.e + 1), 1 / (math.e + 1)
    expected = high * math.log(high / low) + low * math.log(low / high)
    found = loss(torch.tensor([[0.0, 1.0]]), torch.tensor([0]), OUTPUTS)
    assert float(found) == pytest.approx(expected)
    # Half the temperature doubles all logits.
    sharp = ContextualSimilarityLoss(TARGETS, torch.tensor([[0, 1]]), temperature=0.5)
    high, low = math.e**2 / (math.e**2 + 1), 1 / (math.e**2 + 1)
    expected = high * math.log(high / low) + low * math.log(low / high)
    assert float(sharp(torch.tensor([[0.0, 1.0]]), torch.tensor([0]), OUTPUTS)) == pytest.approx(expected)


@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(1, 4))
def test_no_loss_is_below_that_of_the_targets_themselves(seed: int, count: int, batch: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    targets = F.normalize(torch.randn(count, 3, generator=generator), dim=1)
    unit = F.normalize(torch.randn(batch, 3, generator=generator), dim=1)
    rows = torch.randint(count, (batch,), generator=generator)
    neighbours = torch.arange(count).expand(count, count)
    for loss in (RegressionLoss(targets), ContextualSimilarityLoss(targets, neighbours)):
        at_target = float(loss(targets[rows], rows, OUTPUTS))
        assert at_target == pytest.approx(0, abs=1e-4)
        assert float(loss(unit, rows, OUTPUTS)) >= at_target - 1e-4


class Noting(Objective):
    """Notes what it is asked to merge."""

    def __init__(self) -> None:
        self.merged: list[int] = []

    def merge(self, passes: Sequence[Gradients], generator: torch.Generator) -> None:
        self.merged.append(len(passes))


def test_losses_are_weighed_and_merged_as_by_the_other_objective() -> None:
    objective = IntoSpaceObjective(Noting())
    targets = Targets(TARGETS, "", torch.tensor([[0, 1], [1, 0], [2, 1]]))
    objective.losses = create_losses({"regression": 2.0, "classifier": 0.5}, targets)
    inputs: Mapping[str, Tensor] = {"pixel_values": torch.zeros(1, 3, 4, 4), "row": torch.tensor([0])}
    # Lengths of embeddings don't count: (3, 4) has a cosine of 0.6 to (1, 0). The classifier's loss is the network's.
    outputs = PrunNetClassifierOutput(loss=torch.tensor(3.0), pooler_output=torch.tensor([[3.0, 4.0]]))
    assert float(objective.loss(outputs, inputs, 0, 0)) == pytest.approx(2 * 16 * (1 - 0.6) + 0.5 * 3)
    objective.merge([{}, {}], torch.Generator())
    assert objective.merged_as.merged == [2]


def test_csd_needs_neighbours() -> None:
    with pytest.raises(ValueError, match=r"neighbours .*csd; got None"):
        create_losses({"csd": 1.0}, Targets(TARGETS, ""))


def test_class_means_have_unit_length() -> None:
    found = class_means(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]), torch.tensor([0, 0, 1]), 2)
    torch.testing.assert_close(found, torch.tensor([[math.sqrt(0.5), math.sqrt(0.5)], [0.0, -1.0]]))


def test_a_linear_classifier_is_not_frozen_to_class_vectors() -> None:
    model = tiny_model("resnet10t")
    assert model.config.classifier == "softmax"
    with pytest.raises(ValueError, match=r"classifier must be cosface or arcface .*got 'softmax'"):
        freeze_classifier(model, torch.zeros_like(model.classifier.weight))
