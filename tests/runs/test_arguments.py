"""Arguments: flags over a recipe over the defaults, and a clear error for each wrong value."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import timm
import yaml

from prunnet_hf import PrunNetConfig
from prunnet_hf.runs.arguments import (
    DataArguments,
    ModelArguments,
    TrainArguments,
    parse_arguments,
    parse_dataclasses,
)

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("other", ["resume", "eval_only"])
def test_a_run_is_not_both_replaced_and_used(other: str) -> None:
    with pytest.raises(ValueError, match=rf"overwrite_output_dir=True.*--{other}.*Leave"):
        parse_arguments(["--overwrite_output_dir", f"--{other}"])


def write_recipe(tmp_path: Path, text: str) -> str:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_defaults_are_the_best_known() -> None:
    arguments = parse_arguments([])
    assert arguments.data.dataset == "glyphs"
    assert arguments.data.image_size == 224
    assert arguments.data.shorter_side == 256
    assert arguments.model.embedding_dim == 256
    assert arguments.train.method == "distilled"
    assert arguments.train.capacities == [0.05, 0.1, 0.2, 0.4, 0.6, 0.8]
    assert arguments.train.eval_capacities == [0.3]
    assert arguments.train.capacity_sampling == "sandwich"
    assert (arguments.model.granularity, arguments.model.classifier) == ("weight", "cosface")
    assert (arguments.train.momentum, arguments.train.weight_decay) == (0.9, 5e-4)
    # As in the recipes for real photos.
    assert (arguments.train.learning_rate, arguments.train.scale_dense_gradients) == (0.0375, True)
    assert arguments.model.pretrained_backbone == "auto"


def test_flags_win_over_the_recipe_and_the_recipe_over_defaults(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, "epochs: 7\nbatch_size: 32\ncapacities: [0.5, 0.25]\n")
    arguments = parse_arguments(["--config", recipe, "--epochs", "9"])
    assert arguments.train.epochs == 9
    assert arguments.train.batch_size == 32
    assert arguments.train.capacities == [0.25, 0.5]
    assert arguments.train.momentum == 0.9


def test_evidence_penalty_is_a_flag_of_sfsc_alone() -> None:
    found = parse_arguments(["--method", "sfsc", "--evidence_penalty", "0"])
    assert found.train.evidence_penalty == 0.0
    # What config.yaml of a run with another method says, or doesn't say, is that of a recipe, too.
    assert TrainArguments(method="joint", evidence_penalty=1.0) == TrainArguments(method="joint")


def test_recipe_values_are_converted_as_flags_are(tmp_path: Path) -> None:
    # YAML 1.1 reads 1e-3, without a point, as text.
    recipe = write_recipe(
        tmp_path,
        "learning_rate: 1e-3\nstem_pool: false\ncapacities: 0.2\nresize: null\neval_capacities: []\n"
        "backbone_kwargs: {channels: [8, 8, 16, 16]}\n",
    )
    arguments = parse_arguments(["--config", recipe])
    assert arguments.train.learning_rate == 0.001
    assert arguments.model.stem_pool is False
    assert arguments.train.capacities == [0.2]
    assert arguments.train.eval_capacities == []
    assert arguments.model.backbone_kwargs == '{"channels": [8, 8, 16, 16]}'


def test_config_of_a_run_is_a_recipe_for_it(tmp_path: Path) -> None:
    flags = ["--backbone", "resnet10t", "--backbone_kwargs", '{"stem_width": 4}', "--capacities", "0.3", "--seed", "5"]
    arguments = parse_arguments(flags)
    assert parse_arguments(["--config", write_recipe(tmp_path, yaml.safe_dump(arguments.as_dict()))]) == arguments


def test_default_capacities_have_statistics_of_their_own() -> None:
    # So that no default run warns of interpolated ones.
    options = TrainArguments()
    assert {*options.capacities, *options.eval_capacities} <= {
        *PrunNetConfig(capacities=options.capacities).stored_subnetworks
    }


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, True),  # timm has weights for resnet18
        ({"backbone": "resnet18", "backbone_kwargs": {"channels": [8, 8, 16, 16]}}, False),  # which don't fit this one
        ({"pretrained_backbone": True, "backbone_kwargs": {"channels": [8, 8, 16, 16]}}, True),  # asked for, so tried
        ({"pretrained_backbone": False}, False),
        ({"model_name_or_path": "org/name"}, False),  # has weights of its own
    ],
)
def test_whether_training_starts_from_pretrained_weights(given: dict[str, object], expected: bool) -> None:
    assert ModelArguments(**given).takes_pretrained_weights is expected


@pytest.mark.parametrize(
    ("text", "expected"), [("true", True), ("false", False), ("auto", "auto"), ("null", "auto"), ("'false'", False)]
)
def test_pretrained_backbone_is_a_bool_or_auto(tmp_path: Path, text: str, expected: bool | str) -> None:
    found = parse_arguments(["--config", write_recipe(tmp_path, f"pretrained_backbone: {text}")])
    assert found.as_dict()["pretrained_backbone"] == expected
    assert parse_arguments(["--pretrained_backbone"]).as_dict()["pretrained_backbone"] is True
    with pytest.raises(ValueError, match=r"pretrained_backbone .*auto, true, false.*'maybe'"):
        ModelArguments(pretrained_backbone="maybe")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_states_what_defaults_have_changed(path: Path) -> None:
    stated = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert {"learning_rate", "pretrained_backbone", "method"} <= stated.keys()
    is_the_papers = stated.get("method") == "paper"
    assert (stated.get("capacity_sampling") == "fixed") is is_the_papers
    # Only methods that merge gradients use it, and small recipes leave it to the method that is chosen.
    assert stated.get("scale_dense_gradients") is (False if is_the_papers else None)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_published_recipe_is_valid(path: Path) -> None:
    assert parse_arguments(["--config", str(path)]).train.epochs >= 1


@pytest.mark.parametrize(
    ("name", "backbone", "alpha", "rate", "decay", "epochs", "milestones"),
    [
        ("gldv2_resnet18", "resnet18", 0.5, 0.1, 5e-4, 30, [5, 10, 20]),
        ("gldv2_resnet50", "resnet50", 0.5, 0.1, 5e-4, 30, [5, 10, 20]),
        ("gldv2_resnext50", "resnext50_32x4d", 0.5, 0.1, 5e-4, 30, [5, 10, 20]),
        ("gldv2_mobilenetv2", "mobilenetv2_100", 0.5, 0.1, 5e-4, 30, [5, 10, 20]),
        ("gldv2_vit_small", "vit_small_patch16_224.augreg_in21k", 1.0, 3e-5, 1e-2, 30, None),
        ("gldv2_swin_tiny", "swin_tiny_patch4_window7_224", 1.0, 1e-3, 1e-2, 30, None),
        ("gldv2_convnext_tiny", "convnext_tiny.fb_in1k", 1.0, 3e-5, 1e-2, 30, None),
        ("in_shop_resnet18", "resnet18", 0.5, 0.1, 5e-4, 200, [50, 100, 150]),
        ("veri776_resnet18", "resnet18", 0.5, 0.1, 5e-4, 200, [50, 100, 150]),
    ],
)
def test_recipes_of_the_benchmarks(
    name: str, backbone: str, alpha: float, rate: float, decay: float, epochs: int, milestones: list[int] | None
) -> None:
    arguments = parse_arguments(["--config", str(RECIPES[0].with_name(f"{name}.yaml"))])
    model, data, train = arguments.model, arguments.data, arguments.train
    assert timm.is_model(backbone)
    assert (model.backbone, train.learning_rate, train.weight_decay, train.epochs) == (backbone, rate, decay, epochs)
    if milestones is None:
        assert (train.optimizer, train.lr_schedule, train.warmup_epochs) == ("adamw", "cosine", 3)
    else:
        assert (train.optimizer, train.momentum, train.lr_schedule) == ("sgd", 0.9, "multistep")
        assert train.milestones == milestones
    assert name.startswith(data.dataset)
    assert data.class_share == (0.3 if data.dataset == "gldv2" else None)
    assert (data.shorter_side, data.image_size, data.augmentation) == (256, 224, "crop_flip")
    assert (train.batch_size, train.capacities, train.eval_capacities) == (64, [0.2, 0.4, 0.6, 0.8], [0.05, 0.1])
    assert (train.method, train.capacity_sampling, train.alpha) == ("paper", "fixed", alpha)
    assert (train.score_learning_rate, train.score_weight_decay) == (rate, decay)  # scores are trained as weights
    assert (model.classifier, train.scale_dense_gradients) == ("softmax", False)
    assert train.output_dir == f"out/{name}"


def test_unknown_recipe_keys_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"lr, sparsity\. Allowed: .*learning_rate"):
        parse_arguments(["--config", write_recipe(tmp_path, "sparsity: 0.8\nlr: 0.1\nepochs: 2\n")])


def test_misspelt_keys_and_flags_get_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown keys: epoch\. Did you mean epochs\?"):
        parse_arguments(["--config", write_recipe(tmp_path, "epoch: 3\n")])
    with pytest.raises(ValueError, match=r"--epoch 1\. Did you mean --epochs\?"):  # argparse would take it as --epochs
        parse_arguments(["--epoch", "1"])
    with pytest.raises(ValueError, match="3, 4"):
        parse_arguments(["--config", write_recipe(tmp_path, "3: a\n4: b\n")])


def test_recipe_that_is_no_yaml(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"recipe\.yaml is no YAML: [^\n]*line 1[^\n]*$"):
        parse_arguments(["--config", write_recipe(tmp_path, "epochs: [")])


def test_recipe_that_is_no_mapping(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must be a mapping of arguments.*\['epochs'\]"):
        parse_arguments(["--config", write_recipe(tmp_path, "- epochs\n")])


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("epochs: 2.5", "epochs"),
        ("epochs: many", "epochs"),
        ("method: best", "method"),
        ("stem_pool: 7", "stem_pool"),
    ],
)
def test_wrong_type_in_a_recipe_is_refused_as_in_a_flag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, named: str
) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(["--config", write_recipe(tmp_path, text)])
    assert f"argument --{named}" in capsys.readouterr().err


def test_unknown_flag_is_named() -> None:
    with pytest.raises(ValueError, match=r"--learning_speed 3.* Did you mean --learning_rate"):
        parse_arguments(["--learning_speed", "3"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "nothing"}, r"method .*prunnet, .*'nothing'"),
        ({"method": "bct", "capacities": [0.2]}, r"teacher .*--method bct, such as --teacher .*None"),
        ({"teacher": "out/dense", "method": "sfsc"}, r"teacher .*joint.*got 'out/dense' with --method sfsc.*another"),
        ({"into": "gallery", "method": "paper"}, r"into .*joint.*got 'gallery' with --method paper.*Leave --into out"),
        (
            {"into": "gallery", "method": "bct", "teacher": "out/dense", "capacities": [0.2]},
            r"into .*got 'gallery' with --method bct",
        ),
        ({"into_loss": ["csd"]}, r"into_loss .*got 'csd'.*--into or --teacher"),
        ({"into": "gallery", "into_loss": []}, r"into_loss .*regression, csd, classifier; got none"),
        ({"into": "gallery", "into_loss": ["rkd"]}, r"into_loss .*regression, csd, classifier .*got 'rkd'"),
        ({"into": "gallery", "into_loss": ["csd:0"]}, r"into_loss .*weight above 0.*got 'csd:0'"),
        ({"into": "gallery", "into_loss": ["csd:x"]}, r"into_loss .*weight above 0.*got 'csd:x'"),
        ({"into": "gallery", "into_loss": ["csd", "csd:2"]}, r"into_loss .*at most once.*got 'csd csd:2'"),
        ({"evidence_penalty": 0.5}, r"evidence_penalty .*got 0\.5 with --method distilled.*--method sfsc"),
        ({"method": "sfsc", "evidence_penalty": -0.5}, r"evidence_penalty .*at least 0; got -0\.5"),
        ({"method": "sfsc", "evidence_penalty": float("inf")}, r"evidence_penalty .*at least 0; got inf"),
        ({"optimizer": "lion"}, r"optimizer .*sgd, adamw.*'lion'"),
        ({"capacities": [0.0, 0.2]}, r"capacities .*\(0, 1\].*0\.0"),
        ({"capacities": [1.5]}, r"capacities .*\(0, 1\].*1\.5"),
        ({"capacities": [1.0]}, r"capacities .*subnetwork.*\[1\.0\]"),
        ({"capacities": []}, r"capacities .*subnetwork.*\[\]"),
        ({"eval_capacities": [2.0]}, r"eval_capacities .*\(0, 1\].*2\.0"),
        (
            {"method": "prunnet", "merger": "mean"},
            r"merger must be one of integration, sum, or PACKAGE\.MODULE:CLASS; got 'mean'",
        ),
        ({"method": "joint", "merger": "sum"}, r"merger .*--method prunnet; got 'sum' with --method joint.*Leave"),
        ({"method": "independent"}, r"--method independent .*\[0\.05, 0\.1, 0\.2, 0\.4, 0\.6, 0\.8\]"),
        ({"dense_epochs": -1}, r"dense_epochs .*at least 0; got -1"),
        ({"dense_learning_rate": float("nan")}, r"dense_learning_rate .*at least 0; got nan"),
        ({"method": "joint", "dense_epochs": 3}, r"dense_epochs .*--method distilled; got 3 with --method joint.*out"),
        ({"distillation_weight": -0.5}, r"distillation_weight .*at least 0; got -0\.5"),
        ({"distillation_temperature": 0.0}, r"distillation_temperature .*above 0.*got 0\.0"),
        ({"distillation_temperature": float("inf")}, r"distillation_temperature .*above 0.*got inf"),
        ({"epochs": 0}, r"epochs .*at least 1.*0"),
        ({"batch_size": 1}, r"batch_size .*at least 2.*1"),
        ({"gradient_accumulation_steps": 0}, r"gradient_accumulation_steps .*at least 1.*0"),
        ({"learning_rate": -0.1}, r"learning_rate .*at least 0.*-0\.1"),
        ({"learning_rate": float("nan")}, r"learning_rate .*at least 0.*nan"),
        ({"seed": -1}, r"seed .*at least 0.*-1"),
        ({"seed": 2**32}, r"seed .*4294967295.*4294967296"),
        ({"calibration_images": 1}, r"calibration_images .*at least 2.*1"),
        ({"capacity_sampling": "random"}, r"capacity_sampling .*fixed, sandwich.*'random'"),
        ({"capacity_draws": 0}, r"capacity_draws .*at least 1.*0"),
        ({"shrink_share": 1.5}, r"shrink_share .*\[0, 1\].*1\.5"),
        ({"eval_every": -2}, r"eval_every .*at least 0.*-2"),
    ],
)
def test_wrong_training_values_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainArguments(**values)


def test_capacities_that_are_no_list() -> None:
    with pytest.raises(TypeError, match=r"capacities .*list.*'0\.2'"):
        TrainArguments(capacities="0.2")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_size": 32, "resize": 24}, r"resize .*image_size \(32\).*24"),
        ({"image_size": 0}, r"image_size .*at least 1.*0"),
        ({"num_workers": -1}, r"num_workers .*at least 0.*-1"),
        ({"validation_share": 1.0}, r"validation_share .*\[0, 1\).*1\.0"),
    ],
)
def test_wrong_data_values_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataArguments(**values)


def test_classes_held_out_must_be_looked_at() -> None:
    with pytest.raises(ValueError, match=r"validation_share=0\.2 .*--eval_every"):
        parse_arguments(["--validation_share", "0.2"])
    assert parse_arguments(["--validation_share", "0.2", "--eval_every", "2"]).data.validation_share == 0.2
    assert parse_arguments(["--validation_share", "0.2", "--eval_only", "true"]).train.eval_only


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sync_batchnorm", "true", "--streaming", "true"], "sync_batchnorm=True.*streaming=True"),
    ],
)
def test_arguments_that_do_not_go_together(flags: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_arguments(flags)


@pytest.mark.parametrize(("text", "expected"), [("no", "no"), ("'no'", "no"), ("bf16", "bf16"), ("null", None)])
def test_precision_can_be_written_in_a_recipe_as_in_a_flag(tmp_path: Path, text: str, expected: str | None) -> None:
    found = parse_arguments(["--config", write_recipe(tmp_path, f"mixed_precision: {text}")])
    assert found.train.mixed_precision == expected


@pytest.mark.parametrize("text", ["{channels: 8}", "[8, 8]", "8"])
def test_backbone_kwargs_must_be_a_json_object(text: str) -> None:
    with pytest.raises(ValueError, match=r"backbone_kwargs .*JSON object"):
        ModelArguments(backbone_kwargs=text)


@dataclass
class MoreArguments:
    """The arguments of a command that has more than a training run."""

    depth: int = 3


def test_further_dataclasses_are_read_beside_and_what_is_settled_wins(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, "epochs: 7\ndepth: 5\ncapacities: [0.5]\n")
    flags = ["--config", recipe, "--method", "joint"]
    settled = {"method": "independent", "capacities": [1.0]}
    train, more = parse_dataclasses([TrainArguments, MoreArguments], flags, settled)
    assert (train.epochs, train.method, train.capacities, more.depth) == (7, "independent", [1.0], 5)
    assert parse_dataclasses([MoreArguments], ["--depth", "9"]) == [MoreArguments(9)]
    with pytest.raises(ValueError, match="capacities, epochs"):
        parse_dataclasses([MoreArguments], flags[:2])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--augmentation", "affine"], r"augmentation must be crop_flip or crop with --into.*got 'affine'"),
        (["--streaming", "true", "--dataset", "gldv2"], r"streaming=True doesn't work with --into.*Leave"),
        (["--classifier", "softmax", "--into_loss", "classifier"], r"classifier must be cosface .*got 'softmax'"),
    ],
)
def test_what_does_not_go_with_a_space_that_exists(flags: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_arguments(["--into", "gallery", *flags])


def test_a_space_that_exists_decides_on_the_length_of_embeddings_and_losses_on_the_need_of_labels() -> None:
    plain = parse_arguments([])
    assert (plain.train.trains_into, plain.train.needs_labels, plain.model.embedding_dim) == (False, True, 256)
    into = parse_arguments(["--teacher", "out/dense", "--into_loss", "csd:0.5", "regression"])
    assert (into.train.trains_into, into.train.needs_labels, into.model.embedding_dim) == (True, False, None)
    labelled = parse_arguments(["--into", "gallery", "--into_loss", "classifier", "--embedding_dim", "64"])
    assert (labelled.train.needs_labels, labelled.model.embedding_dim) == (True, 64)
    towards = parse_arguments(["--teacher", "out/dense", "--method", "regression", "--capacities", "0.2"])
    assert (towards.train.trains_into, towards.model.embedding_dim) == (False, 256)
