"""The configuration: checked where it is made, the same after a round trip."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import timm
from transformers import AutoConfig

from prunnet_hf import PrunNetConfig, PrunNetImageProcessor, PrunNetModel
from prunnet_hf.configuration_prunnet import NOT_ARCHITECTURE, OF_THE_PACKAGE, refuse_copying_code
from tests.tiny_models import tiny_config

MEASURED: dict[str, Any] = {
    "space": "0123456789abcdef",
    "dataset": "photos",
    "protocol": "leave_one_out",
    "metric": "mAP",
    "values": {"0.20": 0.72, "1.00": 0.74},
}
COMPATIBLE: dict[str, Any] = {
    **MEASURED,
    "teacher": "org/large",
    "gallery": None,
    "itself": 0.75,
}


def test_the_defaults_are_the_papers() -> None:
    config = PrunNetConfig()
    assert (config.backbone, config.image_size, config.embedding_dim) == ("resnet18", 224, 256)
    assert config.capacities == [0.2, 0.4, 0.6, 0.8]
    assert config.statistics_capacities == [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert (config.capacity, config.prunable, config.embedding_space) == (1.0, True, None)


def test_a_checkpoint_that_names_no_classifier_has_softmax() -> None:
    config = PrunNetConfig.from_dict({"model_type": "prunnet"})
    assert (config.classifier, config.logit_scale, config.margin) == ("softmax", 16.0, 0.2)


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("classifier", "sphereface", "softmax, cosface, arcface"),
        ("logit_scale", 0, "above 0"),
        ("logit_scale", float("nan"), "above 0"),
        ("margin", -0.1, "from 0 to pi / 2"),
        ("margin", 1.6, "from 0 to pi / 2"),
        ("margin", "0.2", "from 0 to pi / 2"),
    ],
)
def test_settings_of_the_classifier_are_checked(tmp_path: Path, field: str, value: Any, allowed: str) -> None:
    with pytest.raises(ValueError, match=rf"{field} must be .*{allowed}.*got {value!r}"):
        PrunNetConfig(**{field: value})
    config = PrunNetConfig()
    setattr(config, field, value)
    with pytest.raises(ValueError, match=rf"{field} must be "):
        config.save_pretrained(tmp_path)
    PrunNetConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=rf"{field} must be "):
        PrunNetConfig.from_pretrained(tmp_path, **{field: value})


def test_capacities_are_ascending_and_without_the_dense_network() -> None:
    config = PrunNetConfig(capacities=[1.0, 0.8, 0.2, 0.8], statistics_capacities=(0.5, 0.2))
    assert config.capacities == [0.2, 0.8]
    assert config.statistics_capacities == [0.2, 0.5, 1.0]
    assert config.stored_subnetworks == [0.2, 0.5]


def test_the_default_grid_holds_the_trained_capacities() -> None:
    assert PrunNetConfig(capacities=[0.33]).statistics_capacities == [0.05, 0.1, 0.3, 0.33, 0.5, 0.7, 0.9, 1.0]


def test_a_pruned_model_stores_no_grid() -> None:
    config = PrunNetConfig(capacity=0.2, prunable=False)
    assert config.statistics_capacities == []
    assert config.stored_subnetworks == []


def test_it_survives_a_round_trip(tmp_path: Path) -> None:
    config = PrunNetConfig(
        backbone="swin_tiny_patch4_window7_224",
        backbone_kwargs={"depths": [1, 1]},
        capacities=[0.3],
        statistics_capacities=[0.1],
        score_init="magnitude",
        classifier="arcface",
        logit_scale=24.0,
        margin=0.4,
        embedding_space="0123456789abcdef",
        measured=MEASURED,
        compatible_with=COMPATIBLE,
        id2label={0: "church", 1: "bridge", 2: "tower"},
    )
    config.save_pretrained(tmp_path)
    for loader in (PrunNetConfig, AutoConfig):
        loaded = loader.from_pretrained(tmp_path)
        assert type(loaded) is PrunNetConfig
        assert loaded.to_dict() | {"_name_or_path": ""} == config.to_dict()
        assert loaded.num_classes == loaded.num_labels == 3


def test_configurations_share_nothing() -> None:
    arguments: dict[str, Any] = {"drop_path_rate": 0.1}
    first, second = PrunNetConfig(backbone_kwargs=arguments), PrunNetConfig(backbone_kwargs=arguments)
    first.backbone_kwargs["drop_path_rate"] = 0.5
    first.capacities.append(0.9)
    assert second.backbone_kwargs == arguments == {"drop_path_rate": 0.1}
    assert PrunNetConfig().capacities == [0.2, 0.4, 0.6, 0.8]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"capacity": 0.0}, r"capacity.*\(0, 1\].*got 0\.0"),
        ({"capacity": 1.2}, r"capacity.*\(0, 1\].*got 1\.2"),
        ({"capacity": float("nan")}, r"capacity.*\(0, 1\].*got nan"),
        ({"capacities": [0.2, 20]}, r"capacities must be in \(0, 1\].*got 20"),
        ({"statistics_capacities": [-0.1]}, r"statistics_capacities must be in \(0, 1\].*got -0\.1"),
        ({"image_size": 0}, "image_size must be a whole number of at least 1; got 0"),
        ({"embedding_dim": -8}, "embedding_dim must be a whole number of at least 1; got -8"),
        ({"num_labels": 0}, "num_labels must be a whole number of at least 1; got 0"),
        ({"score_init": "zeros"}, "score_init must be one of kaiming, magnitude; got 'zeros'"),
    ],
)
def test_values_out_of_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PrunNetConfig(**arguments)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("backbone", ""),
        ("backbone", 18),
        ("capacity", "0.2"),
        ("capacity", True),
        ("capacities", "0.2"),
        ("capacities", 0.2),
        ("statistics_capacities", {"0.2": 1}),
        ("image_size", 224.5),
        ("image_size", True),
        ("embedding_dim", "256"),
    ],
)
def test_values_of_another_type_are_named(name: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=name):
        PrunNetConfig(**{name: value})


def test_another_kind_of_model() -> None:
    with pytest.raises(ValueError, match=r"'vit'.*'prunnet'"):
        PrunNetConfig.from_dict({"model_type": "vit"})


def test_capacity_as_an_argument_of_loading_is_left_for_the_model() -> None:
    config, unused = PrunNetConfig.from_dict({"capacity": 1.0}, capacity=0.5, return_unused_kwargs=True)
    assert config.capacity == 1.0
    assert unused == {"capacity": 0.5}
    assert PrunNetConfig.from_dict({"capacity": 1.0}, capacity=0.5).capacity == 1.0


def test_loading_a_configuration_prunes_nothing(tmp_path: Path) -> None:
    PrunNetConfig().save_pretrained(tmp_path)
    with pytest.raises(TypeError, match=r"capacity=0\.2 .*PrunNetModel\.from_pretrained\(path, capacity=0\.2\)"):
        PrunNetConfig.from_pretrained(tmp_path, capacity=0.2)
    config, unused = PrunNetConfig.from_pretrained(tmp_path, capacity=0.2, return_unused_kwargs=True)
    assert (config.capacity, unused) == (1.0, {"capacity": 0.2})


def test_a_directory_without_configuration(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"has no config\.json"):
        PrunNetConfig.from_pretrained(tmp_path)


def test_how_kept_weights_are_shared_out() -> None:
    for allocation in ("uniform", "pq_index", "global", "adaptive"):
        assert PrunNetConfig(prunable=False, capacity=0.2, allocation=allocation).allocation == allocation
    with pytest.raises(ValueError, match=r"allocation.*'uniform', 'pq_index', 'global', 'adaptive'"):
        PrunNetConfig(allocation="best")
    with pytest.raises(ValueError, match=r"allocation.*'uniform'.*'global'.*prune\(\)"):
        PrunNetConfig(allocation="global")


class TestCodeBesideAModel:
    """transformers would copy `pruning.layers.py`, which isn't there."""

    MAKERS = (tiny_config, lambda: PrunNetModel(tiny_config()), PrunNetImageProcessor)

    @pytest.mark.parametrize("make", MAKERS, ids=["configuration", "model", "processor"])
    def test_a_copy_is_refused(self, make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        saved = make()
        monkeypatch.setattr(type(saved), "_auto_class", None)  # put back afterwards
        type(saved).register_for_auto_class()
        with pytest.raises(ValueError, match=r"register_for_auto_class.*push_to_hub\.py --with_code"):
            saved.save_pretrained(tmp_path / "saved")
        assert not (tmp_path / "saved").exists()

    def test_so_it_is_before_anything_is_pushed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(PrunNetModel, "_auto_class", "AutoModel")
        with pytest.raises(ValueError, match="--with_code"):  # and not that there is no network
            PrunNetModel(tiny_config()).push_to_hub("org/name")

    def test_a_subclass_of_the_users_may_be_copied(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Own(PrunNetImageProcessor):
            """In a module of the user's."""

        monkeypatch.setattr(Own, "_auto_class", "AutoImageProcessor", raising=False)
        refuse_copying_code(Own())


@pytest.mark.parametrize(
    ("field", "value", "error", "message"),
    [
        ("prunable", "no", TypeError, r"prunable.*true or false.*'no'"),
        ("prunable", 1, TypeError, r"prunable.*true or false.*1 \(int\)"),
        ("stem_pool", "false", TypeError, r"stem_pool.*true or false.*'false'"),
        ("stem_pool", None, TypeError, r"stem_pool.*true or false.*None"),
        ("backbone_kwargs", "abc", TypeError, r"backbone_kwargs.*mapping.*'abc'"),
        ("backbone_kwargs", [["a", 1]], TypeError, r"backbone_kwargs.*mapping"),
        ("backbone_kwargs", {1: 2}, ValueError, r"backbone_kwargs.*arguments.*1"),
        ("id2label", "x", TypeError, r"id2label.*mapping.*'x'"),
        ("label2id", [1], TypeError, r"label2id.*mapping.*\[1\]"),
        ("embedding_space", 5, ValueError, r"embedding_space.*16 hex.*'5'.*renew_embedding_space"),
        ("embedding_space", "", ValueError, r"embedding_space.*16 hex.*''"),
        ("embedding_space", "0123456789abcdef\n", ValueError, r"embedding_space.*16 hex"),
        ("embedding_space", "0123456789ABCDEF", ValueError, r"embedding_space.*16 hex"),
        ("embedding_space", "`\n# [Free](https://example.org)", ValueError, r"embedding_space.*16 hex"),
        ("weights_digest", "0123456789abcdef", TypeError, r"weights_digest.*mapping"),
        ("weights_digest", {"float32": "# x"}, ValueError, r"weights_digest\['float32'\].*16 hex.*'# x'"),
        ("measured", "good", TypeError, r"measured.*mapping.*'good'"),
        (
            "measured",
            {"mAP\n": 0.5},
            ValueError,
            r"measured must have space, .*values; got \['mAP.*Leave it out",
        ),
        ("measured", {**MEASURED, "space": "x"}, ValueError, r"measured\['space'\].*16 hex.*'x'"),
        ("measured", {**MEASURED, "metric": 1}, TypeError, r"measured\['metric'\] must be text; got 1.*Leave it out"),
        ("measured", {**MEASURED, "values": [0.5]}, TypeError, r"measured\['values'\].*mapping.*\[0\.5\]"),
        ("measured", {**MEASURED, "values": {"0.20": 72.0}}, ValueError, r"\[0, 1\].*'0\.20': 72\.0.*Leave it out"),
        ("measured", {**MEASURED, "values": {"0.20": True}}, ValueError, r"\[0, 1\].*'0\.20': True"),
        ("measured", {**MEASURED, "values": {"low": 0.5}}, ValueError, r"capacities.*'low': 0\.5"),
        ("measured", {**MEASURED, "values": {0.2: 0.5}}, ValueError, r"capacities.*0\.2: 0\.5"),
        ("measured", {**MEASURED, "values": {"nan": 0.5}}, ValueError, r"capacities.*'nan': 0\.5"),
        ("compatible_with", MEASURED, ValueError, r"compatible_with must have .*itself; got .*Leave it out"),
        ("compatible_with", {**COMPATIBLE, "space": None}, ValueError, r"compatible_with\['space'\].*16 hex.*None"),
        ("compatible_with", {**COMPATIBLE, "teacher": 1}, TypeError, r"\['teacher'\] must be text or None; got 1"),
        ("compatible_with", {**COMPATIBLE, "values": {"0.20": 7}}, ValueError, r"compatible_with\['values'\].*: 7"),
        ("compatible_with", {**COMPATIBLE, "itself": 75.0}, ValueError, r"\['itself'\] .*\[0, 1\].*got 75\.0"),
    ],
)
def test_wrong_types_and_ids(field: str, value: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as raised:
        PrunNetConfig(**{field: value})
    assert "\n" not in str(raised.value)
    with pytest.raises(error, match=message):
        PrunNetConfig.from_dict({"model_type": "prunnet", field: value})


@pytest.mark.parametrize("name", NOT_ARCHITECTURE)
def test_backbone_kwargs_name_no_weights(name: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret.pt"
    with pytest.raises(ValueError, match=rf"backbone_kwargs.*architecture.*{name}=.*secret.*load_state_dict"):
        PrunNetConfig(backbone_kwargs={"drop_rate": 0.1, name: str(secret)})


@pytest.mark.parametrize("name", OF_THE_PACKAGE)
def test_backbone_kwargs_that_the_package_sets(name: str) -> None:
    with pytest.raises(ValueError, match=rf"backbone_kwargs.*'{name}'.*Leave it out"):
        PrunNetConfig(backbone_kwargs={name: 1})


def test_an_id_that_could_not_be_loaded_is_not_saved(tmp_path: Path) -> None:
    config = PrunNetConfig()
    config.embedding_space = "my gallery"
    with pytest.raises(ValueError, match=r"embedding_space.*16 hex.*'my gallery'"):
        config.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_architectures_take_all_of_their_arguments() -> None:
    """What is refused by name is an argument of no backbone that can be built."""
    refused = {*NOT_ARCHITECTURE, *OF_THE_PACKAGE}
    taken = {
        name
        for kind in (timm.models.ResNet, timm.models.VisionTransformer, timm.models.SwinTransformer)
        for name in inspect.signature(kind).parameters
    }
    assert not refused & taken
