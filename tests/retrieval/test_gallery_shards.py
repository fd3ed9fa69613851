"""Galleries of shards: what is read one shard at a time is what all embeddings at once would have made."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import pyarrow.parquet as pq
import pytest

from prunnet_hf import Embeddings, Gallery
from prunnet_hf.retrieval import gallery_index
from prunnet_hf.retrieval.embedding_shards import Shard
from prunnet_hf.retrieval.embedding_table import write_embeddings
from prunnet_hf.retrieval.gallery_shards import index_shards, train_gallery
from tests.retrieval.sharded import COUNT, DIM, SPACE, random_embeddings, unit_queries, write_shards

FACTORY = "IVF8,PQ4x4np"


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return write_shards(tmp_path / "shards", random_embeddings(), 5)


@pytest.mark.parametrize("factory", ["auto", "HNSW16", "IVF8,Flat", FACTORY, "OPQ4,IVF8,PQ4x4np,Refine(SQ8)"])
def test_shards_become_the_gallery_that_their_embeddings_together_become(
    factory: str, shards: Path, tmp_path: Path
) -> None:
    about = index_shards(shards, tmp_path / "gallery", factory, progress=False)
    gallery, expected = Gallery.load(tmp_path / "gallery"), Gallery.from_embeddings(random_embeddings(), factory)
    assert gallery.about == about == expected.about
    assert (gallery.paths, gallery.labels) == (expected.paths, expected.labels)
    found, wanted = (each.search(unit_queries(), 5, embedding_space=SPACE) for each in (gallery, expected))
    np.testing.assert_array_equal(found.rows, wanted.rows)
    np.testing.assert_array_equal(found.scores, wanted.scores)
    assert faiss.read_index(str(tmp_path / "gallery/index.faiss")).ntotal == COUNT


def test_a_trained_gallery_is_filled_like_one_that_is_trained_on_the_way(shards: Path, tmp_path: Path) -> None:
    empty = train_gallery(shards, tmp_path / "trained", FACTORY, seed=3)
    assert (empty.num_images, empty.factory, empty.embedding_space) == (0, FACTORY, SPACE)
    index_shards(shards, tmp_path / "one", FACTORY, seed=3, progress=False)
    index_shards(shards, tmp_path / "two", trained=tmp_path / "trained", progress=False)
    for name in ("index.faiss", "images.parquet"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert len(Gallery.load(tmp_path / "trained")) == 0


def test_the_index_is_trained_on_a_sample_of_all_shards(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(gallery_index, "SAMPLE_A_CLUSTER", 3)
    monkeypatch.setattr(gallery_index, "LEAST_SAMPLE", 1)
    with caplog.at_level(logging.WARNING):
        for name, seed in (("a", 0), ("again", 0), ("b", 1)):
            train_gallery(shards, tmp_path / name, "IVF8,Flat", seed=seed)
    assert "is trained on 24 images; from 312 on" in caplog.text  # 3 * 8 and 39 * 8
    a, again, b = ((tmp_path / name / "index.faiss").read_bytes() for name in ("a", "again", "b"))
    assert a == again != b


def test_paths_may_begin_with_the_folder_and_embeddings_be_left_out(shards: Path, tmp_path: Path) -> None:
    options = {"data_dir": "photos", "with_embeddings": False, "progress": False}
    index_shards(shards, tmp_path / "gallery", "IVF8,Flat", **options)
    assert Gallery.load(tmp_path / "gallery").paths[:2] == ["photos/0000.jpg", "photos/0001.jpg"]
    assert pq.read_schema(tmp_path / "gallery/images.parquet").names == ["path", "label", "digest"]


def test_one_table_is_a_single_shard(tmp_path: Path) -> None:
    write_embeddings(tmp_path / "all.parquet", random_embeddings())
    index_shards(tmp_path / "all.parquet", tmp_path / "gallery", progress=False)
    assert len(Gallery.load(tmp_path / "gallery")) == COUNT


def test_too_few_images_to_train_say_how_many_are_needed(tmp_path: Path) -> None:
    write_shards(tmp_path / "shards", random_embeddings(20), 2)
    with pytest.raises(ValueError, match=r"factory='IVF64,Flat' needs at least 64 images.*there are 20.*Flat"):
        train_gallery(tmp_path / "shards", tmp_path / "gallery", "IVF64,Flat")
    assert not (tmp_path / "gallery").exists()


def test_a_path_in_two_shards_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    embeddings = random_embeddings(20)
    embeddings.paths[17] = "0003.jpg"
    write_shards(tmp_path / "shards", embeddings, 4)
    with pytest.raises(ValueError, match=r"'0003\.jpg' is in .*shard-00001-of-00004\.parquet and .*shard-00004-of"):
        index_shards(tmp_path / "shards", tmp_path / "gallery", progress=False)
    assert not list((tmp_path / "gallery").iterdir())


def test_a_damaged_a_zero_and_a_missing_shard_leave_nothing(shards: Path, tmp_path: Path) -> None:
    third = shards / Shard(3, 5).file
    content = third.read_bytes()
    third.write_bytes(content[:100] + b"damaged!" + content[108:])
    with pytest.raises(ValueError, match=rf"{third.name} can't be read.*Remove it"):
        index_shards(shards, tmp_path / "gallery", progress=False)
    third.unlink()
    with pytest.raises(FileNotFoundError, match="lacks 1 of its 5 shards: 3/5"):
        index_shards(shards, tmp_path / "gallery", progress=False)
    zero = Embeddings(np.zeros((5, DIM), np.float32), SPACE, 1.0, [f"{n}" for n in range(5)])
    write_shards(tmp_path / "zeros", replace(zero, labels=[None] * 5), 2)
    with pytest.raises(ValueError, match=r"embeddings of .*shard-00001-of-00002\.parquet.*zero"):
        index_shards(tmp_path / "zeros", tmp_path / "gallery", progress=False)
    assert not list((tmp_path / "gallery").iterdir())


def test_what_does_not_fit_the_trained_gallery_is_refused(shards: Path, tmp_path: Path) -> None:
    gallery, trained = tmp_path / "gallery", tmp_path / "trained"
    train_gallery(shards, trained, FACTORY)
    with pytest.raises(ValueError, match=r"shard='1/2' needs trained.*--train_only"):
        index_shards(shards, gallery, FACTORY, shard=Shard(1, 2))
    with pytest.raises(ValueError, match=r"shard='1/6': n must be at most the number of shards, 5"):
        index_shards(shards, gallery, trained=trained, shard=Shard(1, 6))
    with pytest.raises(ValueError, match=r"factory='Flat' differs from 'IVF8,PQ4x4np'.*Leave it out"):
        index_shards(shards, gallery, "Flat", trained=trained)
    other = write_shards(tmp_path / "other", random_embeddings(), 5, space="fedcba9876543210")
    with pytest.raises(ValueError, match=rf"embeddings of space '{SPACE}' and of space 'fedcba9876543210' can't be"):
        index_shards(other, gallery, trained=trained)
    index_shards(shards, tmp_path / "full", trained=trained, progress=False)
    with pytest.raises(ValueError, match=r"trained=.*must be a gallery without images.*it has 600"):
        index_shards(shards, gallery, trained=tmp_path / "full")
    with pytest.raises(FileNotFoundError, match="nowhere is no gallery"):
        index_shards(shards, gallery, trained=tmp_path / "nowhere")
    with pytest.raises(FileExistsError, match=r"output=.*full' holds a gallery.*another name"):
        index_shards(shards, tmp_path / "full", trained=trained)
    train_gallery(shards, tmp_path / "graph", "HNSW16")
    with pytest.raises(ValueError, match=r"factory='HNSW16'.*can't merge.*one machine"):
        index_shards(shards, gallery, trained=tmp_path / "graph", shard=Shard(1, 2))
    with pytest.raises(ValueError, match=r"factory='NSG8'.*can't fill shard by shard.*HNSW32"):
        index_shards(shards, gallery, "NSG8", progress=False)


def test_shards_of_two_dimensions_are_refused(shards: Path, tmp_path: Path) -> None:
    narrow = replace(random_embeddings(), embeddings=random_embeddings().embeddings[:, :6].copy())
    other = write_shards(tmp_path / "narrow", narrow, 5)
    (other / Shard(4, 5).file).replace(shards / Shard(4, 5).file)
    with pytest.raises(ValueError, match=r"shard-00004-of-00005\.parquet is of dimension 6, and shard-00001.*of 8"):
        train_gallery(shards, tmp_path / "gallery", "Flat")
