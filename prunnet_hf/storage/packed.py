"""The packed file of a subnetwork: the kept weights and one bit for each weight.

The layout of ``model.packed.safetensors``, version 1. Integers and floats are little-endian, text is UTF-8.

The file is a valid safetensors file: 8 bytes with the header's length, a JSON header, the tensors' bytes. A tensor
of the model is stored *plain*, under its own name, or *packed*, as the two tensors

- ``<name>.packed_mask``, U8, ``(ceil(n / 8),)``: weight ``i`` of the ``n`` weights in row-major order is kept if bit
  ``i % 8`` (bit 0 is the lowest) of byte ``i // 8`` is set. The unused high bits of the last byte are 0.
- ``<name>.packed_values``, F64, F32, F16 or BF16, ``(kept,)``: the kept weights in the same order. ``kept`` is the
  number of set bits. All other weights are +0.0.

Both suffixes are reserved: no tensor of the model may have a name that ends in one. The header's ``__metadata__`` has
exactly these keys, all strings:

- ``format``: ``prunnet-packed``.
- ``version``: ``1``. A reader refuses versions that it doesn't know.
- ``packed``: a JSON object with one member for each packed tensor, its name and
  ``{"dtype": "F32", "shape": [64, 3, 7, 7]}``.
- ``crc32``: 8 lower-case hexadecimal digits, the CRC-32 (zlib, PNG) of the bytes of ``packed``, then for each stored
  tensor, ascending by the bytes of its name: ``<name> <dtype> <dimensions joined by ",">`` and a line feed, then its
  bytes. It finds damage in a file that is still well formed, for instance a flipped bit of a weight.

A writer keeps a weight if its bits are not those of +0.0, so -0.0 and NaN survive and the round trip is exact bit for
bit. It stores a prunable tensor plain if packing wouldn't make it smaller. A packed fp32 tensor takes ``capacity +
1/32`` of its plain size, so 23.2 % at capacity 0.2 (in bf16 ``capacity + 1/16``, 13.2 % of the fp32 size). A reader
needs at most 64 bytes of memory for a byte of mask, even if the file is damaged. No name may occur twice in a JSON
object. A stored tensor has at most 64 dimensions, and their product, counting 0 as 1, is below 2**60.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .form import Form, Source, Weights
from .tensor_file import (
    BITS,
    CODES,
    DTYPES,
    PACKABLE,
    check_shape,
    checksum,
    damaged,
    naming_file,
    parse_json,
    read_tensors,
    refuse_newer,
    size_of_file,
    storable,
    write_tensors,
)

PACKED_WEIGHTS_NAME = "model.packed.safetensors"
FORMAT_VERSION = 1

_FORMAT = "prunnet-packed"
_METADATA_KEYS = ("crc32", "format", "packed", "version")
_MASK, _VALUES = ".packed_mask", ".packed_values"


@dataclass(frozen=True)
class _PackedEntry:
    """Type and shape of a packed tensor, from the metadata."""

    dtype: torch.dtype
    shape: tuple[int, ...]


def pack(state_dict: Mapping[str, Tensor], prunable: Collection[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Turn the tensors of a pruned model into the tensors and metadata of a packed file.

    Args:
        state_dict: Tensors of a pruned model on any device, in any memory layout; tied tensors are stored once for
            each name. Dropped weights are +0.0.
        prunable: Names in `state_dict` of floating-point tensors to pack. One that wouldn't get smaller stays plain.

    Returns:
        Tensors to store (contiguous copies on the CPU) and the file's metadata.

    Raises:
        TypeError: If a value isn't a dense tensor or has a dtype that can't be stored or, in `prunable`, packed.
        ValueError: If `prunable` has a name that `state_dict` lacks, or a name or shape can't be stored.
    """
    missing = sorted(set(prunable) - set(state_dict))
    if missing:
        raise ValueError(f"prunable names {missing}, which state_dict doesn't have; name tensors of state_dict only.")
    tensors: dict[str, Tensor] = {}
    packed: dict[str, dict[str, Any]] = {}
    for name, tensor in state_dict.items():
        allowed = PACKABLE if name in prunable else DTYPES
        plain = storable(name, tensor, allowed, (_MASK, _VALUES), copy=False)  # packing copies anyway
        halves = _compress(plain) if name in prunable else None
        if halves is None:
            tensors[name] = plain.clone()
        else:
            tensors[name + _MASK], tensors[name + _VALUES] = halves
            packed[name] = _entry(plain)
    metadata = _metadata(packed)
    return tensors, {**metadata, "crc32": checksum(tensors, metadata["packed"].encode())}


def size_of_packed(state_dict: Mapping[str, Tensor], kept: Mapping[str, int]) -> int:
    """Bytes of the file that `save_packed` writes, found without its contents.

    Args:
        state_dict: As for `pack`, also on the meta device.
        kept: For each tensor to pack, how many elements aren't +0.0.
    """
    tensors: dict[str, Tensor] = {}
    packed: dict[str, dict[str, Any]] = {}
    for name, tensor in state_dict.items():
        mask = torch.empty(-(-tensor.numel() // 8), dtype=torch.uint8, device="meta")
        values = torch.empty(kept.get(name, tensor.numel()), dtype=tensor.dtype, device="meta")
        if name not in kept or mask.nbytes + values.nbytes >= tensor.nbytes:
            tensors[name] = tensor
        else:
            tensors |= {name + _MASK: mask, name + _VALUES: values}
            packed[name] = _entry(tensor)
    return size_of_file(tensors, {**_metadata(packed), "crc32": "0" * 8})


def _entry(tensor: Tensor) -> dict[str, Any]:
    return {"dtype": CODES[tensor.dtype], "shape": list(tensor.shape)}


def _metadata(packed: Mapping[str, Any]) -> dict[str, str]:
    """The metadata of a file with these entries of packed tensors, without its checksum."""
    manifest = json.dumps(packed, sort_keys=True, separators=(",", ":"))
    return {"format": _FORMAT, "version": str(FORMAT_VERSION), "packed": manifest}


def unpack(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None) -> dict[str, Tensor]:
    """Rebuild a model's tensors from those of a packed file; the inverse of `pack`.

    Memory for a whole tensor is allocated only after its mask, values and shape were found to agree.

    Args:
        tensors: The stored tensors, contiguous and on the CPU.
        metadata: The file's metadata, or None.

    Returns:
        Every tensor of the model in its full shape. The plain ones are those of `tensors`, not copies.

    Raises:
        CheckpointFormatError: If anything differs from the layout at the top of this module.
    """
    manifest = _check_metadata(metadata)
    entries = _parse_manifest(manifest)
    _check_names(tensors, entries)
    found, stated = checksum(tensors, manifest.encode()), (metadata or {})["crc32"]
    if found != stated:
        raise damaged(f"the contents have CRC-32 {found!r}, the metadata states {stated!r}")
    state_dict = {name: tensor for name, tensor in tensors.items() if not name.endswith((_MASK, _VALUES))}
    for name, entry in entries.items():
        state_dict[name] = _expand(name, entry, tensors[name + _MASK], tensors[name + _VALUES])
    return state_dict


def save_packed(path: str | os.PathLike[str], state_dict: Mapping[str, Tensor], prunable: Collection[str]) -> None:
    """Write a pruned model's tensors as a packed file; the same tensors always give the same bytes.

    A failed or interrupted save leaves the old file at `path` as it was.

    Args:
        path: File to write, usually ``<directory>/model.packed.safetensors``. Its directory must exist.
        state_dict: See `pack`.
        prunable: See `pack`.

    Raises:
        TypeError: See `pack`.
        ValueError: See `pack`.
        FileNotFoundError: If the directory of `path` doesn't exist.
        OSError: If the file can't be written, for instance because the disk is full.
    """
    write_tensors(path, *pack(state_dict, prunable))


def load_packed(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read a packed file into the tensors of the model, on the CPU, bit for bit as they were saved.

    Args:
        path: A file written by `save_packed`.

    Returns:
        The model's tensors by name. They don't depend on the file any more.

    Raises:
        FileNotFoundError: If `path` isn't a file.
        CheckpointFormatError: If the file is damaged, isn't a packed file, or has a newer version.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"path is {str(path)!r}, which isn't a file; give the path of a {PACKED_WEIGHTS_NAME}."
        )
    with naming_file(path):
        return unpack(*read_tensors(path))


def _compress(plain: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return mask `(ceil(n / 8),)` and values `(kept,)` of a contiguous tensor, or None if they aren't smaller."""
    bits = plain.reshape(-1).view(BITS[plain.itemsize]).numpy()
    kept = bits != 0
    mask = np.packbits(kept, bitorder="little")
    if mask.nbytes + np.count_nonzero(kept) * plain.itemsize >= bits.nbytes:
        return None
    # Gathering by index is three times as fast as by a boolean array at these densities.
    values = torch.from_numpy(bits[np.flatnonzero(kept)])
    return torch.from_numpy(mask), values.view(plain.dtype)


def _expand(name: str, entry: _PackedEntry, mask: Tensor, values: Tensor) -> Tensor:
    """Return the full tensor of shape `entry.shape`, after checking that mask, values and shape agree."""
    size = math.prod(entry.shape)
    if mask.dtype != torch.uint8 or mask.shape != (-(-size // 8),):
        raise damaged(
            f"the mask of tensor {name!r} is {mask.dtype} of shape {tuple(mask.shape)}; for shape {entry.shape} "
            f"it must be torch.uint8 of shape ({-(-size // 8)},)"
        )
    bits = np.unpackbits(mask.numpy(), bitorder="little")
    if bits[size:].any():
        raise damaged(f"the mask of tensor {name!r} has bits set beyond its {size} weights; they must be 0")
    kept = int(np.count_nonzero(bits))
    if values.dtype != entry.dtype or values.shape != (kept,):
        raise damaged(
            f"the values of tensor {name!r} are {values.dtype} of shape {tuple(values.shape)}; by its mask and "
            f"metadata they must be {entry.dtype} of shape ({kept},)"
        )
    integers = BITS[entry.dtype.itemsize]
    full = torch.zeros(size, dtype=integers)
    full.numpy()[np.flatnonzero(bits[:size].view(np.bool_))] = values.view(integers).numpy()
    return full.view(entry.dtype).reshape(entry.shape)


def _check_metadata(metadata: Mapping[str, str] | None) -> str:
    """Return the text of the metadata's ``packed``, after checking format, version and keys."""
    metadata = metadata or {}
    if metadata.get("format") != _FORMAT:
        raise damaged(f"metadata 'format' is {metadata.get('format')!r}; a packed subnetwork has {_FORMAT!r}")
    version = metadata.get("version", "")
    if re.fullmatch(r"[1-9][0-9]{0,8}", version):
        refuse_newer(int(version), FORMAT_VERSION)
    if version != str(FORMAT_VERSION):
        raise damaged(f"metadata 'version' is {version[:20]!r}; allowed is '{FORMAT_VERSION}'")
    if sorted(metadata) != list(_METADATA_KEYS):
        raise damaged(f"the metadata has the keys {sorted(metadata)}; it must have {list(_METADATA_KEYS)}")
    return metadata["packed"]


def _parse_manifest(manifest: str) -> dict[str, _PackedEntry]:
    """Parse and check the metadata's ``packed``."""
    members = parse_json(manifest, "metadata 'packed'")
    if not isinstance(members, dict):
        raise damaged(f"metadata 'packed' is a JSON {type(members).__name__}; it must be an object")
    entries: dict[str, _PackedEntry] = {}
    for name, member in members.items():
        if not isinstance(member, dict) or sorted(member) != ["dtype", "shape"]:
            raise damaged(f"metadata 'packed' has {str(member)[:80]} for {name!r}; it must have dtype and shape only")
        dtype, shape = member["dtype"], member["shape"]
        if not isinstance(dtype, str) or dtype not in PACKABLE:
            raise damaged(f"packed tensor {name!r} has dtype {str(dtype)[:80]}; allowed are {', '.join(PACKABLE)}")
        if not isinstance(shape, list) or not all(type(size) is int and size >= 1 for size in shape):
            raise damaged(f"packed tensor {name!r} has shape {str(shape)[:80]}; allowed is a list of integers >= 1")
        check_shape(name, shape)
        entries[name] = _PackedEntry(PACKABLE[dtype], tuple(shape))
    return entries


def _check_names(tensors: Mapping[str, Tensor], entries: Mapping[str, _PackedEntry]) -> None:
    """Raise unless the stored tensors are exactly the halves of `entries` and plain tensors of other names."""
    expected = {name + suffix for name in entries for suffix in (_MASK, _VALUES)}
    stored = {name for name in tensors if name.endswith((_MASK, _VALUES))}
    if expected != stored:
        raise damaged(
            f"packed tensors lack {sorted(expected - stored)[:5]} and have {sorted(stored - expected)[:5]} that the "
            f"metadata doesn't list; every packed tensor must have its {_MASK} and {_VALUES}"
        )
    both = sorted(name for name in entries if name in tensors or name.endswith((_MASK, _VALUES)))
    if both:
        raise damaged(f"tensors {both[:5]} are stored plain and packed, or have a reserved name; only one is allowed")


def _read(source: Source, capacity: float | None) -> Weights | None:
    found = source.find(PACKED_WEIGHTS_NAME)
    return None if found is None else Weights(load_packed(found))


def _write(directory: Path, model: Any, state_dict: Mapping[str, Tensor], edges: Sequence[float] | None) -> None:
    save_packed(directory / PACKED_WEIGHTS_NAME, state_dict, model.packable_weights())


PACKED = Form(
    name="packed",
    files=(PACKED_WEIGHTS_NAME,),
    suits=lambda config: not config.prunable and config.capacity < 1.0 and config.granularity == "weight",
    read=_read,
    write=_write,
)
