"""The training script, launched as a user launches it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.launch import launch_command, launch_command_parser

from prunnet_hf.runs.record import RunRecord
from prunnet_hf.training.step import TrainingStep
from tests.processes import start_processes
from tests.training.tiny_run import arguments, train_quietly

ROOT = Path(__file__).parents[1]

RECIPE = """
dataset: image_folder
image_size: 32
resize: 32
augmentation: crop
backbone: resnet10t
backbone_kwargs: {channels: [4, 4, 8, 8], stem_width: 4}
embedding_dim: 8
capacities: [0.5]
eval_capacities: []
batch_size: 4
num_workers: 0
calibration_images: 8
"""

DYING = """
import os
import runpy
import signal
import sys

from prunnet_hf.training.step import TrainingStep

update = TrainingStep.update

def update_or_die(self, step):
    if step == 1 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    update(self, step)

TrainingStep.update = update_or_die
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""The training script; one of its processes is killed in the second step."""


def run_flags(photos: Path, folder: Path) -> list[str]:
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    return ["--config", str(folder / "recipe.yaml"), "--data_dir", str(photos), "--output_dir", str(folder / "run")]


def test_launch_trains_and_writes_the_run_with_its_card(
    client_photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    monkeypatch.chdir(ROOT)
    launcher = ["--cpu", "--num_processes", "1", "--quiet"]
    script = ["train_accelerate.py", *run_flags(client_photos, tmp_path), "--epochs", "1"]
    launch_command(launch_command_parser().parse_args([*launcher, *script]))  # leaves with an error if the script does
    printed = capfd.readouterr()
    assert {path.name for path in run.iterdir()} == {
        *(
            "dense",
            "model",
            "subnetworks",
            "metrics.json",
            "compatibility.png",
            "curve.png",
            "README.md",
            "config.yaml",
        ),
        "examples.png",
        *("usage.json", "compressibility.json", "compressibility.png", "checkpoints", "training.log"),
    }
    record = RunRecord.read(run / "metrics.json")
    assert record.command.startswith("train_accelerate.py --config")
    assert record.method == "distilled"
    assert record.training_seconds > json.loads((run / "dense" / "phase.json").read_text())["seconds"] > 0
    assert re.search("^dense network, epoch 1 of 1: loss capacity-1.00 .*^epoch 1 of 1: ", printed.out, re.M | re.S)
    # The matrix of the headline, self-test and cross-test by all metrics, then lines that sum up.
    assert "mAP (%)         gallery capacity" in printed.out
    assert "(%)           capacity     mAP  recall@1" in printed.out
    last = printed.out.strip().splitlines()[-4:]
    assert [line.split(":")[0] for line in last] == [
        "capacity 1.00",
        "capacity 0.50",
        "model, subnetworks, metrics.json, compatibility.png and the card",
        "a picture of what they find",
    ]
    assert last[-1].endswith(f": {run / 'examples.png'}")
    assert "](examples.png)" in (run / "README.md").read_text(encoding="utf-8")
    assert "Method `distilled`: The dense network is trained alone first." in (run / "README.md").read_text("utf-8")
    assert "Writing model shards" not in printed.err
    # The card's snippet ran with the model that was just trained.
    assert "It was run when this card was made" in (run / "README.md").read_text(encoding="utf-8")


def test_process_that_is_killed_takes_the_others_down_and_is_named(client_photos: Path, tmp_path: Path) -> None:
    dying = tmp_path / "dying.py"
    dying.write_text(DYING, encoding="utf-8")
    launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = [str(dying), "train_accelerate.py", *run_flags(client_photos, tmp_path), "--epochs", "1000"]
    result = subprocess.run(
        [sys.executable, "-m", *launcher, *script],
        cwd=ROOT,
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,  # guards against hanging: the other process would wait for the dead one for 12 hours
        check=False,
    )
    assert result.returncode != 0
    assert "Signal 9 (SIGKILL) received by PID" in result.stderr
    assert re.search(rf"rank +: 1 \(local_rank: 1\)\n +exitcode +: {-signal.SIGKILL} ", result.stderr)
    assert not (tmp_path / "run" / "metrics.json").exists()


def train_and_lose_the_way(photos: Path, folder: Path) -> None:
    """Training that fails on one of two processes in the second step."""
    rank, update = os.environ["RANK"], TrainingStep.update

    def update_or_fail(step: TrainingStep, number: int) -> None:
        if number == 1 and rank == "1":
            raise RuntimeError("this process has lost its way")
        update(step, number)

    TrainingStep.update = update_or_fail
    train_quietly(arguments(photos, folder / "run", batch_size=5, epochs=1000))


def test_process_that_fails_takes_the_others_down(photos: Path, tmp_path: Path) -> None:
    processes = start_processes(2, train_and_lose_the_way, photos, tmp_path, folder=tmp_path)
    for process in processes:
        process.join(600)
    assert [process.exitcode for process in processes] == [1, 1]
    assert not (tmp_path / "run" / "metrics.json").exists()
