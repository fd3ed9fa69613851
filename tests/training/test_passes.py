"""Passes over subnetworks: thin ones compute what masked ones do, with fewer multiplications."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from prunnet_hf import PrunNetConfig, PrunNetForImageClassification
from prunnet_hf.pruning.channels import UnitGroup, add_units, find_kept_units, find_unit_masks, unit_scores
from prunnet_hf.pruning.subnetworks import scored_units
from prunnet_hf.training.networks import lay_out
from prunnet_hf.training.passes import MaskedPasses, SubnetworkPasses, ThinPasses, subnetwork_passes
from tests.tiny_models import tiny, tiny_of_units

BACKBONES: dict[str, dict[str, Any]] = {
    "resnet18": {
        "layers": [1, 1, 1, 1],
        "channels": [8, 8, 16, 136],
        "stem_width": 8,
        "stem_type": "deep",
    },  # 136: keeps multiples of 8
    "resnet50": {"layers": [1, 2, 2, 2], "channels": [8, 8, 8, 8], "stem_width": 8, "stem_type": "deep"},
    "resnext50_32x4d": {"layers": [1, 1, 1, 1], "channels": [32, 32, 32, 32], "cardinality": 8, "base_width": 32},
    "mobilenetv2_100": {},
    "efficientnet_b0": {},
    "convnext_tiny": {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]},
    "vit_small_patch16_224": {"depth": 2, "embed_dim": 48, "num_heads": 3},
    "swin_tiny_patch4_window7_224": {"depths": [1, 2, 1, 1], "embed_dim": 24, "num_heads": [1, 2, 2, 2]},
}
"""One or more for each rule, with few blocks."""
CAPACITY = 0.4
LABELS = torch.tensor([0, 1, 2, 0])


def model_of_units(backbone: str, dtype: torch.dtype = torch.float64) -> PrunNetForImageClassification:
    """A network in training in which everything matters, but without random numbers in its forward."""
    torch.manual_seed(0)
    config = PrunNetConfig(
        backbone=backbone,
        backbone_kwargs={"drop_path_rate": 0.0, **BACKBONES[backbone]},
        image_size=64,
        embedding_dim=6,
        num_labels=3,
        granularity="channel",
    )
    model = PrunNetForImageClassification(config).train()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.uniform_(0.5, 1.5)
    return model.to(dtype)


def images(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1)).to(dtype)


def loss_and_gradients(
    model: PrunNetForImageClassification, passes: SubnetworkPasses, pixel_values: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """What one pass at `CAPACITY` gives."""
    trained = {name: parameter for name, parameter in model.named_parameters() if not name.endswith(".scores")}
    with passes.at(CAPACITY) as tensors:
        loss = functional_call(model, tensors, kwargs={"pixel_values": pixel_values, "labels": LABELS}).loss
    gradients = torch.autograd.grad(loss, list(trained.values()))  # each must take part, as DDP waits for it
    return loss.detach(), dict(zip(trained, gradients, strict=True))


def both(model: PrunNetForImageClassification) -> tuple[MaskedPasses, ThinPasses]:
    return MaskedPasses(model, [CAPACITY]), ThinPasses(model, scored_units(model), [CAPACITY])


@pytest.mark.parametrize("backbone", BACKBONES)
def test_thin_passes_have_the_loss_and_all_gradients_of_masked_ones_at_a_smaller_cost(backbone: str) -> None:
    model = model_of_units(backbone)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found, costs = [], []
    for passes in both(model):
        with FlopCounterMode(display=False) as counter:
            found.append(loss_and_gradients(model, passes, images()))
        costs.append(counter.get_total_flops())
    (masked_loss, masked), (thin_loss, thin) = found
    torch.testing.assert_close(thin_loss, masked_loss, rtol=1e-10, atol=0)
    for name, gradient in masked.items():
        torch.testing.assert_close(thin[name], gradient, rtol=1e-7, atol=1e-9, msg=name)
    assert any(gradient.count_nonzero() < gradient.numel() / 2 for gradient in masked.values())
    assert costs[1] < 0.9 * costs[0]
    # Neither the tensors nor the modules of the network itself have changed.
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model(images(), LABELS).loss.isfinite()


@pytest.mark.parametrize("backbone", ["resnet18", "vit_small_patch16_224"])
def test_thin_passes_suit_bf16_and_channels_last(backbone: str) -> None:
    model = model_of_units(backbone, torch.float32)
    model.prunnet.projector.eval()  # normalising with four images would turn small errors into large ones
    exact, gradients = loss_and_gradients(model, both(model)[1], images(torch.float32))
    lay_out(model, torch.channels_last)
    pixel_values = images(torch.float32).contiguous(memory_format=torch.channels_last)
    laid_out, again = loss_and_gradients(model, both(model)[1], pixel_values)
    torch.testing.assert_close(laid_out, exact, rtol=1e-4, atol=1e-4)
    name = max(gradients, key=lambda key: float(gradients[key].norm()))
    torch.testing.assert_close(again[name], gradients[name], rtol=1e-3, atol=1e-3 * float(gradients[name].abs().max()))
    with torch.autocast("cpu", torch.bfloat16):
        (masked, _), (thin, found) = (loss_and_gradients(model, passes, pixel_values) for passes in both(model))
    for loss in (masked, thin):
        torch.testing.assert_close(loss, exact, rtol=0.02, atol=0.02)
    assert all(gradient.dtype == torch.float32 and gradient.isfinite().all() for gradient in found.values())


def test_statistics_of_the_dense_network_stay() -> None:
    model = tiny_of_units().train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    for passes in both(model):
        with passes.at(CAPACITY) as tensors:
            functional_call(model, tensors, (torch.ones(2, 3, 32, 32),))
            norm = "prunnet.backbone.layer4.0.bn1.num_batches_tracked"
            assert tensors[norm] == before[norm] + 1  # they did change in the pass
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


def test_modules_have_their_own_sizes_again_after_an_error() -> None:
    model = model_of_units("resnext50_32x4d", torch.float32)
    conv = model.prunnet.backbone.layer1[0].conv2
    with pytest.raises(RuntimeError, match=r"groups=4"), both(model)[1].at(CAPACITY):  # of 8: 8 - round(0.6 * 7)
        conv(torch.ones(1, 6, 8, 8))
    assert conv.groups == 8


def test_passes_are_thin_only_for_units_and_where_nothing_is_compiled() -> None:
    of_units = tiny_of_units()
    assert isinstance(subnetwork_passes(of_units, is_compiled=False)([0.5]), ThinPasses)
    assert isinstance(subnetwork_passes(of_units, is_compiled=True)([0.5]), MaskedPasses)
    assert isinstance(subnetwork_passes(tiny(), is_compiled=False)([0.5]), MaskedPasses)


@given(
    st.lists(st.floats(0.01, 1.0), min_size=1, max_size=3),
    st.lists(st.integers(-3, 3), min_size=1, max_size=300),  # with ties
)
def test_kept_units_are_those_of_the_masks_in_their_order(capacities: list[float], scores: list[int]) -> None:
    network, groups = nn.ModuleDict({"a": nn.Identity()}), {"a": UnitGroup("a", len(scores), (), {})}
    add_units(network, groups)
    with torch.no_grad():
        unit_scores(network, groups["a"]).copy_(torch.tensor(scores))
    masks = find_unit_masks(network, groups, capacities)
    kept = find_kept_units(network, groups, capacities)
    assert [of["a"].nonzero().flatten().tolist() for of in masks] == [of["a"].tolist() for of in kept]
