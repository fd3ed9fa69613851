"""Classifiers of cosines, and their margins, against arithmetic by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from prunnet_hf.classifiers import CosineClassifier, create_classifier, with_margin


def test_softmax_is_a_linear_layer() -> None:
    classifier = create_classifier("softmax", 6, 3, logit_scale=16.0)
    assert isinstance(classifier, nn.Linear)
    assert (classifier.weight.shape, classifier.bias.shape) == ((3, 6), (3,))


def test_cosines_are_scaled_and_lengths_do_not_count() -> None:
    classifier = create_classifier("cosface", 2, 3, logit_scale=10.0)
    assert isinstance(classifier, CosineClassifier)
    assert [name for name, _ in classifier.named_parameters()] == ["weight"]
    with torch.no_grad():
        classifier.weight.copy_(torch.tensor([[3.0, 0.0], [0.0, 0.5], [-1.0, -1.0]]))
    # (3, 4) / 5 = (0.6, 0.8); against (-1, -1) / sqrt(2) the cosine is -1.4 / sqrt(2).
    expected = torch.tensor([[6.0, 8.0, -14 / math.sqrt(2)]])
    torch.testing.assert_close(classifier(torch.tensor([[3.0, 4.0]])), expected)
    torch.testing.assert_close(classifier(torch.tensor([[0.03, 0.04]])), expected)


def test_half_precision_classifies_by_cosines_in_float32() -> None:
    classifier = create_classifier("cosface", 8, 3, logit_scale=16.0)
    embeddings = torch.randn(4, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = classifier(embeddings)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, classifier(embeddings.float()))


def test_cosface_takes_the_margin_from_the_right_cosine_only() -> None:
    logits = torch.tensor([[8.0, 4.0, 0.0], [8.0, 4.0, 0.0]])
    found = with_margin(logits, torch.tensor([0, 2]), "cosface", logit_scale=16.0, margin=0.25)
    assert found.tolist() == [[4.0, 4.0, 0.0], [8.0, 4.0, -4.0]]


def test_arcface_widens_the_right_angle_only() -> None:
    angles = torch.tensor([math.pi / 3, math.pi / 2])
    logits = 10 * torch.stack([angles.cos(), torch.zeros(2)], dim=1)
    found = with_margin(logits, torch.tensor([0, 0]), "arcface", logit_scale=10.0, margin=math.pi / 6)
    # 60 and 30 degrees are 90, whose cosine is 0; 90 and 30 are 120, whose cosine is -0.5.
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.0], [-5.0, 0.0]]), atol=1e-5, rtol=0)


def test_arcface_goes_on_falling_where_the_angle_would_pass_pi() -> None:
    cosines = torch.linspace(-1, 1, 201, dtype=torch.float64).unsqueeze(1)
    labels = torch.zeros(201, dtype=torch.long)
    found = with_margin(cosines, labels, "arcface", logit_scale=1.0, margin=0.5).flatten()
    assert bool((found.diff() > 0).all())
    assert bool((found < cosines.flatten()).all())
    assert found[0].item() == pytest.approx(-1 - 0.5 * math.sin(0.5))


def test_gradients_are_finite_where_the_cosine_is_one() -> None:
    logits = torch.tensor([[16.0, -16.0], [-16.0, 16.0]], requires_grad=True)
    with_margin(logits, torch.tensor([0, 0]), "arcface", logit_scale=16.0, margin=0.2).sum().backward()
    assert bool(torch.isfinite(logits.grad).all())


@pytest.mark.parametrize("kind", ["softmax", "cosface", "arcface"])
def test_no_margin_changes_nothing(kind: str) -> None:
    logits = torch.tensor([[8.0, 4.0]])
    margin = 0.3 if kind == "softmax" else 0.0
    assert with_margin(logits, torch.tensor([0]), kind, logit_scale=16.0, margin=margin) is logits


@given(
    kind=st.sampled_from(["cosface", "arcface"]),
    seed=st.integers(0, 1000),
    margins=st.tuples(st.floats(0, 0.7), st.floats(0.01, 0.7)),
)
def test_a_wider_margin_costs_more(kind: str, seed: int, margins: tuple[float, float]) -> None:
    generator = torch.Generator().manual_seed(seed)
    cosines = torch.rand(3, 5, generator=generator, dtype=torch.float64) * 2 - 1
    labels = torch.randint(5, (3,), generator=generator)
    narrow, wide = (
        F.cross_entropy(with_margin(8 * cosines, labels, kind, logit_scale=8.0, margin=margin), labels)
        for margin in (margins[0], sum(margins))
    )
    assert wide > narrow
