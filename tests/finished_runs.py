"""Small finished runs, trained by the training code, for tests of what is done with them afterwards."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from prunnet_hf.runs.arguments import DataArguments, ModelArguments, RunArguments, TrainArguments
from prunnet_hf.training.engine import train
from tests.accelerate_state import reset_accelerate


def make_photos(root: Path) -> Path:
    """Noise: two classes of four images for training, two others for testing."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("secret-client", "other-client"):
            folder = root / split / f"{split}-{name}"
            folder.mkdir(parents=True)
            for index in range(4):
                Image.fromarray(rng.integers(0, 256, (32, 32, 3)).astype(np.uint8)).save(folder / f"{index}.png")
    return root


def train_run(
    photos: Path, run: Path, method: str, capacities: list[float], *, granularity: str = "weight", width: int = 8
) -> Path:
    """A run on `photos`; one by PrunNet also evaluates capacity 0.3.

    Args:
        photos: What `make_photos` made.
        run: The run directory.
        method: How to train.
        capacities: Those to train.
        granularity: What they are a share of.
        width: How many channels the last two blocks have.
    """
    data = DataArguments(
        dataset="image_folder", data_dir=str(photos), image_size=32, resize=32, augmentation="crop", num_workers=0
    )
    model = ModelArguments(
        backbone="resnet10t",
        backbone_kwargs=json.dumps({"channels": [4, 4, width, width], "stem_width": 4}),
        embedding_dim=8,
        granularity=granularity,
    )
    training = TrainArguments(
        output_dir=str(run),
        method=method,
        capacities=capacities,
        eval_capacities=[0.3] if method == "prunnet" else [],
        epochs=1,
        batch_size=4,
        calibration_images=8,
    )
    train(RunArguments(model, data, training))
    reset_accelerate()
    return run
