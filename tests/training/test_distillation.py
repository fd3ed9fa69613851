"""The loss towards a teacher's probabilities, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from prunnet_hf.modeling_prunnet import PrunNetClassifierOutput
from prunnet_hf.training.distillation import DistillationObjective, distillation_loss
from tests.training.test_objectives import tiny_model

INPUTS = {"pixel_values": torch.zeros(1, 3, 4, 4), "labels": torch.tensor([0])}
EVEN = torch.tensor([[5.0, 5.0]])
THREE_TO_ONE = torch.tensor([[math.log(3.0), 0.0]])


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_loss_is_the_divergence_from_the_teacher_at_this_temperature(temperature: float) -> None:
    # The teacher says 3/4 and 1/4 at this temperature, the network 1/2 and 1/2.
    divergence = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    found = distillation_loss(EVEN, temperature * THREE_TO_ONE, temperature)
    assert float(found) == pytest.approx(temperature**2 * divergence, rel=1e-5)


def objective(weight: float) -> DistillationObjective:
    return DistillationObjective(tiny_model("resnet10t"), weight=weight, temperature=1.0)


def outputs(logits: Tensor) -> PrunNetClassifierOutput:
    return PrunNetClassifierOutput(loss=torch.tensor(0.5), logits=logits)


def test_without_a_teacher_only_labels_count() -> None:
    assert float(objective(3.0).loss(outputs(EVEN), INPUTS, 0, 0)) == 0.5


def test_all_passes_learn_from_one_answer_of_the_teacher() -> None:
    taught = objective(3.0)
    asked = []

    def teacher(pixel_values: Tensor) -> Tensor:
        asked.append(pixel_values)
        return THREE_TO_ONE

    taught.teacher = teacher
    divergence = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    for index in range(3):
        found = float(taught.loss(outputs(EVEN), INPUTS, index, 0))
        assert found == pytest.approx(0.5 + 3 * divergence, rel=1e-5)
    assert len(asked) == 1
    taught.loss(outputs(EVEN), INPUTS, 0, 1)  # the dense pass of the next batch
    assert len(asked) == 2
