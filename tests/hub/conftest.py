"""One small finished run for the tests of this room, trained once by the training code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from accelerate.state import AcceleratorState
from accelerate.state import GradientState
from PIL import Image

from prunnet_hf.training.arguments import DataArguments
from prunnet_hf.training.arguments import ModelArguments
from prunnet_hf.training.arguments import RunArguments
from prunnet_hf.training.arguments import TrainArguments
from prunnet_hf.training.engine import train

TRAINED, EVALUATED = (0.2, 0.5), (0.2, 0.3, 0.5, 1.0)


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


def train_run(photos: Path, run: Path, method: str, capacities: tuple[float, ...]) -> Path:
    data = DataArguments(
        dataset="image_folder", data_dir=str(photos), image_size=32, resize=32, augmentation="crop", num_workers=0
    )
    model = ModelArguments(
        backbone="resnet10t", backbone_kwargs='{"channels": [4, 4, 8, 8], "stem_width": 4}', embedding_dim=8
    )
    training = TrainArguments(
        output_dir=str(run),
        method=method,
        capacities=list(capacities),
        eval_capacities=[0.3] if method == "prunnet" else [],
        epochs=1,
        batch_size=4,
        calibration_images=8,
    )
    train(RunArguments(model, data, training))
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    return run


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="session")
def finished_run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `TRAINED` capacities that also evaluated 0.3. To be left as it is."""
    return train_run(photos, tmp_path_factory.mktemp("runs") / "finished", "prunnet", TRAINED)


@pytest.fixture(scope="session")
def independent_run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one network at capacity 0.2, which can't be pruned. To be left as it is."""
    return train_run(photos, tmp_path_factory.mktemp("runs") / "independent", "independent", (0.2,))
