"""The index of a progressive checkpoint: which files a capacity needs, and that they are those it was written with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from prunnet_hf.storage.band_index import INDEX_NAME, band_file, band_files, ranks_file, read_index
from prunnet_hf.storage.tensor_file import CheckpointFormatError
from tests.banded import loaded, model_tensors, saved

FIRST = "band-00001-of-00003.safetensors"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A checkpoint with edges 0.2, 0.6 and 1.0, which the test may change."""
    return saved(tmp_path / "bands", model_tensors())


def edit(directory: Path, **changes: Any) -> None:
    path = directory / INDEX_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_names() -> None:
    assert band_file(2, 5) == "band-00002-of-00005.safetensors"
    assert ranks_file(2, 5) == "band-00002-of-00005.ranks.safetensors"
    assert len(set(band_files(3))) == 6


@pytest.mark.parametrize(
    ("capacity", "bands", "ranks"),
    [(0.01, 1, 1), (0.2, 1, None), (0.3, 2, 2), (0.6, 2, None), (0.99, 3, 3), (1.0, 3, None)],
)
def test_what_a_capacity_needs(directory: Path, capacity: float, bands: int, ranks: int | None) -> None:
    index = read_index(directory / INDEX_NAME)
    expected = [band_file(number, 3) for number in range(1, bands + 1)]
    assert index.needed_files(capacity) == expected + ([] if ranks is None else [ranks_file(ranks, 3)])
    assert sorted(index.needed_files()) == sorted(band_files(3))


def test_a_file_of_another_model_of_the_same_size(directory: Path, tmp_path: Path) -> None:
    other = saved(tmp_path / "other", model_tensors(seed=1))
    shutil.copy(other / FIRST, directory)
    with pytest.raises(CheckpointFormatError, match=rf"{FIRST}: .*SHA-256.*another model.*Download the file again"):
        loaded(directory)


def test_a_file_of_another_size(directory: Path) -> None:
    with (directory / FIRST).open("ab") as file:
        file.write(b"\0")
    with pytest.raises(CheckpointFormatError, match=rf"{FIRST}: .*\d+ bytes.*bands\.index\.json.*\d+"):
        loaded(directory)


def test_files_that_changed_places(directory: Path) -> None:
    index = json.loads((directory / INDEX_NAME).read_text())
    one, two = (band_file(number, 3) for number in (1, 2))
    (directory / one).rename(directory / "aside")
    (directory / two).rename(directory / one)
    (directory / "aside").rename(directory / two)
    index["files"][one], index["files"][two] = index["files"][two], index["files"][one]
    edit(directory, **index)
    with pytest.raises(CheckpointFormatError, match=r"metadata.*bands\.index\.json"):
        loaded(directory)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"version": 3}, r"version is 3.*up to 2\b.*Upgrade"),
        ({"version": 2}, r"must have .*'units'"),
        ({"version": 0}, "version is 0; allowed are 1 and 2"),
        ({"version": True}, "version is True"),
        ({"format": "other"}, "format 'prunnet-bands'"),
        ({"note": 1}, "must have"),
        ({"capacities": []}, "the last must be 1"),
        ({"capacities": [0.2, 0.6]}, "the last must be 1"),
        ({"capacities": [0.6, 0.2, 1.0]}, "must be ascending"),
        ({"capacities": [0.0, 1.0]}, "must be ascending numbers"),
        ({"capacities": ["0.2", 1.0]}, "must be ascending numbers"),
        ({"capacities": [True]}, "must be ascending numbers"),
        ({"capacities": 1}, "must be ascending numbers"),
        ({"capacities": [0.2, 0.5, 1.0]}, "metadata is"),  # as many bands, but others
        ({"capacities": [0.2, 0.3, 1.0]}, r"among them \(0\.2, 0\.3\)"),
        ({"capacities": [0.2, 1.0]}, "2 bands must have two each"),
        ({"statistics": [0.2, 0.6, 1.0]}, "must be below 1"),
        ({"statistics": [0.1, 0.2, 0.4, 0.6, 0.9]}, "metadata is"),
        ({"tensors": []}, "tensors is a JSON list"),
        ({"tensors": {"a.weight": {"dtype": "U8", "shape": [1]}}}, "dtype U8"),
        ({"tensors": {"a.weight": {"dtype": "F32", "shape": [0]}}}, r"shape \[0\]"),
        ({"tensors": {"a.weight": {"dtype": "F32", "shape": [2**31, 4]}}}, r"fewer than 2\*\*32"),
        ({"tensors": {"a.weight": {"dtype": "F32", "shape": [2**62, 4]}}}, r"below 2\*\*60"),
        ({"tensors": {"a.weight": {"dtype": "F32"}}}, "dtype and shape only"),
        ({"tensors": {"a.bias": {"dtype": "F32", "shape": [1]}}}, "it must be a weight"),
        ({"files": {}}, "3 bands must have two each"),
        ({"files": {name: {"size": "1", "sha256": ""} for name in band_files(3)}}, "size must be a number"),
        ({"files": {name: {} for name in band_files(3)}}, "size and sha256 only"),
    ],
    ids=str,
)
def test_an_index_that_cannot_be(directory: Path, changes: dict[str, Any], problem: str) -> None:
    edit(directory, **changes)
    with pytest.raises(CheckpointFormatError, match=problem):
        loaded(directory)


@pytest.mark.parametrize("text", [b"", b"[]", b"\xff", b'{"format": 1, "format": 2}'])
def test_no_index_at_all(directory: Path, text: bytes) -> None:
    (directory / INDEX_NAME).write_bytes(text)
    with pytest.raises(CheckpointFormatError, match=r"bands\.index\.json: "):
        read_index(directory / INDEX_NAME)


def test_an_index_larger_than_any_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / INDEX_NAME).open("wb") as file:
        file.truncate(2**40)  # takes no room on disk
    with pytest.raises(CheckpointFormatError, match=r"bands\.index\.json.*1099511627776 bytes; allowed are 67108864"):
        read_index(tmp_path / INDEX_NAME)
    (tmp_path / INDEX_NAME).write_text('{"format":' * 10**5)
    with pytest.raises(CheckpointFormatError, match=r"bands\.index\.json"):
        read_index(tmp_path / INDEX_NAME)
