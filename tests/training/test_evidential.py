"""SFSC: its loss and its aggregation, by hand and by their laws."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from prunnet_hf.modeling_prunnet import PrunNetClassifierOutput
from prunnet_hf.runs.arguments import TrainArguments
from prunnet_hf.training.evidential import (
    EvidentialObjective,
    UncertaintyWeighted,
    divergence_from_uniform,
    evidential_loss,
    uncertainty_of,
)
from prunnet_hf.training.methods import Circumstances, create_objective
from tests.training.test_objectives import CAPACITIES, pass_gradients, tiny_model

ONE = math.log(math.e - 1)
"""The logit of an evidence of 1: softplus(ONE) = 1."""
NONE = -100.0
"""The logit of no evidence."""


def test_loss_of_one_piece_of_evidence_for_each_of_two_classes() -> None:
    logits, labels = torch.tensor([[ONE, ONE]]), torch.tensor([0])
    # alpha = (2, 2) and S = 4: digamma(4) - digamma(2) = 1/2 + 1/3.
    assert float(evidential_loss(logits, labels, penalty=0.0)) == pytest.approx(5 / 6, abs=1e-6)
    # alpha~ = (1, 2): KL = log 2! - 0 + 1 * (digamma(2) - digamma(3)) = log 2 - 1/2.
    assert float(evidential_loss(logits, labels, penalty=3.0)) == pytest.approx(
        5 / 6 + 3 * (math.log(2) - 0.5), abs=1e-5
    )
    assert float(uncertainty_of(logits)) == pytest.approx(2 / 4)


def test_without_any_evidence_the_penalty_is_zero_and_uncertainty_whole() -> None:
    logits = torch.full((2, 4), NONE)
    # digamma(4) - digamma(1) = 1 + 1/2 + 1/3.
    found = evidential_loss(logits, torch.tensor([0, 3]), penalty=7.0)
    assert float(found) == pytest.approx(11 / 6, abs=1e-5)
    assert uncertainty_of(logits).tolist() == [1.0, 1.0]
    assert divergence_from_uniform(torch.ones(2, 4)).abs().max() < 1e-5


def test_evidence_for_the_label_is_not_punished() -> None:
    logits = torch.tensor([[8.0, NONE, NONE]])
    losses = [float(evidential_loss(logits, torch.tensor([0]), penalty=penalty)) for penalty in (0.0, 1.0)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


@given(seed=st.integers(0, 1000), classes=st.integers(2, 6))
@settings(max_examples=20, deadline=None)
def test_divergence_is_torchs(seed: int, classes: int) -> None:
    alpha = 1 + 5 * torch.rand(3, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    uniform = torch.distributions.Dirichlet(torch.ones(3, classes, dtype=torch.float64))
    expected = torch.distributions.kl_divergence(torch.distributions.Dirichlet(alpha), uniform)
    torch.testing.assert_close(divergence_from_uniform(alpha), expected)
    assert (expected >= 0).all()


def merged(vectors: Tensor, weights: list[float]) -> Tensor:
    merger = UncertaintyWeighted()
    merger.weights = torch.tensor(weights, dtype=torch.float64)
    coefficients = merger.coefficients(
        (vectors @ vectors.T)[None], per_row=False, generator=torch.Generator().manual_seed(0)
    )
    return (coefficients @ vectors)[0]


def test_two_conflicting_gradients_by_hand() -> None:
    vectors = torch.tensor([[1.0, 0.0], [-1.0, 1.0]], dtype=torch.float64)
    # Projected: (1, 0) + 1/2 (-1, 1) = (1/2, 1/2), and (-1, 1) + (1, 0) = (0, 1). 2 * (1/4 of one + 3/4 of the other).
    torch.testing.assert_close(merged(vectors, [0.25, 0.75]), torch.tensor([0.25, 1.75], dtype=torch.float64))


def test_gradients_without_conflict_are_weighed_and_zeros_do_nothing() -> None:
    vectors = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]], dtype=torch.float64)
    found = merged(vectors, [0.5, 0.25, 0.25])
    torch.testing.assert_close(found, torch.tensor([1.5, 1.5], dtype=torch.float64))


@given(seed=st.integers(0, 1000), scale=st.floats(1e-3, 1e3))
@settings(max_examples=20, deadline=None)
def test_scaling_all_gradients_scales_the_result(seed: int, scale: float) -> None:
    vectors = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    weights = [0.4, 0.3, 0.2, 0.1]
    torch.testing.assert_close(merged(scale * vectors, weights), scale * merged(vectors, weights))


def outputs(logits: Tensor) -> PrunNetClassifierOutput:
    return PrunNetClassifierOutput(logits=logits)


def test_passes_count_by_their_mean_uncertainty_over_all_batches_of_a_step() -> None:
    model = tiny_model("resnet10t")
    objective = EvidentialObjective(model, steps_per_epoch=5)
    inputs = {"labels": torch.tensor([0])}
    evidence = (NONE, ONE, ONE)  # uncertainties 1, 1/2 and 1/2
    for _ in range(2):
        for index, logit in enumerate(evidence):
            objective.loss(outputs(torch.full((1, 3), logit)), inputs, index, 0)
    torch.testing.assert_close(objective.noted, torch.tensor([2.0, 1.0, 1.0]))
    objective.agree(lambda noted: noted / 2)
    objective.merge([pass_gradients(model, capacity) for capacity in CAPACITIES], torch.Generator())
    assert objective.uncertainty.weights.tolist() == pytest.approx([0.5, 0.25, 0.25])
    assert objective.noted is None
    assert all(parameter.grad is not None for parameter in model.parameters())
    with pytest.raises(ValueError, match=r"loss must be called .*merge"):
        objective.merge([], torch.Generator())


@pytest.mark.parametrize("factor", [1.0, 0.5, 0.0])
def test_the_penalty_grows_over_ten_epochs_and_has_a_factor(factor: float) -> None:
    options = TrainArguments(method="sfsc", evidence_penalty=factor)
    objective = create_objective(tiny_model("resnet10t"), options, Circumstances(steps_per_epoch=5))
    logits, inputs = torch.tensor([[ONE, ONE]]), {"labels": torch.tensor([0])}
    found = [float(objective.loss(outputs(logits), inputs, 0, step)) for step in (0, 25, 50, 99)]
    expected = [5 / 6 + factor * share * (math.log(2) - 0.5) for share in (0.0, 0.5, 1.0, 1.0)]
    assert found == pytest.approx(expected, abs=1e-5)


def test_the_margin_of_the_classifier_counts() -> None:
    model = tiny_model("resnet10t")
    model.config.classifier, model.config.logit_scale, model.config.margin = "cosface", 8.0, 0.25
    objective = EvidentialObjective(model)
    logits, labels = torch.tensor([[4.0, 1.0, 0.0]]), torch.tensor([0])
    found = objective.loss(outputs(logits), {"labels": labels}, 0, 0)
    harder = logits - 2 * F.one_hot(labels, 3)
    assert float(found) == pytest.approx(float(evidential_loss(harder, labels, penalty=0.0)))
