"""Embeddings that other programs made get a space when somebody says which model made them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prunnet_hf import Embeddings, Gallery, read_embeddings
from prunnet_hf.retrieval.embedding_table import write_embeddings
from prunnet_hf.retrieval.foreign_embeddings import describe_space
from prunnet_hf.retrieval.foreign_encoders import foreign_encoder, stated_space
from prunnet_hf.retrieval.gallery_quantizing import quantize_gallery
from tests.retrieval.sharded import random_embeddings

ARRAY = [[3.0, 4.0], [0.0, 2.0], [1.0, 0.0]]
PATHS = ["a.jpg", "b.jpg", "c.jpg"]


def test_an_array_becomes_a_gallery_of_the_named_model(tmp_path: Path) -> None:
    found = describe_space(ARRAY, model="clip", revision="2021-01", paths=PATHS, labels=["x", None, "x"])
    assert found.embedding_space == stated_space("clip", "2021-01")
    assert (found.model, found.capacity, found.labels) == ("clip@2021-01", 1.0, ["x", None, "x"])
    gallery = Gallery.from_embeddings(write_embeddings(tmp_path / "gallery.parquet", found))
    query = describe_space([[5.0, 5.0]], model="clip", revision="2021-01")
    assert gallery.search(query, 2).paths == [["a.jpg", "b.jpg"]]  # cosines 7 / sqrt(50), 1 / sqrt(2)
    other = describe_space([[5.0, 5.0]], model="clip", revision="2021-02")
    with pytest.raises(ValueError, match="can't be compared"):
        gallery.search(other, 1)
    gallery.save(tmp_path / "gallery")
    assert Gallery.load(tmp_path / "gallery").about.model == "clip@2021-01"


def test_embeddings_of_an_encoder_at_hand_have_its_id() -> None:
    encoder = foreign_encoder(lambda images: np.ones((len(images), 2)), name="ones", revision="1")
    assert describe_space(ARRAY, model=encoder).embedding_space == encoder.config.embedding_space
    with pytest.raises(ValueError, match=r"dimension 3.*gives 2: another model"):
        describe_space(np.ones((1, 3)), model=encoder)
    with pytest.raises(ValueError, match=r"revision='2' is for a model that is named"):
        describe_space(ARRAY, model=encoder, revision="2")


@pytest.mark.parametrize("kind", [pa.list_(pa.float64()), pa.large_list(pa.float32()), pa.list_(pa.float16(), 2)])
def test_a_parquet_file_of_another_program_is_read(kind: pa.DataType, tmp_path: Path) -> None:
    columns = {"vector": pa.array(ARRAY, kind), "file": PATHS, "class": ["x", "y", None]}
    pq.write_table(pa.table(columns), tmp_path / "theirs.parquet")
    names: dict[str, Any] = {"embedding_column": "vector", "path_column": "file", "label_column": "class"}
    found = describe_space(tmp_path / "theirs.parquet", model="dino", revision="1", **names)
    np.testing.assert_array_equal(found.embeddings, np.asarray(ARRAY, np.float32))
    assert (found.paths, found.labels) == (PATHS, ["x", "y", None])


def test_a_parquet_file_without_a_space_is_refused_by_readers_who_name_the_remedy(tmp_path: Path) -> None:
    pq.write_table(pa.table({"embedding": ARRAY, "path": PATHS}), tmp_path / "theirs.parquet")
    with pytest.raises(ValueError, match=r"theirs\.parquet.*describe_space gives them a space"):
        read_embeddings(tmp_path / "theirs.parquet")
    with pytest.raises(ValueError, match=r"embedding_space.*got ''.*describe_space"):
        Embeddings(np.ones((1, 2), np.float32), "", 1.0)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"path": PATHS, "vector": ARRAY}, "no column 'embedding', but path, vector: name the columns by"),
        ({"embedding": PATHS, "path": PATHS}, "'embedding' holds string; it must hold lists of floating-point"),
        ({"embedding": [[1.0], [1.0, 2.0]], "path": PATHS[:2]}, "equally many numbers in every row"),
        ({"embedding": [[1.0, 2.0], None], "path": PATHS[:2]}, "equally many numbers in every row"),
        ({"embedding": [[1.0, None]], "path": PATHS[:1]}, "equally many numbers in every row"),
        ({"embedding": [[1.0], [2.0]], "path": ["a", None]}, "row 1 of its column 'path' has no value"),
        ({"embedding": [[1.0], [float("nan")]], "path": ["a", "b"]}, "row 1 .*finite and not zero"),
    ],
)
def test_a_parquet_file_that_can_not_be_described_is_refused(
    columns: dict[str, Any], message: str, tmp_path: Path
) -> None:
    pq.write_table(pa.table(columns), tmp_path / "theirs.parquet")
    with pytest.raises(ValueError, match=message):
        describe_space(tmp_path / "theirs.parquet", model="dino", revision="1")


def test_a_table_that_has_a_space_keeps_it(tmp_path: Path) -> None:
    write_embeddings(tmp_path / "ours.parquet", describe_space(ARRAY, model="clip", revision="1", paths=PATHS))
    with pytest.raises(ValueError, match="names its embedding space already: read_embeddings"):
        describe_space(tmp_path / "ours.parquet", model="dino", revision="1")


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ([[1, 2]], {}, r"floating-point numbers; got int64 of shape \(1, 2\)"),
        ([1.0, 2.0], {}, r"got float64 of shape \(2,\)"),
        ([[0.0, 0.0], [1.0, 1.0]], {}, "row 0 .*finite and not zero"),
        ([[1e300, 0.0]], {}, "row 0 .*finite and not zero"),
        ([[1.0]], {"revision": ""}, "revision must say which model"),
        ([[1.0]], {"paths": ["a", "b"]}, "paths must have one entry"),
        ("theirs.parquet", {"paths": ["a"]}, "paths and labels are for an array"),
    ],
)
def test_an_array_that_can_not_be_described_is_refused(source: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        describe_space(source, **{"model": "clip", "revision": "1", **options})


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.parquet.*not a file"):
        describe_space(tmp_path / "nowhere.parquet", model="clip", revision="1")


def test_a_described_gallery_is_quantised_like_ours(tmp_path: Path) -> None:
    rows = random_embeddings(300)
    found = describe_space(rows.embeddings, model="clip", revision="1", paths=rows.paths)
    Gallery.from_embeddings(found, "Flat").save(tmp_path / "gallery")
    about = quantize_gallery(tmp_path / "gallery", tmp_path / "small", 4, progress=False)
    assert (about.embedding_space, about.factory) == (found.embedding_space, "OPQ4,PQ4x8np")
