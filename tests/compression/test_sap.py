"""The pruning loop on a tiny image folder: what it prunes, what it leaves, and how it is stopped and resumed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from prunnet_hf import PrunNetForImageClassification
from prunnet_hf.compression import sap as sap_module
from prunnet_hf.compression.round_files import load_weights
from prunnet_hf.compression.sap import PruningLoop
from prunnet_hf.compression.sap_arguments import SETTLED, SapArguments
from prunnet_hf.compression.schedules import masks_of_round
from prunnet_hf.compression.trajectory import Round, Trajectory, read_trajectory
from prunnet_hf.image_processing_prunnet import PrunNetImageProcessor
from prunnet_hf.pruning.masking import kept_count
from prunnet_hf.runs.run_directory import write_json
from prunnet_hf.training.checkpoints import list_checkpoints
from prunnet_hf.training.step import TrainingStep
from tests.accelerate_state import reset_accelerate
from tests.processes import run_processes
from tests.training.tiny_run import arguments, train_quietly
from tests.training.tiny_run import weights as saved_weights

ROOT = Path(__file__).parents[2]


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


@pytest.fixture(scope="module")
def whole(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the defaults with two prunings, never interrupted. To be left as it is."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    prune(photos, run)
    return run


def test_a_round_leaves_its_network_and_its_figures(whole: Path) -> None:
    assert {path.name for path in whole.iterdir()} == {
        *("initial", "rounds", "config.yaml", "trajectory.json", "trajectory.png"),
    }
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
        assert list(entry["metrics"]) == ["mAP", "recall@1"]


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


def test_rewinding_starts_where_the_first_training_did(photos: Path, tmp_path: Path, whole: Path) -> None:
    rewound = tmp_path / "rewound"
    prune(photos, rewound, {"rounds": 1}, learning_rate=0.0)  # training that changes nothing but statistics
    initial = saved_weights(rewound / "initial")
    first = prunable(rewound, 1)
    assert any((weight == 0).any() for weight in first.values())
    for name, weight in first.items():
        assert torch.equal(weight, torch.where(weight != 0, initial[name], 0.0)), name


def test_continuing_starts_from_the_trained_weights(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[dict[str, Tensor]] = []
    backward = TrainingStep.backward

    def note_and_go_back(self: TrainingStep, batch: dict[str, Tensor], step: int, weight: float = 1.0) -> Tensor:
        if step == 0:
            started.append({name: tensor.detach().clone() for name, tensor in self.model.named_parameters()})
        return backward(self, batch, step, weight)

    monkeypatch.setattr(TrainingStep, "backward", note_and_go_back)
    prune(photos, tmp_path / "run", {"rounds": 1, "after": "continue"})
    trained, second = load_weights(tmp_path / "run", 0), prunable(tmp_path / "run", 1)
    assert len(started) == 2
    for name, tensor in started[1].items():
        if name in second:
            assert torch.equal(tensor, torch.where(second[name] != 0, trained[name], 0.0)), name
        elif not name.endswith(".scores"):
            assert torch.equal(tensor, trained[name]), name


@pytest.mark.parametrize(
    ("sap", "optimizer"),
    [
        ({"scope": "neuron"}, "adamw"),
        ({"scope": "layer", "after": "continue"}, "sgd"),
        ({"schedule": "lottery_ticket"}, "sgd"),
    ],
)
def test_kept_weights_never_come_back(photos: Path, tmp_path: Path, sap: dict[str, Any], optimizer: str) -> None:
    rate = {"sgd": 0.1, "adamw": 0.001}[optimizer]
    trajectory = prune(photos, tmp_path / "run", sap, optimizer=optimizer, learning_rate=rate)
    kept = [{name: weight != 0 for name, weight in prunable(tmp_path / "run", number).items()} for number in range(3)]
    for before, after in pairwise(kept):
        assert all((before[name] | ~mask).all() and mask.any() for name, mask in after.items())
    if "schedule" in sap:
        counts = [entry.kept_weights for entry in trajectory.rounds]
        assert counts[1:] == [count - int(0.2 * count) for count in counts[:-1]]


def test_one_shot_cuts_the_first_network_to_the_shares_asked_for(photos: Path, tmp_path: Path) -> None:
    sap = {"schedule": "one_shot", "kept_shares": [0.25, 0.5], "rounds": None}
    trajectory = prune(photos, tmp_path / "run", sap)
    total = trajectory.rounds[0].prunable_weights
    kept = [total, kept_count(0.5, total), kept_count(0.25, total)]
    assert [entry.kept_weights for entry in trajectory.rounds] == kept
    # Each cut is one of the first network, so what the next prunes is counted from all weights.
    assert [entry.prunes_next for entry in trajectory.rounds] == [total - kept[1], total - kept[2], 0]
    first = torch.cat([weight.abs().flatten() for weight in prunable(tmp_path / "run", 0).values()])
    for number in (1, 2):
        mask = torch.cat([weight.flatten() != 0 for weight in prunable(tmp_path / "run", number).values()])
        layers = len(trajectory.rounds[0].layers)  # of which each keeps its largest, however small
        assert int((first[mask] < first[~mask].max()).sum()) <= layers


def test_a_schedule_that_prunes_nothing_more_ends_the_loop(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trajectory = prune(photos, tmp_path / "run", {"gamma": 0.0, "rounds": 5})
    assert [entry.prunes_next for entry in trajectory.rounds] == [0]
    assert "The schedule prunes nothing more after round 0: the loop ends here." in capsys.readouterr().out


def test_a_run_stopped_between_rounds_goes_on(photos: Path, tmp_path: Path, whole: Path) -> None:
    run = tmp_path / "run"
    prune(photos, run, {"rounds": 1})
    trajectory = prune(photos, run, {"rounds": 2}, resume=True)
    assert untimed(trajectory) == untimed(read_trajectory(whole))
    same(whole, run, 2)


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


def stop_amid_the_second_round(
    photos: Path, run: Path, monkeypatch: pytest.MonkeyPatch, sap: dict[str, Any] | None = None, **options: Any
) -> None:
    """A run that is asked to stop after the second of three steps of the second round."""
    updates: list[int] = []
    update = TrainingStep.update

    def update_and_be_asked(self: TrainingStep, step: int) -> None:
        update(self, step)
        updates.append(step)
        if updates == [0, 1, 2, 0, 1]:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(TrainingStep, "update", update_and_be_asked)
        with pytest.raises(SystemExit) as stop:
            prune(photos, run, sap, **options)
    assert stop.value.code == 128 + 15
    assert [path.name for path in list_checkpoints(run / "rounds" / "01")] == ["step-2"]


def test_a_run_stopped_amid_a_round_goes_on(
    photos: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    stop_amid_the_second_round(photos, run, monkeypatch)
    assert untimed(prune(photos, run, resume=True)) == untimed(read_trajectory(whole))
    for number in range(3):
        same(whole, run, number)
    assert not (run / "rounds" / "01" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("sap", "options"),
    [
        ({"scope": "neuron", "after": "continue"}, {"optimizer": "adamw", "learning_rate": 0.001}),
        ({"schedule": "one_shot", "kept_shares": [0.5, 0.25], "rounds": None}, {}),
    ],
)
def test_a_run_of_any_kind_goes_on(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sap: dict[str, Any], options: dict[str, Any]
) -> None:
    stop_amid_the_second_round(photos, tmp_path / "stopped", monkeypatch, sap, **options)
    found = prune(photos, tmp_path / "stopped", sap, resume=True, **options)
    assert untimed(found) == untimed(prune(photos, tmp_path / "never stopped", sap, **options))
    for number in range(3):
        same(tmp_path / "never stopped", tmp_path / "stopped", number)


def test_another_recipe_is_not_gone_on_with(photos: Path, whole: Path) -> None:
    with pytest.raises(ValueError, match=r"epochs 1 -> 2, seed 0 -> 1\. .*another output_dir"):
        prune(photos, whole, resume=True, epochs=2, seed=1)


def test_checkpoint_to_prune_is_where_training_begins(photos: Path, tmp_path: Path) -> None:
    source = tmp_path / "dense"
    train_quietly(arguments(photos, source, epochs=1))
    reset_accelerate()
    training = {**SETTLED, "epochs": 1}
    loop = PruningLoop(
        arguments(photos, tmp_path / "run", source=source / "model", **training), SapArguments(rounds=1)
    )
    begun_with, expected = saved_weights(tmp_path / "run" / "initial"), saved_weights(source / "model")
    names = [name for name in expected if name.endswith((".weight", ".bias"))]
    assert all(torch.equal(begun_with[name], expected[name]) for name in names)
    assert [entry.number for entry in loop.run().rounds] == [0, 1]


def test_rounds_have_trackers_of_their_own(photos: Path, tmp_path: Path) -> None:
    prune(photos, tmp_path / "run", {"rounds": 1}, report_to=["tensorboard"])
    for number in ("00", "01"):
        assert list((tmp_path / "run" / "rounds" / number / "logs").rglob("events.out.tfevents.*"))


def test_a_directory_in_use_is_refused(photos: Path, whole: Path) -> None:
    with pytest.raises(FileExistsError, match=r"\(config.yaml, initial, rounds\).*--resume"):
        prune(photos, whole)


def test_a_network_with_nothing_to_prune_is_refused(photos: Path, tmp_path: Path) -> None:
    run = arguments(photos, tmp_path / "run", **SETTLED)
    run.model.backbone = "resnetv2_50x1_bit"  # its convolutions are of a subclass, which standardises weights
    run.model.backbone_kwargs = '{"channels": [128, 128, 128, 128], "stem_chs": 32}'
    with pytest.raises(ValueError, match=r"backbone='resnetv2_50x1_bit'.*prunable"):
        PruningLoop(run, SapArguments())
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_network_with_a_layer_of_zeros_is_refused(photos: Path, tmp_path: Path) -> None:
    loop = PruningLoop(
        arguments(photos, tmp_path / "run", **SETTLED, epochs=1, learning_rate=0.0), SapArguments(rounds=1)
    )
    initial = PrunNetForImageClassification.from_pretrained(tmp_path / "run" / "initial")
    name, layer = next(iter(initial.prunable_layers().items()))
    layer.weight.data.zero_()
    initial.save_pretrained(tmp_path / "run" / "initial")
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


def test_the_command_prints_the_rounds(photos: Path, tmp_path: Path) -> None:
    flags = ["--dataset", "image_folder", "--data_dir", str(photos), "--image_size", "32", "--resize", "32"]
    flags += ["--backbone", "resnet10t", "--backbone_kwargs", '{"channels": [4, 4, 8, 8], "stem_width": 4}']
    flags += ["--embedding_dim", "8", "--epochs", "1", "--batch_size", "10", "--num_workers", "0", "--rounds", "1"]
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "--quiet", "-m"]
    result = subprocess.run(
        [*command, "prunnet_hf.compression.sap", *flags, "--output_dir", str(tmp_path / "run")],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines if line.startswith("round ")] == ["round 0", "round 1"]
    assert [line.split(" | ")[0] for line in lines if line.startswith("| ")] == ["| round", "| 0", "| 1"]
    assert (
        read_trajectory(tmp_path / "run")
        .run["command"]
        .startswith("-m prunnet_hf.compression.sap --dataset image_folder --data_dir DIR")
    )
