"""Objectives: the gradients they merge, held against autograd and against the readable reference."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from prunnet_hf import PrunNetConfig, PrunNetForImageClassification
from prunnet_hf.pruning.channels import find_unit_masks, unit_scores
from prunnet_hf.pruning.layers import PrunableConv2d, scored_modules
from prunnet_hf.pruning.subnetworks import scored_units
from prunnet_hf.runs.arguments import TrainArguments
from prunnet_hf.runs.methods import METHODS
from prunnet_hf.training.gradients import projection_orders
from prunnet_hf.training.gradients_reference import integrate_reference, integrate_weight_and_scores_reference
from prunnet_hf.training.mergers import Integration
from prunnet_hf.training.methods import OBJECTIVES, create_objective
from prunnet_hf.training.objectives import (
    ConflictAwareObjective,
    Gradients,
    SumObjective,
    dense_pass_parameters,
)
from tests.tiny_models import UNITS_OF_RESNET18

CAPACITIES = [1.0, 0.2, 0.5]
ALONE = TrainArguments(method="independent", capacities=[1.0])
BACKBONES = {
    "resnet10t": {"channels": [4, 4, 8, 8], "stem_width": 4},
    "vit_tiny_patch16_224": {"depth": 1, "embed_dim": 12, "num_heads": 2},
}

each_backbone = pytest.mark.parametrize("backbone", BACKBONES)


def tiny_model(backbone: str) -> PrunNetForImageClassification:
    torch.manual_seed(0)
    config = PrunNetConfig(
        backbone=backbone, backbone_kwargs=BACKBONES[backbone], image_size=32, embedding_dim=6, num_labels=3
    )
    return PrunNetForImageClassification(config).train()


def options(method: str) -> TrainArguments:
    return ALONE if method == "independent" else TrainArguments(method=method)


def batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {"pixel_values": torch.randn(6, 3, 32, 32, generator=generator), "labels": torch.tensor([0, 1, 2, 0, 1, 2])}


def pass_gradients(model: PrunNetForImageClassification, capacity: float) -> Gradients:
    """What one pass leaves behind: gradients of everything but the scores."""
    parameters = [p for name, p in model.named_parameters() if not name.endswith(".scores")]
    loss = model(**batch(), capacity=capacity).loss
    gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
    return dict(zip(parameters, gradients, strict=True))


@pytest.mark.parametrize("kind", [*BACKBONES, "units"])
def test_sum_is_what_autograd_makes_of_the_sum_of_losses(kind: str) -> None:
    model = model_of_units("resnet18", UNITS_OF_RESNET18).float() if kind == "units" else tiny_model(kind)
    sum(model(**batch(), capacity=capacity).loss for capacity in CAPACITIES).backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    assert any(name.endswith(".scores") and gradient.any() for name, gradient in expected.items())
    model.zero_grad()

    passes = [pass_gradients(model, capacity) for capacity in CAPACITIES]
    SumObjective(model).merge(passes, torch.Generator())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-6, msg=name)
        assert not parameter.grad.requires_grad, f"{name} would carry a graph into the optimiser"


def model_of_units(backbone: str, backbone_kwargs: dict[str, object]) -> PrunNetForImageClassification:
    """A network of units in which everything matters."""
    torch.manual_seed(0)
    config = PrunNetConfig(
        backbone=backbone,
        backbone_kwargs=backbone_kwargs,
        image_size=32,
        embedding_dim=6,
        num_labels=3,
        granularity="channel",
    )
    model = PrunNetForImageClassification(config).double().train()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            nn.init.uniform_(parameter, 0.5, 1.5)
    return model


def gate(model: PrunNetForImageClassification, group: str, gates: Tensor) -> None:
    """Multiply what the units of a group put out by `gates` `(num_units,)`."""
    name, _, producer = group.rpartition(".")
    block: Any = model.get_submodule(name)
    if producer == "qkv":
        shape = (block.num_heads, len(gates))

        def gate_queries(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
            queries, rest = output.split([output.shape[-1] // 3, 2 * output.shape[-1] // 3], dim=-1)
            return torch.cat([(queries.unflatten(-1, shape) * gates).flatten(-2), rest], dim=-1)

        block.qkv.register_forward_hook(gate_queries)
        block.proj.register_forward_pre_hook(lambda _, values: (values[0].unflatten(-1, shape) * gates).flatten(-2))
    elif producer == "fc1":
        block.act.register_forward_hook(lambda _, __, output: output * gates)
    else:
        # Nothing mixes units before these modules. In a ResNeXt, a unit is several channels.
        is_grouped = producer == "conv1" and block.conv2.groups > 1
        last = "act2" if is_grouped else {"conv_pw": "bn2", "conv1": "act1", "conv2": "act2"}[producer]
        block.get_submodule(last).register_forward_hook(
            lambda _, __, output: output * gates.repeat_interleave(output.shape[1] // len(gates))[:, None, None]
        )


@pytest.mark.parametrize(
    ("backbone", "backbone_kwargs"),
    [
        ("resnet18", UNITS_OF_RESNET18),
        ("resnet50", {"layers": [1, 2, 2, 2], "channels": [8] * 4, "stem_width": 8, "stem_type": "deep"}),
        ("resnext50_32x4d", {"layers": [1] * 4, "channels": [32] * 4, "cardinality": 8, "base_width": 32}),
        ("efficientnet_b0", {"drop_path_rate": 0.0}),
        ("vit_tiny_patch16_224", {"depth": 2, "embed_dim": 24, "num_heads": 2, "patch_size": 8}),
    ],
)
def test_gradients_of_units_are_autograds_of_a_gate_behind_each_unit(
    backbone: str, backbone_kwargs: dict[str, Any]
) -> None:
    model = model_of_units(backbone, backbone_kwargs)
    for module in scored_modules(model):
        module.scores.data[::2] *= -1  # the sign counts
    inputs = {**batch(), "pixel_values": batch()["pixel_values"].double()}
    parameters = [p for name, p in model.named_parameters() if not name.endswith(".scores")]
    masked = model(**inputs, capacity=0.5).loss
    gradients = dict(zip(parameters, torch.autograd.grad(masked, parameters), strict=True))
    found = [units.gradient(gradients) for units in SumObjective(model).units]

    groups = scored_units(model)
    (masks,) = find_unit_masks(model, groups, [0.5])
    gates = {name: mask.double().requires_grad_() for name, mask in masks.items()}
    for name, of_units in gates.items():
        gate(model, name, of_units)
    gated = model(**inputs).loss
    torch.testing.assert_close(gated, masked)
    expected = torch.autograd.grad(gated, list(gates.values()))
    for (name, group), gradient, wanted in zip(groups.items(), found, expected, strict=True):
        signs = unit_scores(model, group).sign()
        torch.testing.assert_close(gradient.double(), masks[name] * signs * wanted, rtol=1e-4, atol=1e-6, msg=name)
        assert gradient.any(), name


@pytest.mark.parametrize("projection", ["last", "sequential"])
def test_gradients_of_units_are_merged_as_one_vector_a_group_and_convolutions_by_rows(projection: str) -> None:
    model = model_of_units("resnet18", UNITS_OF_RESNET18).float()
    passes = [pass_gradients(model, capacity) for capacity in CAPACITIES]
    objective = ConflictAwareObjective(model, Integration(alpha=0.7, projection=projection))
    objective.merge(passes, torch.Generator().manual_seed(3))

    generator = torch.Generator().manual_seed(3)
    # Each tensor has its own order, in this sequence.
    stacks = [(p, torch.stack([gradients[p] for gradients in passes])) for p in objective.integrated_parameters]
    stacks += [
        (u.scores, torch.stack([u.gradient(gradients).detach() for gradients in passes])) for u in objective.units
    ]
    assert {parameter.ndim for parameter, _ in stacks} == {1, 4}
    for parameter, stack in stacks:
        per_row = parameter.ndim == 4
        orders = projection_orders(3, per_row=per_row, generator=generator)
        reference = integrate_reference(stack, orders, per_row=per_row, alpha=0.7, projection=projection)
        torch.testing.assert_close(parameter.grad.double(), reference, rtol=1e-3, atol=1e-6)


def test_a_single_pass_leaves_the_scores_of_units_as_they_are() -> None:
    model = model_of_units("resnet18", UNITS_OF_RESNET18).float()
    SumObjective(model).merge([pass_gradients(model, 0.5)], torch.Generator())
    assert all(units.scores.grad is None for units in SumObjective(model).units)


def test_sum_of_a_single_pass_is_that_pass() -> None:
    model = tiny_model("resnet10t")
    gradients = pass_gradients(model, 0.5)
    SumObjective(model).merge([gradients], torch.Generator())
    assert all(parameter.grad is gradient for parameter, gradient in gradients.items())


@each_backbone
@pytest.mark.parametrize("projection", ["last", "sequential"])
def test_conflict_aware_gradients_are_the_references(backbone: str, projection: str) -> None:
    model = tiny_model(backbone)
    passes = [pass_gradients(model, capacity) for capacity in CAPACITIES]
    objective = ConflictAwareObjective(model, Integration(alpha=0.7, projection=projection))
    objective.merge(passes, torch.Generator().manual_seed(3))

    # The same orders again: for each layer those of its weight, then of its scores; then those of the other tensors.
    generator = torch.Generator().manual_seed(3)
    settings = {"alpha": 0.7, "projection": projection}
    for layer in model.prunable_layers().values():
        per_row = isinstance(layer, PrunableConv2d)
        orders = [projection_orders(3, per_row=per_row, generator=generator) for _ in range(2)]
        stack = torch.stack([gradients[layer.weight] for gradients in passes])
        expected = integrate_weight_and_scores_reference(
            stack, layer.weight.detach(), layer.scores.detach(), *orders, per_row=per_row, **settings
        )
        for gradient, reference in zip((layer.weight.grad, layer.scores.grad), expected, strict=True):
            torch.testing.assert_close(gradient.double(), reference, rtol=1e-3, atol=1e-6)
    for parameter in objective.integrated_parameters:
        stack = torch.stack([gradients[parameter] for gradients in passes])
        orders = projection_orders(3, per_row=False, generator=generator)
        reference = integrate_reference(stack, orders, per_row=False, **settings)
        torch.testing.assert_close(parameter.grad.double(), reference, rtol=1e-3, atol=1e-6)


@each_backbone
def test_dense_pass_alone_trains_classifier_projector_and_norms(backbone: str) -> None:
    model = tiny_model(backbone)
    passes = [pass_gradients(model, capacity) for capacity in CAPACITIES]
    ConflictAwareObjective(model).merge(passes, torch.Generator().manual_seed(0))
    dense = dense_pass_parameters(model)
    assert {model.classifier.weight, model.classifier.bias, *model.prunnet.projector.parameters()} < dense
    for parameter in dense:
        assert torch.equal(parameter.grad, passes[0][parameter])


def test_which_parameters_the_dense_pass_alone_trains() -> None:
    model = tiny_model("vit_tiny_patch16_224")
    dense = dense_pass_parameters(model)
    names = {name.removeprefix("prunnet.") for name, parameter in model.named_parameters() if parameter in dense}
    assert names == {
        *("classifier.weight", "classifier.bias"),
        *("projector.0.weight", "projector.0.bias", "projector.1.weight", "projector.1.bias"),
        *("backbone.blocks.0.norm1.weight", "backbone.blocks.0.norm1.bias"),
        *("backbone.blocks.0.norm2.weight", "backbone.blocks.0.norm2.bias"),
        *("backbone.norm.weight", "backbone.norm.bias"),
    }
    # A bias, a token and a position embedding are dense in every subnetwork, yet all passes train them.
    integrated = set(ConflictAwareObjective(model).integrated_parameters)
    backbone = model.prunnet.backbone
    assert {backbone.cls_token, backbone.pos_embed, backbone.blocks[0].attn.qkv.bias} <= integrated


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.BatchNorm2d(4), {"weight", "bias"}),
        (nn.InstanceNorm2d(4, affine=True), {"weight", "bias"}),
        (nn.RMSNorm(4), {"weight"}),
        (nn.LayerNorm((2, 4)), {"weight", "bias"}),
        (timm.layers.RmsNorm2d(4), {"weight"}),
        (timm.layers.SimpleNorm(4), {"weight"}),
        (timm.layers.GroupNormAct(4, 2), {"weight", "bias"}),
        (timm.layers.EvoNorm2dS0(16), {"weight", "bias", "v"}),
        (timm.layers.grn.GlobalResponseNorm(4), {"weight", "bias"}),
        # No norms, whatever their names, sizes or places.
        (timm.layers.LayerScale(4), set()),
        (timm.layers.StdConv2d(4, 4, 1), set()),
        (
            timm.models.nfnet.NormFreeBlock(
                8, skipinit=True, conv_layer=timm.layers.ScaledStdConv2d, act_layer=nn.ReLU
            ),
            set(),
        ),
        (nn.PReLU(4), set()),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_norms_of_every_kind_are_trained_by_the_dense_pass_alone(layer: nn.Module, expected: set[str]) -> None:
    model = tiny_model("resnet10t")
    model.prunnet.backbone.add_module("extra", layer)
    dense = dense_pass_parameters(model)
    assert {name for name, parameter in layer.named_parameters() if parameter in dense} == expected


def test_every_parameter_gets_a_gradient() -> None:
    model = tiny_model("vit_tiny_patch16_224")
    passes = [pass_gradients(model, capacity) for capacity in CAPACITIES]
    ConflictAwareObjective(model).merge(passes, torch.Generator().manual_seed(0))
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize(
    ("method", "merges"), [("prunnet", True), ("paper", True), ("joint", False), ("independent", False)]
)
def test_only_prunnet_looks_for_conflicts(method: str, merges: bool) -> None:
    assert isinstance(create_objective(tiny_model("resnet10t"), options(method)), ConflictAwareObjective) == merges


def test_options_reach_the_objective() -> None:
    chosen = TrainArguments(method="prunnet", alpha=0.25, projection="sequential", scale_dense_gradients=True)
    found = create_objective(tiny_model("resnet10t"), chosen)
    assert (found.merger.alpha, found.merger.projection) == (0.25, "sequential")
    assert found.scale_dense_gradients
    assert (found.merger.eps, create_objective(tiny_model("resnet10t"), options("paper")).merger.eps) == (0.0, 1e-8)


def test_every_method_has_an_objective() -> None:
    assert list(OBJECTIVES) == list(METHODS)
