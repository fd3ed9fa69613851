"""A tiny image folder, and runs on it that take seconds."""

from __future__ import annotations

import json
import os
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from prunnet_hf.configuration_prunnet import Granularity
from prunnet_hf.runs.arguments import DataArguments, ModelArguments, RunArguments, TrainArguments
from prunnet_hf.runs.run_data import load_run_data
from prunnet_hf.training.engine import create_accelerator, train
from prunnet_hf.training.trainer import Trainer

TRAIN_CLASSES, TRAIN_IMAGES = 5, 6
TEST_CLASSES, TEST_IMAGES = 3, 3


def make_photos(root: Path, train_classes: int = TRAIN_CLASSES) -> Path:
    """A folder for each class, which has its own coarse pattern under a little noise."""
    rng = np.random.default_rng(0)
    for split, classes, images in (("train", train_classes, TRAIN_IMAGES), ("test", TEST_CLASSES, TEST_IMAGES)):
        for number in range(classes):
            folder = root / split / f"{split}-{number}"
            folder.mkdir(parents=True)
            pattern = np.kron(rng.integers(0, 200, (4, 4, 3)), np.ones((8, 8, 1)))
            for index in range(images):
                noisy = pattern + rng.integers(0, 55, pattern.shape)
                Image.fromarray(noisy.astype(np.uint8)).save(folder / f"{index}.png")
    return root


def arguments(
    photos: Path,
    output_dir: Path,
    data: dict[str, object] | None = None,
    source: Path | None = None,
    granularity: Granularity | None = None,
    method: str = "prunnet",
    **options: object,
) -> RunArguments:
    """A run of two epochs of three steps, unless `options` change that."""
    model = ModelArguments(
        model_name_or_path=None if source is None else str(source),
        backbone="resnet10t",
        # Dropout draws random numbers: runs that are resumed have to go on with the same ones.
        backbone_kwargs={"channels": [8, 8, 16, 16], "stem_width": 4, "drop_rate": 0.1},
        embedding_dim=8,
        pretrained_backbone=False,
        granularity=granularity or (None if source else "weight"),
    )
    folder = {"dataset": "image_folder", "data_dir": str(photos), "image_size": 32, "resize": 32, "num_workers": 0}
    defaults = {
        "method": method,
        "epochs": 2,
        "batch_size": 10,
        "capacities": [0.2, 0.5],
        "eval_capacities": [0.3],
        "calibration_images": 16,
        "log_every": 1,
    }
    settings = TrainArguments(output_dir=str(output_dir), **(defaults | options))
    return RunArguments(model, DataArguments(**(folder | {"augmentation": "crop_flip"} | (data or {}))), settings)


def trainer(run: RunArguments) -> Trainer:
    return Trainer(run, create_accelerator(run), load_run_data(run))


def weights(model: Path) -> dict[str, torch.Tensor]:
    return load_file(model / "model.safetensors")


def metrics(run: Path) -> dict[str, object]:
    return json.loads((run / "metrics.json").read_text())


def train_quietly(run: RunArguments) -> None:
    torch.set_num_threads(1)
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        train(run)
