"""`bands.index.json`: size and SHA-256 of the files of a progressive checkpoint.

Version 1 is of bands of single weights (`bands` has the layout), version 2 of bands of whole units (`unit_bands`).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..pruning.channels import Axis
from .json_text import LARGEST_JSON
from .tensor_file import (
    CODES,
    PACKABLE,
    check_shape,
    damaged,
    naming_file,
    parse_json,
    parse_tensors,
    refuse_newer,
    write_tensors,
)
from .unit_axes import axis_members, parse_axes, parse_units
from .whole_file import write_whole

INDEX_NAME = "bands.index.json"
FORMAT = "prunnet-bands"
WEIGHTS_VERSION, UNITS_VERSION = 1, 2
WEIGHT = ".weight"
"""The names of banded tensors end in this if bands are of single weights."""


@dataclass(frozen=True)
class BandedTensor:
    """Type and full shape of a tensor that is split into bands; of bands of units, where the units of groups lie."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    axes: Mapping[str, Axis] = field(default_factory=dict)


@dataclass(frozen=True)
class StoredFile:
    """What a file must be: its size in bytes and the SHA-256 of its contents, 64 hexadecimal digits."""

    size: int
    sha256: str


@dataclass(frozen=True)
class BandIndex:
    """The contents of a progressive checkpoint.

    Attributes:
        capacities: Upper edges of the bands, ascending, the last 1.0.
        statistics: Capacities below 1 with stored running statistics, ascending, including all inner edges. Empty if
            the model has none.
        tensors: The tensors that are split into bands, by name.
        files: The files, by name.
        units: How many units each group has, by its name; None if bands are of single weights.
    """

    capacities: tuple[float, ...]
    statistics: tuple[float, ...]
    tensors: Mapping[str, BandedTensor]
    files: Mapping[str, StoredFile]
    units: Mapping[str, int] | None = None

    def band_of(self, capacity: float) -> int:
        """Number, from 1, of the first band whose edge is at least `capacity`."""
        return bisect_left(self.capacities, capacity) + 1

    def needed_files(self, capacity: float | None = None) -> list[str]:
        """Names of the files for the subnetwork of `capacity`, or for the whole prunable model (None)."""
        count = len(self.capacities)
        last = count if capacity is None else self.band_of(capacity)
        bands = [band_file(number, count) for number in range(1, last + 1)]
        if self.units is not None:
            return bands
        if capacity is None:
            return band_files(count)
        return bands if capacity in self.capacities else [*bands, ranks_file(last, count)]

    def read(self, path: str | os.PathLike[str], name: str) -> dict[str, Tensor]:
        """Read one of the files, after checking that it is the one for which this index was written.

        Args:
            path: Where the file is.
            name: Its name in `files`.

        Raises:
            CheckpointFormatError: If it is damaged or belongs to another model.
        """
        with naming_file(path):
            tensors, metadata = parse_tensors(self._checked(Path(path), self.files[name]))
            if metadata != self.metadata(name):
                raise damaged(f"metadata is {str(metadata)[:200]}; by {INDEX_NAME} it must be {self.metadata(name)}")
            return tensors

    def _checked(self, path: Path, stated: StoredFile) -> bytes:
        """The contents of a file with the size and the hash that the index states."""
        found = path.stat().st_size
        if found != stated.size:
            raise damaged(
                f"the file has {found} bytes; by {INDEX_NAME} it must have {stated.size}. It is cut short, or belongs "
                "to another model"
            )
        blob = path.read_bytes()
        if hashlib.sha256(blob).hexdigest() != stated.sha256:
            raise damaged(
                f"the contents don't have the SHA-256 that {INDEX_NAME} states. The file is damaged, or belongs to "
                "another model"
            )
        return blob

    def metadata(self, name: str) -> dict[str, str]:
        """The `__metadata__` in a file's header. That of band 1 repeats the index, so that a hash covers it."""
        own = {"format": FORMAT, "version": str(self._version), "file": name}
        if name == band_file(1, len(self.capacities)):
            own["contents"] = _compact(self._contents())
        return own

    @property
    def _version(self) -> int:
        return WEIGHTS_VERSION if self.units is None else UNITS_VERSION

    def _contents(self) -> dict[str, Any]:
        tensors: dict[str, dict[str, Any]] = {
            name: {"dtype": CODES[tensor.dtype], "shape": list(tensor.shape)} for name, tensor in self.tensors.items()
        }
        contents = {"capacities": list(self.capacities), "statistics": list(self.statistics), "tensors": tensors}
        if self.units is None:
            return contents
        for name, tensor in self.tensors.items():
            tensors[name]["axes"] = axis_members(tensor.axes)
        return {**contents, "units": dict(self.units)}


def band_file(number: int, count: int) -> str:
    """Name of the file of band `number`, from 1, of `count`."""
    return f"band-{number:05d}-of-{count:05d}.safetensors"


def ranks_file(number: int, count: int) -> str:
    """Name of the file of the ranks in band `number`, from 1, of `count`."""
    return f"band-{number:05d}-of-{count:05d}.ranks.safetensors"


def band_files(count: int) -> list[str]:
    """Names of all files of `count` bands: each band and its ranks."""
    return [name(number, count) for number in range(1, count + 1) for name in (band_file, ranks_file)]


def write_files(
    directory: str | os.PathLike[str], index: BandIndex, files: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """Write the `files` of a progressive checkpoint, tensors by name, and last its `index`, which has no files yet.

    Raises:
        OSError: If a file can't be written.
    """
    stored = {}
    for name, contents in files.items():
        path = Path(directory, name)
        write_tensors(path, contents, index.metadata(name))
        blob = path.read_bytes()
        stored[name] = {"size": len(blob), "sha256": hashlib.sha256(blob).hexdigest()}
    members = {"format": FORMAT, "version": index._version, **index._contents(), "files": stored}
    write_whole(Path(directory, INDEX_NAME), json.dumps(members, indent=1, sort_keys=True) + "\n")


def read_index(path: str | os.PathLike[str]) -> BandIndex:
    """Read and check an index that may be damaged.

    Raises:
        CheckpointFormatError: If it is damaged or has a newer version.
    """
    with naming_file(path):
        size = Path(path).stat().st_size
        if size > LARGEST_JSON:
            raise damaged(f"the index has {size} bytes; allowed are {LARGEST_JSON}")
        return _parse_index(Path(path).read_bytes())


def _parse_index(text: bytes) -> BandIndex:
    members = parse_json(text, "the index")
    if not isinstance(members, dict) or members.get("format") != FORMAT:
        raise damaged(f"the index isn't a JSON object with the format {FORMAT!r}")
    version = members.get("version")
    if type(version) is int:
        refuse_newer(version, UNITS_VERSION)
    if type(version) is not int or version not in (WEIGHTS_VERSION, UNITS_VERSION):
        raise damaged(f"version is {str(version)[:20]}; allowed are {WEIGHTS_VERSION} and {UNITS_VERSION}")
    expected = ["capacities", "files", "format", "statistics", "tensors", "version"]
    expected += ["units"] if version == UNITS_VERSION else []
    expected.sort()
    if sorted(members) != expected:
        raise damaged(f"the index has the members {sorted(members)}; it must have {expected}")
    capacities = _parse_capacities("capacities", members["capacities"])
    if not capacities or capacities[-1] != 1.0:
        raise damaged(f"capacities are {capacities}; the last must be 1.0")
    statistics = _parse_capacities("statistics", members["statistics"])
    if statistics and not ({*capacities} <= {*statistics, 1.0} and statistics[-1] < 1.0):
        raise damaged(f"statistics are {statistics}; they must be below 1, and among them {capacities[:-1]}")
    units = parse_units(_object("units", members["units"])) if version == UNITS_VERSION else None
    stated = _object("tensors", members["tensors"])
    tensors = {name: _parse_tensor(name, tensor, units) for name, tensor in stated.items()}
    files = {name: _parse_file(name, file) for name, file in _object("files", members["files"]).items()}
    index = BandIndex(capacities, statistics, tensors, files, units)
    if sorted(files) != sorted(index.needed_files()):
        each = "two" if units is None else "one"
        raise damaged(f"the index lists the files {sorted(files)[:4]}; {len(capacities)} bands must have {each} each")
    return index


def _parse_capacities(name: str, values: Any) -> tuple[float, ...]:
    numbers = isinstance(values, list) and all(type(value) in (int, float) and 0 < value <= 1 for value in values)
    if not numbers or sorted(set(values)) != values:
        raise damaged(f"{name} are {str(values)[:80]}; they must be ascending numbers in (0, 1]")
    return tuple(map(float, values))


def _parse_tensor(name: str, member: Any, units: Mapping[str, int] | None) -> BandedTensor:
    if units is None:
        if not isinstance(member, dict) or sorted(member) != ["dtype", "shape"] or not name.endswith(WEIGHT):
            raise damaged(f"tensor {name!r} has {str(member)[:80]}; it must be a weight with dtype and shape only")
    elif not isinstance(member, dict) or sorted(member) != ["axes", "dtype", "shape"]:
        raise damaged(f"tensor {name!r} has {str(member)[:80]}; it must have axes, dtype and shape only")
    dtype, shape = member["dtype"], member["shape"]
    if not isinstance(dtype, str) or dtype not in PACKABLE:
        raise damaged(f"tensor {name!r} has dtype {str(dtype)[:80]}; allowed are {', '.join(PACKABLE)}")
    if not isinstance(shape, list) or not all(type(size) is int and size >= 1 for size in shape):
        raise damaged(f"tensor {name!r} has shape {str(shape)[:80]}; allowed is a list of integers >= 1")
    check_shape(name, shape)
    if math.prod(shape) >= 2**32:
        raise damaged(f"tensor {name!r} has shape {shape}; allowed are fewer than 2**32 weights")
    axes = {} if units is None else parse_axes(name, shape, member["axes"], units)
    return BandedTensor(PACKABLE[dtype], tuple(shape), axes)


def _parse_file(name: str, member: Any) -> StoredFile:
    if not isinstance(member, dict) or sorted(member) != ["sha256", "size"]:
        raise damaged(f"file {name!r} has {str(member)[:80]}; it must have size and sha256 only")
    if type(member["size"]) is not int or not isinstance(member["sha256"], str):
        raise damaged(f"file {name!r} has {str(member)[:80]}; size must be a number of bytes and sha256 text")
    return StoredFile(member["size"], member["sha256"])


def _object(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise damaged(f"{name} is a JSON {type(value).__name__}; it must be an object")
    return value


def _compact(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
