"""Mergers: what they are given, what is made of their coefficients, and how they are named."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prunnet_hf.pruning.masking import score_gradient
from prunnet_hf.runs.arguments import TrainArguments
from prunnet_hf.runs.methods import MERGERS as NAMES
from prunnet_hf.training.mergers import MERGERS, Integration, Merger, Sum, create_merger
from prunnet_hf.training.objectives import ConflictAwareObjective, MergingObjective, SumObjective
from tests.tiny_models import UNITS_OF_RESNET18
from tests.training.test_objectives import CAPACITIES, model_of_units, pass_gradients, tiny_model


class Doubled(Merger):
    """Twice the dense network's gradient, and once that of the first subnetwork."""

    sees = "network"

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def coefficients(self, gram: Tensor, *, per_row: bool, generator: torch.Generator) -> Tensor:
        self.seen.append(gram)
        return gram.new_tensor([[2.0, 1.0, 0.0]])


class Narrow(Merger):
    """A number too few."""

    sees = "nothing"

    def coefficients(self, gram: Tensor, *, per_row: bool, generator: torch.Generator) -> Tensor:
        return torch.ones_like(gram[..., 1:, 0])


class Misspelt(Narrow):
    sees = "networks"


class Raising(Narrow):
    def __init__(self) -> None:
        raise KeyError("missing")


class WithArguments(Doubled):
    def __init__(self, much: float) -> None:
        super().__init__()


@pytest.mark.parametrize("kind", ["resnet10t", "units"])
def test_a_merger_of_the_whole_network_sees_all_that_the_passes_train_together(kind: str) -> None:
    model = model_of_units("resnet18", UNITS_OF_RESNET18).float() if kind == "units" else tiny_model(kind)
    passes = [pass_gradients(model, capacity) for capacity in CAPACITIES]
    objective = ConflictAwareObjective(model, Doubled(), scale_dense_gradients=True)
    objective.merge(passes, torch.Generator())

    vectors = []
    for gradients in passes:
        scores = [score_gradient(gradients[layer.weight], layer.weight, layer.scores) for layer in objective.layers]
        scores += [units.gradient(gradients) for units in objective.units]
        weights = [gradients[layer.weight] for layer in objective.layers]
        shared = [*weights, *scores, *(gradients[parameter] for parameter in objective.integrated_parameters)]
        vectors.append(torch.cat([each.flatten() for each in shared]).double())
    (seen,) = objective.merger.seen
    stack = torch.stack(vectors)
    torch.testing.assert_close(seen, (stack @ stack.T)[None], rtol=1e-4, atol=1e-7)

    merged = [layer.weight.grad for layer in objective.layers] + [layer.scores.grad for layer in objective.layers]
    merged += [units.scores.grad for units in objective.units]
    merged += [parameter.grad for parameter in objective.integrated_parameters]
    found = torch.cat([each.flatten() for each in merged]).double()
    torch.testing.assert_close(found, 2 * stack[0] + stack[1], rtol=1e-4, atol=1e-6)
    for parameter in objective.dense_parameters:
        assert torch.equal(parameter.grad, 3 * passes[0][parameter])


@pytest.mark.parametrize("kind", ["resnet10t", "vit_tiny_patch16_224"])
def test_the_sum_is_that_of_joint_training_for_all_that_the_passes_train_together(kind: str) -> None:
    model = tiny_model(kind)
    passes = [pass_gradients(model, capacity) for capacity in CAPACITIES]
    SumObjective(model).merge(passes, torch.Generator())
    joint = {name: parameter.grad for name, parameter in model.named_parameters()}
    objective = ConflictAwareObjective(model, Sum())
    objective.merge(passes, torch.Generator())
    dense = {*objective.dense_parameters}
    assert dense
    for name, parameter in model.named_parameters():
        expected = passes[0][parameter] if parameter in dense else joint[name]
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-5, atol=1e-7, msg=name)


def test_without_parameters_for_the_dense_pass_alone_all_passes_train_all() -> None:
    model = tiny_model("resnet10t")
    passes = [pass_gradients(model, capacity) for capacity in CAPACITIES]
    objective = MergingObjective(model, Sum())
    objective.merge(passes, torch.Generator())
    assert not objective.dense_parameters
    expected = sum(gradients[model.classifier.weight] for gradients in passes)
    torch.testing.assert_close(model.classifier.weight.grad, expected)


grams = st.integers(0, 2**32 - 1).map(
    lambda seed: torch.randn(4, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
)


@pytest.mark.parametrize("merger", [Integration(), Integration(projection="sequential", alpha=1.0), Sum()])
@given(vectors=grams, scale=st.floats(1e-6, 1e6))
@settings(max_examples=20, deadline=None)
def test_scaling_all_gradients_leaves_the_coefficients(merger: Merger, vectors: Tensor, scale: float) -> None:
    gram = vectors @ vectors.transpose(1, 2)
    found = [
        merger.coefficients(each, per_row=True, generator=torch.Generator().manual_seed(1))
        for each in (gram, scale**2 * gram)
    ]
    torch.testing.assert_close(found[1], found[0], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("merger", [Integration(), Sum()])
def test_gradients_without_conflicts_are_added_up(merger: Merger) -> None:
    gram = torch.tensor([[[2.0, 1.0], [1.0, 3.0]]], dtype=torch.float64)
    found = merger.coefficients(gram, per_row=False, generator=torch.Generator())
    assert found.tolist() == [[1.0, 1.0]]


def test_names_are_those_that_the_arguments_know() -> None:
    assert tuple(MERGERS) == NAMES
    assert isinstance(create_merger(TrainArguments(method="prunnet")), Integration)
    assert isinstance(create_merger(TrainArguments(method="prunnet", merger="sum")), Sum)
    assert create_merger(TrainArguments(method="prunnet", merger="integration", alpha=0.25)).alpha == 0.25


def test_your_own_class_is_found_by_name() -> None:
    own = TrainArguments(method="prunnet", merger="tests.training.test_mergers:Doubled")
    assert type(create_merger(own)).__name__ == "Doubled"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("tests.nowhere:Doubled", "tests.nowhere"),
        ("tests.training.test_mergers:Nobody", "Nobody"),
        ("tests.training.test_mergers:WithArguments", "much"),
        ("collections:OrderedDict", "makes a OrderedDict"),
        (":Doubled", "Empty module name"),
        ("tests.training.test_mergers:Raising", "KeyError: 'missing'"),
        ("tests.training.test_mergers:Misspelt", "'networks'"),
    ],
)
def test_what_is_no_merger_is_refused(name: str, reason: str) -> None:
    with pytest.raises(ValueError, match=rf"merger .*{name}.*{reason}"):
        create_merger(TrainArguments(method="prunnet", merger=name))


def test_coefficients_of_another_shape_are_refused() -> None:
    model = tiny_model("resnet10t")
    passes = [pass_gradients(model, capacity) for capacity in CAPACITIES]
    with pytest.raises(ValueError, match=r"^Narrow\.coefficients must give one number .*\(1, 3\).*; got \(1, 2\)\.$"):
        MergingObjective(model, Narrow()).merge(passes, torch.Generator())
