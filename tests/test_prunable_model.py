"""Pruning with shares a layer and with a proposed capacity; the contract of pruning is in test_modeling_prunnet.py."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModel

from prunnet_hf import PrunNetConfig
from prunnet_hf import PrunNetForImageClassification
from prunnet_hf import PrunNetModel
from prunnet_hf.allocation import ALLOCATIONS
from prunnet_hf.allocation import allocated_counts
from prunnet_hf.masking import kept_count
from tests.tiny_models import same_state
from tests.tiny_models import tiny

OTHERS = [allocation for allocation in ALLOCATIONS if allocation != "uniform"]


@pytest.fixture(scope="module")
def model() -> PrunNetForImageClassification:
    """Trained, as far as a configuration can tell; not to be changed."""
    made = tiny()
    with torch.no_grad():
        for power, layer in enumerate(made.prunable_layers().values()):
            layer.weight.pow_(1 + 2 * (power % 3))  # so that layers differ in their PQ Index
    made.renew_embedding_space()
    return made


def images(seed: int = 0) -> Tensor:
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def kept(pruned: PrunNetForImageClassification) -> dict[str, Tensor]:
    return {name: pruned.get_parameter(name) != 0 for name in pruned.packable_weights()}


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@pytest.mark.parametrize("capacity", [0.05, 0.2, 0.6])
def test_as_many_weights_whatever_the_allocation(model, allocation: str, capacity: float) -> None:
    pruned = model.prune(capacity, [images()], allocation=allocation)
    expected = allocated_counts(model.prunable_layers(), capacity, allocation)
    assert {name.removesuffix(".weight"): int(mask.sum()) for name, mask in kept(pruned).items()} == expected
    sizes = [layer.weight.numel() for layer in model.prunable_layers().values()]
    assert sum(expected.values()) == sum(kept_count(capacity, size) for size in sizes)
    assert pruned.config.allocation == allocation
    assert model.config.allocation == "uniform"


@pytest.mark.parametrize("allocation", OTHERS)
def test_layers_get_other_shares(model, allocation: str) -> None:
    uniform = allocated_counts(model.prunable_layers(), 0.2)
    assert allocated_counts(model.prunable_layers(), 0.2, allocation) != uniform


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_subnetworks_are_nested(model, allocation: str) -> None:
    chain = [kept(model.prune(c, [images()], allocation=allocation)) for c in (0.05, 0.051, 0.3, 0.8, 1.0)]
    for small, large in pairwise(chain):
        assert not any((small[name] & ~large[name]).any() for name in small)


@pytest.mark.parametrize("allocation", OTHERS)
def test_stored_statistics_are_of_uniform_subnetworks(model, allocation: str, caplog) -> None:
    model.prune(0.2, allocation=allocation)
    assert f"not of allocation='{allocation}'" in caplog.text
    caplog.clear()
    model.prune(0.2)
    model.prune(0.2, [images()], allocation=allocation)
    assert not caplog.records


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@torch.no_grad()
def test_it_saves_and_loads(model, allocation: str, tmp_path: Path) -> None:
    pruned = model.prune(0.2, [images()], allocation=allocation)
    pruned.save_pretrained(tmp_path)
    loaded = PrunNetForImageClassification.from_pretrained(tmp_path)
    assert same_state(loaded, pruned)
    assert (loaded.config.capacity, loaded.config.allocation) == (0.2, allocation)


@pytest.mark.parametrize("form", [{}, {"scores": "rank16"}, {"bands": [0.2, 0.6]}], ids=["plain", "ranks", "bands"])
@pytest.mark.parametrize(("capacity", "allocation"), [(0.2, "global"), (0.6, "pq_index"), ("auto", "uniform")])
def test_from_pretrained_prunes_likewise(
    model, form: dict[str, Any], capacity: Any, allocation: str, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path, **form)
    whole = PrunNetModel.from_pretrained(tmp_path)
    expected = whole.prune(capacity, allocation=allocation)
    for load in (PrunNetModel.from_pretrained, AutoModel.from_pretrained):
        found = load(tmp_path, capacity=capacity, allocation=allocation)
        assert same_state(found, expected)
        assert found.config.to_dict() == expected.config.to_dict()


def test_loading_refuses_what_it_cannot_mean(model, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"allocation='global' says how to share out a capacity, and none is given"):
        PrunNetModel.from_pretrained(tmp_path, allocation="global")
    with pytest.raises(ValueError, match=r"allocation must be one of"):
        PrunNetModel.from_pretrained(tmp_path, capacity=0.2, allocation="best")
    with pytest.raises(TypeError, match=r"capacity must be a number in \(0, 1\], or 'auto'; got 'small'"):
        PrunNetModel.from_pretrained(tmp_path, capacity="small")
    with pytest.raises(TypeError, match=r"allocation='global' is no argument of reading a configuration"):
        PrunNetConfig.from_pretrained(tmp_path, allocation="global")


def test_a_pruned_checkpoint_keeps_its_allocation(model, tmp_path: Path) -> None:
    model.prune(0.2, [images()], allocation="global").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"pruned already \(capacity 0\.20\)"):
        PrunNetModel.from_pretrained(tmp_path, capacity=0.1, allocation="pq_index")


def test_an_unknown_allocation(model) -> None:
    with pytest.raises(ValueError, match=r"allocation must be one of 'uniform', 'pq_index', 'global'; got 'best'"):
        model.prune(0.2, allocation="best")


class TestAuto:
    def test_it_cuts_to_the_proposal_and_logs_why(self, model, caplog) -> None:
        proposal = model.propose_capacity()
        with caplog.at_level(logging.WARNING):
            pruned = model.prune("auto")
        assert pruned.config.capacity == proposal.capacity
        assert 0.0 < proposal.capacity < 0.8, "of peaked weights fewer are needed than of Gaussian ones"
        assert f"capacity='auto' is {proposal}" in caplog.text
        assert same_state(pruned, model.prune(proposal.capacity))

    def test_its_numbers_are_those_of_the_dense_weights(self, model) -> None:
        proposal = model.propose_capacity(eta=0.5)
        names = model.prunable_layers().keys()
        assert [row.layer for row in proposal.layers] == list(names)
        total = sum(row.keep_bound for row in proposal.layers) / sum(row.num_weights for row in proposal.layers)
        assert total <= proposal.capacity < total + 0.001 + 1e-9
        assert proposal.capacity < model.propose_capacity().capacity

    def test_pq_index_gives_each_layer_its_bound(self, model) -> None:
        proposal = model.propose_capacity()
        counts = allocated_counts(model.prunable_layers(), proposal.capacity, "pq_index")
        for row in proposal.layers:
            # Kept counts of a capacity and the proposal are rounded up, so each layer may get a little more.
            assert row.keep_bound - 1 <= counts[row.layer] <= 1.05 * row.keep_bound + 2

    def test_what_has_no_trained_dense_weights(self, model) -> None:
        for use in (lambda m: m.prune("auto"), lambda m: m.propose_capacity()):
            with pytest.raises(ValueError, match=r"pruned already .*Load the dense checkpoint"):
                use(model.prune(0.2))
            with pytest.raises(ValueError, match=r"no embedding_space, so its training has not ended"):
                use(tiny())

    def test_nothing_prunable(self, no_prunable: PrunNetModel) -> None:
        with pytest.raises(ValueError, match=r"at least one prunable layer; there is none"):
            no_prunable.prune("auto")

    def test_weights_that_are_not_finite(self) -> None:
        broken = tiny()
        broken.renew_embedding_space()
        with torch.no_grad():
            broken.prunnet.backbone.conv1.weight[0, 0, 0, 0] = math.nan
        for use in uses_of_weights(broken):
            with pytest.raises(ValueError, match=r"layer 'prunnet\.backbone\.conv1': weights must be finite; 1 of"):
                use()

    @pytest.mark.parametrize("exponents", [{"p": 1.0}, {"p": 0.0}, {"p": -0.5}, {"q": 0.5}])
    def test_exponents_out_of_range(self, model, exponents: dict[str, float]) -> None:
        with pytest.raises(ValueError, match=r"p and q must satisfy 0 < p <= 1 <= q"):
            model.propose_capacity(**exponents)

    def test_another_word(self, model) -> None:
        with pytest.raises(TypeError, match=r"capacity must be a number in \(0, 1\], or 'auto'; got 'smallest'"):
            model.prune("smallest")


def uses_of_weights(model: PrunNetForImageClassification) -> list[Callable[[], object]]:
    return [lambda: model.prune("auto"), lambda: model.prune(0.5, allocation="pq_index")]


@pytest.fixture
def no_prunable() -> PrunNetModel:
    """A trained model whose prunable layers were all replaced by plain ones."""
    made = tiny().prunnet
    for name, layer in made.prunable_layers().items():
        made.set_submodule(name, layer.to_dense(layer.weight.detach()))
    made.renew_embedding_space()
    return made
