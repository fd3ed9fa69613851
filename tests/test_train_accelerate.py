"""The training script, launched as a user launches it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
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


def test_launch_trains_and_writes_the_run_with_its_card(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for number in range(2):
            folder = tmp_path / "photos" / split / f"{split}-{number}"
            folder.mkdir(parents=True)
            for index in range(4):
                Image.fromarray(rng.integers(0, 256, (32, 32, 3)).astype(np.uint8)).save(folder / f"{index}.png")
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    run = tmp_path / "run"

    result = launch(
        *("--config", str(tmp_path / "recipe.yaml"), "--data_dir", str(tmp_path / "photos")),
        *("--epochs", "1", "--output_dir", str(run)),
    )

    assert result.returncode == 0, result.stderr
    assert {path.name for path in run.iterdir()} == {
        *("model", "subnetworks", "metrics.json", "compatibility.png", "README.md", "config.yaml"),
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
