"""The contract of every backbone in every granularity, then what the models promise beside it."""

from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel, AutoModelForImageClassification

from prunnet_hf import PrunNetForImageClassification, PrunNetModel
from prunnet_hf.classifiers import with_margin
from prunnet_hf.pruning.calibration import batch_norms
from prunnet_hf.pruning.layers import scored_modules
from prunnet_hf.pruning.masking import kept_count
from prunnet_hf.pruning.subnetworks import find_masks
from prunnet_hf.storage.packed import PACKED_WEIGHTS_NAME
from tests.tiny_models import (
    RESNET18,
    UNIT_BACKBONES,
    assert_close,
    assert_same_state,
    config_of_units,
    images,
    state_of,
    tiny,
    tiny_config,
    trained,
)

# The published architectures, shrunk in depth and width only.
BACKBONES: dict[str, dict[str, Any]] = {
    "resnet18": RESNET18,
    "resnet50": {"layers": [1, 1, 1, 1], "channels": [2, 2, 4, 4]},
    "resnext50_32x4d": {"layers": [1, 1, 1, 1], "channels": [4, 4, 8, 8], "cardinality": 2, "base_width": 32},
    "mobilenetv2_035": {"depth_multiplier": 0.3},
    "vit_small_patch16_224": {"depth": 2, "embed_dim": 48, "num_heads": 3},
    "swin_tiny_patch4_window7_224": {"depths": [2, 1], "embed_dim": 8, "num_heads": [1, 2], "window_size": 2},
    "convnext_tiny": {"depths": [1, 1, 1, 1], "dims": [4, 8, 8, 16]},
}
# Thin networks whose modules read how many units they have, and for files one of each rule. Both take seconds.
COMPILED = ["grouped bottleneck", "window attention"]
EXPORTED = ["basic block", "bottleneck", "squeeze and excite", "convolutional mlp", "attention", *COMPILED]
UNTRAINED = 0.35  # a capacity between stored ones
DESCRIPTIONS = {"config.json", "preprocessor_config.json"}


@pytest.fixture(scope="module", params=[*BACKBONES, *UNIT_BACKBONES])
def network(request) -> PrunNetForImageClassification:
    """One network for each backbone and granularity, shared by the tests of the contract. No test may change it."""
    if request.param in UNIT_BACKBONES:
        return trained(config_of_units(request.param))
    return trained(tiny_config(backbone=request.param, backbone_kwargs=BACKBONES[request.param]))


@pytest.fixture(scope="module")
def subnetwork(network: PrunNetForImageClassification) -> PrunNetForImageClassification:
    return network.prune(capacity=UNTRAINED)


@pytest.fixture(scope="module")
def resnet() -> PrunNetForImageClassification:
    """For what doesn't depend on the backbone; not to be changed."""
    return tiny()


class Embedder(nn.Module):
    """Embeddings of unit length alone, as a server would export them."""

    def __init__(self, model: PrunNetModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        return nn.functional.normalize(self.model(pixel_values).pooler_output)


def scores_of(model: nn.Module) -> dict[str, nn.Parameter]:
    """The scores by the name of their layer or group."""
    named = {name: parameter for name, parameter in model.named_parameters() if name.endswith(".scores")}
    return {name.removesuffix(".scores").removesuffix(".units"): scores for name, scores in named.items()}


class TestContract:
    """What holds for every backbone, whatever its capacities are shares of."""

    @torch.no_grad()
    def test_it_embeds(self, network) -> None:
        output = network.prunnet(images())
        assert output.pooler_output.shape == (4, 8)
        assert len(output.last_hidden_state) == 4
        assert output.pooler_output.std(0).min() > 1e-3, "different images, different embeddings"
        assert network(images()).logits.shape == (4, 3)

    @torch.no_grad()
    def test_pruned_equals_masked(self, network, subnetwork) -> None:
        masked, dense = network(images(), capacity=UNTRAINED).logits, network(images()).logits
        assert_close(subnetwork(images()).logits, masked)
        assert (masked - dense).abs().max() > 1e-3

    @torch.no_grad()
    def test_capacity_1_is_the_dense_network(self, network) -> None:
        dense = network(images()).logits
        assert torch.equal(network(images(), capacity=1.0).logits, dense)
        assert_close(network.prune(capacity=1.0)(images()).logits, dense)

    def test_masks_are_nested(self, network) -> None:
        for small, large in pairwise(find_masks(network, [0.05, 0.2, 0.21, 0.8, 1.0])):
            assert small.keys() == scores_of(network).keys()
            assert not any((small[name] & ~large[name]).any() for name in small)

    def test_the_original_is_unchanged(self, network) -> None:
        state, config = state_of(network), copy.deepcopy(network.config.to_dict())
        pruned = network.prune(capacity=0.2)
        with torch.no_grad():
            for tensor in pruned.state_dict().values():
                tensor.fill_(0)
        assert_same_state(network, state)
        assert network.config.to_dict() == config
        assert scored_modules(network)

    def test_the_result_is_plain(self, subnetwork) -> None:
        assert type(subnetwork) is PrunNetForImageClassification
        assert scored_modules(subnetwork) == []
        assert subnetwork.prunable_layers() == {}
        assert not [name for name in subnetwork.state_dict() if "scores" in name or "statistics" in name]
        assert subnetwork.config.capacity == UNTRAINED
        assert subnetwork.config.prunable is False
        assert subnetwork.config.statistics_capacities == []

    @torch.no_grad()
    def test_dense_and_pruned_save_and_load(self, network, subnetwork, tmp_path: Path) -> None:
        small = PACKED_WEIGHTS_NAME if network.config.granularity == "weight" else "model.safetensors"
        weights = {"dense": "model.safetensors", "pruned": small}
        for kind, model in {"dense": network, "pruned": subnetwork}.items():
            model.save_pretrained(tmp_path / kind)
            assert {file.name for file in (tmp_path / kind).iterdir()} == {*DESCRIPTIONS, weights[kind]}
            loaded = PrunNetForImageClassification.from_pretrained(tmp_path / kind)
            assert_same_state(loaded, state_of(model))
            assert not loaded.training
            # Close, not equal: kernels may differ in the last bit with where in memory a file lies.
            assert_close(loaded(images()).logits, model(images()).logits)
            embedder = AutoModel.from_pretrained(tmp_path / kind)
            assert type(embedder) is PrunNetModel
            assert_close(embedder(images()).pooler_output, model.prunnet(images()).pooler_output)

    def test_buffers_outside_the_checkpoint_survive_loading(self, network, tmp_path: Path) -> None:
        saved = network.state_dict().keys()
        expected = {name: buffer for name, buffer in network.named_buffers() if name not in saved}
        network.save_pretrained(tmp_path)
        found = dict(PrunNetForImageClassification.from_pretrained(tmp_path).named_buffers())
        assert all(torch.equal(found[name], buffer) for name, buffer in expected.items())
        if network.config.backbone.startswith("swin"):
            kinds = {name.rpartition(".")[2] for name in expected}
            assert kinds == {"relative_position_index", "attn_mask"}

    @torch.no_grad()
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision(self, subnetwork, dtype: torch.dtype) -> None:
        logits = copy.deepcopy(subnetwork).to(dtype)(images().to(dtype)).logits
        assert logits.dtype == dtype
        full = subnetwork(images()).logits
        torch.testing.assert_close(logits.float(), full, rtol=0.2, atol=0.2 * float(full.abs().max()))

    @pytest.mark.parametrize("capacity", [None, 0.2])
    def test_one_step_of_training(self, network, capacity: float | None) -> None:
        model = copy.deepcopy(network).train()
        labels = torch.tensor([0, 1, 2, 0])
        model(images(), labels, capacity=capacity).loss.backward()
        assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())
        for name, scores in scores_of(model).items():
            if capacity is None:
                assert scores.grad is None, "the dense pass is the plain network's"
            else:
                assert not scores.grad[~find_masks(model, [capacity])[0][name]].any(), name
        assert all(parameter.grad.any() for parameter in model.prunnet.projector.parameters())
        before = model.classifier.weight.detach().clone()
        torch.optim.SGD(model.parameters(), lr=0.1).step()
        assert not torch.equal(model.classifier.weight, before)

    @torch.no_grad()
    @pytest.mark.parametrize("network", [*BACKBONES, *COMPILED], indirect=True)
    def test_torch_compile(self, subnetwork) -> None:
        # The graph is what can go wrong here; what a compiler makes of it is torch's, and needs a C++ compiler.
        compiled = torch.compile(subnetwork, backend="eager", fullgraph=True)
        assert_close(compiled(images()).logits, subnetwork(images()).logits)
        torch.compiler.reset()

    @torch.no_grad()
    @pytest.mark.parametrize("network", EXPORTED, indirect=True)
    def test_onnx_runtime_gives_the_same_embeddings(self, network, subnetwork, tmp_path: Path) -> None:
        embedder, path = Embedder(subnetwork.prunnet).eval(), tmp_path / "model.onnx"
        torch.onnx.export(embedder, (images(2),), path, input_names=["pixel_values"], dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(path)
        (found,) = session.run(None, {"pixel_values": images(2, seed=5).numpy()})
        masked = network.prunnet(images(2, seed=5), capacity=UNTRAINED).pooler_output
        np.testing.assert_allclose(found, nn.functional.normalize(masked).numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("network", BACKBONES, indirect=True)
class TestSingleWeights:
    """What holds besides if capacities are shares of single weights."""

    def test_kept_counts_are_exact(self, network, subnetwork) -> None:
        names = subnetwork.packable_weights()
        assert names == [f"{name}.weight" for name in network.prunable_layers()]
        for name in names:
            weight = subnetwork.get_parameter(name)
            assert int(weight.count_nonzero()) == kept_count(UNTRAINED, weight.numel()), name

    def test_what_is_left_out_gets_no_gradient(self, network) -> None:
        model = copy.deepcopy(network).train()
        model(images(), torch.tensor([0, 1, 2, 0]), capacity=0.2).loss.backward()
        (masks,) = find_masks(model, [0.2])
        assert not any(layer.weight.grad[~masks[name]].any() for name, layer in model.prunable_layers().items())
        assert any(layer.weight.grad.any() for layer in model.prunable_layers().values())


class TestInitialisation:
    def test_a_prunable_model_below_capacity_1_is_not_built(self) -> None:
        with pytest.raises(ValueError, match=r"capacity.*1\.0.*prunable.*0\.3.*prune"):
            PrunNetModel(tiny_config(capacity=0.3))

    def test_scores_are_random_by_default(self) -> None:
        torch.manual_seed(3)
        scores = [layer.scores for layer in PrunNetModel(tiny_config()).prunable_layers().values()]
        assert all(torch.isfinite(score).all() for score in scores)
        for score in scores:
            assert 0 < score.abs().max() <= score[0].numel() ** -0.5  # kaiming_uniform_(a=sqrt(5)): 1 / sqrt(fan_in)

    def test_scores_from_magnitude(self) -> None:
        model = PrunNetForImageClassification(tiny_config(score_init="magnitude"))
        for layer in model.prunable_layers().values():
            assert torch.equal(layer.scores, layer.weight.abs())

    @pytest.mark.parametrize("score_init", ["kaiming", "magnitude"])
    def test_pretrained_backbone_at_creation_and_never_at_load(self, score_init: str, tmp_path: Path) -> None:
        source = timm.create_model("resnet18", **RESNET18)
        weights = tmp_path / "timm.safetensors"
        save_file(source.state_dict(), weights)
        overlay = {"pretrained_cfg_overlay": {"file": str(weights)}}
        config = tiny_config(backbone_kwargs={**RESNET18, **overlay}, score_init=score_init)
        model = PrunNetModel(config, pretrained_backbone=True)
        expected = {name: tensor for name, tensor in source.state_dict().items() if not name.startswith("fc.")}
        found = model.backbone.state_dict()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
        for layer in model.prunable_layers().values():
            assert torch.equal(layer.scores, layer.weight.abs()) is (score_init == "magnitude")
        model.save_pretrained(tmp_path / "model")
        weights.unlink()
        assert_same_state(PrunNetModel.from_pretrained(tmp_path / "model"), state_of(model))
        assert not torch.equal(PrunNetModel(config).backbone.conv1.weight, source.conv1.weight)

    def test_without_stem_pool(self) -> None:
        model = PrunNetModel(tiny_config(stem_pool=False)).eval()
        assert isinstance(model.backbone.maxpool, nn.Identity)
        with torch.no_grad():
            assert model(images()).last_hidden_state.shape[2:] == (2, 2)  # 32 / 16 instead of 32 / 32


class TestInputs:
    @pytest.mark.parametrize("shape", [(3, 32, 32), (1, 1, 32, 32), (1, 32, 32, 3)])
    def test_pixel_values_of_another_shape(self, resnet, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=r"pixel_values.*\(batch, 3, height, width\)") as e:
            resnet(torch.zeros(shape))
        assert str(shape) in str(e.value)

    @pytest.mark.parametrize("labels", [[0, 3], [-1, 0]])
    def test_labels_out_of_range(self, resnet, labels: list[int]) -> None:
        with pytest.raises(ValueError, match=r"labels.*0 to 2.*num_labels=3"):
            resnet(images(2), torch.tensor(labels))

    @torch.no_grad()
    def test_loss_is_the_mean_cross_entropy(self, resnet) -> None:
        output = resnet(images(2), torch.tensor([2, 0]))
        picked = output.logits.log_softmax(1)[[0, 1], [2, 0]]
        torch.testing.assert_close(output.loss, -picked.mean())
        assert resnet(images(2)).loss is None

    @torch.no_grad()
    @pytest.mark.parametrize("capacity", [None, 0.2])
    def test_tuples(self, resnet, capacity: float | None) -> None:
        loss, logits = resnet(images(2), torch.tensor([2, 0]), capacity=capacity, return_dict=False)
        assert (loss.shape, logits.shape) == ((), (2, 3))
        features, embeddings = resnet.prunnet(images(2), capacity=capacity, return_dict=False)
        assert (len(features), embeddings.shape) == (2, (2, 8))


def test_auto_model_for_image_classification(resnet, tmp_path: Path) -> None:
    resnet.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert type(loaded) is PrunNetForImageClassification
    assert_same_state(loaded, state_of(resnet))


@pytest.mark.parametrize("kind", ["cosface", "arcface"])
def test_the_margin_counts_in_training_only(kind: str) -> None:
    model = trained(tiny_config(classifier=kind, logit_scale=8.0, margin=0.3)).eval()
    labels = torch.tensor([0, 1, 2, 0])
    output = model(images(), labels=labels)
    unit = F.normalize(output.pooler_output, dim=1), F.normalize(model.classifier.weight, dim=1)
    logits = 8 * unit[0] @ unit[1].T
    torch.testing.assert_close(output.logits, logits)
    torch.testing.assert_close(output.loss, F.cross_entropy(logits, labels))
    model.train()
    for norm in batch_norms(model).values():
        norm.eval()  # the same embeddings as before
    harder = model(images(), labels=labels)
    torch.testing.assert_close(harder.logits, logits)
    expected = F.cross_entropy(with_margin(logits, labels, kind, 8.0, 0.3), labels)
    torch.testing.assert_close(harder.loss, expected)
    assert harder.loss > output.loss
