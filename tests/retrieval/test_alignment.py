"""The orthogonal map between two spaces: recovered exactly where there is one, and its loss is measured on others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from prunnet_hf import Embeddings, Gallery, PrunNetModel
from prunnet_hf.retrieval.alignment import Alignment, align, orthogonal_map, read_any
from prunnet_hf.retrieval.embedding_table import write_embeddings
from prunnet_hf.retrieval.foreign_encoders import foreign_encoder
from prunnet_hf.storage.tensor_file import write_tensors
from tests.retrieval.sharded import random_embeddings

Floats = NDArray[np.floating]


def rows(count: int, dim: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)


def turned(array: Floats, dim: int, seed: int = 1) -> NDArray[np.float32]:
    """The same vectors by orthonormal axes of a space of so many dimensions, at least as many as they have."""
    axes, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(dim, dim)))
    return (array @ axes[: array.shape[1]]).astype(np.float32)


def embeddings(array: NDArray[np.float32], space: str, classes: int = 10) -> Embeddings:
    labels: list[str | None] = [f"class {number % classes}" for number in range(len(array) if classes else 0)]
    paths = [f"{number}.jpg" for number in range(len(array))]
    return Embeddings(array, space, 1.0, paths, labels, model=space)


@given(st.integers(1, 6), st.integers(0, 3), st.integers(0, 2**16))
@settings(max_examples=30, deadline=None)
def test_a_turn_is_recovered_and_angles_stay(dim: int, more: int, seed: int) -> None:
    new = rows(dim + 5, dim, seed)
    old = turned(new, dim + more, seed + 1)
    matrix = orthogonal_map(old, new)
    assert matrix.shape == (dim + more, dim)
    np.testing.assert_allclose(new @ matrix.T, old, atol=1e-4)
    np.testing.assert_allclose(matrix.T @ matrix, np.eye(dim), atol=1e-5)


def test_of_a_larger_space_the_part_is_kept_that_agrees() -> None:
    old = rows(20, 3)
    matrix = orthogonal_map(old, turned(old, 5))
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-5)
    np.testing.assert_allclose(turned(old, 5) @ matrix.T, old, atol=1e-4)


@given(st.integers(0, 2**16), st.integers(0, 2**16))
@settings(max_examples=30, deadline=None)
def test_no_other_turn_is_nearer(seed: int, other: int) -> None:
    old, new = rows(12, 4, seed), rows(12, 4, seed + 1)
    best = np.square(new @ orthogonal_map(old, new).T - old).sum()
    assert best <= np.square(turned(new, 4, other) - old).sum() + 1e-3


def test_a_lossless_map_has_no_loss_and_keeps_every_rank(tmp_path: Path) -> None:
    array = rows(100, 4)
    old, new = embeddings(turned(array, 6), "aaaa"), embeddings(array, "bbbb")
    alignment, loss = align(old, new)
    assert (loss.old_dim, loss.new_dim, loss.images, loss.fitted_to, loss.held_out) == (6, 4, 100, 80, 20)
    assert loss.cosine == pytest.approx(1.0, abs=1e-5)
    assert loss.mAP is not None
    assert loss.mAP["mapped among old"] == loss.mAP["old among old"] == loss.mAP["new among new"]
    alignment.save(tmp_path / "map.safetensors")
    loaded = Alignment.load(tmp_path / "map.safetensors")
    gallery = Gallery.from_embeddings(old, "Flat")
    queries = loaded.apply(new)
    assert queries.model == "bbbb aligned to aaaa"
    assert [paths[0] for paths in gallery.search(queries, 1).paths] == old.paths
    with pytest.raises(ValueError, match="can't be compared"):
        gallery.search(new, 1)


def test_the_loss_is_of_classes_that_the_map_was_not_fitted_to() -> None:
    """The new model has learned to turn the classes of the fit, and gives the others at random."""
    old = embeddings(rows(100, 4), "aaaa")
    alignment, loss = align(old, embeddings(old.embeddings, "bbbb"))
    np.testing.assert_allclose(alignment.matrix, np.eye(4), atol=1e-5)
    held = {label for label in old.labels if _is_held(old, label)}
    assert len(held) == 2  # one in five of ten
    shuffled = old.embeddings.copy()
    places = [place for place, label in enumerate(old.labels) if label in held]
    shuffled[places] = rows(len(places), 4, seed=9)
    other, worse = align(old, embeddings(shuffled, "bbbb"))
    np.testing.assert_array_equal(other.matrix, alignment.matrix)
    assert worse.cosine < 0.5 < loss.cosine


def _is_held(old: Embeddings, label: str | None) -> bool:
    """Whether a class counts for the loss: the loss changes if its vectors do, and the map stays."""
    array = old.embeddings.copy()
    places = [place for place, each in enumerate(old.labels) if each == label]
    array[places] = rows(len(places), 4, seed=8)
    alignment, _ = align(old, embeddings(array, "bbbb"))
    return bool(np.allclose(alignment.matrix, np.eye(4), atol=1e-6))


def test_without_labels_images_are_held_out_and_there_is_no_precision() -> None:
    old, new = (embeddings(rows(50, 4), space, classes=0) for space in ("aaaa", "bbbb"))
    _, loss = align(old, new)
    assert (loss.fitted_to, loss.held_out, loss.mAP) == (40, 10, None)
    assert "mAP" not in loss.describe()


def test_images_are_matched_by_path() -> None:
    old = embeddings(rows(60, 3), "aaaa")
    order = np.random.default_rng(3).permutation(60)[:50]
    new = Embeddings(turned(old.embeddings[order], 3), "bbbb", 0.2, [old.paths[place] for place in order])
    _, loss = align(old, new)
    assert (loss.images, round(loss.cosine, 4)) == (50, 1.0)


def test_what_can_not_be_aligned_is_refused() -> None:
    old = embeddings(rows(60, 4), "aaaa")
    new = embeddings(rows(60, 4), "bbbb")
    for changed, message in (
        (replace(new, embedding_space="aaaa"), "both of the space 'aaaa'"),
        (
            replace(new, paths=["x/" + path for path in new.paths]),
            r"no path in common.*'0\.jpg' and 'x/0\.jpg'.*data_dir",
        ),
        (replace(new, paths=["0.jpg"] * 60), r"new must have a path of its own.*'0\.jpg' comes more than once"),
        (replace(new, paths=[], labels=[]), "new must have a path of its own.*none"),
        (Embeddings(new.embeddings[:4], "bbbb", 1.0, new.paths[:4]), r"4 paths are in both.*needs at least 4"),
        (replace(new, embeddings=np.zeros((60, 4), np.float32)), "length 0"),
    ):
        with pytest.raises(ValueError, match=message):
            align(old, changed)


def test_a_network_of_the_new_space_asks_the_old_gallery(model: PrunNetModel) -> None:
    generator = np.random.default_rng(0)
    images = list(generator.integers(0, 256, (20, 32, 32, 3)).astype(np.uint8))
    array, paths = model.encode(images, progress=False), [str(number) for number in range(20)]
    new = Embeddings(array, str(model.config.embedding_space), 1.0, paths)
    old = Embeddings(turned(array, 7), "aaaa", 1.0, paths, model="theirs")
    alignment, _ = align(old, new)
    asking = alignment.encoder(model)
    assert (asking.config.embedding_space, asking.config.embedding_dim) == ("aaaa", 7)
    assert asking.config.name_or_path.endswith("aligned to theirs")
    gallery = Gallery.from_embeddings(old, "Flat")
    assert [found[0] for found in gallery.search(images, 1, model=asking).paths] == paths
    with pytest.raises(ValueError, match="can't be compared"):
        alignment.encoder(foreign_encoder(lambda some: np.ones((len(some), 6)), name="ones", revision="1"))


def test_a_table_and_a_gallery_are_read_with_the_same_paths(tmp_path: Path) -> None:
    found = random_embeddings(10)
    write_embeddings(tmp_path / "table.parquet", found)
    Gallery.from_embeddings(found, "Flat").save(tmp_path / "gallery")
    Gallery.from_embeddings(found, "Flat").save(tmp_path / "bare", with_embeddings=False)
    for place in ("table.parquet", "gallery", "bare"):
        read = read_any(tmp_path / place)
        assert (read.paths, read.embedding_space) == (found.paths, found.embedding_space)
    assert read_any(tmp_path / "table.parquet", "photos").paths[0] == f"photos/{found.paths[0]}"


def test_a_file_that_is_no_map_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"aligned=.*nowhere.*prunnet align"):
        Alignment.load(tmp_path / "nowhere.safetensors")
    write_tensors(tmp_path / "other.safetensors", {"map": torch.eye(2)}, {"format": "pt"})
    with pytest.raises(
        ValueError, match=r"other\.safetensors.*must be a map from `prunnet align`; its format is 'pt'"
    ):
        Alignment.load(tmp_path / "other.safetensors")
    Alignment(np.eye(2, dtype=np.float32), "aaaa", "bbbb").save(tmp_path / "map.safetensors")
    blob = (tmp_path / "map.safetensors").read_bytes()
    (tmp_path / "map.safetensors").write_bytes(blob[:-3])
    with pytest.raises(ValueError, match=r"map\.safetensors.*truncated"):
        Alignment.load(tmp_path / "map.safetensors")
    (tmp_path / "map.safetensors").write_bytes(blob.replace(b'"version":"1"', b'"version":"2"'))
    with pytest.raises(ValueError, match=r"map\.safetensors.*version is 2.*Upgrade"):
        Alignment.load(tmp_path / "map.safetensors")
