"""Vectors that are known of images are found by paths, however these are written."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image

from prunnet_hf.retrieval.embedding_table import Embeddings, write_embeddings
from prunnet_hf.retrieval.gallery import Gallery
from prunnet_hf.retrieval.image_sources import DatasetImages
from prunnet_hf.retrieval.known_vectors import KnownVectors, common_folder, holds_vectors

SPACE = "0123456789abcdef"
NAMES = ["a/1.png", "a/2.png", "b/1.png"]
VECTORS = np.array([[3.0, 4.0], [0.0, 2.0], [-1.0, 0.0]], dtype=np.float32)
UNIT = np.array([[0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]])


def photos(root: str, names: list[str] = NAMES) -> DatasetImages:
    """Training images in `root/train`; their files need not be there."""
    columns = {"image": [f"{root}/train/{name}" for name in names], "label": [0] * len(names)}
    features = Features({"image": Image(), "label": ClassLabel(names=["a"])})
    return DatasetImages(Dataset.from_dict(columns, features=features), root)


def table(file: Path, paths: list[str], vectors: np.ndarray = VECTORS) -> str:
    write_embeddings(file, Embeddings(vectors, SPACE, 1.0, paths=paths))
    return str(file)


@pytest.mark.parametrize("start", ["", "train/", "photos/train/", "ABSOLUTE/photos/train/", "ABSOLUTE"])
@pytest.mark.parametrize("root", ["photos", "ABSOLUTE/photos"])
def test_a_table_may_name_images_in_several_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: str, root: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if start == "ABSOLUTE":
        paths = [f"elsewhere/train/{name}" for name in NAMES]
    else:
        paths = [start.replace("ABSOLUTE", os.getcwd()) + name for name in NAMES]
    found = KnownVectors(
        table(
            tmp_path / "t.parquet",
            [*paths[::-1], "other.png"],
            np.vstack([VECTORS[::-1], [[1, 1]]]).astype(np.float32),
        )
    )
    images = photos(root.replace("ABSOLUTE", os.getcwd()))
    match = found.of(images, common_folder(images))
    if start == "ABSOLUTE":
        assert match.missing == [f"train/{name}" for name in NAMES]
    else:
        assert match.missing == []
        np.testing.assert_allclose(match.vectors, UNIT, atol=1e-6)


def test_a_gallery_is_read_too_and_says_which_images_it_lacks(tmp_path: Path) -> None:
    paths = [f"/photos/train/{name}" for name in NAMES[:2]]
    gallery = Gallery.from_embeddings(Embeddings(VECTORS[:2], SPACE, 1.0, paths=paths))
    gallery.save(tmp_path / "gallery")
    known = KnownVectors(str(tmp_path / "gallery"))
    assert (known.embedding_space, known.embedding_dim) == (SPACE, 2)
    match = known.of(photos("/photos"))
    assert (match.num_found, match.missing) == (2, ["/photos/train/b/1.png"])
    np.testing.assert_allclose(match.vectors[:2], UNIT[:2], atol=1e-6)


def test_a_gallery_without_embeddings_is_refused(tmp_path: Path) -> None:
    gallery = Gallery.from_embeddings(Embeddings(VECTORS, SPACE, 1.0, paths=NAMES))
    gallery.save(tmp_path / "gallery", with_embeddings=False)
    with pytest.raises(ValueError, match=r"gallery'? was saved without its embeddings.*--teacher"):
        KnownVectors(str(tmp_path / "gallery"))


def test_a_damaged_gallery_is_refused(tmp_path: Path) -> None:
    Gallery.from_embeddings(Embeddings(VECTORS, SPACE, 1.0, paths=NAMES)).save(tmp_path / "gallery")
    with (tmp_path / "gallery/images.parquet").open("r+b") as file:
        file.seek(40)
        file.write(b"\xff")
    with pytest.raises(ValueError, match="damaged"):
        KnownVectors(str(tmp_path / "gallery"))


def test_an_image_that_comes_twice_is_refused(tmp_path: Path) -> None:
    twice = table(tmp_path / "t.parquet", ["train/a/1.png", "train/a/2.png", "train/a/1.png"])
    with pytest.raises(ValueError, match=r"holds 1 of the images more than once: train/a/1\.png\. Keep one row"):
        KnownVectors(twice).of(photos("/photos"))


def test_a_folder_above_all_images_is_tried_only_if_it_is_given(tmp_path: Path) -> None:
    of_training = KnownVectors(table(tmp_path / "t.parquet", NAMES))  # as `--data_dir photos/train` names them
    others = DatasetImages(
        Dataset.from_dict(
            {"image": [f"/photos/test/{name}" for name in NAMES]}, features=Features({"image": Image()})
        ),
        "/photos",
    )
    assert of_training.of(photos("/photos"), "/photos/train").missing == []
    assert of_training.of(others).num_found == 0
    assert of_training.of(others, "/photos/train").num_found == 0


def test_what_looks_like_vectors(tmp_path: Path) -> None:
    assert holds_vectors("nowhere.parquet")  # so that its absence is what an error tells
    assert not holds_vectors("org/name")
    assert not holds_vectors(str(tmp_path))
    table(tmp_path / "shard-00001-of-00001.parquet", NAMES)
    assert holds_vectors(str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"no 'nowhere\.parquet': give .*gallery"):
        KnownVectors("nowhere.parquet")
