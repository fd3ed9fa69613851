"""Joins bands of whole units: to the prunable model, or to a thin subnetwork from the bands up to its capacity.

A tensor is put together from those units alone that are in these bands, after the types and sizes of all parts were
found to be right. So memory for it is bounded by the size of the files.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..pruning.calibration import OWN_AND_STORED, interpolation, mix
from ..pruning.channels import UnitGroup
from ..pruning.thinning import rescaled
from .band_index import BandedTensor, BandIndex, band_file
from .bands import ROWS, belongs_to_last
from .score_levels import Integers, rank_order
from .tensor_file import BITS, damaged
from .unit_bands import (
    MEMBERS,
    OWN_SCORES,
    VALUES,
    band_sizes,
    element_bands,
    element_counts,
    first_band,
    unit_groups,
)

Tensors = Mapping[str, Tensor]
_OWN = {stored: own for own, stored in OWN_AND_STORED}


def load_unit_bands(
    index: BandIndex, files: Mapping[str, str | os.PathLike[str]], capacity: float | None = None
) -> dict[str, Tensor]:
    """Read the tensors of a prunable model, or of its subnetwork of `capacity`.

    Args:
        index: What the files must be; of bands of units.
        files: Where each of `index.needed_files(capacity)` is.
        capacity: In (0, 1]; None for the whole model.

    Returns:
        The tensors by name, on the CPU, bit for bit as they were saved; those of a subnetwork as pruning the whole
        model gives them.

    Raises:
        CheckpointFormatError: If a file is damaged or belongs to another model.
    """
    used = len(index.capacities) if capacity is None else index.band_of(capacity)
    names = [band_file(number, len(index.capacities)) for number in range(1, used + 1)]
    bands = _Bands(index, [index.read(files[name], name) for name in names])
    joined = {name: bands.joined(name) for name in index.tensors if first_band(index, name) <= used}
    for present in bands.present.values():
        _check_order(present, joined.get(present.group.name + OWN_SCORES))
    if capacity is None:
        return {**bands.plain(), **joined}
    return {**bands.plain(), **_subnetwork(bands, joined, capacity)}


def kept_units(index: BandIndex, capacity: float) -> dict[str, int]:
    """How many units of each group a capacity keeps, by the group's name in the backbone.

    Raises:
        CheckpointFormatError: If a group isn't one of a backbone.
    """
    kept = {}
    for name, group in unit_groups(index).items():
        _, found, inside = name.partition("backbone.")
        if not found:
            raise damaged(f"units has a group {name!r}, which is not in a backbone")
        kept[inside] = group.kept(capacity)
    return kept


@dataclass(frozen=True)
class _Present:
    """The units of a group that are in the bands read.

    Attributes:
        group: The group.
        order: Their numbers, the first kept first.
        units: Their numbers, ascending.
        bands: The band of each of `units`.
    """

    group: UnitGroup
    order: Integers
    units: Integers
    bands: Integers

    def kept_places(self, capacity: float) -> Tensor:
        """The places, among `units`, of those that `capacity` keeps, ascending."""
        kept = np.sort(self.order[: self.group.kept(capacity)])
        return torch.from_numpy(np.searchsorted(self.units, kept))


class _Bands:
    """The contents of the first bands of a checkpoint, checked against its index."""

    def __init__(self, index: BandIndex, bands: Sequence[Tensors]) -> None:
        self.index, self._bands = index, bands
        _check_rows(index)
        groups = unit_groups(index)
        self._sizes = {name: band_sizes(index, group) for name, group in groups.items()}
        self._expected: list[set[str]] = [set() for _ in bands]
        self.present = {name: self._present_units(group) for name, group in groups.items()}
        self._band_of = {name: present.bands for name, present in self.present.items()}
        self._counts = {name: element_counts(index, name, self._sizes, len(bands)) for name in index.tensors}
        for name, counts in self._counts.items():
            self._check_parts(name + VALUES, index.tensors[name].dtype, counts)
        self._check_names()

    def plain(self) -> dict[str, Tensor]:
        """The tensors that the index doesn't list."""
        return {name: tensor for name, tensor in self._bands[0].items() if name not in self._expected[0]}

    def joined(self, name: str) -> Tensor:
        """A tensor of the index with those units and rows that are in these bands."""
        entry = self.index.tensors[name]
        bands = element_bands(self.index, name, self._band_of, len(self._bands))
        flat = torch.empty(bands.size, dtype=BITS[entry.dtype.itemsize])
        for number, count in enumerate(self._counts[name], start=1):
            if count:
                values = self._bands[number - 1][name + VALUES].view(flat.dtype)
                flat.numpy()[np.flatnonzero(bands == number)] = values.numpy()
        return flat.view(entry.dtype).reshape(bands.shape)

    def _present_units(self, group: UnitGroup) -> _Present:
        """The members of a group in these bands."""
        name, sizes = group.name + MEMBERS, self._sizes[group.name][: len(self._bands)]
        self._check_parts(name, torch.int32, sizes)
        order = np.concatenate([band[name].numpy() for band in self._bands if name in band]).astype(np.int64)
        places = np.argsort(order)
        units = order[places]
        if units[0] < 0 or units[-1] >= group.num_units or not np.diff(units).all():
            raise damaged(f"{name!r} must have units from 0 to {group.num_units - 1}, each once")
        return _Present(group, order, units, np.repeat(np.arange(1, len(sizes) + 1), sizes)[places])

    def _check_parts(self, name: str, dtype: torch.dtype, sizes: Sequence[int]) -> None:
        """Raise unless each band has the tensor `name` in this type and size, and none if its size is 0."""
        for size, band, expected in zip(sizes, self._bands, self._expected, strict=True):
            found = (band[name].dtype, tuple(band[name].shape)) if name in band else None
            if found != ((dtype, (size,)) if size else None):
                wanted = f"{dtype} of shape ({size},)" if size else "left out"
                raise damaged(f"{name!r} is {'missing' if found is None else found}; it must be {wanted}")
            if size:
                expected.add(name)

    def _check_names(self) -> None:
        """Raise if there is something in a band that isn't known there."""
        for number, (band, expected) in enumerate(zip(self._bands, self._expected, strict=True)):
            others = band.keys() - expected
            if number == 0:
                others = {name for name in others if name.endswith((MEMBERS, VALUES)) or name in self.index.tensors}
            if others:
                raise damaged(f"band {number + 1} has {sorted(others)[:5]}, which don't belong there")


def _check_rows(index: BandIndex) -> None:
    """Raise unless statistics of subnetworks have a row for each capacity, which is like the norm's own statistics."""
    for name, rows in index.tensors.items():
        if not name.endswith(ROWS):
            continue
        own = index.tensors.get(_own_name(name))
        axes = {group: axis._replace(tensor=name, dim=axis.dim + 1) for group, axis in own.axes.items()} if own else {}
        wanted = BandedTensor(own.dtype, (len(index.statistics), *own.shape), axes) if own else None
        if rows != wanted:
            raise damaged(
                f"{name!r} must have {len(index.statistics)} rows of the type, shape and axes of {_own_name(name)!r}"
            )


def _check_order(present: _Present, scores: Tensor | None) -> None:
    """Raise unless the order of units is that of their scores."""
    fits = scores is not None and scores.shape == present.units.shape and bool(scores.isfinite().all())
    if scores is None or not fits or (present.units[rank_order(scores)] != present.order).any():
        raise damaged(f"the order of the units of {present.group.name!r} isn't that of finite scores")


def _subnetwork(bands: _Bands, joined: Mapping[str, Tensor], capacity: float) -> dict[str, Tensor]:
    """The tensors of a thin subnetwork, except those that the index doesn't list."""
    tensors, index = {}, bands.index
    kept = {name: present.kept_places(capacity) for name, present in bands.present.items()}
    for name in index.tensors:
        if name.endswith(ROWS):
            own = _own_name(name)
            tensors[own] = _thin(bands, index.tensors[own], _mixed(index, name, own, joined, capacity), kept)
        elif not (name.endswith(OWN_SCORES) or belongs_to_last(name, index.tensors.keys())):
            tensors[name] = _thin(bands, index.tensors[name], joined[name], kept)
    return tensors


def _thin(bands: _Bands, entry: BandedTensor, tensor: Tensor, kept: Mapping[str, Tensor]) -> Tensor:
    """A tensor without the units that aren't kept."""
    for name, axis in entry.axes.items():
        present = bands.present[name]
        tensor = tensor.index_select(axis.dim, axis.places(kept[name], len(present.units)))
        tensor = rescaled(tensor, axis, len(kept[name]), present.group.num_units)
    return tensor


def _own_name(rows: str) -> str:
    """The name of a norm's own statistics, from that of those of subnetworks."""
    norm, _, ending = rows.rpartition(".")
    return f"{norm}.{_OWN[ending]}"


def _mixed(index: BandIndex, rows: str, own: str, joined: Mapping[str, Tensor], capacity: float) -> Tensor:
    """The running statistics `own` of a subnetwork, from those of its neighbours."""
    of_row: dict[int | None, Tensor] = dict(enumerate(joined[rows]))
    if own in joined:
        of_row[None] = joined[own]
    return mix(of_row, interpolation(index.statistics, capacity))
