"""Embedding tables: read as written, refused if they are something else."""

from __future__ import annotations

import json
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prunnet_hf.retrieval.embedding_table import Embeddings, as_table, read_embeddings, table_schema, write_embeddings

ARRAY = np.array([[1, -0.5], [2, 0], [0, 3]], dtype=np.float32)
EMBEDDINGS = Embeddings(ARRAY, "3f9a", 0.2, ["a/1.png", "a/2.png", "é.png"], ["a", "a", None], "org/name")


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = write_embeddings(tmp_path / "f.parquet", EMBEDDINGS)
    found = read_embeddings(path)
    np.testing.assert_array_equal(found.embeddings, ARRAY)
    assert (found.paths, found.labels) == (["a/1.png", "a/2.png", "é.png"], ["a", "a", None])
    assert (found.embedding_space, found.capacity, found.model, len(found)) == ("3f9a", 0.2, "org/name", 3)


def test_any_reader_of_parquet_finds_the_documented_columns(tmp_path: Path) -> None:
    table = pq.read_table(write_embeddings(tmp_path / "f.parquet", replace(EMBEDDINGS, labels=[])))
    assert table.to_pylist()[2] == {"embedding": [0, 3], "path": "é.png", "label": None, "embedding_space": "3f9a"}
    assert pa.types.is_fixed_size_list(table.schema.field("embedding").type)
    assert table.schema.metadata == {
        b"format": b"prunnet-embeddings",
        b"version": b"1",
        b"embedding_space": b"3f9a",
        b"capacity": b"0.2",
        b"model": b"org/name",
        b"embedding_dim": b"2",
    }


def test_several_row_groups_are_put_together(tmp_path: Path) -> None:
    schema = table_schema(2, "3f9a", 1.0, "")
    table = as_table(schema, ARRAY, ["a", "b", "c"], [None] * 3)
    pq.write_table(table, tmp_path / "f.parquet", row_group_size=1)
    np.testing.assert_array_equal(read_embeddings(tmp_path / "f.parquet").embeddings, ARRAY)


def test_a_write_cut_half_way_leaves_the_previous_file(tmp_path: Path) -> None:
    path = write_embeddings(tmp_path / "f.parquet", EMBEDDINGS)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50, hard))  # as a full disk would
    try:
        with pytest.raises(OSError, match=r"File.*large"):
            write_embeddings(path, EMBEDDINGS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["f.parquet"]


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"embeddings": ARRAY.astype(np.float64)}, TypeError, r"array.*float32.*float64"),
        ({"embeddings": [[1.0]]}, TypeError, r"array.*float32.*list"),
        ({"embeddings": ARRAY[0]}, ValueError, r"shape \(n, dim\).*got \(2,\)"),
        ({"embedding_space": None}, ValueError, r"id.*trained model's space.*None"),
        ({"capacity": 20}, ValueError, r"capacity.*\(0, 1\].*20"),
        ({"paths": ["a"]}, ValueError, r"paths.*entry.*3 embeddings.*it.*1"),
        ({"labels": ["a"] * 4}, ValueError, r"labels.*entry.*it.*4"),
    ],
)
def test_what_no_embeddings_can_be(changed: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        replace(EMBEDDINGS, **changed)


def test_nameless_images_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"embeddings.*3 images.*paths"):
        write_embeddings(tmp_path / "f.parquet", replace(EMBEDDINGS, paths=[]))


def forged(path: Path, metadata: dict[str, str | None], space: str = "3f9a") -> Path:
    """A table with other metadata: None takes a key out."""
    schema = table_schema(2, space, 0.2, "")
    table = as_table(schema, ARRAY, ["a", "b", "c"], [None] * 3)
    changed = {**{key.decode(): value.decode() for key, value in schema.metadata.items()}, **metadata}
    pq.write_table(table.replace_schema_metadata({k: v for k, v in changed.items() if v is not None}), path)
    return path


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"format": None}, r"'format'.*None; embedding tables.*'prunnet-embeddings'"),
        ({"version": "2"}, r"format version.*2.*up to 1. Upgrade prunnet_hf"),
        ({"version": "one"}, r"format version.*'one'.*Embed.*images again"),
        ({"capacity": None, "model": None}, "metadata lacks capacity, model"),
        ({"capacity": "7"}, r"capacity.*\(0, 1\].*7"),
        ({"capacity": "much"}, r"could.*convert string.*float: 'much'"),
        ({"embedding_dim": "3"}, r"columns.*not.*format version 1"),
        ({"embedding_dim": "9" * 11}, r"read.*table.*embeddings"),
        ({"embedding_dim": "-3"}, r"read.*table.*embeddings"),
        ({"embedding_space": "77aa"}, r"rows.*0.*space.*'77aa'"),
        ({"embedding_space": ""}, r"read.*table.*embeddings"),
    ],
)
def test_metadata_that_is_wrong(tmp_path: Path, metadata: dict[str, str | None], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read_embeddings(forged(tmp_path / "f.parquet", metadata))
    assert str(tmp_path / "f.parquet") in str(caught.value)


def test_other_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.parquet'.*file\. `python -m prunnet_hf"):
        read_embeddings(tmp_path / "none.parquet")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    (tmp_path / "text.parquet").write_text(json.dumps({}))
    blob = write_embeddings(tmp_path / "f.parquet", EMBEDDINGS).read_bytes()
    (tmp_path / "cut.parquet").write_bytes(blob[: len(blob) // 2])
    for name in ("other", "text", "cut"):
        with pytest.raises(ValueError, match=rf"{name}\.parquet.*read.*table.*embeddings"):
            read_embeddings(tmp_path / f"{name}.parquet")
