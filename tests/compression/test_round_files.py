"""The files of a pruning run: what may begin, what may go on, and what a round leaves."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
import yaml

from prunnet_hf import PrunNetForImageClassification
from prunnet_hf.compression.report import compressibility
from prunnet_hf.compression.round_files import arguments_of_round
from prunnet_hf.compression.round_files import as_plain
from prunnet_hf.compression.round_files import begin
from prunnet_hf.compression.round_files import finish_round
from prunnet_hf.compression.round_files import finished_round
from prunnet_hf.compression.round_files import load_weights
from prunnet_hf.compression.round_files import record
from prunnet_hf.compression.round_files import round_directory
from prunnet_hf.compression.round_files import save_model
from prunnet_hf.compression.sap_arguments import SapArguments
from prunnet_hf.training.kept_weights import leave_out
from prunnet_hf.training.kept_weights import prunable_weights
from prunnet_hf.training.networks import create_processor
from tests.compression.test_trajectory import measured
from tests.training.test_objectives import tiny_model
from tests.training.tiny_run import arguments


def begun(photos: Path, run: Path, **options: object) -> None:
    record(run, arguments(photos, run), SapArguments(**options))


def go_on(photos: Path, run: Path, **options: object) -> None:
    begin(run, arguments(photos, run, resume=True), SapArguments(**options))


def test_recipe_holds_all_arguments(photos: Path, tmp_path: Path) -> None:
    begun(photos, tmp_path, scope="layer")
    recipe = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert (recipe["epochs"], recipe["scope"], recipe["kept_shares"]) == (2, "layer", [])
    assert "resume" not in recipe


@pytest.mark.parametrize("name", ["config.yaml", "rounds", "initial", "model"])
def test_a_directory_in_use_is_not_begun_in(photos: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(FileExistsError, match=rf"holds an earlier run \({name}\). Go on with --resume, or choose"):
        begin(tmp_path, arguments(photos, tmp_path), SapArguments())


def test_there_must_be_a_run_to_go_on_with(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"--resume found no run in .*: start without --resume"):
        go_on(photos, tmp_path)
    (tmp_path / "config.yaml").write_text("epochs: 3\n")
    with pytest.raises(ValueError, match="that is no pruning loop"):
        go_on(photos, tmp_path)
    with pytest.raises(NotADirectoryError, match="output_dir must be a directory"):
        begin(tmp_path / "config.yaml", arguments(photos, tmp_path), SapArguments())


def test_a_run_goes_on_with_its_own_pruning_for_more_rounds_too(photos: Path, tmp_path: Path) -> None:
    begun(photos, tmp_path, rounds=2, gamma=0.5)
    go_on(photos, tmp_path, rounds=5, gamma=0.5)
    with pytest.raises(ValueError, match=r"gamma must be 0.5, as the run in .* was begun, .*; got 1.0"):
        go_on(photos, tmp_path, rounds=2)


def test_other_arguments_of_training_are_told(photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    begun(photos, tmp_path)
    with caplog.at_level(logging.WARNING):
        record(tmp_path, arguments(photos, tmp_path, epochs=3), SapArguments())
    assert "other arguments than it was begun with: epochs 2 -> 3" in caplog.text


def test_a_round_goes_on_where_it_has_a_checkpoint(photos: Path, tmp_path: Path) -> None:
    whole = arguments(photos, tmp_path, resume=True)
    first = arguments_of_round(whole, 1).train
    assert (first.output_dir, first.resume) == (str(tmp_path / "rounds" / "01"), False)
    (round_directory(tmp_path, 1) / "checkpoints" / "step-3").mkdir(parents=True)
    assert arguments_of_round(whole, 1).train.resume


def test_a_finished_round_is_read_back_and_keeps_no_checkpoints(tmp_path: Path) -> None:
    assert finished_round(tmp_path, 3) is None
    for name in ("checkpoints", "best", "model"):
        (round_directory(tmp_path, 3) / name).mkdir(parents=True)
    finish_round(tmp_path, measured(3))
    assert finished_round(tmp_path, 3) == measured(3)
    assert {path.name for path in round_directory(tmp_path, 3).iterdir()} == {"model", "round.json"}
    assert json.loads((round_directory(tmp_path, 3) / "round.json").read_text())["number"] == 3


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
    save_model(round_directory(tmp_path, 1), plain, create_processor(arguments(photos, tmp_path).data))
    directory = round_directory(tmp_path, 1) / "model"
    assert (directory / "model.packed.safetensors").is_file()
    assert (directory / "preprocessor_config.json").is_file()
    loaded = PrunNetForImageClassification.from_pretrained(directory)
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(loaded(images).logits, plain(images).logits)
    found = load_weights(tmp_path, 1)
    assert all(torch.equal(found[name], weight) for name, weight in weights.items())
