"""`--method paper`: a step held against the paper's formulas written out in plain loops, and how a network starts."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from prunnet_hf import PrunNetForImageClassification
from prunnet_hf.pruning.layers import prunable_layers, scored_modules
from prunnet_hf.runs.arguments import DataArguments, ModelArguments, RunArguments, TrainArguments
from prunnet_hf.training.capacities import pass_capacities
from prunnet_hf.training.gradients import projection_orders
from prunnet_hf.training.methods import create_objective
from prunnet_hf.training.networks import create_model
from prunnet_hf.training.optimizers import create_optimizer
from prunnet_hf.training.paper import initialise_as_paper
from prunnet_hf.training.step import TrainingStep

BACKBONES = {
    "resnet10t": {"channels": [4, 4, 8, 8], "stem_width": 4},
    "vit_tiny_patch16_224": {"depth": 1, "embed_dim": 12, "num_heads": 2},
}
DENSE_ONLY = ("classifier", "projector", "norm", "bn", "downsample.2.", ".conv1.1.", ".conv1.4.")
"""What is in the names of parameters that only the dense pass trains; the last three are batch norms, too."""
CAPACITIES = [0.3, 0.6]
ALPHA, EPS, RATE, DECAY, LARGEST_NORM = 0.7, 1e-8, 0.1, 5e-4, 1e-3
SHARE = 1e-3
"""What losses are multiplied by, so that gradients are as small as those that eps is felt by."""

Named = dict[str, Tensor]


def run_arguments(backbone: str = "resnet10t", score_init: str = "kaiming", **options: object) -> RunArguments:
    model = ModelArguments(
        backbone=backbone,
        backbone_kwargs=json.dumps(BACKBONES.get(backbone, {})),
        embedding_dim=6,
        pretrained_backbone=False,
        granularity="weight",
        score_init=score_init,
    )
    options = {"method": "paper", "capacities": CAPACITIES, "alpha": ALPHA} | options
    return RunArguments(model, DataArguments(image_size=32), TrainArguments(**options))


def paper_model(backbone: str = "resnet10t", score_init: str = "kaiming", **options: object):
    torch.manual_seed(0)
    return create_model(run_arguments(backbone, score_init, **options), ["a", "b", "c"]).train()


# --- a step --------------------------------------------------------------------------------------------------------


def mask_by_loops(scores: Tensor, capacity: float) -> Tensor:
    """1 where |score| is among the largest `n - round((1 - c) * (n - 1))`."""
    flat = scores.abs().flatten().tolist()
    kept = len(flat) - round((1 - capacity) * (len(flat) - 1))
    best = sorted(range(len(flat)), key=lambda index: (-flat[index], index))[:kept]
    return torch.tensor([float(index in set(best)) for index in range(len(flat))]).reshape(scores.shape).double()


def gradients_by_capacity(model: PrunNetForImageClassification, inputs: Named) -> tuple[list[Named], list[Named]]:
    """The gradients of weights and other tensors, and those of scores, of the dense network and each subnetwork."""
    layers = prunable_layers(model)
    of_passes, of_scores = [], []
    for capacity in [1.0, *CAPACITIES]:
        masks = {
            name: torch.ones_like(layer.weight) if capacity == 1.0 else mask_by_loops(layer.scores, capacity)
            for name, layer in layers.items()
        }
        network = copy.deepcopy(model)
        for name, layer in prunable_layers(network).items():
            layer.weight.data *= masks[name]  # the effective weight
        (SHARE * network(**inputs).loss).backward()
        gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
        scores = {}
        for name, layer in layers.items():
            straight = masks[name] * gradients[f"{name}.weight"]
            gradients[f"{name}.weight"] = straight
            scores[f"{name}.scores"] = straight * layer.weight.detach() * layer.scores.detach().sign()
        of_passes.append(gradients)
        of_scores.append(scores)
    return of_passes, of_scores


def integrate_by_loops(gradients: list[Tensor], orders: list[list[int]], *, per_channel: bool, eps: float) -> Tensor:
    """Steps 2 to 4 of the paper's integration."""
    count, shape = len(gradients), gradients[0].shape
    rows = [list(g.reshape(shape[0], -1) if per_channel else g.reshape(1, -1)) for g in gradients]
    projected = [[row.clone() for row in of_gradient] for of_gradient in rows]
    for i in range(count):
        for row in range(len(rows[0])):
            for j in orders[i]:
                dot = float(rows[i][row] @ rows[j][row])
                if dot < 0:  # from the original, so the last one in the order counts
                    projected[i][row] = rows[i][row] - dot / (float(rows[j][row] @ rows[j][row]) + eps) * rows[j][row]
    weights = []
    for i in range(count):
        before, after = torch.cat(rows[i]), torch.cat(projected[i])
        lengths = float(before.norm() * after.norm())
        cosine = float(before @ after) / lengths if lengths > 0 else 0.0
        weights.append(((cosine + 1) / 2) ** ALPHA)
    total = sum(weights)
    merged = [count * weights[i] / total * torch.cat(projected[i]) for i in range(count)]
    return torch.stack(merged).sum(dim=0).reshape(shape)


def merged_by_loops(model: PrunNetForImageClassification, inputs: Named, eps: float = EPS) -> Named:
    """The gradient of every parameter, clipped; the orders are those of the first step with seed 0."""
    of_passes, of_scores = gradients_by_capacity(model, inputs)
    generator = torch.Generator().manual_seed(0)
    parameters = dict(model.named_parameters())

    def integrated(name: str, passes: list[Named]) -> Tensor:
        per_channel = parameters[name].ndim == 4
        orders = projection_orders(len(passes), per_row=per_channel, generator=generator).tolist()
        return integrate_by_loops([g[name] for g in passes], orders, per_channel=per_channel, eps=eps)

    merged = {}
    for name in prunable_layers(model):
        merged[f"{name}.weight"] = integrated(f"{name}.weight", of_passes)
        merged[f"{name}.scores"] = integrated(f"{name}.scores", of_scores)
    for name in parameters:
        if any(part in name for part in DENSE_ONLY):
            merged[name] = of_passes[0][name]
        elif name not in merged:
            merged[name] = integrated(name, of_passes)
    norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in merged.values()))
    assert norm > LARGEST_NORM  # so that clipping counts
    return {name: LARGEST_NORM / (norm + 1e-6) * gradient for name, gradient in merged.items()}  # as torch clips


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_step_is_what_the_formulas_say(backbone: str) -> None:
    arguments = run_arguments(backbone)
    model = paper_model(backbone).double()
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(6, 3, 32, 32, generator=generator, dtype=torch.float64)
    inputs = {"pixel_values": images, "labels": torch.tensor([0, 1, 2, 0, 1, 2])}
    expected, without_eps = merged_by_loops(model, inputs), merged_by_loops(model, inputs, eps=0.0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}

    for module in scored_modules(model):
        module.scores.requires_grad_(False)
    options, accelerator = arguments.train, Accelerator(cpu=True)
    capacities = pass_capacities("paper", options.capacities, sampling=options.capacity_sampling)
    wrapped, optimizer = accelerator.prepare(model, create_optimizer(model, options))
    objective = create_objective(model, options)
    step = TrainingStep(
        model, wrapped, objective, capacities, optimizer, accelerator, max_grad_norm=LARGEST_NORM, seed=0
    )
    step.backward(inputs, 0, weight=SHARE)
    step.update(0)

    eps_counts = False
    for name, parameter in model.named_parameters():
        # SGD's first step, weight decay on everything alike, scores too.
        wanted = before[name] - RATE * (expected[name] + DECAY * before[name])
        largest = float(expected[name].abs().max())
        torch.testing.assert_close(parameter.detach(), wanted, rtol=0, atol=RATE * (1e-4 * largest + 1e-12), msg=name)
        eps_counts |= float((expected[name] - without_eps[name]).abs().max()) > 1e-3 * largest
    assert eps_counts


# --- how a network starts ------------------------------------------------------------------------------------------


def test_a_resnet_from_scratch_starts_as_torch_and_the_paper_have_it() -> None:
    model = paper_model("resnet18")
    backbone = model.prunnet.backbone
    norms = [module for module in model.modules() if isinstance(module, _NormBase)]
    assert all(torch.equal(norm.weight, torch.ones_like(norm.weight)) for norm in norms)  # timm: the last ones 0
    for name, convolution in backbone.named_modules():
        if isinstance(convolution, nn.Conv2d):
            # torch: uniform within 1 / sqrt(inputs), whose standard deviation is that / sqrt(3).
            bound = (convolution.in_channels * convolution.weight[0, 0].numel()) ** -0.5
            assert float(convolution.weight.detach().abs().max()) <= bound * (1 + 1e-6), name
            assert float(convolution.weight.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.05), name


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenetv2_050"])
def test_classifier_and_projector_are_normal_by_their_outputs(backbone: str) -> None:
    model = paper_model(backbone)
    # He et al.: variance 2 / outputs. 6 outputs: 0.577. Without it the classifier's deviation would be 6^-0.5, 0.408.
    projector = model.prunnet.projector[0].weight
    assert projector.shape[0] == 6
    assert float(projector.detach().std()) == pytest.approx((2 / 6) ** 0.5, rel=0.05)
    torch.manual_seed(0)
    many = [str(number) for number in range(200)]
    wide = create_model(run_arguments(backbone), many).classifier.weight
    assert float(wide.detach().std()) == pytest.approx((2 / 200) ** 0.5, rel=0.05)


def test_scores_from_magnitudes_are_those_of_the_new_weights() -> None:
    model = paper_model(score_init="magnitude")
    for layer in model.prunable_layers().values():
        assert torch.equal(layer.scores, layer.weight.abs())


def test_trained_backbones_and_other_methods_keep_their_start() -> None:
    model = paper_model()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    initialise_as_paper(model, is_pretrained=True)
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"classifier.weight", "prunnet.projector.0.weight"}
    usual = paper_model(method="prunnet").prunnet.backbone
    assert not usual.layer1[0].bn2.weight.any()  # timm's zeros


def test_a_vit_from_scratch_keeps_the_start_of_timm() -> None:
    ours, usual = (paper_model("vit_tiny_patch16_224", method=method) for method in ("paper", "prunnet"))
    for name, parameter in ours.prunnet.backbone.named_parameters():
        assert torch.equal(parameter, usual.prunnet.backbone.get_parameter(name)), name


# --- its AdamW -----------------------------------------------------------------------------------------------------


def groups_by_name(model: nn.Module, options: TrainArguments) -> dict[str, tuple[float, float]]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        names[parameter]: (group["lr"], group["weight_decay"])
        for group in create_optimizer(model, options).param_groups
        for parameter in group["params"]
    }


def test_adamw_decays_neither_biases_nor_norms() -> None:
    model = paper_model("vit_tiny_patch16_224")
    options = TrainArguments(method="paper", optimizer="adamw", learning_rate=3e-5)
    found = groups_by_name(model, options)
    assert found.keys() == dict(model.named_parameters()).keys()
    expected = {
        name: (3e-5, 0.0 if name.endswith(".bias") or "norm" in name or "projector.1" in name else 0.01)
        for name in found
    }
    assert found == expected
    # Scores, tables and tokens decay as weights do.
    block = "prunnet.backbone.blocks.0.attn.qkv"
    assert found[f"{block}.scores"] == found[f"{block}.weight"] == found["prunnet.backbone.pos_embed"] == (3e-5, 0.01)
    assert found["prunnet.backbone.norm.weight"] == found[f"{block}.bias"] == (3e-5, 0.0)
    assert create_optimizer(model, options).defaults["eps"] == 1e-6
    usual = create_optimizer(model, TrainArguments(optimizer="adamw", learning_rate=3e-5))
    assert usual.defaults["eps"] == 1e-8
    assert [group["weight_decay"] for group in usual.param_groups] == [5e-4, 0.0]  # all weights, and scores


def test_sgd_decays_everything_alike() -> None:
    model = paper_model()
    found = groups_by_name(model, TrainArguments(method="paper"))
    assert set(found.values()) == {(0.1, 5e-4)}
    assert len(found) == len(list(model.parameters()))


def test_what_is_given_wins_over_the_paper() -> None:
    options = TrainArguments(method="paper", optimizer="adamw", learning_rate=0.5, weight_decay=0.25)
    assert (options.score_learning_rate, options.score_weight_decay) == (0.5, 0.25)
    options = TrainArguments(method="paper", score_weight_decay=0.0, capacity_sampling="sandwich")
    assert (options.score_learning_rate, options.score_weight_decay) == (0.1, 0.0)
    assert (options.weight_decay, options.capacity_sampling, options.scale_dense_gradients) == (
        5e-4,
        "sandwich",
        False,
    )
