"""What tests of training share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from accelerate.state import GradientState

from prunnet_hf.training.engine import train
from tests.training.tiny_run import arguments
from tests.training.tiny_run import make_photos


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    """Accelerate keeps one state a process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="session")
def finished(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a checkpoint an epoch and TensorBoard."""
    run = tmp_path_factory.mktemp("runs") / "finished"
    train(arguments(photos, run, checkpoint_every=1, report_to=["tensorboard"]))
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    return run
