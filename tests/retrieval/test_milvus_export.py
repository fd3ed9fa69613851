"""Galleries in Milvus, by the real client and Milvus Lite: the same rows and results, one space a collection."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymilvus import MilvusClient

from prunnet_hf import Embeddings, Gallery
from prunnet_hf.cli.main import main
from prunnet_hf.retrieval import milvus_export
from prunnet_hf.retrieval.milvus_export import Exported, export_to_milvus

SPACE, OTHER = "0123456789abcdef", "fedcba9876543210"
COUNT, DIM = 300, 8


def make_gallery(count: int = COUNT, *, factory: str = "Flat", space: str = SPACE) -> Gallery:
    vectors = np.random.default_rng(0).normal(size=(count, DIM)).astype(np.float32)
    paths = [f"photos/{number}.jpg" for number in range(count)]
    labels = [None if number % 3 == 0 else f"class-{number % 3}" for number in range(count)]
    return Gallery.from_embeddings(Embeddings(vectors, space, 1.0, paths, labels), factory)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved gallery. No test may change it."""
    folder = tmp_path_factory.mktemp("saved") / "gallery"
    make_gallery().save(folder)
    return folder


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of one Milvus Lite, where each test has collections of its own."""
    return str(tmp_path_factory.mktemp("milvus") / "gallery.db")


@contextmanager
def client_of(uri: str, collection: str) -> Iterator[MilvusClient]:
    client = MilvusClient(uri)
    client.load_collection(collection)
    yield client
    client.close()


def rows_in(uri: str, collection: str) -> list[dict[str, Any]]:
    columns = ["path", "label", "digest", "embedding_space", "embedding"]
    with client_of(uri, collection) as client:
        return sorted(
            client.query(collection, filter="", limit=1000, output_fields=columns), key=lambda row: row["path"]
        )


def test_milvus_finds_what_the_gallery_finds(saved: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(milvus_export, "_BYTES_A_BATCH", 100 * 4 * DIM)  # three batches
    assert export_to_milvus(saved, uri, "found", index_type="FLAT", progress=False) == Exported(COUNT, 0)
    queries = np.random.default_rng(1).normal(size=(20, DIM)).astype(np.float32)
    expected = Gallery.load(saved).search(queries, 10, embedding_space=SPACE)
    with client_of(uri, "found") as client:
        found = client.search("found", data=list(queries), limit=10, output_fields=["label"])
        assert [[hit["path"] for hit in hits] for hits in found] == expected.paths
        assert [[hit["entity"]["label"] for hit in hits] for hits in found] == expected.labels
        np.testing.assert_allclose([[hit["distance"] for hit in hits] for hits in found], expected.scores, atol=1e-6)
        assert client.describe_collection("found")["properties"]["embedding_space"] == SPACE
        index = client.describe_index("found", "embedding")
        assert (index["index_type"], index["metric_type"]) == ("FLAT", "COSINE")


def test_every_row_has_the_space_and_a_second_export_changes_nothing(saved: Path, uri: str) -> None:
    export_to_milvus(saved, uri, "twice", progress=False)
    before = rows_in(uri, "twice")
    assert {row["embedding_space"] for row in before} == {SPACE}
    assert export_to_milvus(saved, uri, "twice", progress=False) == Exported(COUNT, 0)
    after = rows_in(uri, "twice")
    assert [row["path"] for row in after] == sorted(Gallery.load(saved).paths)
    assert [{**row, "embedding": None} for row in after] == [{**row, "embedding": None} for row in before]
    np.testing.assert_array_equal([row["embedding"] for row in after], [row["embedding"] for row in before])


def test_an_export_that_stopped_is_completed_by_the_next(
    saved: Path, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(milvus_export, "_BYTES_A_BATCH", 100 * 4 * DIM)
    whole = Gallery.load(saved)
    vectors = np.ones((COUNT, DIM), np.float32)
    labels = ["too long for Milvus" * 5000 if number == 150 else None for number in range(COUNT)]
    Gallery.from_embeddings(Embeddings(vectors, SPACE, 1.0, whole.paths, labels), "Flat").save(tmp_path / "g")
    with pytest.raises(RuntimeError, match=r"collection='stopped'.*Rows that are there stay; the same export again"):
        export_to_milvus(tmp_path / "g", uri, "stopped", progress=False)
    assert len(rows_in(uri, "stopped")) == 100
    assert export_to_milvus(saved, uri, "stopped", progress=False) == Exported(COUNT, 0)
    assert [row["label"] for row in rows_in(uri, "stopped")] == [
        label for _, label in sorted(zip(whole.paths, whole.labels, strict=True))
    ]


def test_rows_of_images_that_were_removed_are_counted_and_removed_if_asked(
    saved: Path, uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    export_to_milvus(saved, uri, "removed", progress=False)
    smaller = Gallery.load(saved)
    gone = smaller.paths[:7]
    smaller.remove(gone)
    smaller.save(tmp_path / "g")
    assert export_to_milvus(tmp_path / "g", uri, "removed", progress=False) == Exported(COUNT - 7, 7)
    assert export_to_milvus(tmp_path / "g", uri, "removed", remove_others=True, progress=False) == Exported(
        COUNT - 7, 0
    )
    assert [row["path"] for row in rows_in(uri, "removed")] == sorted(smaller.paths)
    assert caplog.text == ""


def test_a_collection_of_another_space_is_refused_and_stays(saved: Path, uri: str, tmp_path: Path) -> None:
    export_to_milvus(saved, uri, "space", progress=False)
    before = rows_in(uri, "space")
    make_gallery(space=OTHER).save(tmp_path / "other")
    with pytest.raises(ValueError, match=rf"collection='space' is of the space '{SPACE}', .*'{OTHER}'.*another name"):
        export_to_milvus(tmp_path / "other", uri, "space", progress=False)
    assert len(rows_in(uri, "space")) == len(before)


def test_collections_that_an_export_did_not_make_are_refused(saved: Path, uri: str) -> None:
    client = MilvusClient(uri)
    client.create_collection("own", dimension=DIM)
    client.close()
    with pytest.raises(ValueError, match="collection='own' exists and has no property 'embedding_space'"):
        export_to_milvus(saved, uri, "own", progress=False)


def test_another_kind_of_index_is_refused(saved: Path, uri: str) -> None:
    export_to_milvus(saved, uri, "kind", progress=False)
    with pytest.raises(ValueError, match=r"index_type='FLAT' differs from 'AUTOINDEX'.*collection='kind'"):
        export_to_milvus(saved, uri, "kind", index_type="FLAT", progress=False)


@pytest.mark.parametrize("factory", ["Flat", "HNSW8"])
def test_an_index_that_has_them_exactly_gives_the_embeddings_that_were_not_stored(
    factory: str, uri: str, tmp_path: Path
) -> None:
    gallery = make_gallery(factory=factory)
    gallery.save(tmp_path / "g", with_embeddings=False)
    export_to_milvus(tmp_path / "g", uri, f"without_{factory}", progress=False)
    rows = rows_in(uri, f"without_{factory}")
    found = gallery.search(np.array([row["embedding"] for row in rows], np.float32), 1, embedding_space=SPACE)
    assert [paths[0] for paths in found.paths] == [row["path"] for row in rows]
    np.testing.assert_allclose(found.scores, 1, atol=1e-6)


def test_approximations_are_not_exported(uri: str, tmp_path: Path) -> None:
    make_gallery(factory="SQ8").save(tmp_path / "g", with_embeddings=False)
    with pytest.raises(ValueError, match=r"without embeddings.*'SQ8' has only approximations.*factory='Flat'"):
        export_to_milvus(tmp_path / "g", uri, "approximations", progress=False)
    client = MilvusClient(uri)
    assert not client.has_collection("approximations")
    client.close()


@pytest.mark.parametrize(
    ("uri", "collection", "error", "message"),
    [
        ("{folder}/x.db", "two-words", ValueError, "collection='two-words' must have letters, digits and underscores"),
        ("gallery", "photos", RuntimeError, r"uri='gallery' can't be opened.*http://localhost:19530.*gallery\.db"),
        ("{folder}/no/x.db", "photos", RuntimeError, "uri='.*x.db' can't be opened.* in a folder that is there"),
        ("http://127.0.0.1:1", "photos", RuntimeError, "uri='http://127.0.0.1:1' can't be opened.*server that runs"),
        ("{folder}/file.db", "photos", RuntimeError, "uri='.*file.db' can't be opened.*of Milvus Lite"),
    ],
)
def test_what_can_not_be_opened_is_said_in_one_line(
    uri: str,
    collection: str,
    error: type[Exception],
    message: str,
    saved: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "file.db").write_bytes(b"SQLite format 3")
    level = logging.getLogger("pymilvus").level
    with pytest.raises(error, match=message):
        export_to_milvus(saved, uri.format(folder=tmp_path), collection, progress=False)
    assert caplog.text == ""  # the libraries' own tracebacks
    assert logging.getLogger("pymilvus").level == level


def test_the_command_exports_and_says_what_is_there(
    saved: Path, uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_gallery(3).save(tmp_path / "g")
    words = ["export-gallery", str(saved), "--to", "milvus", "--uri", uri, "--collection", "command"]
    assert main(words) == 0
    assert capsys.readouterr().out == f"{uri}: all 300 images of {saved} are in the collection 'command'.\n"
    assert main(["export-gallery", str(tmp_path / "g"), *words[2:]]) == 0
    assert capsys.readouterr().out.endswith("It has 297 rows of other images; --remove_others removes them.\n")
    assert main(["export-gallery", str(tmp_path / "g"), *words[2:], "--remove_others"]) == 0
    assert len(rows_in(uri, "command")) == 3
    assert main(["export-gallery", str(saved), "--to", "faiss", *words[4:]]) == 2
    assert "'faiss' is not one of 'milvus'" in capsys.readouterr().err
