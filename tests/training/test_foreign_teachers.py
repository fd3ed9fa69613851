"""Teachers that aren't ours: a run is trained into the space of timm's and transformers' models, and of functions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prunnet_hf import Gallery, encode_folder
from prunnet_hf.retrieval.foreign_encoders import ForeignEncoder, foreign_encoder, load_foreign_encoder
from prunnet_hf.runs.run_data import load_run_data
from prunnet_hf.training.engine import create_accelerator
from prunnet_hf.training.known_space import open_space
from prunnet_hf.training.trainer import Trainer
from tests.accelerate_state import reset_accelerate
from tests.foreign_models import save_timm, save_transformers
from tests.training.tiny_run import arguments, make_photos, trainer


@pytest.fixture(autouse=True)
def fresh_accelerate() -> None:
    reset_accelerate()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("photos"))


def colours() -> ForeignEncoder:
    def mean_colours(images: list[Image.Image]) -> list[np.ndarray]:
        return [np.asarray(image, dtype=np.float64).mean(axis=(0, 1)) for image in images]

    return foreign_encoder(mean_colours, name="colours", revision="1")


@pytest.mark.parametrize("kind", ["timm", "vit", "folder", "function"])
def test_targets_are_what_the_model_itself_says_of_images_as_they_are(photos: Path, tmp_path: Path, kind: str) -> None:
    name = {
        "timm": lambda: save_timm(tmp_path / "model"),
        "vit": lambda: save_transformers(tmp_path / "model", "vit"),
        "folder": lambda: save_transformers(tmp_path / "model", "vit").removeprefix("transformers:"),
        "function": lambda: "colours",
    }[kind]()
    run = arguments(photos, tmp_path / "run", teacher=name)
    run.model.embedding_dim = None
    held = colours() if kind == "function" else None
    space = open_space(run, create_accelerator(run), held)
    encoder = held or load_foreign_encoder(name if kind != "folder" else f"transformers:{name}")
    images = load_run_data(run).train
    files = [photos / "train/train-0/0.png", photos / "train/train-4/5.png"]
    targets = space.targets(images, with_neighbours=False).vectors.numpy()
    np.testing.assert_allclose(targets[[0, -1]], encoder.encode(files), atol=1e-5)
    assert (space.embedding_space, run.model.embedding_dim) == (encoder.config.embedding_space, targets.shape[1])


def test_a_network_trained_towards_a_function_searches_its_gallery(photos: Path, tmp_path: Path) -> None:
    encoder = colours()
    encode_folder(encoder, photos, tmp_path / "gallery.parquet")
    options = {"into": str(tmp_path / "gallery.parquet"), "teacher": "colours", "into_loss": ["classifier"]}
    run = arguments(photos, tmp_path / "run", capacities=[0.5], eval_capacities=[], epochs=1, **options)
    run.model.embedding_dim = None
    accelerator = create_accelerator(run)
    model = Trainer(run, accelerator, load_run_data(run), space=open_space(run, accelerator, encoder)).run().model
    gallery = Gallery.from_embeddings(tmp_path / "gallery.parquet")
    phone = model.prunnet.prune(0.5)
    assert len(gallery.search([photos / "test/test-0/0.png"], 3, model=phone).paths[0]) == 3


def test_a_function_of_another_revision_is_another_teacher(photos: Path, tmp_path: Path) -> None:
    encode_folder(colours(), photos, tmp_path / "gallery.parquet")
    later = foreign_encoder(lambda images: [(0.0, 0.0, 1.0) for _ in images], name="colours", revision="2")
    run = arguments(photos, tmp_path / "run", into=str(tmp_path / "gallery.parquet"), teacher="colours")
    run.model.embedding_dim = None
    with pytest.raises(ValueError, match=r"--teacher colours isn't the model that made --into .*gallery\.parquet"):
        open_space(run, create_accelerator(run), later)


def test_methods_whose_teacher_runs_in_every_step_need_one_of_this_package(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"teacher must be a model of this package for --method bct.*got 'timm:x'"):
        trainer(arguments(photos, tmp_path, method="bct", capacities=[0.5], teacher="timm:x"))
