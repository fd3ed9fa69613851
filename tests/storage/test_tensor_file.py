"""Safetensors files: the same bytes for the same tensors, strict when read. Hostile ones: tests/test_checkpoint.py."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save

from prunnet_hf.storage.tensor_file import (
    CODES,
    CheckpointFormatError,
    check_shape,
    checksum,
    parse_json,
    read_tensors,
    write_tensors,
)

TENSORS = {"b": torch.tensor([[1.0, -0.0]]), "a": torch.tensor([True]), "c": torch.empty(0, 3)}
METADATA = {"format": "test", "version": "1", "note": "é"}


def test_what_is_written_is_read_back_here_and_by_safetensors(tmp_path: Path) -> None:
    write_tensors(tmp_path / "m", TENSORS, METADATA)
    tensors, metadata = read_tensors(tmp_path / "m")
    assert metadata == METADATA
    for found in (tensors, load_file(tmp_path / "m")):
        assert found.keys() == TENSORS.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())


@pytest.mark.parametrize("dtype", CODES, ids=str)
def test_every_type(dtype: torch.dtype, tmp_path: Path) -> None:
    tensor = torch.tensor([[0, 1]]).to(dtype)
    write_tensors(tmp_path / "m", {"t": tensor}, {})
    found = read_tensors(tmp_path / "m")[0]["t"]
    assert found.dtype == dtype
    assert torch.equal(found, tensor)


def test_order_does_not_change_the_bytes(tmp_path: Path) -> None:
    write_tensors(tmp_path / "one", TENSORS, METADATA)
    write_tensors(tmp_path / "two", dict(reversed(TENSORS.items())), dict(reversed(METADATA.items())))
    blob = (tmp_path / "one").read_bytes()
    assert blob == (tmp_path / "two").read_bytes()
    (length,) = struct.unpack("<Q", blob[:8])
    assert length % 8 == 0
    assert list(json.loads(blob[8 : 8 + length])) == ["__metadata__", "a", "b", "c"]


@pytest.mark.parametrize("metadata", [METADATA, {}], ids=["metadata", "none"])
def test_the_bytes_are_those_of_safetensors_with_its_header_in_order(metadata: dict[str, str], tmp_path: Path) -> None:
    tensors = {f"{number}-{str(dtype)[6:]}": torch.arange(number).to(dtype) for dtype in CODES for number in (0, 1, 3)}
    write_tensors(tmp_path / "m", tensors, metadata)
    blob, theirs = (tmp_path / "m").read_bytes(), save(tensors, metadata)
    (length,), (their_length,) = struct.unpack("<Q", blob[:8]), struct.unpack("<Q", theirs[:8])
    header, data = json.loads(theirs[8 : 8 + their_length]), theirs[8 + their_length :]
    assert blob[8 : 8 + length].rstrip() == json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    assert blob[8 + length :] == data


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tensors(tmp_path / "m", TENSORS, METADATA)
    before = (tmp_path / "m").read_bytes()

    def no_space(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(OSError, match="No space left"):
        write_tensors(tmp_path / "m", {"other": torch.ones(1)}, {})
    assert [file.name for file in tmp_path.iterdir()] == ["m"]
    assert (tmp_path / "m").read_bytes() == before


def test_a_directory_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="create the directory"):
        write_tensors(tmp_path / "none" / "m", TENSORS, {})


def test_tensors_outlive_their_file(tmp_path: Path) -> None:
    write_tensors(tmp_path / "m", TENSORS, {})
    tensors, metadata = read_tensors(tmp_path / "m")
    (tmp_path / "m").write_bytes(bytes(8))
    assert tensors["b"].tolist() == [[1.0, -0.0]]
    assert not metadata


def test_damage_is_named_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(b"short")
    with pytest.raises(CheckpointFormatError, match=r"truncated.*Download"):
        read_tensors(tmp_path / "m")


def test_shapes_that_torch_cannot_hold() -> None:
    check_shape("t", [1] * 64)
    check_shape("t", [2**30, 2**29])  # 2**59
    for shape in ([1] * 65, [2**30, 2**30], [0, 2**60]):
        with pytest.raises(CheckpointFormatError, match=r"'t'.*\d+ dimensions.*2\*\*60"):
            check_shape("t", shape)


@pytest.mark.parametrize(("text", "problem"), [("{", "Expecting"), ('{"a": 1, "a": 2}', r"\['a'\] more than once")])
def test_json_that_two_readers_could_take_differently(text: str, problem: str) -> None:
    with pytest.raises(CheckpointFormatError, match=rf"header.*JSON.*{problem}"):
        parse_json(text, "the header")


def test_the_checksum_by_hand() -> None:
    tensors = {"b": torch.tensor([[3], [4]], dtype=torch.uint8), "a": torch.tensor(1.0)}
    covered = b"first" + b"a F32 \n\x00\x00\x80\x3f" + b"b U8 2,1\n\x03\x04"
    assert checksum(tensors, b"first") == f"{zlib.crc32(covered):08x}"
