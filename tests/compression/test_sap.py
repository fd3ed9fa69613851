"""The pruning loop on a tiny image folder: what it prunes, what it leaves, and how it is stopped and resumed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import runpy
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from prunnet_hf import PrunNetForImageClassification
from prunnet_hf.compression import sap as sap_module
from prunnet_hf.compression.plots import plot_trajectories
from prunnet_hf.compression.round_files import load_weights
from prunnet_hf.compression.sap import PruningLoop
from prunnet_hf.compression.sap_arguments import SETTLED, SapArguments
from prunnet_hf.compression.schedules import masks_of_round
from prunnet_hf.compression.trajectory import Round, Trajectory, read_trajectory
from prunnet_hf.image_processing_prunnet import PrunNetImageProcessor
from prunnet_hf.pruning.masking import kept_count
from prunnet_hf.retrieval.metrics import LEAVE_ONE_OUT
from prunnet_hf.runs.manifest import write_manifest
from prunnet_hf.runs.run_directory import write_json
from prunnet_hf.training.checkpoints import list_checkpoints
from prunnet_hf.training.step import TrainingStep
from tests.accelerate_state import reset_accelerate
from tests.processes import run_processes
from tests.training.tiny_run import arguments
from tests.training.tiny_run import weights as saved_weights

KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "default": ({}, {}),
    "neuron": ({"scope": "neuron", "after": "continue"}, {"optimizer": "adamw", "learning_rate": 0.001}),
    "one_shot": ({"schedule": "one_shot", "kept_shares": [0.5, 0.25], "rounds": None}, {}),
    "lottery_ticket": ({"schedule": "lottery_ticket", "scope": "layer"}, {"report_to": ["tensorboard"]}),
}
"""Runs of three rounds: what the loop and the training are asked for."""


def prune(photos: Path, run: Path, sap: dict[str, Any] | None = None, **options: Any) -> Trajectory:
    reset_accelerate()
    training = {**SETTLED, "weight_decay": 0.01, "epochs": 1, **options}
    return PruningLoop(arguments(photos, run, **training), SapArguments(**({"rounds": 2} | (sap or {})))).run()


def prunable(run: Path, number: int) -> dict[str, Tensor]:
    names = PrunNetForImageClassification.from_pretrained(run / "rounds" / f"{number:02d}" / "model")
    tensors = load_weights(run, number)
    return {name: tensors[name] for name in names.packable_weights()}


def same(first: Path, second: Path, number: int) -> None:
    """Make sure that two runs agree bit for bit after a round."""
    expected, found = load_weights(first, number), load_weights(second, number)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def untimed(trajectory: Trajectory) -> list[dict[str, Any]]:
    rounds = trajectory.as_dict()["rounds"]
    return [{name: value for name, value in entry.items() if name != "training_seconds"} for entry in rounds]


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes a third of such a run. Only the run `whole` has its picture."""
    monkeypatch.setattr(sap_module, "plot_trajectories", lambda *given, **options: None)


@dataclass(frozen=True)
class Finished:
    """A run that was never interrupted, and the parameters that each round started from. To be left as it is."""

    run: Path
    starts: list[dict[str, Tensor]]


@pytest.fixture(scope="module")
def finished_kind(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Finished]:
    """Finished runs by their kind, each made once."""

    @cache
    def make(kind: str) -> Finished:
        run, starts = tmp_path_factory.mktemp("runs") / kind, []
        backward = TrainingStep.backward

        def note_and_go_back(self: TrainingStep, batch: dict[str, Tensor], step: int, weight: float = 1.0) -> Tensor:
            if step == 0:
                starts.append({name: tensor.detach().clone() for name, tensor in self.model.named_parameters()})
            return backward(self, batch, step, weight)

        sap, options = KINDS[kind]
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(TrainingStep, "backward", note_and_go_back)
            if kind == "default":
                patched.setattr(sap_module, "plot_trajectories", plot_trajectories)
            prune(photos, run, sap, **options)
        reset_accelerate()
        return Finished(run, starts)

    return make


@pytest.fixture(scope="module")
def whole(finished_kind: Callable[[str], Finished]) -> Path:
    """A run of the defaults with two prunings, never interrupted. To be left as it is."""
    return finished_kind("default").run


def test_a_round_leaves_its_network_and_its_figures(whole: Path) -> None:
    assert {path.name for path in whole.iterdir()} == {
        *("initial", "rounds", "config.yaml", "data.json", "trajectory.json", "trajectory.png"),
    }
    assert PrunNetImageProcessor.from_pretrained(whole / "initial").crop_size["height"] == 32
    for number, file in enumerate(["model.safetensors", "model.packed.safetensors", "model.packed.safetensors"]):
        directory = whole / "rounds" / f"{number:02d}"
        assert {path.name for path in directory.iterdir()} == {"model", "round.json"}
        model = PrunNetForImageClassification.from_pretrained(directory / "model")
        entry = json.loads((directory / "round.json").read_text())
        assert (directory / "model" / file).is_file()
        assert (model.config.prunable, model.config.capacity) == (False, entry["capacity"])
        assert len(model.config.embedding_space) == 16
        assert PrunNetImageProcessor.from_pretrained(directory / "model").crop_size["height"] == 32
        weights = prunable(whole, number)
        assert entry["kept_weights"] == sum(int(weight.count_nonzero()) for weight in weights.values())
        assert list(entry["metrics"]) == list(LEAVE_ONE_OUT)


def test_trajectory_has_all_rounds_and_no_folder_of_this_machine(whole: Path) -> None:
    trajectory = read_trajectory(whole)
    assert [entry.number for entry in trajectory.rounds] == [0, 1, 2]
    assert trajectory.run["recipe"]["weight_decay"] == 0.01
    assert trajectory.run["pruning"]["schedule"] == "sap"
    assert {"command", "commit", "versions", "dataset", "protocol"} <= set(trajectory.run)
    assert str(whole.parent) not in (whole / "trajectory.json").read_text()
    assert (whole / "trajectory.png").read_bytes().startswith(b"\x89PNG")


def test_each_round_prunes_what_the_one_before_announced(whole: Path) -> None:
    rounds = read_trajectory(whole).rounds
    assert rounds[0].capacity == 1.0
    assert rounds[0].prunes_next > 0
    for before, after in pairwise(rounds):
        assert after.kept_weights == before.kept_weights - before.prunes_next
    for number in (1, 2):
        masks = masks_of_round(prunable(whole, number - 1), SapArguments(), number)
        for name, weight in prunable(whole, number).items():
            assert torch.equal(weight != 0, masks[name]), name


def test_rewinding_starts_where_the_first_training_did(finished_kind: Callable[[str], Finished]) -> None:
    finished = finished_kind("default")
    initial = saved_weights(finished.run / "initial")
    assert len(finished.starts) == 3
    for number, start in enumerate(finished.starts):
        kept = {name: weight != 0 for name, weight in prunable(finished.run, number).items()}
        assert number == 0 or not all(mask.all() for mask in kept.values())
        for name, tensor in start.items():
            expected = torch.where(kept[name], initial[name], 0.0) if name in kept else initial[name]
            assert torch.equal(tensor, expected), name


def test_continuing_starts_from_the_trained_weights(finished_kind: Callable[[str], Finished]) -> None:
    finished = finished_kind("neuron")
    assert len(finished.starts) == 3
    for number in (1, 2):
        trained, pruned = load_weights(finished.run, number - 1), prunable(finished.run, number)
        for name, tensor in finished.starts[number].items():
            if name in pruned:
                assert torch.equal(tensor, torch.where(pruned[name] != 0, trained[name], 0.0)), name
            elif not name.endswith(".scores"):
                assert torch.equal(tensor, trained[name]), name


@pytest.mark.parametrize("kind", ["default", "neuron", "lottery_ticket"])
def test_pruned_weights_never_come_back(finished_kind: Callable[[str], Finished], kind: str) -> None:
    run = finished_kind(kind).run
    kept = [{name: weight != 0 for name, weight in prunable(run, number).items()} for number in range(3)]
    for before, after in pairwise(kept):
        assert all((before[name] | ~mask).all() and mask.any() for name, mask in after.items())
        assert sum(int(mask.sum()) for mask in after.values()) < sum(int(mask.sum()) for mask in before.values())


def test_lottery_ticket_prunes_its_share_of_each_layer_and_rounds_have_trackers_of_their_own(
    finished_kind: Callable[[str], Finished],
) -> None:
    run = finished_kind("lottery_ticket").run
    counts = [[layer.kept for layer in entry.layers] for entry in read_trajectory(run).rounds]
    for before, after in pairwise(counts):
        assert after == [count - int(0.2 * count) for count in before]
    for number in ("00", "01", "02"):
        assert list((run / "rounds" / number / "logs").rglob("events.out.tfevents.*"))


def test_one_shot_cuts_the_first_network_to_the_shares_asked_for(finished_kind: Callable[[str], Finished]) -> None:
    run = finished_kind("one_shot").run
    rounds = read_trajectory(run).rounds
    total = rounds[0].prunable_weights
    kept = [total, kept_count(0.5, total), kept_count(0.25, total)]
    assert [entry.kept_weights for entry in rounds] == kept
    # Each cut is made from the first network, so its pruned weights are counted from all weights.
    assert [entry.prunes_next for entry in rounds] == [total - kept[1], total - kept[2], 0]
    first = torch.cat([weight.abs().flatten() for weight in prunable(run, 0).values()])
    for number in (1, 2):
        mask = torch.cat([weight.flatten() != 0 for weight in prunable(run, number).values()])
        # Each layer keeps its largest weight, however small.
        assert int((first[mask] < first[~mask].max()).sum()) <= len(rounds[0].layers)


def stop_inside_a_round(
    photos: Path, run: Path, monkeypatch: pytest.MonkeyPatch, number: int, sap: dict[str, Any], **options: Any
) -> None:
    """Run the loop until it is asked to stop, after the second of the three steps of round `number`."""
    update = TrainingStep.update

    def update_and_be_asked(self: TrainingStep, step: int) -> None:
        update(self, step)
        if step == 1 and (run / "rounds" / f"{number - 1:02d}" / "round.json").is_file():
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(TrainingStep, "update", update_and_be_asked)
        with pytest.raises(SystemExit) as stop:
            prune(photos, run, sap, **options)
    assert stop.value.code == 128 + 15
    assert [path.name for path in list_checkpoints(run / "rounds" / f"{number:02d}")] == ["step-2"]


def test_a_run_stopped_inside_a_round_and_between_rounds_goes_on(
    photos: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    stop_inside_a_round(photos, run, monkeypatch, 1, {"rounds": 1})
    prune(photos, run, {"rounds": 1}, resume=True)
    assert not (run / "rounds" / "01" / "checkpoints").exists()
    assert untimed(read_trajectory(run)) == untimed(read_trajectory(whole))[:2]
    assert untimed(prune(photos, run, {"rounds": 2}, resume=True)) == untimed(read_trajectory(whole))
    for number in range(3):
        same(whole, run, number)


@pytest.mark.parametrize("kind", ["neuron", "one_shot"])
def test_a_run_of_any_kind_goes_on(
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    finished_kind: Callable[[str], Finished],
    kind: str,
) -> None:
    never_stopped, run = finished_kind(kind).run, tmp_path / "run"
    shutil.copytree(never_stopped, run)
    shutil.rmtree(run / "rounds" / "02")
    sap, options = KINDS[kind]
    stop_inside_a_round(photos, run, monkeypatch, 2, sap, resume=True, **options)
    found = prune(photos, run, sap, resume=True, **options)
    assert untimed(found) == untimed(read_trajectory(never_stopped))
    same(never_stopped, run, 2)


def test_a_run_killed_before_it_recorded_a_round_does_it_again(photos: Path, tmp_path: Path, whole: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (run / "rounds" / "02" / "round.json").unlink()
    (run / "rounds" / "02" / "model" / "config.json").unlink()
    (run / "rounds" / "01" / "checkpoints").mkdir()  # killed before it tidied up
    assert untimed(prune(photos, run, resume=True)) == untimed(read_trajectory(whole))
    same(whole, run, 2)
    assert not (run / "rounds" / "01" / "checkpoints").exists()


def test_a_run_that_is_done_is_concluded_once_and_not_cut_short(
    photos: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, written = tmp_path / "run", []
    shutil.copytree(whole, run)

    def note_and_write(path: Path, content: dict[str, Any]) -> None:
        written.append((path.name, len(content["rounds"])))
        write_json(path, content)

    monkeypatch.setattr(sap_module, "write_json", note_and_write)
    assert untimed(prune(photos, run, resume=True)) == untimed(read_trajectory(whole))
    assert written == [("trajectory.json", 3)]
    with pytest.raises(ValueError, match=r"rounds.*at least 2.*got 1"):
        prune(photos, run, {"rounds": 1}, resume=True)
    assert len(read_trajectory(run).rounds) == 3


def test_another_recipe_is_not_gone_on_with(photos: Path, whole: Path) -> None:
    with pytest.raises(ValueError, match=r"epochs 1 -> 2, seed 0 -> 1\. .*another output_dir"):
        prune(photos, whole, resume=True, epochs=2, seed=1)


def test_other_images_are_not_gone_on_with(photos: Path, tmp_path: Path, whole: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    shutil.rmtree(run / "rounds" / "02")
    shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "photos/train/train-0").rename(tmp_path / "photos/train/zebra")
    with pytest.raises(ValueError, match=r"--resume .*other images: class 0 was 'train-0' and is 'train-1'"):
        prune(tmp_path / "photos", run, resume=True)
    assert not (run / "rounds" / "02").exists()


def test_training_begins_with_the_checkpoint_to_prune_and_ends_where_nothing_more_is_pruned(
    photos: Path, tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, run = whole / "initial", tmp_path / "run"  # made with seed 0
    training = {**SETTLED, "epochs": 1, "seed": 1}
    loop = PruningLoop(arguments(photos, run, source=source, **training), SapArguments(gamma=0.0, rounds=5))
    begun_with, expected = saved_weights(run / "initial"), saved_weights(source)
    assert all(torch.equal(begun_with[name], tensor) for name, tensor in expected.items() if "running" not in name)
    assert [(entry.number, entry.prunes_next) for entry in loop.run().rounds] == [(0, 0)]
    assert "The schedule prunes nothing more after round 0: the loop ends here." in capsys.readouterr().out


def test_a_directory_in_use_is_refused(photos: Path, whole: Path) -> None:
    with pytest.raises(FileExistsError, match=r"\(config.yaml, .*initial, rounds\).*--resume"):
        prune(photos, whole)


def test_a_network_with_nothing_to_prune_is_refused(photos: Path, tmp_path: Path) -> None:
    run = arguments(photos, tmp_path / "run", **SETTLED)
    run.model.backbone = "resnetv2_50x1_bit"  # its convolutions are of a subclass, which standardises weights
    run.model.backbone_kwargs = '{"channels": [128, 128, 128, 128], "stem_chs": 32}'
    with pytest.raises(ValueError, match=r"backbone='resnetv2_50x1_bit'.*prunable"):
        PruningLoop(run, SapArguments())
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_checkpoint_of_units_is_refused(photos: Path, run_of_units: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^granularity must be 'weight'.*got 'channel'"):
        PruningLoop(arguments(photos, tmp_path, source=run_of_units / "model", **SETTLED), SapArguments())


def test_a_network_with_a_layer_of_zeros_is_refused(photos: Path, tmp_path: Path) -> None:
    loop = PruningLoop(
        arguments(photos, tmp_path / "run", **SETTLED, epochs=1, learning_rate=0.0), SapArguments(rounds=1)
    )
    initial = PrunNetForImageClassification.from_pretrained(tmp_path / "run" / "initial")
    name, layer = next(iter(initial.prunable_layers().items()))
    layer.weight.data.zero_()
    initial.save_pretrained(tmp_path / "run" / "initial")
    write_manifest(tmp_path / "run" / "initial")
    with pytest.raises(ValueError, match=rf"none: {re.escape(name)}\. .*--backbone"):
        loop.run()


class HashingLoop(PruningLoop):
    """Notes the weights that a process has after each round."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.hashes: list[str] = []

    def _measure(self, number: int, plain: PrunNetForImageClassification, *rest: Any) -> Round:
        tensors = [tensor.detach().cpu().numpy().tobytes() for tensor in plain.parameters()]
        self.hashes.append(hashlib.sha256(b"".join(tensors)).hexdigest())
        return super()._measure(number, plain, *rest)


def hashed(photos: Path, run: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """The weights that one of several processes has after each round, and what it returns of the run."""
    training = {**SETTLED, "epochs": 1, "batch_size": 5}
    loop = HashingLoop(arguments(photos, run, **training), SapArguments(rounds=1))
    if not loop.accelerator.is_main_process:  # as another kind of device might rank
        sap_module.masks_of_round = lambda *given: {name: ~mask for name, mask in masks_of_round(*given).items()}
    trajectory = loop.run()
    return loop.hashes, untimed(trajectory)


def test_processes_agree_even_where_they_would_prune_otherwise(photos: Path, tmp_path: Path) -> None:
    first, second = run_processes(2, hashed, photos, tmp_path / "run", folder=tmp_path)
    assert len(set(first[0])) == len(first[1]) == 2
    assert first == second


def test_the_command_prints_the_rounds(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--dataset", "image_folder", "--data_dir", str(photos), "--image_size", "32", "--resize", "32"]
    flags += ["--backbone", "resnet10t", "--backbone_kwargs", '{"channels": [4, 4, 8, 8], "stem_width": 4}']
    flags += ["--embedding_dim", "8", "--epochs", "1", "--batch_size", "10", "--num_workers", "0", "--rounds", "1"]
    monkeypatch.setattr(sys, "argv", ["sap.py", *flags, "--output_dir", str(tmp_path / "run")])
    monkeypatch.delitem(sys.modules, "prunnet_hf.compression.sap")  # or runpy warns that it is there already
    with pytest.raises(SystemExit, match=r"^0$"):
        runpy.run_module("prunnet_hf.compression.sap", run_name="__main__", alter_sys=True)  # as `python -m` does
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines if line.startswith("round ")] == [
        *("round 0, epoch 1 of 1", "round 0", "round 1, epoch 1 of 1", "round 1")
    ]
    assert [line.split(" | ")[0] for line in lines if line.startswith("| ")] == ["| round", "| 0", "| 1"]
    command = read_trajectory(tmp_path / "run").run["command"]
    assert command.startswith("-m prunnet_hf.compression.sap --dataset image_folder --data_dir DIR")
