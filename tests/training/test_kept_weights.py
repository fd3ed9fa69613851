"""Weights that are pruned for good: their gradients, and that they stay zero."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from prunnet_hf.runs.arguments import TrainArguments
from prunnet_hf.training.kept_weights import check_kept, leave_out, prunable_weights
from prunnet_hf.training.methods import create_objective
from prunnet_hf.training.optimizers import create_optimizer
from tests.training.test_objectives import ALONE, each_backbone, options, pass_gradients, tiny_model

WEIGHTS = {"a": torch.ones(2, 3), "b": torch.ones(4)}


@each_backbone
def test_what_is_pruned_for_good_gets_no_gradient_and_the_rest_what_it_gets_without_masks(backbone: str) -> None:
    model = tiny_model(backbone)
    gradients = pass_gradients(model, 1.0)
    kept = {name: weight > 0 for name, weight in prunable_weights(model).items()}
    create_objective(model, ALONE, kept=kept).merge([gradients], torch.Generator())
    for name, parameter in model.named_parameters():
        if name.endswith(".scores"):
            assert parameter.grad is None
        else:
            assert torch.equal(parameter.grad, gradients[parameter] * kept.get(name, True)), name


@each_backbone
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_what_is_pruned_for_good_stays_exactly_zero(backbone: str, kind: str) -> None:
    model = tiny_model(backbone)
    weights = prunable_weights(model)
    kept = {name: torch.rand_like(weight) < 0.5 for name, weight in weights.items()}
    leave_out(model, kept)
    optimizer = create_optimizer(model, TrainArguments(optimizer=kind, learning_rate=0.01, weight_decay=0.1))
    objective = create_objective(model, ALONE, kept=kept)
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    for _ in range(3):
        objective.merge([pass_gradients(model, 1.0)], torch.Generator())
        optimizer.step()
    for name, weight in weights.items():
        assert not weight[~kept[name]].any()
        assert (weight != before[name])[kept[name]].all(), name


def test_masks_go_with_one_network_alone_and_with_its_weights() -> None:
    model = tiny_model("resnet10t")
    kept = {name: weight > 0 for name, weight in prunable_weights(model).items()}
    for method in ("prunnet", "joint"):
        with pytest.raises(ValueError, match=f"'independent' if kept .*'{method}'"):
            create_objective(model, options(method), kept=kept)
    with pytest.raises(ValueError, match=r"these differ: \['classifier.weight'\]"):
        create_objective(model, ALONE, kept={**kept, "classifier.weight": model.classifier.weight > 0})


@each_backbone
def test_prunable_weights_are_those_that_a_pruned_network_packs(backbone: str) -> None:
    model = tiny_model(backbone)
    assert list(prunable_weights(model)) == model.prune(1.0).packable_weights()


def test_what_is_left_out_is_zero_and_the_rest_as_it_was() -> None:
    model = tiny_model("resnet10t")
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    kept = {name: weight > 0 for name, weight in prunable_weights(model).items()}
    leave_out(model, kept)
    for name, parameter in model.named_parameters():
        expected = before[name].clamp(min=0.0) if name in kept else before[name]
        assert torch.equal(parameter, expected), name
    assert not any(torch.signbit(model.get_parameter(name)).any() for name in kept)  # no -0.0, which would be packed


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ({"a": torch.ones(2, 3, dtype=torch.bool)}, r"kept .*\['b'\]"),
        ({**WEIGHTS, "c": torch.ones(1)}, r"kept .*\['c'\]"),
        ({**WEIGHTS, "a": torch.ones(3, 2)}, r"kept\['a'\] .*\(2, 3\).*\(3, 2\)"),
    ],
)
def test_masks_of_another_network_are_refused(kept: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_kept(WEIGHTS, kept)
