"""Runs as users start them, stopped as schedulers and terminals do it: every process is signalled, or the launcher."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from prunnet_hf.training.checkpoints import list_checkpoints
from prunnet_hf.training.state_files import what_is_wrong

ROOT = Path(__file__).parents[2]
SCRIPT = [sys.executable, "train_accelerate.py"]
LAUNCHED = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", SCRIPT[1]]
OPTIONS = {
    "dataset": "image_folder",
    "image_size": 32,
    "resize": 32,
    "num_workers": 2,
    "backbone": "resnet10t",
    "backbone_kwargs": '{"channels": [4, 4, 8, 8], "stem_width": 4}',
    "embedding_dim": 8,
    "capacities": 0.5,
    "batch_size": 4,
    "epochs": 100_000,
    "checkpoint_steps": 5,
}


def start(command: list[str], photos: Path, run: Path, **options: object) -> subprocess.Popen[str]:
    settings = {**OPTIONS, "data_dir": photos, "output_dir": run, **options}
    return subprocess.Popen(
        [*command, *(f"--{name}={value}" for name, value in settings.items())],
        cwd=ROOT,
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_a_checkpoint(run: Path, process: subprocess.Popen[str]) -> None:
    while not list_checkpoints(run):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("number", "options", "phase"),
    [(signal.SIGTERM, {}, "dense"), (signal.SIGINT, {"streaming": True, "dense_epochs": 0}, "")],
    ids=["SIGTERM, first phase", "SIGINT, streams"],
)
def test_a_signal_to_all_processes_saves_in_spite_of_two_workers(
    photos: Path, tmp_path: Path, number: int, options: dict[str, object], phase: str
) -> None:
    process = start(SCRIPT, photos, tmp_path / "run", **options)
    wait_for_a_checkpoint(tmp_path / "run" / phase, process)
    os.killpg(process.pid, number)
    _, told = process.communicate(timeout=120)  # against hanging
    assert process.returncode == 128 + number, told
    newest = list_checkpoints(tmp_path / "run" / phase)[-1]
    assert f"Stopped by {signal.Signals(number).name}: step {newest.name[5:]} is saved; continue with" in told
    assert "Traceback" not in told
    assert what_is_wrong(newest) is None
    with pytest.raises(ProcessLookupError):  # nobody is left
        os.killpg(process.pid, 0)


def test_a_training_stops_when_its_launcher_is_gone(photos: Path, tmp_path: Path) -> None:
    process = start(LAUNCHED, photos, tmp_path / "run", dense_epochs=0)
    wait_for_a_checkpoint(tmp_path / "run", process)
    process.terminate()
    _, told = process.communicate(timeout=120)  # ends when the training has closed its end too
    newest = list_checkpoints(tmp_path / "run")[-1]
    expected = f"Stopped as the process that started it is gone: step {newest.name[5:]} is saved; continue with"
    assert expected in told
    assert expected in (tmp_path / "run/training.log").read_text()
    assert what_is_wrong(newest) is None
