"""Safetensors files: read strictly if they come from elsewhere, and written whole, always with the same bytes.

safetensors itself checks the header, offsets and sizes. Added here: only types that both torch and the formats of this
package have, only shapes that torch can hold, no name twice, and files that are whole or absent.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, deserialize
from torch import Tensor

from .json_text import load_json
from .whole_file import whole_file

PACKABLE = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Floating-point types by the code that safetensors has for them."""
_INTEGERS = {"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8}
DTYPES = {**PACKABLE, **_INTEGERS, "U16": torch.uint16, "BOOL": torch.bool}
CODES = {dtype: code for code, dtype in DTYPES.items()}
BITS = {8: torch.int64, 4: torch.int32, 2: torch.int16}
"""Integers as wide as a float of that many bytes. Copied as integers, a NaN keeps its payload."""

# The widest types come last here and first in a file, so that all are aligned; equally wide ones as in safetensors.
_LAYOUT = ("BOOL", "U8", "I8", "I16", "U16", "F16", "BF16", "I32", "F32", "F64", "I64")
_MAX_DIMENSIONS, _MAX_ELEMENTS = 64, 2**60
_REMEDY = "Download the file again, or save the model again with save_pretrained."


class CheckpointFormatError(ValueError):
    """A checkpoint file is damaged, has another format, or has a newer version than this library reads."""


def write_tensors(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file; the same tensors and metadata always give the same bytes.

    A failed or interrupted save leaves the old file at `path` as it was.

    Args:
        path: File to write. Its directory must exist.
        tensors: Contiguous tensors on the CPU.
        metadata: Text for the header's `__metadata__`.

    Raises:
        FileNotFoundError: If the directory of `path` doesn't exist.
        OSError: If the file can't be written, for instance because the disk is full.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"path is {str(path)!r}, but its directory doesn't exist; create the directory first.")
    header, ordered = _header(tensors, metadata)
    with whole_file(path) as file:
        file.write(header)
        for tensor in ordered:
            file.write(as_bytes(tensor))


def size_of_file(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> int:
    """Bytes of the file that `write_tensors` would write, and transformers too. Tensors may be on the meta device."""
    header, ordered = _header(tensors, metadata)
    return len(header) + sum(tensor.nbytes for tensor in ordered)


def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], Any]:
    """Read a safetensors file.

    Args:
        path: An existing file.

    Returns:
        The tensors on the CPU, which don't depend on the file any more, and the header's `__metadata__`, or None if
        there is none.

    Raises:
        CheckpointFormatError: If the file is damaged, isn't a safetensors file, or has a tensor that no model has.
    """
    # Read at once, not mapped: header and tensors are of the same moment, and if another process cuts the file short
    # meanwhile, that is an error and not a crash.
    return parse_tensors(Path(path).read_bytes())


def parse_tensors(blob: bytes) -> tuple[dict[str, Tensor], Any]:
    """Read the contents of a safetensors file, as `read_tensors` does."""
    try:
        stored = deserialize(blob)  # type: ignore[no-untyped-call]  # checks the header, offsets and sizes
    except SafetensorError as error:
        raise damaged(f"the file is truncated or isn't a safetensors file ({error})") from error
    tensors: dict[str, Tensor] = {}
    for name, fields in stored:
        if fields["dtype"] not in DTYPES:
            raise damaged(f"tensor {name!r} has dtype {fields['dtype']}; allowed are {', '.join(DTYPES)}")
        check_shape(name, fields["shape"])
        dtype, data = DTYPES[fields["dtype"]], fields["data"]
        flat = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        tensors[name] = flat.reshape(fields["shape"])
    # Of two tensors with one name, safetensors takes the last; another reader may take the first.
    header = parse_json(blob[8 : 8 + int.from_bytes(blob[:8], "little")], "the header")
    return tensors, header.get("__metadata__")


def storable(
    name: str,
    tensor: Tensor,
    allowed: Mapping[str, torch.dtype] = DTYPES,
    reserved: tuple[str, ...] = (),
    *,
    copy: bool = True,
) -> Tensor:
    """Return a model's tensor, contiguous on the CPU, after checking that it can be stored as `name`.

    Args:
        name: Its name in the state dict.
        tensor: On any device, in any memory layout.
        allowed: Types it may have, by their code.
        reserved: Endings of names that the file's format keeps for itself.
        copy: If True, the result doesn't share memory with `tensor`; if False, it may.

    Raises:
        TypeError: If it isn't a dense tensor that holds data, or has another type.
        ValueError: If the name is reserved, or the shape can't be stored.
    """
    if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.is_meta:
        kind = f"{tensor.layout} on {tensor.device}" if isinstance(tensor, Tensor) else type(tensor).__name__
        raise TypeError(f"state_dict[{name!r}] is {kind}; it must be a dense tensor that holds data.")
    if tensor.dtype not in allowed.values():
        raise TypeError(
            f"state_dict[{name!r}] has dtype {tensor.dtype}; allowed are {', '.join(map(str, allowed.values()))}. "
            "Convert it first."
        )
    if name == "__metadata__" or name.endswith(reserved):
        raise ValueError(
            f"state_dict has a tensor {name!r}; '__metadata__' and names that end in "
            f"{' or '.join(map(repr, reserved))} are reserved by the file format. Rename it."
        )
    check_shape(name, list(tensor.shape))
    if copy:
        return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
    return tensor.detach().to("cpu").contiguous()


def checksum(tensors: Mapping[str, Tensor], preamble: bytes = b"") -> str:
    """The CRC-32 (zlib, PNG) of names, types, shapes and bytes, 8 lower-case hexadecimal digits.

    It covers `preamble`, then for each tensor, ascending by the bytes of its name: ``<name> <dtype> <dimensions joined
    by ",">`` and a line feed, then its bytes.

    Args:
        tensors: Contiguous tensors on the CPU.
        preamble: Further bytes to cover.
    """
    crc32 = zlib.crc32(preamble)
    for name, tensor in sorted(tensors.items()):
        sizes = ",".join(str(size) for size in tensor.shape)
        crc32 = zlib.crc32(f"{name} {CODES[tensor.dtype]} {sizes}\n".encode(), crc32)
        crc32 = zlib.crc32(as_bytes(tensor), crc32)
    return f"{crc32:08x}"


def damaged(problem: str) -> CheckpointFormatError:
    """The error for a file with this `problem`, with the remedy."""
    return CheckpointFormatError(f"{problem}. {_REMEDY}")


def refuse_newer(version: int, newest: int) -> None:
    """Raise a CheckpointFormatError if a file's format `version` is newer than the `newest` that is known."""
    if version > newest:
        raise CheckpointFormatError(
            f"format version is {version}; this prunnet_hf reads up to {newest}. Upgrade prunnet_hf."
        )


@contextmanager
def naming_file(path: str | os.PathLike[str]) -> Iterator[None]:
    """Put a file's path before the message of a CheckpointFormatError about it."""
    try:
        yield
    except CheckpointFormatError as error:
        raise CheckpointFormatError(f"{path}: {error}") from error


def without_aliases(state_dict: Mapping[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
    """Leave out the entries of `state_dict` that repeat the tensors of `names` under other names.

    A layer registered twice has its tensors twice in a state dict. If one is stored plain and the other isn't, they
    can contradict each other when they are loaded.

    Raises:
        ValueError: If `state_dict` lacks one of `names`.
    """
    missing = sorted(set(names) - set(state_dict))
    if missing:
        raise ValueError(
            f"state_dict lacks {missing[:5]}, which the model has; pass all tensors of the model, or none."
        )
    places = {_place(state_dict[name]) for name in names}
    return {name: tensor for name, tensor in state_dict.items() if name in names or _place(tensor) not in places}


def _place(tensor: Tensor) -> tuple[torch.device, int, torch.Size, tuple[int, ...]]:
    # A tensor without storage has the address 0, so its identity is used.
    return tensor.device, tensor.data_ptr() or id(tensor), tensor.shape, tensor.stride()


def check_shape(name: str, shape: list[int]) -> None:
    """Raise unless torch can hold `shape`. A dimension of 0 counts as 1, because it would hide the others."""
    if len(shape) > _MAX_DIMENSIONS or math.prod(max(size, 1) for size in shape) >= _MAX_ELEMENTS:
        raise damaged(
            f"tensor {name!r} has {len(shape)} dimensions, the first {shape[:8]}; allowed are at most "
            f"{_MAX_DIMENSIONS} with a product below 2**60"
        )


def parse_json(text: str | bytes, what: str) -> Any:
    """Parse JSON that may be damaged. A name that occurs twice in an object is an error."""
    try:
        return load_json(text, pairs=_unique_members)
    except ValueError as error:
        raise damaged(f"{what} isn't valid JSON ({error})") from error


def _header(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> tuple[bytes, list[Tensor]]:
    """Return the header of the safetensors file, and the tensors in the order in which their bytes follow it.

    The library's own writer puts metadata in hash order, which differs each time, and holds all bytes twice.
    """
    members: dict[str, Any] = {"__metadata__": dict(metadata)}
    ordered = sorted(tensors.items(), key=lambda item: (-_LAYOUT.index(CODES[item[1].dtype]), item[0]))
    end = 0
    for name, tensor in ordered:
        begin, end = end, end + tensor.nbytes
        members[name] = {"dtype": CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(members, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, [tensor for _, tensor in ordered]


def as_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous tensor on the CPU, without a copy."""
    # torch can't view every empty tensor as bytes.
    return tensor.detach().reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else memoryview(b"")


def _unique_members(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object; raise if a name occurs twice."""
    unique = dict(members)
    if len(unique) != len(members):
        counts = Counter(name for name, _ in members)
        raise ValueError(f"it has {[name for name, count in counts.most_common(5) if count > 1]} more than once")
    return unique
