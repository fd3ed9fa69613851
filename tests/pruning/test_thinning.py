"""Thin networks: exactly the masked ones, with smaller tensors."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm.layers
import torch
from torch import Tensor, nn
from torch.func import functional_call

from prunnet_hf import PrunNetForImageClassification
from prunnet_hf.pruning.calibration import measure_statistics
from prunnet_hf.pruning.channel_rules import find_units
from prunnet_hf.pruning.channels import UnitGroup
from prunnet_hf.pruning.subnetworks import find_masks, masked_weights
from prunnet_hf.pruning.thinning import cut_units, thin_modules, thin_tensors
from tests.tiny_models import UNIT_BACKBONES, assert_close, config_of_units, images, same_state, trained

CAPACITY = 0.35


@pytest.fixture(scope="module", params=UNIT_BACKBONES)
def network(request) -> PrunNetForImageClassification:
    """One network for each kind of block. No test may change it."""
    return trained(config_of_units(request.param))


@pytest.fixture(scope="module")
def thin(network: PrunNetForImageClassification) -> PrunNetForImageClassification:
    return network.prune(CAPACITY)


@pytest.fixture
def unfused() -> Iterator[None]:
    """Attention computes step by step in networks that are made meanwhile."""
    before = timm.layers.use_fused_attn()
    timm.layers.set_fused_attn(False)
    yield
    timm.layers.set_fused_attn(bool(before))


def kept_of(model: Any, capacity: float = CAPACITY) -> dict[str, Tensor]:
    (masks,) = find_masks(model, [capacity])
    return {name: mask.nonzero().flatten() for name, mask in masks.items()}


class TestEveryKindOfBlock:
    @torch.no_grad()
    @pytest.mark.parametrize("capacity", [1e-9, 0.03, 0.35, 0.999])
    @pytest.mark.filterwarnings("ignore:No running statistics")
    def test_thin_is_masked_to_the_last_digits_of_float64(self, network, capacity: float) -> None:
        exact = copy.deepcopy(network).double()
        thin = exact.prune(capacity)
        assert_close(thin(images().double()).logits, exact(images().double(), capacity=capacity).logits, within=1e-12)
        assert thin.prunable_units().keys() == network.prunable_units().keys()
        if capacity == 1e-9:
            assert set(thin.prunable_units().values()) <= {1, 8}, "one unit, or eight of a large group"

    def test_training_it_is_training_the_masked_one(self, network) -> None:
        """With the statistics of each batch, and gradients that are the kept parts of the masked one's."""
        masked = copy.deepcopy(network).double().train()
        thin = masked.prune(CAPACITY)
        labels = torch.tensor([0, 1, 2, 0])
        losses = []
        for model, options in ((masked, {"capacity": CAPACITY}), (thin, {})):
            torch.manual_seed(0)  # Swin drops whole blocks
            losses.append(model(images().double(), labels, **options).loss)
        assert_close(losses[1], losses[0], within=1e-12)
        for loss in losses:
            loss.backward()
        gradients = {name: p.grad for name, p in masked.named_parameters() if not name.endswith(".scores")}
        # Of the parameters of units that are left out, all is cut off; of queries, what a thin network scales is, too.
        groups = find_units(masked)
        scaled = {axis.tensor for group in groups.values() for axis in group.axes if axis.scaled}
        expected = thin_tensors(gradients, groups, kept_of(masked))
        for name, parameter in thin.named_parameters():
            if name not in scaled:
                torch.testing.assert_close(parameter.grad, expected.get(name, gradients[name]), rtol=0, atol=1e-9)

    @torch.no_grad()
    def test_names_stay_and_shapes_are_those_of_the_units_that_are_left(self, network, thin) -> None:
        dense, small = network.state_dict(), thin.state_dict()
        assert set(small) == {name for name in dense if "scores" not in name and "statistics" not in name}
        groups = find_units(network)
        axes = [(axis, group) for group in groups.values() for axis in group.axes]
        counts = kept_of(network)
        for name, tensor in small.items():
            shape = list(dense[name].shape)
            for axis, group in axes:
                if axis.tensor == name:
                    shape[axis.dim] = axis.outer * len(counts[group.name]) * axis.inner
            assert list(tensor.shape) == shape, name
        prefix = "prunnet.backbone."
        assert thin.config.kept_units == {name.removeprefix(prefix): len(units) for name, units in counts.items()}
        assert thin.prunable_units() == {name: len(units) for name, units in counts.items()}
        assert [*thin.prunable_units()] == [*network.prunable_units()]
        assert all(parameter.requires_grad and parameter.is_leaf for parameter in thin.parameters())

    @torch.no_grad()
    def test_modules_know_their_new_sizes(self, thin) -> None:
        """As modules made with these sizes would: what their repr says is what their tensors are."""
        for name, module in thin.named_modules():
            if isinstance(module, nn.Conv2d):
                shape = (module.out_channels, module.in_channels // module.groups, *module.kernel_size)
                assert module.weight.shape == shape, name
            elif isinstance(module, nn.Linear):
                assert module.weight.shape == (module.out_features, module.in_features), name
            elif isinstance(module, nn.BatchNorm2d):
                assert module.weight.shape == module.running_var.shape == (module.num_features,), name

    @torch.no_grad()
    def test_it_is_found_and_cut_again(self, network, thin) -> None:
        """A thin network is a network of the same blocks, which the rules know."""
        again = copy.deepcopy(thin)
        cut_units(again, find_units(again), {name: torch.arange(n) for name, n in again.prunable_units().items()})
        assert same_state(again, thin)
        assert torch.equal(again(images()).logits, thin(images()).logits)

    @torch.no_grad()
    @pytest.mark.parametrize(
        "network", ["basic block", "grouped bottleneck", "attention", "window attention"], indirect=True
    )
    def test_reloaded_in_half_precision(self, network, thin, tmp_path: Path) -> None:
        dtype = torch.float16 if "vit" in network.config.backbone else torch.bfloat16
        network.save_pretrained(tmp_path / "dense")
        thin.save_pretrained(tmp_path / "thin")
        dense = PrunNetForImageClassification.from_pretrained(tmp_path / "dense", dtype=dtype)
        scores = {p.dtype for name, p in dense.named_parameters() if name.endswith(".scores")}
        assert scores == {torch.float32}
        assert all(torch.equal(units, kept_of(network)[name]) for name, units in kept_of(dense).items())
        small = PrunNetForImageClassification.from_pretrained(tmp_path / "thin", dtype=dtype)
        assert {p.dtype for p in small.parameters()} == {dtype}
        assert same_state(small, copy.deepcopy(thin).to(dtype))
        assert [*small.prunable_units().items()] == [*thin.prunable_units().items()], "in the order of the network"
        found = dense(images().to(dtype), capacity=CAPACITY).logits
        assert found.dtype == dtype
        expected = small(images().to(dtype)).logits
        assert_close(expected.float(), found.float(), within=0.15)

    @torch.no_grad()
    def test_copies_and_pickles(self, network, thin) -> None:
        for model, options in ((network, {"capacity": CAPACITY}), (thin, {})):
            expected = model(images(), **options).logits
            for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
                assert same_state(copied, model)
                assert copied.prunable_units() == model.prunable_units()
                assert_close(copied(images(), **options).logits, expected)
            assert_close(copy.deepcopy(network).prune(CAPACITY)(images()).logits, expected)

    @torch.no_grad()
    def test_channels_last(self, network, thin) -> None:
        values = images().to(memory_format=torch.channels_last)
        expected = network(images(), capacity=CAPACITY).logits
        dense = copy.deepcopy(network).to(memory_format=torch.channels_last)
        assert_close(dense(values, capacity=CAPACITY).logits, expected)
        assert_close(dense.prune(CAPACITY)(values).logits, expected)
        assert_close(copy.deepcopy(thin).to(memory_format=torch.channels_last)(values).logits, expected)

    @torch.no_grad()
    def test_calibration_of_the_thin_network_is_that_of_the_masked_one(self, network) -> None:
        exact, batches = copy.deepcopy(network).double(), [images(4, seed=7), images(6, seed=8)]
        thin = exact.prune(CAPACITY, calibration=batches)
        tensors = masked_weights(exact, find_masks(exact, [CAPACITY])[0])
        (statistics,) = measure_statistics(exact, [tensors], batches)
        expected = functional_call(exact, {**tensors, **statistics}, (images().double(),)).logits
        assert_close(thin(images().double()).logits, expected, within=1e-12)

    @torch.no_grad()
    def test_for_one_pass(self, network) -> None:
        """Stand-ins inside `thin_modules` are the subnetwork, and afterwards the network is what it was."""
        before, dense = repr(network), network(images()).logits
        groups, kept = find_units(network), kept_of(network)
        tensors = {**dict(network.named_parameters()), **network.subnetwork(CAPACITY)}
        masked = {name: tensor for name, tensor in tensors.items() if "running" in name}
        parameters = {**dict(network.named_parameters()), **masked}
        stand_ins = {**masked, **thin_tensors(parameters, groups, kept)}
        with thin_modules(network, groups, {name: len(units) for name, units in kept.items()}):
            found = functional_call(network, stand_ins, (images(),)).logits
        assert_close(found, network(images(), capacity=CAPACITY).logits)
        assert repr(network) == before
        assert torch.equal(network(images()).logits, dense)

    def test_one_pass_that_fails_leaves_the_modules_as_they_were(self, network) -> None:
        groups = find_units(network)
        before = {name: dict(vars(module)) for name, module in network.named_modules()}
        with (
            pytest.raises(RuntimeError, match="in the middle"),
            thin_modules(network, groups, dict.fromkeys(groups, 1)),
        ):
            raise RuntimeError("in the middle")
        assert {name: dict(vars(module)) for name, module in network.named_modules()} == before


@pytest.mark.usefixtures("unfused")
@pytest.mark.parametrize("kind", ["attention", "attention without bias", "window attention"])
@torch.no_grad()
def test_attention_step_by_step(kind: str) -> None:
    network = trained(config_of_units(kind)).double()
    attentions = [module for module in network.modules() if hasattr(module, "fused_attn")]
    assert attentions
    assert not any(module.fused_attn for module in attentions)
    thin = network.prune(CAPACITY)
    assert_close(thin(images().double()).logits, network(images().double(), capacity=CAPACITY).logits, within=1e-12)


@torch.no_grad()
def test_fused_and_step_by_step_are_the_same_network(unfused) -> None:
    thin = trained(config_of_units("attention")).prune(CAPACITY)
    stepwise = thin(images()).logits
    for module in thin.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = True
    assert_close(thin(images()).logits, stepwise)


@torch.no_grad()
def test_a_masked_network_compiles_in_one_graph() -> None:
    network = trained(config_of_units("attention"))
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    assert_close(compiled(images(), capacity=CAPACITY).logits, network(images(), capacity=CAPACITY).logits)
    torch.compiler.reset()


def test_frozen_parameters_and_buffers_stay_what_they_are() -> None:
    network = trained(config_of_units("basic block"))
    block = network.prunnet.backbone.layer1[0]
    block.conv1.weight.requires_grad_(False)
    pruned = network.prune(CAPACITY).prunnet.backbone.layer1[0]
    assert [pruned.conv1.weight.requires_grad, pruned.conv2.weight.requires_grad] == [False, True]
    assert dict(pruned.bn1.named_buffers()).keys() == {"running_mean", "running_var", "num_batches_tracked"}
    assert pruned.bn1.running_mean.shape == (2,)


def test_on_the_meta_device_only_shapes_change() -> None:
    network = timm.create_model("resnet18", num_classes=0).to("meta")
    groups = find_units(network)
    cut_units(network, groups, {name: torch.arange(8, device="meta") for name in groups})
    assert network.layer4[1].conv2.weight.shape == (512, 8, 3, 3)
    assert network.layer4[1].conv2.weight.is_meta


@torch.no_grad()
def test_queries_are_scaled_for_the_dimensions_that_are_gone() -> None:
    attention = timm.layers.Attention(8, num_heads=1)
    groups: dict[str, UnitGroup] = find_units(attention)
    queries, keys = attention.qkv.weight[:8].clone(), attention.qkv.weight[8:16].clone()
    cut_units(attention, groups, {"qkv": torch.tensor([1, 6])})
    torch.testing.assert_close(attention.qkv.weight[:2], queries[[1, 6]] * 0.5)  # sqrt(2 / 8)
    assert torch.equal(attention.qkv.weight[2:4], keys[[1, 6]])
    assert attention.scale == 2**-0.5
