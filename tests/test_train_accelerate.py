"""The training script, launched as a user launches it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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
import time
from pathlib import Path

from prunnet_hf.training.step import TrainingStep

how, script, time_of_death, *sys.argv[1:] = sys.argv[1:]
update = TrainingStep.update

def update_or_die(self, step):
    if step == 1 and os.environ["RANK"] == "1":
        Path(time_of_death).write_text(str(time.time()))
        if how == "by SIGKILL":
            os.kill(os.getpid(), signal.SIGKILL)
        raise RuntimeError("this process has lost its way")
    update(self, step)

TrainingStep.update = update_or_die
runpy.run_path(script, run_name="__main__")
"""
"""The training script, on one of whose processes training ends in the second step."""


def launch(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "--quiet"]
    return subprocess.run(
        [*command, "train_accelerate.py", *flags],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def make_photos(root: Path) -> Path:
    """Noise: two classes of four images for training and as many for testing."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for number in range(2):
            folder = root / split / f"{split}-{number}"
            folder.mkdir(parents=True)
            for index in range(4):
                Image.fromarray(rng.integers(0, 256, (32, 32, 3)).astype(np.uint8)).save(folder / f"{index}.png")
    return root


def run_flags(folder: Path) -> list[str]:
    """Of a run in `folder` on photos made there."""
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    photos = make_photos(folder / "photos")
    return ["--config", str(folder / "recipe.yaml"), "--data_dir", str(photos), "--output_dir", str(folder / "run")]


def test_launch_trains_and_writes_the_run_with_its_card(tmp_path: Path) -> None:
    run = tmp_path / "run"

    result = launch(*run_flags(tmp_path), "--epochs", "1")

    assert result.returncode == 0, result.stderr
    assert {path.name for path in run.iterdir()} == {
        *("model", "subnetworks", "metrics.json", "compatibility.png", "curve.png", "README.md", "config.yaml"),
        *("usage.json", "compressibility.json", "compressibility.png"),
    }
    found = json.loads((run / "metrics.json").read_text())
    assert found["command"].startswith("train_accelerate.py --config")
    # The matrix of the headline, self-test and cross-test by all metrics, then three lines that sum up.
    assert "mAP (%)         gallery capacity" in result.stdout
    assert "(%)           capacity     mAP  recall@1" in result.stdout
    last = result.stdout.strip().splitlines()[-3:]
    assert [line.split(":")[0] for line in last] == [
        "capacity 1.00",
        "capacity 0.50",
        "model, subnetworks, metrics.json, compatibility.png and the card",
    ]
    assert "Writing model shards" not in result.stderr
    # The card's snippet ran with the model that was just trained.
    assert "It was run when this card was made" in (run / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("how", "exit_code", "what_is_told"),
    [
        ("by an error", 1, "[rank1]: RuntimeError: this process has lost its way"),
        ("by SIGKILL", -9, "Signal 9 (SIGKILL) received by PID"),
    ],
    ids=["by an error", "by SIGKILL"],
)
def test_process_that_dies_takes_the_others_down_and_is_named(
    tmp_path: Path, how: str, exit_code: int, what_is_told: str
) -> None:
    dying, time_of_death = tmp_path / "dying.py", tmp_path / "time_of_death"
    dying.write_text(DYING, encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(dying)]
    result = subprocess.run(
        [*command, how, "train_accelerate.py", str(time_of_death), *run_flags(tmp_path), "--epochs", "1000"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    seconds = time.time() - float(time_of_death.read_text())
    assert result.returncode != 0
    assert what_is_told in result.stderr
    assert re.search(rf"rank +: 1 \(local_rank: 1\)\n +exitcode +: {exit_code} ", result.stderr)
    assert not (tmp_path / "run" / "metrics.json").exists()
    assert seconds < 60  # the other process would wait for this one for 12 hours
