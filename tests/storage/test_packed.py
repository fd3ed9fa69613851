"""The packed file: exact, small, readable from its description alone, and never silently wrong."""

from __future__ import annotations

import json
import math
import os
import random
import resource
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.mutants import mutate
from prunnet_hf.storage.packed import PACKED_WEIGHTS_NAME, load_packed, pack, save_packed, unpack
from prunnet_hf.storage.tensor_file import CheckpointFormatError

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
INTEGERS = {8: torch.int64, 4: torch.int32, 2: torch.int16}
CODES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.uint8: "U8", torch.int64: "I64"}


def bits(tensor: Tensor) -> tuple[torch.dtype, torch.Size, bytes]:
    """Everything that makes two tensors the same, NaN payloads and the sign of zero included."""
    contiguous = tensor.detach().contiguous()
    return contiguous.dtype, tensor.shape, contiguous.reshape(-1).view(torch.uint8).numpy().tobytes()


def all_bits(state_dict: dict[str, Tensor]) -> dict[str, tuple[torch.dtype, torch.Size, bytes]]:
    return {name: bits(tensor) for name, tensor in state_dict.items()}


def crc32_as_described(manifest: str, tensors: dict[str, Tensor]) -> str:
    """The checksum, written again from the layout's description."""
    stream = manifest.encode()
    for name in sorted(tensors, key=str.encode):
        tensor = tensors[name]
        stream += f"{name} {CODES[tensor.dtype]} {','.join(map(str, tensor.shape))}\n".encode() + bits(tensor)[2]
    return format(zlib.crc32(stream), "08x")


def small_state_dict() -> dict[str, Tensor]:
    """Twelve weights, three of them kept, and two tensors that aren't prunable."""
    weight = torch.tensor([0, 1.5, 0, 0, -2, 0, 0, 0, 0, 0, 0, 3.0]).reshape(3, 4)
    return {"fc.weight": weight, "fc.bias": torch.tensor([0.0, 1.0, 2.0]), "steps": torch.tensor(7)}


def sparse(numel: int, kept: int, dtype: torch.dtype) -> Tensor:
    tensor = torch.zeros(numel)
    tensor[:kept] = 1.0
    return tensor.to(dtype)


class TestRoundTrip:
    @pytest.mark.parametrize("dtype", FLOATS)
    def test_special_values_survive_bit_for_bit(self, tmp_path: Path, dtype: torch.dtype) -> None:
        special = [0.0, -0.0, math.nan, -math.nan, math.inf, -math.inf, 1.0, 6e-8]
        payload = torch.tensor([special], dtype=dtype)
        payload.view(INTEGERS[dtype.itemsize])[0, 2] |= 5  # a NaN with a payload of its own
        state_dict = {"w": torch.cat([payload, torch.zeros(3, 8, dtype=dtype)])}
        save_packed(tmp_path / "m", state_dict, ["w"])
        assert "w.packed_mask" in load_file(tmp_path / "m")
        assert all_bits(load_packed(tmp_path / "m")) == all_bits(state_dict)

    @pytest.mark.parametrize("dtype", FLOATS)
    @pytest.mark.parametrize("shape", [(), (1,), (7,), (8,), (9,), (0, 3), (3, 5), (4, 3, 3, 3)])
    @pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
    def test_any_shape(self, tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...], share: float) -> None:
        numel = math.prod(shape)
        state_dict = {"w": sparse(numel, round(share * numel), dtype).reshape(shape)}
        save_packed(tmp_path / "m", state_dict, ["w"])
        assert all_bits(load_packed(tmp_path / "m")) == all_bits(state_dict)

    def test_any_memory_layout(self, tmp_path: Path) -> None:
        image = sparse(4 * 3 * 2 * 2, 9, torch.float32).reshape(4, 3, 2, 2)
        state_dict = {
            "channels_last": image.to(memory_format=torch.channels_last),
            "transposed": sparse(48, 9, torch.float32).reshape(6, 8).T,
            "expanded": torch.tensor([[0.0], [1.0]]).expand(2, 20),
            "parameter": torch.nn.Parameter(image),
        }
        save_packed(tmp_path / "m", state_dict, ["channels_last", "transposed", "parameter"])
        assert all_bits(load_packed(tmp_path / "m")) == all_bits(state_dict)

    def test_plain_tensors_of_every_dtype(self, tmp_path: Path) -> None:
        dtypes = [*FLOATS, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]
        state_dict = {str(dtype).replace(".", "_"): torch.tensor([0, 1, 1]).to(dtype) for dtype in dtypes}
        save_packed(tmp_path / "m", state_dict, [])
        assert all_bits(load_packed(tmp_path / "m")) == all_bits(state_dict)

    def test_tied_tensors_and_views_come_back_under_every_name(self, tmp_path: Path) -> None:
        weight = sparse(64, 5, torch.float32)
        state_dict = {"a": weight, "b": weight, "plain": weight, "part": weight[2:9]}
        save_packed(tmp_path / "m", state_dict, ["a", "b"])
        assert all_bits(load_packed(tmp_path / "m")) == all_bits(state_dict)

    def test_the_state_dict_is_neither_changed_nor_shared(self) -> None:
        state_dict = small_state_dict()
        before = all_bits(state_dict)
        tensors, _ = pack(state_dict, ["fc.weight"])
        tensors["fc.bias"].fill_(9)
        assert all_bits(state_dict) == before

    def test_loaded_tensors_outlive_the_file_and_can_be_written(self, tmp_path: Path) -> None:
        save_packed(tmp_path / "m", small_state_dict(), ["fc.weight"])
        loaded = load_packed(tmp_path / "m")
        (tmp_path / "m").write_bytes(b"")
        loaded["fc.bias"][0] = 5.0
        assert loaded["fc.bias"].tolist() == [5.0, 1.0, 2.0]

    @settings(max_examples=100, deadline=None)
    @given(dtype=st.sampled_from(FLOATS), data=st.data())
    def test_any_bit_pattern(self, dtype: torch.dtype, data: st.DataObject) -> None:
        limit = 2 ** (8 * dtype.itemsize - 1)
        pattern = st.one_of(st.just(0), st.integers(-limit, limit - 1))
        integers = torch.tensor(data.draw(st.lists(pattern, max_size=40)), dtype=INTEGERS[dtype.itemsize])
        state_dict = {"w": integers.view(dtype)}
        assert all_bits(unpack(*pack(state_dict, ["w"]))) == all_bits(state_dict)


class TestSize:
    # 10,000 weights of 4 bytes are 40,000 bytes; the mask takes 10,000 / 8 = 1,250; 2,000 weights are kept.
    @pytest.mark.parametrize(
        ("dtype", "expected", "bound"),
        [(torch.float32, 2_000 * 4 + 1_250, 0.232), (torch.bfloat16, 2_000 * 2 + 1_250, 0.132)],
    )
    def test_capacity_one_fifth(self, dtype: torch.dtype, expected: int, bound: float) -> None:
        tensors, _ = pack({"w": sparse(10_000, 2_000, dtype)}, ["w"])
        assert sum(tensor.nbytes for tensor in tensors.values()) == expected
        assert expected <= bound * 40_000

    def test_the_file_adds_only_its_header(self, tmp_path: Path) -> None:
        save_packed(tmp_path / "m", {"w": sparse(10_000, 2_000, torch.float32)}, ["w"])
        size = (tmp_path / "m").stat().st_size
        assert 9_250 < size < 9_250 + 500

    # 32 weights of 4 bytes are 128 bytes, their mask 4: 30 kept take 124, 31 would take 128 and save nothing.
    @pytest.mark.parametrize(
        ("kept", "stored"), [(30, {"w.packed_mask", "w.packed_values"}), (31, {"w"}), (32, {"w"})]
    )
    def test_a_tensor_that_packing_would_not_shrink_stays_plain(self, kept: int, stored: set[str]) -> None:
        tensors, metadata = pack({"w": sparse(32, kept, torch.float32)}, ["w"])
        assert set(tensors) == stored
        assert set(json.loads(metadata["packed"])) == {"w"} - stored


class TestLayout:
    def test_bytes_are_as_described(self, tmp_path: Path) -> None:
        save_packed(tmp_path / "m", small_state_dict(), ["fc.weight"])
        blob = (tmp_path / "m").read_bytes()
        (length,) = struct.unpack("<Q", blob[:8])
        header = json.loads(blob[8 : 8 + length])
        metadata = header.pop("__metadata__")

        def stored(name: str) -> bytes:
            begin, end = header[name]["data_offsets"]
            return blob[8 + length + begin : 8 + length + end]

        assert set(header) == {"fc.weight.packed_mask", "fc.weight.packed_values", "fc.bias", "steps"}
        # Weights 1, 4 and 11 are kept: bits 1 and 4 of the first byte, bit 3 of the second.
        assert stored("fc.weight.packed_mask") == bytes([0b00010010, 0b00001000])
        assert stored("fc.weight.packed_values") == struct.pack("<3f", 1.5, -2.0, 3.0)
        assert stored("fc.bias") == struct.pack("<3f", 0.0, 1.0, 2.0)
        assert metadata == {
            "format": "prunnet-packed",
            "version": "1",
            "packed": '{"fc.weight":{"dtype":"F32","shape":[3,4]}}',
            "crc32": crc32_as_described(metadata["packed"], load_file(tmp_path / "m")),
        }

    def test_the_same_tensors_give_the_same_bytes_in_any_order(self, tmp_path: Path) -> None:
        state_dict = small_state_dict()
        blobs = set()
        for index in range(6):
            order = dict(reversed(state_dict.items())) if index % 2 else state_dict
            save_packed(tmp_path / "m", order, ["fc.weight"])
            blobs.add((tmp_path / "m").read_bytes())
        assert len(blobs) == 1


class TestPackRefuses:
    @pytest.mark.parametrize(
        ("state_dict", "prunable", "error", "message"),
        [
            ({"w": torch.ones(2)}, ["v"], ValueError, r"\['v'\].*state_dict"),
            ({"w": torch.ones(2, dtype=torch.int64)}, ["w"], TypeError, r"'w'.*torch.int64.*torch.float32"),
            ({"w": torch.ones(2, dtype=torch.complex64)}, [], TypeError, r"'w'.*torch.complex64.*torch.float32"),
            ({"w": torch.ones(2, device="meta")}, [], TypeError, r"'w'.*meta.*dense tensor"),
            ({"w": torch.eye(2).to_sparse()}, ["w"], TypeError, r"'w'.*sparse_coo.*dense tensor"),
            ({"w": [1.0, 2.0]}, [], TypeError, r"'w'.*list.*dense tensor"),
            ({"w.packed_mask": torch.ones(2)}, [], ValueError, r"'w.packed_mask'.*reserved"),
            ({"w.packed_values": torch.ones(2)}, [], ValueError, r"'w.packed_values'.*reserved"),
            ({"__metadata__": torch.ones(2)}, [], ValueError, r"'__metadata__'.*reserved"),
            ({"w": torch.ones([1] * 65)}, [], ValueError, r"'w' has 65 dimensions.*at most 64"),
        ],
    )
    def test_bad_input(
        self, state_dict: dict[str, Tensor], prunable: list[str], error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            pack(state_dict, prunable)


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """Let the system refuse to grow any file beyond `size` bytes, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class TestSaveIsAtomic:
    def test_a_write_cut_half_way_leaves_the_previous_file(self, tmp_path: Path) -> None:
        path = tmp_path / PACKED_WEIGHTS_NAME
        save_packed(path, small_state_dict(), ["fc.weight"])
        before = path.read_bytes()
        with files_limited_to(4096), pytest.raises(OSError, match="File too large"):
            save_packed(path, {"w": torch.ones(100_000)}, [])
        assert path.read_bytes() == before
        assert os.listdir(tmp_path) == [PACKED_WEIGHTS_NAME]

    def test_bad_input_leaves_the_previous_file(self, tmp_path: Path) -> None:
        path = tmp_path / PACKED_WEIGHTS_NAME
        save_packed(path, small_state_dict(), ["fc.weight"])
        before = path.read_bytes()
        with pytest.raises(TypeError, match="complex64"):
            save_packed(path, {"w": torch.ones(2, dtype=torch.complex64)}, [])
        assert path.read_bytes() == before
        assert os.listdir(tmp_path) == [PACKED_WEIGHTS_NAME]

    def test_a_directory_in_the_way_is_an_error_without_leftovers(self, tmp_path: Path) -> None:
        (tmp_path / "taken").mkdir()
        with pytest.raises(IsADirectoryError):
            save_packed(tmp_path / "taken", small_state_dict(), [])
        assert os.listdir(tmp_path) == ["taken"]

    def test_a_missing_directory_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"no_such/m.*create"):
            save_packed(tmp_path / "no_such" / "m", small_state_dict(), [])

    def test_the_umask_decides_who_may_read(self, tmp_path: Path) -> None:
        previous = os.umask(0o022)
        try:
            save_packed(tmp_path / "m", small_state_dict(), [])
        finally:
            os.umask(previous)
        assert (tmp_path / "m").stat().st_mode & 0o777 == 0o644


def forged(
    *, checksum: bool = True, drop: str = "", tensors: dict[str, Tensor] | None = None, **changes: str
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The small file's tensors and metadata with changes; with a fitting checksum unless `checksum` is false.

    `tensors` are added or replace others, `drop` names one to remove, all else changes the metadata.
    """
    stored, metadata = pack(small_state_dict(), ["fc.weight"])
    stored |= tensors or {}
    stored.pop(drop, None)
    metadata |= changes
    if checksum:
        metadata["crc32"] = crc32_as_described(metadata["packed"], stored)
    return stored, metadata


def manifest(**entry: object) -> str:
    return json.dumps({"fc.weight": {"dtype": "F32", "shape": [3, 4]} | entry})


MASK, VALUES = "fc.weight.packed_mask", "fc.weight.packed_values"


class TestUnpackRefuses:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"format": "pt"}, r"'format' is 'pt'.*'prunnet-packed'"),
            ({"version": "2"}, r"version is 2.*up to 1\. Upgrade prunnet_hf"),
            ({"version": "123456789"}, r"version is 123456789.*Upgrade prunnet_hf"),
            ({"version": "0"}, r"'version' is '0'.*'1'"),
            ({"version": "one"}, r"'version' is 'one'.*'1'"),
            ({"version": "01"}, r"'version' is '01'.*'1'"),
            ({"version": "٢"}, r"'version' is '٢'.*'1'"),
            ({"extra": "x"}, r"keys \['crc32', 'extra', 'format', 'packed', 'version'\]"),
            ({"packed": "{"}, r"'packed'.*JSON"),
            ({"packed": "[" * 100_000}, r"'packed'.*JSON"),
            ({"packed": '{"a": ' + "9" * 5000 + "}"}, r"'packed'.*JSON"),
            ({"packed": "[]"}, r"'packed' is a JSON list"),
            ({"packed": '{"a":1,"a":2}'}, r"\['a'\] more than once"),
            ({"packed": '{"fc.weight": [3, 4]}'}, r"\[3, 4\].*'fc\.weight'.*dtype and shape"),
            ({"packed": manifest(kept=3)}, r"'fc.weight'.*dtype and shape only"),
            ({"packed": manifest(dtype="F8")}, r"'fc.weight' has dtype F8; allowed are F64, F32, F16, BF16"),
            ({"packed": manifest(dtype=["F32"])}, r"'fc.weight' has dtype \['F32'\]"),
            ({"packed": manifest(dtype="F16")}, r"values of tensor 'fc.weight' are torch.float32.*torch.float16"),
            ({"packed": manifest(shape=12)}, r"'fc.weight' has shape 12"),
            ({"packed": manifest(shape=[-3, -4])}, r"'fc.weight' has shape \[-3, -4\]"),
            ({"packed": manifest(shape=[3, 4.0])}, r"'fc.weight' has shape \[3, 4.0\]"),
            ({"packed": manifest(shape=[True, 12])}, r"'fc.weight' has shape \[True, 12\]"),
            ({"packed": manifest(shape=[0, 12])}, r"'fc.weight' has shape \[0, 12\]"),
            ({"packed": manifest(shape=[math.nan])}, r"'fc.weight' has shape \[nan\]"),
            ({"packed": manifest(shape=[1] * 65)}, r"'fc.weight' has 65 dimensions"),
            ({"packed": manifest(shape=[2**40, 2**40])}, r"'fc.weight' has 2 dimensions.*below 2\*\*60"),
            ({"packed": manifest(shape=[2**50])}, r"mask of tensor 'fc.weight'.*\(2,\).*\(140737488355328,\)"),
            ({"packed": manifest(shape=[3, 8])}, r"mask of tensor 'fc.weight'.*\(2,\).*\(3,\)"),
            ({"packed": manifest(shape=[3, 3])}, r"'fc.weight' has bits set beyond its 9 weights"),
            ({"packed": "{}"}, r"have \['fc.weight.packed_mask', 'fc.weight.packed_values'\] that the metadata"),
            ({"drop": MASK}, r"lack \['fc.weight.packed_mask'\]"),
            ({"drop": VALUES}, r"lack \['fc.weight.packed_values'\]"),
            ({"tensors": {"orphan.packed_mask": torch.ones(1)}}, r"have \['orphan.packed_mask'\] that"),
            ({"tensors": {"fc.weight": torch.ones(3, 4)}}, r"\['fc.weight'\] are stored plain and packed"),
            ({"tensors": {MASK: torch.tensor([18, 8])}}, r"mask of tensor 'fc.weight' is torch.int64"),
            ({"tensors": {MASK: torch.tensor([[18, 8]], dtype=torch.uint8)}}, r"mask .*\(1, 2\).*\(2,\)"),
            ({"tensors": {MASK: torch.tensor([18, 24], dtype=torch.uint8)}}, r"bits set beyond its 12 weights"),
            ({"tensors": {MASK: torch.tensor([19, 8], dtype=torch.uint8)}}, r"\(3,\); by its mask.*\(4,\)"),
            ({"tensors": {VALUES: torch.ones(2)}}, r"values of tensor 'fc.weight'.*\(2,\).*\(3,\)"),
            ({"tensors": {VALUES: torch.ones(3, 1)}}, r"values of tensor 'fc.weight'.*\(3, 1\).*\(3,\)"),
            ({"tensors": {"fc.bias": torch.ones(3)}, "checksum": False}, r"CRC-32 '[0-9a-f]{8}', the metadata states"),
        ],
    )
    def test_every_field_that_can_be_wrong(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(CheckpointFormatError, match=message):
            unpack(*forged(**changes))

    def test_a_reserved_name_cannot_be_packed_again(self) -> None:
        halves = {MASK + ".packed_mask": torch.tensor([1], dtype=torch.uint8), MASK + ".packed_values": torch.ones(1)}
        both = json.loads(manifest()) | {MASK: {"dtype": "F32", "shape": [3]}}
        with pytest.raises(CheckpointFormatError, match=r"\['fc.weight.packed_mask'\].*reserved name"):
            unpack(*forged(packed=json.dumps(both), tensors=halves))

    @pytest.mark.parametrize("key", ["version", "packed", "crc32"])
    def test_missing_metadata(self, key: str) -> None:
        tensors, metadata = pack(small_state_dict(), ["fc.weight"])
        del metadata[key]
        with pytest.raises(CheckpointFormatError, match=r"version|keys"):
            unpack(tensors, metadata)

    @settings(max_examples=300, deadline=None)
    @given(
        shape=st.lists(st.one_of(st.integers(1, 5), st.sampled_from([0, -1, 2**31, 2**62, 2**64, True])), max_size=4),
        mask=st.binary(max_size=4),
        kept=st.integers(0, 12),
    )
    def test_a_hostile_shape_is_right_or_an_error(self, shape: list[int], mask: bytes, kept: int) -> None:
        halves = {MASK: torch.tensor(list(mask), dtype=torch.uint8), VALUES: torch.arange(1.0, kept + 1)}
        tensors, metadata = forged(packed=manifest(shape=shape), tensors=halves)
        try:
            weight = unpack(tensors, metadata)["fc.weight"]
        except CheckpointFormatError:
            return
        assert list(weight.shape) == shape
        assert weight[weight != 0].tolist() == list(range(1, kept + 1))


def write_raw(path: Path, header: bytes, data: bytes = b"") -> Path:
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return path


class TestLoadRefuses:
    def test_a_missing_file_and_a_directory(self, tmp_path: Path) -> None:
        for path in (tmp_path / "none", tmp_path):
            with pytest.raises(FileNotFoundError, match=r"model\.packed\.safetensors"):
                load_packed(path)

    def test_a_plain_checkpoint(self, tmp_path: Path) -> None:
        save_file({"w": torch.ones(2)}, tmp_path / "m")
        with pytest.raises(CheckpointFormatError, match=r"/m: .*'format'.*None.*'prunnet-packed'"):
            load_packed(tmp_path / "m")

    @pytest.mark.parametrize("blob", [b"", b"short", b"no safetensors file at all", struct.pack("<Q", 2**63) + b"{}"])
    def test_another_kind_of_file(self, tmp_path: Path, blob: bytes) -> None:
        (tmp_path / "m").write_bytes(blob)
        with pytest.raises(CheckpointFormatError, match=r"/m: .*truncated.*Download"):
            load_packed(tmp_path / "m")

    def test_every_truncation(self, tmp_path: Path) -> None:
        path = tmp_path / "m"
        save_packed(path, small_state_dict(), ["fc.weight"])
        blob = path.read_bytes()
        for length in range(len(blob)):
            path.write_bytes(blob[:length])
            with pytest.raises(CheckpointFormatError, match="truncated"):
                load_packed(path)

    @pytest.mark.parametrize(
        ("header", "data", "message"),
        [
            (
                b'{"a":{"dtype":"C64","shape":[1],"data_offsets":[0,8]}}',
                bytes(8),
                "'a' has dtype C64; allowed are F64",
            ),
            (b'{"a":{"dtype":"F32","shape":[0,9223372036854775808],"data_offsets":[0,0]}}', b"", "'a' has 2 dimen"),
            (b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}', b"", "truncated"),
            (b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}', bytes(4), "safetensors"),
            (
                b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"I8","shape":[1],"data_offsets":[0,1]}}',
                b"1",
                r"header.*JSON.*\['a'\]",
            ),
        ],
    )
    def test_a_hostile_header(self, tmp_path: Path, header: bytes, data: bytes, message: str) -> None:
        with pytest.raises(CheckpointFormatError, match=message):
            load_packed(write_raw(tmp_path / "m", header, data))


@pytest.fixture(scope="module")
def small_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("small") / "m"
    save_packed(path, small_state_dict(), ["fc.weight"])
    return path.read_bytes()


class TestMutations:
    """Law: a changed file gives the documented error or what was saved; with a forged checksum also other tensors."""

    def check(self, path: Path, what: str, is_forged: bool = False) -> None:
        try:
            loaded = load_packed(path)
        except CheckpointFormatError:
            return
        assert is_forged or all_bits(loaded) == all_bits(small_state_dict()), what

    def test_mutants(self, small_file: bytes, tmp_path: Path) -> None:
        path = tmp_path / PACKED_WEIGHTS_NAME
        for number in range(500):
            path.write_bytes(small_file)
            what, is_forged = mutate(tmp_path, random.Random(number))
            self.check(path, f"mutant {number}: {what}", is_forged)

    def test_every_single_digit_of_the_header(self, small_file: bytes, tmp_path: Path) -> None:
        (length,) = struct.unpack("<Q", small_file[:8])
        for position in range(8, 8 + length):
            if chr(small_file[position]).isdigit():
                for digit in b"0123456789":
                    (tmp_path / "m").write_bytes(small_file[:position] + bytes([digit]) + small_file[position + 1 :])
                    self.check(tmp_path / "m", f"{digit} at {position}")
