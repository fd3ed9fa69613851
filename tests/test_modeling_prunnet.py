"""The contract of every backbone, then what the models promise beside it."""

from __future__ import annotations

import copy
import math
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch import nn
from transformers import AutoModel
from transformers import AutoModelForImageClassification

from prunnet_hf import PrunNetConfig
from prunnet_hf import PrunNetForImageClassification
from prunnet_hf import PrunNetModel
from prunnet_hf.checkpoint import PACKED_WEIGHTS_NAME
from prunnet_hf.layers import PrunableLayer
from prunnet_hf.layers import find_masks
from prunnet_hf.masking import kept_count

# The published architectures, shrunk in depth and width only.
BACKBONES: dict[str, dict[str, Any]] = {
    "resnet18": {"layers": [1, 1, 1, 1], "channels": [4, 4, 8, 8]},
    "resnet50": {"layers": [1, 1, 1, 1], "channels": [2, 2, 4, 4]},
    "resnext50_32x4d": {"layers": [1, 1, 1, 1], "channels": [4, 4, 8, 8], "cardinality": 2, "base_width": 32},
    "mobilenetv2_035": {"depth_multiplier": 0.3},
    "vit_small_patch16_224": {"depth": 2, "embed_dim": 48, "num_heads": 3},
    "swin_tiny_patch4_window7_224": {"depths": [2, 1], "embed_dim": 8, "num_heads": [1, 2], "window_size": 2},
    "convnext_tiny": {"depths": [1, 1, 1, 1], "dims": [4, 8, 8, 16]},
}
TINY = {"backbone": "resnet18", "backbone_kwargs": BACKBONES["resnet18"], "image_size": 32, "embedding_dim": 8}
UNTRAINED = 0.35  # a capacity between stored ones


def tiny_config(**changes: Any) -> PrunNetConfig:
    settings = {**TINY, "num_labels": 3, "capacities": [0.2, 0.6], "statistics_capacities": [0.2, 0.6], **changes}
    return PrunNetConfig(**settings)


def images(count: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Bit for bit, NaN and the sign of zero included."""
    found = model.state_dict()
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        same = found[name].dtype == tensor.dtype and found[name].shape == tensor.shape
        assert same, name
        assert found[name].numpy().tobytes() == tensor.numpy().tobytes(), name


def trained(config: PrunNetConfig) -> PrunNetForImageClassification:
    """A network in which everything matters: no layer scale of 1e-6 or zero, statistics that differ."""
    torch.manual_seed(0)
    model = PrunNetForImageClassification(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.uniform_(0.5, 1.5)
    model.calibrate([images(seed=1), images(seed=2)])
    return model.eval()


@pytest.fixture(scope="module", params=BACKBONES)
def network(request) -> PrunNetForImageClassification:
    """One network a backbone, shared by the tests of the contract, none of which may change it."""
    return trained(tiny_config(backbone=request.param, backbone_kwargs=BACKBONES[request.param]))


@pytest.fixture(scope="module")
def subnetwork(network: PrunNetForImageClassification) -> PrunNetForImageClassification:
    return network.prune(capacity=UNTRAINED)


@pytest.fixture(scope="module")
def tiny() -> PrunNetForImageClassification:
    """A tiny ResNet-18 for what doesn't depend on the backbone; not to be changed."""
    return trained(tiny_config())


class Embedder(nn.Module):
    """The embeddings alone, as a server would export them."""

    def __init__(self, model: PrunNetModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.model(pixel_values).pooler_output


class TestContract:
    """What holds for every backbone."""

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
        torch.testing.assert_close(subnetwork(images()).logits, masked)
        assert (masked - dense).abs().max() > 1e-3

    @torch.no_grad()
    def test_capacity_1_is_the_dense_network(self, network) -> None:
        dense = network(images()).logits
        assert torch.equal(network(images(), capacity=1.0).logits, dense)
        torch.testing.assert_close(network.prune(capacity=1.0)(images()).logits, dense)

    def test_kept_counts_are_exact(self, network, subnetwork) -> None:
        names = subnetwork.packable_weights()
        assert names == [f"{name}.weight" for name in network.prunable_layers()]
        for name in names:
            weight = subnetwork.get_parameter(name)
            assert int(weight.count_nonzero()) == kept_count(UNTRAINED, weight.numel()), name

    def test_masks_are_nested(self, network) -> None:
        for small, large in pairwise(find_masks(network, capacity) for capacity in (0.05, 0.2, 0.21, 0.8, 1.0)):
            assert small.keys() == network.prunable_layers().keys()
            assert not any((small[name] & ~large[name]).any() for name in small)

    def test_the_original_is_unchanged(self, network) -> None:
        state, config = state_of(network), copy.deepcopy(network.config.to_dict())
        pruned = network.prune(capacity=0.2)
        with torch.no_grad():
            for tensor in pruned.state_dict().values():
                tensor.fill_(0)
        assert_same_state(network, state)
        assert network.config.to_dict() == config
        assert network.prunable_layers()

    def test_the_result_is_plain(self, subnetwork) -> None:
        assert type(subnetwork) is PrunNetForImageClassification
        assert not any(isinstance(module, PrunableLayer) for module in subnetwork.modules())
        assert subnetwork.prunable_layers() == {}
        assert not [name for name in subnetwork.state_dict() if "scores" in name or "statistics" in name]
        assert subnetwork.config.capacity == UNTRAINED
        assert subnetwork.config.prunable is False
        assert subnetwork.config.statistics_capacities == []

    @torch.no_grad()
    def test_dense_and_pruned_save_and_load(self, network, subnetwork, tmp_path: Path) -> None:
        weights = {"dense": "model.safetensors", "pruned": PACKED_WEIGHTS_NAME}
        for kind, model in {"dense": network, "pruned": subnetwork}.items():
            model.save_pretrained(tmp_path / kind)
            assert {file.name for file in (tmp_path / kind).iterdir()} == {"config.json", weights[kind]}
            loaded = PrunNetForImageClassification.from_pretrained(tmp_path / kind)
            assert_same_state(loaded, state_of(model))
            assert not loaded.training
            # Close, not equal: kernels may differ in the last bit with where in memory a file lies.
            torch.testing.assert_close(loaded(images()).logits, model(images()).logits)
            embedder = AutoModel.from_pretrained(tmp_path / kind)
            assert type(embedder) is PrunNetModel
            torch.testing.assert_close(embedder(images()).pooler_output, model.prunnet(images()).pooler_output)

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
        for name, layer in model.prunable_layers().items():
            assert layer.weight.grad.isfinite().all(), name
            if capacity is None:
                assert layer.scores.grad is None, "the dense pass is the plain network's"
            else:
                mask = find_masks(model, capacity)[name]
                assert layer.scores.grad.isfinite().all(), name
                assert not layer.weight.grad[~mask].any(), name
                assert not layer.scores.grad[~mask].any(), name
        assert any(layer.weight.grad.any() for layer in model.prunable_layers().values())
        before = model.classifier.weight.detach().clone()
        torch.optim.SGD(model.parameters(), lr=0.1).step()
        assert not torch.equal(model.classifier.weight, before)

    @torch.no_grad()
    def test_torch_compile(self, subnetwork) -> None:
        # The graph is what can go wrong here; what a compiler makes of it is torch's, and needs a C++ compiler.
        compiled = torch.compile(subnetwork, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(images()).logits, subnetwork(images()).logits)
        torch.compiler.reset()

    # One a family: an export takes 3 to 5 seconds.
    @torch.no_grad()
    @pytest.mark.parametrize(
        "network", ["resnet50", "vit_small_patch16_224", "swin_tiny_patch4_window7_224"], indirect=True
    )
    def test_onnx_runtime_gives_the_same_embeddings(self, subnetwork, tmp_path: Path) -> None:
        embedder, path = Embedder(subnetwork.prunnet).eval(), tmp_path / "model.onnx"
        torch.onnx.export(embedder, (images(2),), path, input_names=["pixel_values"], dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(path)
        (found,) = session.run(None, {"pixel_values": images(2, seed=5).numpy()})
        np.testing.assert_allclose(found, embedder(images(2, seed=5)).numpy(), rtol=1e-3, atol=1e-4)


class TestPruning:
    @pytest.mark.parametrize("capacity", [0.0, -0.5, 1.5, math.nan])
    def test_capacity_out_of_range(self, tiny, capacity: float) -> None:
        for use in (tiny.prune, tiny.prunnet.subnetwork, lambda capacity: tiny(images(), capacity=capacity)):
            with pytest.raises(ValueError, match=r"capacity must be in \(0, 1\]"):
                use(capacity)

    @pytest.mark.parametrize("capacity", ["0.2", True])
    def test_capacity_of_another_type(self, tiny, capacity: Any) -> None:
        for use in (tiny.prune, lambda capacity: tiny(images(), capacity=capacity)):
            with pytest.raises(TypeError, match=r"capacity must be a number in \(0, 1\]"):
                use(capacity)

    def test_a_pruned_model_names_its_capacity_and_the_way_out(self, tiny) -> None:
        pruned = tiny.prune(capacity=0.25)
        uses = (
            lambda: pruned.prune(capacity=0.1),
            lambda: pruned(images(), capacity=0.1),
            lambda: pruned.calibrate([images()]),
            lambda: pruned.keep_statistics([]),
        )
        for use in uses:
            with pytest.raises(ValueError, match=r"pruned already \(capacity 0\.25\).*Load the dense checkpoint"):
                use()

    def test_scores_that_are_not_numbers(self, tiny) -> None:
        broken = copy.deepcopy(tiny)
        with torch.no_grad():
            next(iter(broken.prunable_layers().values())).scores[0, 0, 0, 0] = math.nan
        with pytest.raises(ValueError, match="scores must be finite"):
            broken.prune(capacity=0.5)

    def test_a_prunable_model_below_capacity_1_is_not_built(self) -> None:
        with pytest.raises(ValueError, match=r"capacity must be 1\.0 where prunable is true; got 0\.3.*prune"):
            PrunNetModel(tiny_config(capacity=0.3))

    def test_the_mode_and_frozen_biases_are_kept(self, tiny) -> None:
        model = copy.deepcopy(tiny).train()
        assert model.prune(capacity=0.5).training
        assert not tiny.prune(capacity=0.5).training

    @torch.no_grad()
    def test_the_embedding_model_alone_prunes_alike(self, tiny) -> None:
        embeddings = tiny.prune(capacity=0.3).prunnet(images()).pooler_output
        assert torch.equal(tiny.prunnet.prune(capacity=0.3)(images()).pooler_output, embeddings)

    def test_projector_and_classifier_stay_dense(self, tiny) -> None:
        pruned = tiny.prune(capacity=0.2)
        assert torch.equal(pruned.classifier.weight, tiny.classifier.weight)
        assert torch.equal(pruned.prunnet.projector[0].weight, tiny.prunnet.projector[0].weight)

    def test_what_is_prunable(self, tiny) -> None:
        expected = {
            f"prunnet.backbone.{name}"
            for name, module in tiny.prune(capacity=0.5).prunnet.backbone.named_modules()
            if type(module) in (nn.Conv2d, nn.Linear)
        }
        assert set(tiny.prunable_layers()) == expected
        assert "prunnet.backbone.conv1" in expected, "the first convolution too"


class TestStatistics:
    def test_stored_statistics_become_those_of_the_subnetwork(self, tiny) -> None:
        norm = tiny.prunnet.backbone.bn1
        mean = norm.statistics_mean
        assert torch.equal(tiny.prune(capacity=0.2).prunnet.backbone.bn1.running_mean, mean[0])
        assert torch.equal(tiny.prune(capacity=0.6).prunnet.backbone.bn1.running_mean, mean[1])
        assert torch.equal(tiny.prune(capacity=1.0).prunnet.backbone.bn1.running_mean, norm.running_mean)
        half = tiny.prune(capacity=0.8).prunnet.backbone.bn1.running_mean  # half way from 0.6 to the dense network
        torch.testing.assert_close(half, (mean[1] + norm.running_mean) / 2)

    def test_below_the_smallest_a_warning(self, tiny) -> None:
        with pytest.warns(UserWarning, match=r"stored below capacity 0\.20; those are used for 0\.10"):
            tiny.prune(capacity=0.1)

    def test_calibration_measures_the_batches_it_is_given(self, tiny) -> None:
        batches = [images(4, seed=7), images(6, seed=8)]
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            pruned = tiny.prune(capacity=0.3, calibration=iter(batches))
        backbone = pruned.prunnet.backbone
        with torch.no_grad():
            activations = [backbone.conv1(batch) for batch in batches]
        means = [activation.mean((0, 2, 3)) for activation in activations]
        variances = [activation.var((0, 2, 3)) for activation in activations]
        # Batches of 4 and 6 images: weighed 0.4 and 0.6.
        torch.testing.assert_close(backbone.bn1.running_mean, 0.4 * means[0] + 0.6 * means[1])
        torch.testing.assert_close(backbone.bn1.running_var, 0.4 * variances[0] + 0.6 * variances[1])

    def test_calibration_below_the_smallest_warns_of_nothing(self, tiny) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            tiny.prune(capacity=0.05, calibration=[images()])

    def test_a_low_capacity_between_stored_ones_is_warned_of_once(self, caplog: pytest.LogCaptureFixture) -> None:
        model = PrunNetModel(tiny_config(statistics_capacities=[0.05, 0.6]))
        model.prune(capacity=0.1)
        (record,) = caplog.records
        assert "0.05 and 0.60" in record.getMessage()
        caplog.clear()
        model.prune(capacity=0.3)
        model.prune(capacity=0.1, calibration=[images()])
        model(images(), capacity=0.1)
        assert not caplog.records

    def test_calibration_of_no_tensors(self, tiny) -> None:
        with pytest.raises(TypeError, match=r"batch 0 is a dict.*batch\['pixel_values'\]"):
            tiny.prune(capacity=0.3, calibration=[{"pixel_values": images()}])

    def test_a_half_precision_model_is_calibrated_in_its_own_type(self) -> None:
        model = PrunNetModel(tiny_config()).to(torch.bfloat16)
        model.calibrate([images(4), images(2)], progress=False)
        pruned = model.prune(capacity=0.3, calibration=[images(4), images(2)], progress=False)
        assert {buffer.dtype for name, buffer in pruned.named_buffers() if "running" in name} == {torch.bfloat16}
        assert {buffer.dtype for name, buffer in model.named_buffers() if "stat" in name} == {torch.bfloat16}

    def test_empty_calibration(self, tiny) -> None:
        with pytest.raises(ValueError, match="calibration images are empty"):
            tiny.prune(capacity=0.3, calibration=[])

    def test_calibrate_agrees_with_calibration_and_leaves_the_weights(self, tiny) -> None:
        model = copy.deepcopy(tiny).train()
        parameters = {name: parameter.clone() for name, parameter in model.named_parameters()}
        batches = [images(4, seed=7), images(4, seed=8)]
        model.calibrate(iter(batches))
        assert model.training
        assert all(torch.equal(parameter, parameters[name]) for name, parameter in model.named_parameters())
        for capacity in (0.2, 0.6, 1.0):
            measured = model.prune(capacity, calibration=batches).state_dict()
            for name, tensor in model.prune(capacity).state_dict().items():
                if "running" in name:
                    torch.testing.assert_close(tensor, measured[name])

    def test_training_a_subnetwork_leaves_all_statistics_alone(self, tiny) -> None:
        model = copy.deepcopy(tiny).train()
        before = {name: buffer.clone() for name, buffer in model.named_buffers()}
        model(images(), torch.tensor([0, 1, 2, 0]), capacity=0.2).loss.backward()
        assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
        model(images())
        assert not torch.equal(model.prunnet.backbone.bn1.running_mean, before["prunnet.backbone.bn1.running_mean"])

    def test_keep_statistics(self, tiny, tmp_path: Path) -> None:
        model = copy.deepcopy(tiny)
        model.keep_statistics([0.6, 1.0])
        assert model.config.statistics_capacities == [0.6, 1.0]
        assert torch.equal(model.prunnet.backbone.bn1.statistics_mean, tiny.prunnet.backbone.bn1.statistics_mean[1:])
        model.save_pretrained(tmp_path)
        assert_same_state(PrunNetForImageClassification.from_pretrained(tmp_path), state_of(model))

    def test_statistics_that_are_not_stored_cannot_be_kept(self, tiny) -> None:
        with pytest.raises(ValueError, match=r"those with stored statistics, \[0\.2, 0\.6\]; got \[0\.3\] besides"):
            copy.deepcopy(tiny).keep_statistics([0.3, 0.6])


class TestEmbeddingSpace:
    def test_its_life(self, tiny) -> None:
        model = copy.deepcopy(tiny)
        assert model.config.embedding_space is None
        space = model.renew_embedding_space()
        assert space == model.config.embedding_space
        assert len(space) == 16
        assert int(space, 16) >= 0
        assert model.prune(capacity=0.2).config.embedding_space == space
        assert model.renew_embedding_space() == space, "the same weights, the same space"

    def test_it_follows_the_weights_of_the_embeddings_only(self, tiny) -> None:
        model = copy.deepcopy(tiny)
        space = model.renew_embedding_space()
        with torch.no_grad():
            model.classifier.weight.add_(1.0)
            next(iter(model.prunable_layers().values())).scores.add_(1.0)
        assert model.renew_embedding_space() == space
        assert model.prunnet.renew_embedding_space() == space, "whichever class holds the network"
        with torch.no_grad():
            model.prunnet.projector[0].bias[0] += 1e-6
        assert model.renew_embedding_space() != space


class TestInitialisation:
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
        source = timm.create_model("resnet18", **BACKBONES["resnet18"])
        weights = tmp_path / "timm.safetensors"
        save_file(source.state_dict(), weights)
        overlay = {"pretrained_cfg_overlay": {"file": str(weights)}}
        config = tiny_config(backbone_kwargs={**BACKBONES["resnet18"], **overlay}, score_init=score_init)
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
    def test_pixel_values_of_another_shape(self, tiny, shape: tuple[int, ...]) -> None:
        with pytest.raises(
            ValueError, match=r"pixel_values must have the shape \(batch, 3, height, width\); got"
        ) as e:
            tiny(torch.zeros(shape))
        assert str(shape) in str(e.value)

    @pytest.mark.parametrize("labels", [[0, 3], [-1, 0]])
    def test_labels_out_of_range(self, tiny, labels: list[int]) -> None:
        with pytest.raises(ValueError, match=r"labels must be from 0 to 2 \(num_labels=3\); got"):
            tiny(images(2), torch.tensor(labels))

    @torch.no_grad()
    def test_loss_is_the_mean_cross_entropy(self, tiny) -> None:
        output = tiny(images(2), torch.tensor([2, 0]))
        picked = output.logits.log_softmax(1)[[0, 1], [2, 0]]
        torch.testing.assert_close(output.loss, -picked.mean())
        assert tiny(images(2)).loss is None

    @torch.no_grad()
    @pytest.mark.parametrize("capacity", [None, 0.2])
    def test_tuples(self, tiny, capacity: float | None) -> None:
        loss, logits = tiny(images(2), torch.tensor([2, 0]), capacity=capacity, return_dict=False)
        assert (loss.shape, logits.shape) == ((), (2, 3))
        features, embeddings = tiny.prunnet(images(2), capacity=capacity, return_dict=False)
        assert (len(features), embeddings.shape) == (2, (2, 8))


def test_auto_model_for_image_classification(tiny, tmp_path: Path) -> None:
    tiny.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert type(loaded) is PrunNetForImageClassification
    assert_same_state(loaded, state_of(tiny))
