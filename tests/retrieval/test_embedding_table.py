"""Embedding tables: read as written, refused if they are something else."""

from __future__ import annotations

import json
import random
import resource
from collections.abc import Callable
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
        b"digest": b"77bed8b3e9620d0c",
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


def test_no_flipped_bit_reads_as_other_embeddings(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    array = rng.standard_normal((40, 4)).astype(np.float32)
    paths, labels = [f"{row % 3}/{row}.png" for row in range(40)], [f"{row % 3}" for row in range(40)]
    path = write_embeddings(tmp_path / "f.parquet", Embeddings(array, "3f9a", 0.2, paths, labels, "org/name"))
    blob, expected, refused = path.read_bytes(), facts(read_embeddings(path)), 0
    for bit in random.Random(0).sample(range(8 * len(blob)), 800):
        damaged = bytearray(blob)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            assert facts(read_embeddings(path)) == expected, f"bit {bit}"
        except ValueError as error:
            refused += str(path) in str(error)
    assert refused > 500  # the others are in places that nobody reads, such as the statistics of columns


def facts(found: Embeddings) -> tuple[Any, ...]:
    return (found.embeddings.tobytes(), found.paths, found.labels, found.embedding_space, found.capacity, found.model)


def test_a_footer_that_lies_about_its_rows_gives_no_memory_that_nobody_wrote(tmp_path: Path) -> None:
    """The number of rows stands in the footer as a varint of 2n; other numbers are put in every place it can be."""
    path = write_embeddings(tmp_path / "f.parquet", EMBEDDINGS)
    blob, expected, places = path.read_bytes(), facts(read_embeddings(path)), 0
    for place in range(len(blob) - 8 - int.from_bytes(blob[-8:-4], "little"), len(blob) - 8):
        if blob[place] == 2 * len(EMBEDDINGS):
            path.write_bytes(blob[:place] + bytes([2 * 60]) + blob[place + 1 :])
            try:
                assert facts(read_embeddings(path)) == expected
            except ValueError as error:
                places += "states 60 rows, but holds 3: it is damaged. Embed" in str(error)
    assert places == 1


def test_tables_of_earlier_versions_have_no_checksums(tmp_path: Path) -> None:
    table = pq.read_table(write_embeddings(tmp_path / "f.parquet", EMBEDDINGS))
    metadata = {key: value for key, value in table.schema.metadata.items() if key != b"digest"}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "old.parquet")
    assert facts(read_embeddings(tmp_path / "old.parquet")) == facts(EMBEDDINGS)


def recast(name: str, kind: pa.DataType) -> Callable[[pa.Table], pa.Table]:
    """A function that gives a column of a table another type."""
    return lambda table: table.set_column(table.column_names.index(name), name, table[name].cast(kind))


@pytest.mark.parametrize(
    "change",
    [
        recast("embedding", pa.list_(pa.float32())),
        recast("embedding", pa.large_list(pa.float32())),
        recast("embedding", pa.list_(pa.float64(), 2)),
        recast("embedding", pa.list_(pa.float16())),
        recast("path", pa.large_string()),
        recast("label", pa.string_view()),
        recast("label", pa.dictionary(pa.int32(), pa.string())),
        recast("embedding_space", pa.large_string()),
        lambda table: table.append_column("year", pa.array([2000] * 3)),
        lambda table: table.select(["path", "embedding_space", "embedding", "label"]),
    ],
)
def test_what_other_programs_make_of_a_table_is_read(tmp_path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """polars and pandas write large_string, DuckDB lists and further columns."""
    pq.write_table(change(pq.read_table(write_embeddings(tmp_path / "f", EMBEDDINGS))), tmp_path / "other")
    assert facts(read_embeddings(tmp_path / "other")) == facts(EMBEDDINGS)


def test_metadata_that_only_the_file_has_is_found(tmp_path: Path) -> None:
    """So does polars write it: not into the schema."""
    table = pq.read_table(write_embeddings(tmp_path / "f", EMBEDDINGS))
    with pq.ParquetWriter(tmp_path / "other", table.schema.remove_metadata()) as writer:
        writer.write_table(table.replace_schema_metadata(None))
        writer.add_key_value_metadata(table.schema.metadata)
    assert facts(read_embeddings(tmp_path / "other")) == facts(EMBEDDINGS)


def test_labels_that_are_all_missing_may_have_no_type(tmp_path: Path) -> None:
    table = pq.read_table(write_embeddings(tmp_path / "f", replace(EMBEDDINGS, labels=[])))
    pq.write_table(table.set_column(2, "label", pa.nulls(3)), tmp_path / "other")
    assert read_embeddings(tmp_path / "other").labels == [None] * 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop_columns("path"), r"one column 'path'; it has 0 .*'label'"),
        (lambda table: table.append_column("path", table["path"]), r"one column 'path'; it has 2"),
        (
            lambda table: table.set_column(1, "path", pa.array([1, 2, 3])),
            r"'path' holds int64; it must hold text\. Embed",
        ),
        (
            lambda table: table.set_column(1, "path", pa.array(["a", None, "b"])),
            r"'path' has rows without a value",
        ),
        (
            lambda table: table.set_column(3, "embedding_space", pa.array(["3f9a", None, "3f9a"])),
            r"'embedding_space' has rows without a value",
        ),
        (
            lambda table: table.set_column(0, "embedding", pa.array([[1.0, 2], [3], [4, 5]], pa.list_(pa.float32()))),
            r"'embedding' must hold 2 numbers in every row",
        ),
        (
            lambda table: table.set_column(0, "embedding", pa.array([[1.0, 2], None, [4, 5]], pa.list_(pa.float32()))),
            r"'embedding' must hold 2 numbers in every row",
        ),
        (
            lambda table: table.set_column(
                0, "embedding", pa.array([[1, 2]] * 2 + [[3, None]], pa.list_(pa.float32()))
            ),
            r"'embedding' must hold 2 numbers in every row",
        ),
        (
            lambda table: table.set_column(0, "embedding", pa.array([[0.1, 2]] * 3, pa.list_(pa.float64()))),
            r"'embedding' holds double numbers that float32 can't hold exactly\. Embed.*round",
        ),
        (
            lambda table: table.set_column(0, "embedding", pa.array([[1, 2]] * 3)),
            r"'embedding' holds list<.*int64>; it must hold lists of 2 floating-point numbers",
        ),
        (lambda table: table.replace_schema_metadata(None), r"'format' is None.*metadata of the first one"),
    ],
)
def test_the_column_that_does_not_fit_is_named(
    tmp_path: Path, change: Callable[[pa.Table], pa.Table], message: str
) -> None:
    pq.write_table(change(pq.read_table(write_embeddings(tmp_path / "f", EMBEDDINGS))), tmp_path / "other")
    with pytest.raises(ValueError, match=message):
        read_embeddings(tmp_path / "other")


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
        ({"embedding_dim": "3"}, r"'embedding' holds.*\[2\]; it must hold lists of 3 "),
        ({"capacity": "0.3"}, r"metadata.*'0\.3'.*digest.*Embed"),
        ({"model": "org/nbme"}, r"metadata.*'org/nbme'.*digest.*Embed"),
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
