"""Shifted images, targets of their copies, parts of the classes, and figures of queries, on tiny networks."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from benchmarks.into.images import KINDS, make_part, make_shifted, make_validation, shift, write_targets
from benchmarks.into.measures import embedded, into_figures, precision, queried, query_values
from prunnet_hf.modeling_prunnet import PrunNetModel
from prunnet_hf.retrieval.embedding_table import Embeddings, read_embeddings
from prunnet_hf.retrieval.folder_encoding import encode_folder
from prunnet_hf.runs.record import IntoRecord
from tests.tiny_models import tiny


@pytest.fixture(scope="module")
def parent() -> PrunNetModel:
    model = tiny().prunnet.eval()
    model.renew_embedding_space()
    return model


@pytest.fixture(scope="module")
def shifted(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shifted") / "shifted"
    make_shifted(photos, folder)
    return folder


def pixels(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file).convert("RGB"))


def test_each_shift_changes_an_image_and_is_the_same_each_time() -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (20, 24, 3)).astype(np.uint8))
    for kind in KINDS:
        once, twice = (np.asarray(kind(image, np.random.default_rng(1))) for _ in range(2))
        assert once.shape == (20, 24, 3)
        assert (once == twice).all()
        assert (once != np.asarray(image)).mean() > 0.5
    drawn = {np.asarray(shift(image, str(name))).tobytes() for name in range(20)}
    assert len(drawn) > len(KINDS)  # noise has as many forms as names


def test_trained_images_have_copies_and_tested_ones_only_these(photos: Path, shifted: Path) -> None:
    name = "train-0/1"
    clean = pixels(photos / f"train/{name}.png")
    assert (pixels(shifted / f"train/{name}.png") == clean).all()
    assert (pixels(shifted / f"train/{name}-shifted.png") != clean).any()
    assert queried(shifted) == queried(photos)
    assert all((pixels(shifted / file) != pixels(photos / file)).any() for file in queried(photos))
    assert len(list(shifted.glob("train/*/*.png"))) == 2 * len(list(photos.glob("train/*/*.png")))


def test_a_copys_target_is_the_vector_of_the_clean_image(photos: Path, parent: PrunNetModel, tmp_path: Path) -> None:
    encode_folder(parent, photos, tmp_path / "all.parquet")
    write_targets(tmp_path / "all.parquet", tmp_path / "targets.parquet")
    known, targets = (read_embeddings(tmp_path / name) for name in ("all.parquet", "targets.parquet"))
    found = dict(zip(targets.paths, targets.embeddings, strict=True))
    assert len(found) == len(targets.paths) == 39 + 30
    for path, vector in zip(known.paths, known.embeddings, strict=True):
        assert (found[path] == vector).all()
        if path.startswith("train/"):
            assert (found[path.replace(".png", "-shifted.png")] == vector).all()
    assert not any("shifted" in path for path in found if path.startswith("test/"))
    assert targets.embedding_space == known.embedding_space


def test_queries_search_the_parents_gallery_of_clean_images(
    photos: Path, shifted: Path, parent: PrunNetModel, tmp_path: Path
) -> None:
    vectors, labels = embedded(parent, photos)
    assert labels == [f"test-{number}" for number in range(3) for _ in range(3)]
    order = np.arange(len(labels))[::-1]  # a table may have another order than the folder
    paths = [queried(photos)[row] for row in order]
    known = Embeddings(vectors[order], parent.config.embedding_space, 1.0, paths)
    values = query_values(parent, known, {"clean": photos, "shifted": shifted})
    assert values["clean"] == pytest.approx(precision(vectors, vectors, labels))
    moved, _ = embedded(parent, shifted)
    assert values["shifted"] == pytest.approx(precision(moved, vectors, labels))
    assert values["shifted"] != values["clean"]


def test_precision_by_hand() -> None:
    vectors = np.float32([[1, 0], [1, 0], [0, 1], [0.8, 0.6]])
    # The last finds the first two before its own class: average precision 1/3; all others have 1.
    assert precision(vectors, vectors, ["a", "a", "b", "b"]) == pytest.approx((1 + 1 + 1 + 1 / 3) / 4)


def test_a_part_has_three_tenths_of_the_classes_and_all_tests(tmp_path: Path) -> None:
    for name in [f"train/c{number}" for number in range(10)] + ["test/t0"]:
        (tmp_path / "data" / name).mkdir(parents=True)
    for _ in range(2):  # another job may have made it
        make_part(tmp_path / "data", tmp_path / "part")
    assert len(list((tmp_path / "part/train").iterdir())) == 3
    assert (tmp_path / "part/test/t0").is_dir()


def test_validation_classes_are_those_held_out(tmp_path: Path) -> None:
    for name in ("Korean-1", "Korean-2", "Latin-1"):
        (tmp_path / "data/train" / name).mkdir(parents=True)
    make_validation(tmp_path / "data", tmp_path / "validation")
    assert sorted(path.name for path in (tmp_path / "validation/test").iterdir()) == ["Korean-1", "Korean-2"]
    assert [path.name for path in (tmp_path / "validation/train").iterdir()] == ["Latin-1"]


def test_figures_of_a_record_are_of_the_capacities_asked_for_and_say_what_the_criterion_compared() -> None:
    names = ("0.05", "0.10", "0.20", "0.40", "1.00")
    into = IntoRecord(
        embedding_space="a" * 16,
        losses=["regression"],
        values={name: {"mAP": float(name) / 2, "recall@1": 1.0} for name in names},
        itself={"mAP": 0.75, "recall@1": 1.0},
    )
    assert into_figures(SimpleNamespace(into=into), None) == {
        "values": {"1": 0.5, "0.4": 0.2, "0.2": 0.1, "0.1": 0.05},
        "itself": 0.75,
    }
    assert into_figures(SimpleNamespace(into=into), 0.2)["values"] == {"0.2": 0.1}
    before = {"0.20": 0.2, "1.00": 0.4}
    judged = IntoRecord(
        **{**vars(into), "before": before, "standard_errors": {"0.20": 0.01, "1.00": 0.02}, "kept": False}
    )
    found = into_figures(SimpleNamespace(into=judged), None)
    assert found["criterion"]["0.2"] == {"old": 0.2, "new": 0.1, "error": 0.01}
    assert list(found["criterion"]) == ["0.2", "1"]
    assert found["kept"] is False
    with pytest.raises(ValueError, match="must have a test against a known gallery"):
        into_figures(SimpleNamespace(into=None), None)


def test_shifted_images_that_were_begun_are_made_again(photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shifted"
    (tmp_path / "shifted.begun/train/left").mkdir(parents=True)
    make_shifted(photos, folder)
    assert not (folder / "train/left").exists()
    shutil.rmtree(folder / "test")
    make_shifted(photos, folder)  # it's there: nothing is done
    assert not (folder / "test").exists()
