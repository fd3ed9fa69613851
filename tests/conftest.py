"""What every test relies on: no network, one thread a process, and no deadline on a busy machine."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tests.hub_server import HubServer

# Read when torch, matplotlib and huggingface_hub are first imported, which is after this file.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("prunnet", deadline=None)
settings.load_profile("prunnet")


@pytest.fixture(scope="module", autouse=True)
def small_heap() -> None:
    """Accelerate collects garbage after each run. Leaving out what is imported by now saves 0.3 s each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    """Accelerate keeps one state for the whole process, which the next test must not inherit."""
    yield
    if "accelerate.state" in sys.modules:
        from tests.accelerate_state import reset_accelerate

        reset_accelerate()


@pytest.fixture(autouse=True)
def progress_bars_are_on() -> Iterator[None]:
    """Commands turn off transformers' progress bars, which stay off for the process they run in."""
    yield
    if "transformers.utils.logging" in sys.modules:
        from transformers.utils.logging import enable_progress_bar, is_progress_bar_enabled

        if not is_progress_bar_enabled():
            enable_progress_bar()


@pytest.fixture(scope="module")
def snippets_run_here() -> Iterator[None]:
    """The snippets of cards run in this process: starting Python for each of them takes most of a test's time."""
    from tests.hub.snippets import run_here

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prunnet_hf.hub.card.run_code", run_here)
        yield


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny image folder that training learns something from. No test may change it."""
    from tests.training.tiny_run import make_photos

    return make_photos(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="session")
def finished(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on `photos` with a checkpoint for each of its six steps and TensorBoard. No test may change it."""
    from tests.accelerate_state import reset_accelerate
    from tests.training.tiny_run import arguments, train

    run = tmp_path_factory.mktemp("runs") / "with-checkpoints"
    train(arguments(photos, run, checkpoint_steps=1, keep_checkpoints=6, report_to=["tensorboard"]))
    reset_accelerate()
    return run


@pytest.fixture(scope="session")
def streamed(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `finished`, but its images are read as streams by two workers. No test may change it."""
    from tests.accelerate_state import reset_accelerate
    from tests.training.tiny_run import arguments, train

    run = tmp_path_factory.mktemp("runs") / "streamed"
    data = {"streaming": True, "num_workers": 2}
    train(arguments(photos, run, data, checkpoint_steps=1, keep_checkpoints=6))
    reset_accelerate()
    return run


@pytest.fixture(scope="session")
def client_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image folder whose training classes have names that are nobody's business. To be left as it is."""
    from tests.finished_runs import make_photos

    return make_photos(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="session")
def finished_run(client_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that trained capacities 0.2 and 0.5, and evaluated 0.3 and 1 besides. To be left as it is."""
    from tests.finished_runs import train_run

    return train_run(client_photos, tmp_path_factory.mktemp("runs") / "finished", "prunnet", [0.2, 0.5])


@pytest.fixture(scope="session")
def run_of_units(client_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `finished_run`, but its capacities are of whole units. To be left as it is."""
    from tests.finished_runs import train_run

    run = tmp_path_factory.mktemp("runs") / "units"
    return train_run(client_photos, run, "prunnet", [0.2, 0.5], granularity="channel", width=32)


@pytest.fixture(scope="session")
def independent_run(client_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one network at capacity 0.2, which can't be pruned. To be left as it is."""
    from tests.finished_runs import train_run

    return train_run(client_photos, tmp_path_factory.mktemp("runs") / "independent", "independent", [0.2])


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub of its own for the test, which the client of this process is signed in to; its cache is empty."""
    # Both import the client, which reads the environment set above.
    from tests.hub_client import use_hub
    from tests.hub_server import HubServer

    with HubServer() as server:
        use_hub(server, tmp_path / "hf_home", monkeypatch)
        yield server
