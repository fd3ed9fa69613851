"""Checkpoints of whole units: plain files that load thin, and words for those that don't fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, Trainer, TrainingArguments

from prunnet_hf import PrunNetConfig, PrunNetForImageClassification, PrunNetModel
from prunnet_hf.storage.weights_digest import digest_weights
from tests.tiny_models import UNIT_BACKBONES, assert_same_state, images, same_state, state_of, tiny, tiny_of_units


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `dense` and `thin` of whole units, `weight` and `sparse` of single weights; to be left as they are."""
    folder = tmp_path_factory.mktemp("checkpoints")
    units, weights = tiny_of_units(), tiny()
    units.renew_embedding_space()
    models = {"dense": units, "thin": units.prune(0.35), "weight": weights, "sparse": weights.prune(0.35)}
    for name, model in models.items():
        model.save_pretrained(folder / name)
    return folder


def edited(checkpoints: Path, folder: Path, **fields: Any) -> Path:
    """A copy of the thin checkpoint whose config.json has other fields; None leaves one out."""
    shutil.copytree(checkpoints / "thin", folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    changed = {name: value for name, value in {**config, **fields}.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(changed), encoding="utf-8")
    return folder


def counts(checkpoints: Path, **changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = PrunNetConfig.from_pretrained(checkpoints / "thin").kept_units
    return {**found, **{name.replace("_", "."): count for name, count in changes.items()}}


def test_a_thin_checkpoint_is_a_plain_file_of_what_is_left(checkpoints: Path) -> None:
    model = AutoModel.from_pretrained(checkpoints / "thin")
    assert type(model) is PrunNetModel
    stored = load_file(checkpoints / "thin" / "model.safetensors")
    assert {name: t.shape for name, t in stored.items() if name.startswith("prunnet.")} == {
        f"prunnet.{name}": tensor.shape for name, tensor in model.state_dict().items()
    }
    # 4 - round(0.65 * 3) = 2, and 16 - round(0.65 * 15) = 6
    assert model.config.kept_units == {
        "layer1.0.conv1": 2,
        "layer2.0.conv1": 2,
        "layer3.0.conv1": 6,
        "layer4.0.conv1": 6,
    }


def test_a_new_classifier(checkpoints: Path) -> None:
    model = PrunNetForImageClassification.from_pretrained(checkpoints / "thin", num_labels=5)
    assert model(images()).logits.shape == (4, 5)
    assert same_state(model.prunnet, PrunNetModel.from_pretrained(checkpoints / "thin"))


def test_tensors_of_before_pruning_do_not_replace_it(checkpoints: Path, tmp_path: Path) -> None:
    thin = PrunNetModel.from_pretrained(checkpoints / "thin")
    dense = PrunNetModel.from_pretrained(checkpoints / "dense").state_dict()
    state = {name: dense[name] for name in thin.state_dict()}
    thin.save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"^state_dict.*shapes.*layer1\.0\.conv1\.weight.*\(4, 8, 3, 3\).*\(2, 8, 3, 3\)"
    ):
        thin.save_pretrained(tmp_path, state_dict=state)
    assert same_state(PrunNetModel.from_pretrained(tmp_path), thin)
    thin.save_pretrained(tmp_path, state_dict=thin.state_dict())
    assert same_state(PrunNetModel.from_pretrained(tmp_path), thin)


def test_a_prunable_checkpoint_is_hardly_larger_than_the_dense_network(checkpoints: Path) -> None:
    stored = load_file(checkpoints / "dense" / "model.safetensors")
    scores = {name: tensor.numel() for name, tensor in stored.items() if name.endswith(".scores")}
    sizes = {"layer1": 4, "layer2": 4, "layer3": 16, "layer4": 16}
    assert scores == {f"prunnet.backbone.{layer}.0.conv1.units.scores": size for layer, size in sizes.items()}


class TestEditedConfigurations:
    @pytest.mark.parametrize("count", [5, 10**15])
    def test_more_units_than_there_are(self, checkpoints: Path, count: int, tmp_path: Path) -> None:
        folder = edited(checkpoints, tmp_path / "x", kept_units=counts(checkpoints, layer1_0_conv1=count))
        with pytest.raises(
            ValueError, match=rf"^kept_units\['layer1\.0\.conv1'\].*at most 4.*'resnet18'.*{count}.*again"
        ):
            PrunNetModel.from_pretrained(folder)

    def test_another_number(self, checkpoints: Path, tmp_path: Path) -> None:
        folder = edited(checkpoints, tmp_path / "x", kept_units=counts(checkpoints, layer1_0_conv1=1))
        with pytest.raises(ValueError, match=r"do not fit.*mismatched weights.*layer1\.0\.bn1\.bias.*again"):
            PrunNetModel.from_pretrained(folder)

    @pytest.mark.parametrize("count", [True, 2.0, 0, -1, "2", None])
    def test_what_is_no_number_of_units(self, checkpoints: Path, count: Any, tmp_path: Path) -> None:
        folder = edited(checkpoints, tmp_path / "x", kept_units=counts(checkpoints, layer1_0_conv1=count))
        with pytest.raises(ValueError, match=r"^kept_units\['layer1\.0\.conv1'\].*whole number.*1; got") as caught:
            PrunNetModel.from_pretrained(folder)
        assert repr(count) in str(caught.value)

    def test_groups_that_the_backbone_lacks(self, checkpoints: Path, tmp_path: Path) -> None:
        folder = edited(checkpoints, tmp_path / "x", kept_units=counts(checkpoints, layer9_0_conv1=1))
        with pytest.raises(ValueError, match=r"^kept_units.*'resnet18'.*'layer9\.0\.conv1' is not one of its.*again"):
            PrunNetModel.from_pretrained(folder)

    def test_groups_that_are_missing(self, checkpoints: Path, tmp_path: Path) -> None:
        kept = counts(checkpoints)
        del kept["layer2.0.conv1"]
        folder = edited(checkpoints, tmp_path / "x", kept_units=kept)
        with pytest.raises(ValueError, match=r"^kept_units.*'resnet18'.*'layer2\.0\.conv1' is missing.*again"):
            PrunNetModel.from_pretrained(folder)

    def test_those_of_another_backbone(self, checkpoints: Path, tmp_path: Path) -> None:
        backbone, kwargs = UNIT_BACKBONES["attention"]
        folder = edited(checkpoints, tmp_path / "x", backbone=backbone, backbone_kwargs=kwargs)
        with pytest.raises(
            ValueError, match=r"^kept_units.*'vit_small_patch16_224'.*'blocks\.0\.attn\.qkv' is missing"
        ):
            PrunNetModel.from_pretrained(folder)

    def test_none_at_all(self, checkpoints: Path, tmp_path: Path) -> None:
        folder = edited(checkpoints, tmp_path / "x", kept_units=None)
        with pytest.raises(ValueError, match=r"^kept_units must say.*'channel'.*None.*prune"):
            PrunNetModel.from_pretrained(folder)

    @pytest.mark.parametrize("kept", ["layer1", [1, 2], 3])
    def test_another_type(self, checkpoints: Path, kept: Any, tmp_path: Path) -> None:
        folder = edited(checkpoints, tmp_path / "x", kept_units=kept)
        with pytest.raises(TypeError, match=r"^kept_units must be a mapping") as caught:
            PrunNetModel.from_pretrained(folder)
        assert repr(kept) in str(caught.value)

    @pytest.mark.parametrize("fields", [{"granularity": "weight"}, {"granularity": None}, {"prunable": True}])
    def test_beside_what_they_do_not_go_with(self, checkpoints: Path, fields: dict[str, Any], tmp_path: Path) -> None:
        folder = edited(checkpoints, tmp_path / "x", **fields)
        with pytest.raises(ValueError, match=r"^kept_units must be left out unless.*whole units.*'channel'.*4 groups"):
            PrunNetModel.from_pretrained(folder)

    @pytest.mark.parametrize("granularity", ["layer", 1, ["channel"]])
    def test_an_unknown_granularity(self, checkpoints: Path, granularity: Any, tmp_path: Path) -> None:
        folder = edited(checkpoints, tmp_path / "x", granularity=granularity)
        with pytest.raises(ValueError, match=r"^granularity must be one of weight, channel; got") as caught:
            PrunNetModel.from_pretrained(folder)
        assert repr(granularity) in str(caught.value)

    def test_another_allocation(self, checkpoints: Path, tmp_path: Path) -> None:
        folder = edited(checkpoints, tmp_path / "x", allocation="global")
        with pytest.raises(ValueError, match=r"^allocation must be 'uniform'.*'channel'.*'global'"):
            PrunNetModel.from_pretrained(folder)


def test_names_of_groups_are_text() -> None:
    with pytest.raises(TypeError, match=r"^kept_units must have names of groups; got 3 \(int\)"):
        PrunNetConfig(granularity="channel", prunable=False, kept_units={3: 1})


class TestArgumentsThatChangeWhatACheckpointIs:
    @pytest.mark.parametrize(
        ("name", "change", "message"),
        [
            ("dense", {"granularity": "weight"}, r"granularity='weight'.*says granularity='channel'.*scores.*Leave"),
            ("thin", {"granularity": "weight"}, r"^kept_units.*granularity='weight'.*leave such arguments out"),
            ("sparse", {"granularity": "channel"}, r"^kept_units must say.*'channel'.*prune"),
            ("dense", {"kept_units": {"x": 1}}, r"^kept_units must be left out"),
            ("weight", {"kept_units": {"x": 1}}, r"^kept_units must be left out"),
            ("thin", {"kept_units": {"x": "1"}}, r"^kept_units\['x'\].*'1'"),
            ("thin", {"prunable": True}, r"^kept_units must be left out.*prunable=True"),
            ("dense", {"prunable": False}, r"^kept_units must say.*None"),
            ("weight", {"granularity": "layer"}, r"^granularity must be one of weight, channel; got 'layer'"),
            ("thin", {"capacity": 0.2}, r"capacity 0\.35.*dense checkpoint"),
        ],
    )
    def test_they_are_refused(self, checkpoints: Path, name: str, change: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            AutoModel.from_pretrained(checkpoints / name, **change)

    def test_those_that_say_what_it_is_are_not(self, checkpoints: Path) -> None:
        for name, granularity in (("dense", "channel"), ("thin", "channel"), ("weight", "weight")):
            assert PrunNetModel.from_pretrained(checkpoints / name, granularity=granularity)

    def test_a_configuration_of_a_new_model_may_differ(self, checkpoints: Path) -> None:
        config = PrunNetConfig.from_pretrained(checkpoints / "dense", granularity="weight")
        assert PrunNetModel(config).prunable_layers()

    def test_fields_that_could_not_be_loaded_are_not_saved(self, tmp_path: Path) -> None:
        model = tiny_of_units()
        model.config.kept_units = {"layer1.0.conv1": 1}
        with pytest.raises(ValueError, match=r"^kept_units must be left out"):
            model.save_pretrained(tmp_path / "x")
        assert not list((tmp_path / "x").iterdir())


class TestTransformersTrainer:
    """A thin network is trained like any other: all that it has, and no less."""

    def test_it_stays_thin_and_has_a_new_space(self, checkpoints: Path, tmp_path: Path) -> None:
        model = PrunNetForImageClassification.from_pretrained(checkpoints / "thin")
        space, before = model.config.embedding_space, state_of(model)
        data = [{"pixel_values": image, "labels": index % 3} for index, image in enumerate(images(8))]
        arguments = TrainingArguments(
            str(tmp_path / "run"),
            num_train_epochs=1,
            per_device_train_batch_size=4,
            learning_rate=0.05,
            save_strategy="epoch",
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
        )
        trainer = Trainer(model, arguments, train_dataset=data)
        with pytest.warns(UserWarning, match=f"changed.*'{space}'"):
            trainer.train()
        trainer.save_model(str(tmp_path / "tuned"))
        tuned = PrunNetForImageClassification.from_pretrained(tmp_path / "tuned")
        assert not any(torch.equal(p, before[name]) for name, p in tuned.named_parameters() if p.ndim > 1)
        assert tuned.config.embedding_space == digest_weights(tuned) != space
        assert (tuned.config.capacity, tuned.config.allocation) == (0.35, "uniform")
        assert tuned.config.kept_units == model.config.kept_units
        assert_same_state(
            PrunNetForImageClassification.from_pretrained(tmp_path / "run" / "checkpoint-2"), state_of(tuned)
        )

    def test_weights_of_zero_are_weights(self, checkpoints: Path, tmp_path: Path) -> None:
        """The capacity isn't counted, and what is zero may become something else."""
        model = PrunNetForImageClassification.from_pretrained(checkpoints / "thin").train()
        weight = model.prunnet.backbone.layer1[0].conv1.weight
        with torch.no_grad():
            weight.zero_()
        model(images(), torch.tensor([0, 1, 2, 0])).loss.backward()
        assert weight.grad.any()
        with pytest.warns(UserWarning, match="weights have changed"):
            model.save_pretrained(tmp_path)
        assert same_state(PrunNetForImageClassification.from_pretrained(tmp_path), model)
        assert model.config.capacity == 0.35
