"""Parts of a table: merged in order, and never with parts of something else."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prunnet_hf.retrieval.embedding_parts import EmbeddingParts
from prunnet_hf.retrieval.embedding_table import as_table, read_embeddings, table_schema

SCHEMA = table_schema(2, "3f9a", 1.0, "m")


def begin(tmp_path: Path, **plan: object) -> EmbeddingParts:
    return EmbeddingParts(tmp_path / "f.parquet", SCHEMA, {"weights": "aa", "capacity": 1.0, **plan})


def write(parts: EmbeddingParts, number: int, images: str = "digest") -> None:
    """Part `number` holds one image, `<number>.png`, and left `<number>.jpg` out."""
    rows = as_table(SCHEMA, np.full((1, 2), number, np.float32), [f"{number}.png"], [None])
    parts.write(number, rows, images, [f"{number}.jpg"])


def test_parts_written_in_any_order_become_one_file_in_order(tmp_path: Path) -> None:
    parts = begin(tmp_path)
    for number in (2, 0, 1):
        assert not parts.output.exists()
        write(parts, number)
    assert parts.done() == [0, 1, 2]
    parts.finish(3, ["0.png", "1.png", "2.png"])
    found = read_embeddings(tmp_path / "f.parquet")
    assert found.paths == ["0.png", "1.png", "2.png"]
    assert found.embeddings[:, 0].tolist() == [0, 1, 2]
    assert [file.name for file in tmp_path.iterdir()] == ["f.parquet"]


def test_going_on_finds_what_is_done(tmp_path: Path) -> None:
    write(begin(tmp_path), 1)
    again = begin(tmp_path)
    assert again.done() == [1]
    assert again.check(1, "digest", ["1.png", "1.jpg"]) == ["1.jpg"]


def test_half_written_parts_do_not_count(tmp_path: Path) -> None:
    parts = begin(tmp_path)
    (parts.folder / ".part-000000.parquet.0123456789abcdef.tmp").write_bytes(b"PAR1")
    assert parts.done() == []
    write(parts, 0)
    parts.finish(1, ["0.png"])


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (
            {"weights": "bb"},
            r"weights \('aa'.*'bb' now\).*remove.*f.parquet.partial",
        ),
        ({"capacity": 0.2, "weights": "bb"}, r"weights \('aa'.*, capacity \(1\.0.*0\.2 now\)"),
        ({"dtype": "bfloat16"}, r"dtype \(None.*'bfloat16' now\)"),
    ],
)
def test_another_plan_is_refused_and_nothing_is_lost(tmp_path: Path, plan: dict[str, object], message: str) -> None:
    write(begin(tmp_path), 0)
    with pytest.raises(ValueError, match=message):
        begin(tmp_path, **plan)
    assert begin(tmp_path).done() == [0]


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["0.png", "0.jpg"], r"sizes.*times differ"),
        (["0.png", "0.jpg", "new.png"], r"new.png.*two"),
        ([], r"0.jpg.*two"),
    ],
)
def test_part_of_other_images_is_refused(tmp_path: Path, paths: list[str], message: str) -> None:
    parts = begin(tmp_path)
    write(parts, 0)
    with pytest.raises(ValueError, match=rf"part-000000.parquet.*{message}"):
        parts.check(0, "another digest", paths)


def test_a_damaged_part_is_named_and_can_be_made_again(tmp_path: Path) -> None:
    parts = begin(tmp_path)
    write(parts, 0)
    write(parts, 1)
    (parts.folder / "part-000001.parquet").write_bytes(b"nothing")
    for action in (lambda: parts.check(1, "digest", []), lambda: parts.finish(2, ["0.png", "1.png"])):
        with pytest.raises(ValueError, match=r"part-000001\.parquet.*read.*Remove"):
            action()
    assert not parts.output.exists()
    write(parts, 1)
    parts.finish(2, ["0.png", "1.png"])
    assert len(read_embeddings(parts.output)) == 2


def test_no_flipped_bit_of_a_part_reads_as_other_embeddings(tmp_path: Path) -> None:
    parts = begin(tmp_path)
    write(parts, 0)
    file = parts.folder / "part-000000.parquet"
    blob, rows, refused = file.read_bytes(), parts._read(0), 0
    for bit in random.Random(0).sample(range(8 * len(blob)), 500):
        damaged = bytearray(blob)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        try:
            assert parts.check(0, "digest", ["0.png", "0.jpg"]) == ["0.jpg"]
            assert parts._read(0).equals(rows)
        except ValueError as error:
            refused += "part-000000.parquet can't be read" in str(error) and "Remove" in str(error)
    assert refused > 300  # the others are in places that nobody reads


def test_parts_of_earlier_versions_have_no_digest(tmp_path: Path) -> None:
    parts = begin(tmp_path)
    write(parts, 0)
    file = parts.folder / "part-000000.parquet"
    rows = pq.read_table(file)
    facts = {key: value for key, value in rows.schema.metadata.items() if key != b"contents"}
    pq.write_table(rows.replace_schema_metadata(facts), file)
    assert parts.check(0, "digest", ["0.png", "0.jpg"]) == ["0.jpg"]
    parts.finish(1, ["0.png"])


def test_missing_parts_are_no_file(tmp_path: Path) -> None:
    parts = begin(tmp_path)
    write(parts, 1)
    with pytest.raises(ValueError, match=r"parts 0.*1.*\[1\]"):
        parts.finish(2, ["0.png", "1.png"])
    assert not parts.output.exists()


def test_nothing_that_is_there_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "f.parquet").write_text("precious")
    with pytest.raises(FileExistsError, match=r"f\.parquet' exists\. Remove"):
        begin(tmp_path)
    assert (tmp_path / "f.parquet").read_text() == "precious"


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none.*folder.*exist"):
        begin(tmp_path / "none")


def test_a_copy_that_somebody_made_is_no_part(tmp_path: Path) -> None:
    parts = begin(tmp_path)
    write(parts, 0)
    (parts.folder / "part-000000 (copy).parquet").write_text("")
    assert parts.done() == [0]


def test_a_missing_plan_is_not_replaced_by_another(tmp_path: Path) -> None:
    parts = begin(tmp_path)
    write(parts, 0)
    (parts.folder / "plan.json").unlink()
    with pytest.raises(ValueError, match=r"plan\.json is missing.*remove .*f\.parquet\.partial"):
        begin(tmp_path, weights="bb")


def test_a_part_of_another_table_is_refused(tmp_path: Path) -> None:
    other = EmbeddingParts(tmp_path / "other.parquet", table_schema(2, "77aa", 0.2, "m"), {})
    write(other, 0)
    parts = begin(tmp_path)
    shutil.copy(other.folder / "part-000000.parquet", parts.folder)
    with pytest.raises(
        ValueError, match=r"part-000000\.parquet.*another table: its embedding_space, capacity.*Remove"
    ):
        parts.check(0, "digest", ["0.png", "0.jpg"])


def test_a_part_with_another_type_of_column_is_refused(tmp_path: Path) -> None:
    parts = begin(tmp_path)
    write(parts, 0)
    file = parts.folder / "part-000000.parquet"
    rows = pq.read_table(file)
    place = rows.column_names.index("path")
    pq.write_table(rows.set_column(place, "path", rows["path"].cast(pa.binary())), file)
    with pytest.raises(ValueError, match=r"part-000000\.parquet.*another table: its columns differ.*Remove"):
        parts.check(0, "digest", ["0.png", "0.jpg"])


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_a_damaged_plan(tmp_path: Path, text: str) -> None:
    parts = begin(tmp_path)
    (parts.folder / "plan.json").write_text(text)
    with pytest.raises(ValueError, match=r"plan\.json.*damaged.*remove"):
        begin(tmp_path)


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["0.png", "other.png"], r"parts 0 to 1 in .*hold '1\.png' where 'other\.png' should be.*remove"),
        (["0.png"], r"parts 0 to 1 in .*hold '1\.png' where None should be.*remove"),
        (["0.png", "1.png", "2.png"], r"holds 2 images of 3.*remove"),
    ],
)
def test_rows_of_other_images_are_no_file(tmp_path: Path, paths: list[str], message: str) -> None:
    parts = begin(tmp_path)
    write(parts, 0)
    write(parts, 1)
    with pytest.raises(ValueError, match=message):
        parts.finish(2, paths)
    assert not parts.output.exists()


def test_a_file_that_somebody_puts_there_meanwhile_stays(tmp_path: Path) -> None:
    parts = begin(tmp_path)
    write(parts, 0)
    parts.output.write_text("precious")
    with pytest.raises(FileExistsError, match=r"f\.parquet' exists\. Remove"):
        parts.finish(1, ["0.png"])
    assert parts.output.read_text() == "precious"
    assert parts.done() == [0]


def test_what_a_user_put_among_the_parts_stays(tmp_path: Path) -> None:
    parts = begin(tmp_path)
    write(parts, 0)
    mine = parts.folder / "notes.txt"
    mine.write_text("mine")
    parts.finish(1, ["0.png"])
    assert [file.name for file in parts.folder.iterdir()] == ["notes.txt"]
    assert mine.read_text() == "mine"
