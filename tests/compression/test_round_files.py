"""The files of a pruning loop: which run may start, which may go on, and what a round leaves."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import pytest
import torch
import yaml

from prunnet_hf import PrunNetForImageClassification
from prunnet_hf.compression.report import compressibility
from prunnet_hf.compression.round_files import (
    arguments_of_round,
    as_plain,
    check_can_begin,
    check_images_are_the_same,
    finish_round,
    finished_rounds,
    load_weights,
    load_whole,
    record,
    round_directory,
    save_round,
    take_over,
)
from prunnet_hf.compression.sap_arguments import SapArguments
from prunnet_hf.runs.arguments import DataArguments
from prunnet_hf.training.kept_weights import leave_out, prunable_weights
from prunnet_hf.training.networks import create_processor
from tests.compression.test_trajectory import measured
from tests.training.test_objectives import tiny_model
from tests.training.tiny_run import arguments

IMAGES = {"class_names": ["cat", "dog"], "num_images": 4, "digest": "0" * 64}


def begun(photos: Path, run: Path, **options: object) -> None:
    record(run, arguments(photos, run), SapArguments(**options), IMAGES)


def go_on(photos: Path, run: Path, **options: object) -> None:
    check_can_begin(run, arguments(photos, run, resume=True), SapArguments(**options))


def test_recipe_holds_all_arguments(photos: Path, tmp_path: Path) -> None:
    begun(photos, tmp_path, scope="layer")
    recipe = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert (recipe["epochs"], recipe["scope"], recipe["kept_shares"]) == (2, "layer", [])
    assert "resume" not in recipe


@pytest.mark.parametrize("name", ["rounds", "initial", "model"])
def test_a_directory_in_use_is_not_begun_in(photos: Path, tmp_path: Path, name: str) -> None:
    begun(photos, tmp_path)
    (tmp_path / name).mkdir(exist_ok=True)
    with pytest.raises(
        FileExistsError, match=rf"output_dir.*\(config.yaml, .*{name}.*\).*--resume.*another output_dir"
    ):
        check_can_begin(tmp_path, arguments(photos, tmp_path), SapArguments())


def test_there_must_be_a_run_to_go_on_with(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"--resume.*start without"):
        go_on(photos, tmp_path)
    for foreign in ("epochs: 3\n", "", "- 1\n"):
        (tmp_path / "config.yaml").write_text(foreign)
        with pytest.raises(ValueError, match=r"pruning loop.*config.yaml.*another output_dir"):
            go_on(photos, tmp_path)
    (tmp_path / "config.yaml").write_text("epochs: [3\n")
    with pytest.raises(ValueError, match=r"config.yaml is damaged \((.|\n)*\).*another output_dir"):
        go_on(photos, tmp_path)
    with pytest.raises(NotADirectoryError, match=r"output_dir.*config.yaml"):
        check_can_begin(tmp_path / "config.yaml", arguments(photos, tmp_path), SapArguments())


def test_a_run_goes_on_with_its_own_pruning_for_more_rounds_too(photos: Path, tmp_path: Path) -> None:
    begun(photos, tmp_path, rounds=2, gamma=0.5)
    go_on(photos, tmp_path, rounds=5, gamma=0.5)
    with pytest.raises(ValueError, match=r"gamma 0.5 -> 1.0\. .*another output_dir"):
        go_on(photos, tmp_path, rounds=2)


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        *(("model", "backbone", "resnet18"), ("model", "embedding_dim", 16), ("model", "stem_pool", False)),
        *(("model", "model_name_or_path", "other"), ("model", "pretrained_backbone", True)),
        *(("data", "dataset", "glyphs"), ("data", "image_size", 64), ("data", "augmentation", "crop")),
        *(("data", "validation_share", 0.5), ("train", "epochs", 3), ("train", "batch_size", 5)),
        *(("train", "seed", 1), ("train", "learning_rate", 0.2), ("train", "optimizer", "adamw")),
        *(("train", "weight_decay", 0.0), ("train", "calibration_images", 8), ("train", "mixed_precision", "bf16")),
    ],
)
def test_a_run_goes_on_with_its_own_recipe_only(
    photos: Path, tmp_path: Path, part: str, name: str, value: object
) -> None:
    begun(photos, tmp_path)
    other = arguments(photos, tmp_path, resume=True)
    before = getattr(getattr(other, part), name)
    setattr(getattr(other, part), name, value)
    with pytest.raises(ValueError, match=re.escape(f"{name} {before!r} -> {value!r}.") + ".*another output_dir"):
        check_can_begin(tmp_path, other, SapArguments())


def test_arguments_without_effect_may_change_with_a_warning(
    photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    begun(photos, tmp_path)
    data = {"num_workers": 1, "data_dir": "elsewhere", "skip_corrupt_images": True}
    options = {"eval_batch_size": 7, "report_to": ["tensorboard"], "log_every": 3, "checkpoint_every": 1}
    options |= {"checkpoint_steps": 2, "keep_checkpoints": 5}
    other = arguments(photos, tmp_path, data, resume=True, **options)
    check_can_begin(tmp_path, other, SapArguments(rounds=9))
    with caplog.at_level(logging.WARNING):
        record(tmp_path, other, SapArguments(), IMAGES)
    for change in ("data_dir ", "num_workers 0 -> 1", "report_to [] -> ['tensorboard']"):
        assert change in caplog.text


def test_rounds_that_are_done_are_not_dropped(photos: Path, tmp_path: Path) -> None:
    begun(photos, tmp_path, rounds=3)
    for number in range(3):
        finish_round(tmp_path, measured(number))
    go_on(photos, tmp_path, rounds=2)
    with pytest.raises(ValueError, match=r"rounds.*at least 2.*got 1"):
        go_on(photos, tmp_path, rounds=1)


def test_a_round_goes_on_where_it_has_a_checkpoint(photos: Path, tmp_path: Path) -> None:
    whole = arguments(photos, tmp_path, resume=True)
    first = arguments_of_round(whole, 1).train
    assert (first.output_dir, first.resume) == (str(tmp_path / "rounds" / "01"), False)
    (round_directory(tmp_path, 1) / "checkpoints" / "step-3").mkdir(parents=True)
    assert arguments_of_round(whole, 1).train.resume


def test_a_finished_round_is_read_back_and_keeps_no_checkpoints(tmp_path: Path) -> None:
    assert finished_rounds(tmp_path) == []
    for name in ("checkpoints", "best", "model"):
        (round_directory(tmp_path, 0) / name).mkdir(parents=True)
    assert finished_rounds(tmp_path) == []
    for number in range(2):
        finish_round(tmp_path, measured(number))
    assert finished_rounds(tmp_path) == [measured(0), measured(1)]
    assert {path.name for path in round_directory(tmp_path, 0).iterdir()} == {"model", "round.json"}
    assert json.loads((round_directory(tmp_path, 1) / "round.json").read_text())["number"] == 1


def test_damaged_and_missing_records_of_rounds_are_refused(tmp_path: Path) -> None:
    for number in range(2):
        finish_round(tmp_path, measured(number))
    file = round_directory(tmp_path, 0) / "round.json"
    for content in ("", file.read_text()[:30], "[]", "{}", file.read_text().replace("prunes_next", "prunes")):
        file.write_text(content)
        with pytest.raises(ValueError, match=r"round.json is damaged \(.*\). Remove .*00 and all later rounds"):
            finished_rounds(tmp_path)
    file.unlink()
    with pytest.raises(ValueError, match=r"00 isn't finished, but .*01 is.*Remove.*--resume"):
        finished_rounds(tmp_path)


def test_only_a_round_s_own_network_is_taken_over() -> None:
    model = tiny_model("resnet10t")
    model.keep_statistics([])  # as the loop does
    trained = as_plain(tiny_model("resnet10t").eval()).state_dict()
    take_over(model, trained)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in trained.items())
    for damaged in ({**trained, "more": torch.zeros(1)}, {name: trained[name] for name in list(trained)[1:]}):
        with pytest.raises(ValueError, match=r"missing: .*unexpected: .*another output_dir"):
            take_over(model, damaged)


def test_a_saved_round_is_a_subnetwork_that_loads_as_any_other(photos: Path, tmp_path: Path) -> None:
    model = tiny_model("resnet10t").eval()
    weights = prunable_weights(model)
    kept = {name: torch.rand_like(weight) < 0.3 for name, weight in weights.items()}
    leave_out(model, kept)
    count, total = sum(int(mask.sum()) for mask in kept.values()), sum(mask.numel() for mask in kept.values())
    plain = as_plain(model)
    assert plain.config.capacity == count / total
    assert (plain.config.prunable, plain.config.allocation) == (False, "adaptive")
    assert [row.kept for row in compressibility(plain).rows] == [count, *(int(mask.sum()) for mask in kept.values())]
    save_round(round_directory(tmp_path, 1), plain, create_processor(arguments(photos, tmp_path).data))
    directory = round_directory(tmp_path, 1) / "model"
    assert (directory / "model.packed.safetensors").is_file()
    assert (directory / "preprocessor_config.json").is_file()
    loaded = PrunNetForImageClassification.from_pretrained(directory)
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(loaded(images).logits, plain(images).logits)
    found = load_weights(tmp_path, 1)
    assert all(torch.equal(found[name], weight) for name, weight in weights.items())


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"class_names": ["ape", "dog"]}, "class 0 was 'cat' and is 'ape'"),
        ({"num_images": 5}, "4 images became 5"),
        ({"digest": "1" * 64}, "list differ"),
    ],
)
def test_a_run_goes_on_only_with_the_images_it_began_with(
    photos: Path, tmp_path: Path, change: dict[str, object], found: str
) -> None:
    begun(photos, tmp_path)
    check_images_are_the_same(tmp_path, IMAGES)
    with pytest.raises(ValueError, match=rf"--resume .*other images: .*{found}.*Put .*back.*--output_dir"):
        check_images_are_the_same(tmp_path, {**IMAGES, **change})


def test_a_run_of_an_earlier_version_is_known_by_the_classes_of_its_initial_network(tmp_path: Path) -> None:
    (tmp_path / "initial").mkdir()
    (tmp_path / "initial/config.json").write_text('{"id2label": {"1": "dog", "0": "cat"}}')
    check_images_are_the_same(tmp_path, IMAGES)
    with pytest.raises(ValueError, match="class 1 was 'dog' and is 'eel'"):
        check_images_are_the_same(tmp_path, {**IMAGES, "class_names": ["cat", "eel"]})


@pytest.mark.parametrize("content", ["", "[]", '{"class_names"'])
def test_a_damaged_record_of_the_images_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "data.json").write_text(content)
    with pytest.raises(ValueError, match=r"data\.json is damaged .*|data\.json is damaged: .*"):
        check_images_are_the_same(tmp_path, IMAGES)


def test_a_round_is_not_pruned_from_a_damaged_network(tmp_path: Path) -> None:
    folder = round_directory(tmp_path, 0)
    save_round(folder, as_plain(tiny_model("resnet10t")), create_processor(DataArguments()))
    load_whole(folder / "model")
    weights = folder / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ValueError, match=r"rounds/00/model is damaged: .*model\.safetensors.*later rounds.*--resume"):
        load_weights(tmp_path, 0)
