"""The progressive checkpoint of a model that leaves out whole units: a band has the slices of the next units.

The layout, version 2, with files and index as in version 1 (`bands`), but without ranks. The index has a further
member ``units`` (group of units: how many it has), and its ``tensors`` are all that lie in several bands or the last:
name to ``{"dtype", "shape", "axes"}``. ``axes`` says where the units of a group lie: group to ``{"dim", "outer",
"inner", "scaled"}``, without members that have their defaults 0, 1, 1 and 0. Dimension ``dim`` has the shape
``(outer, units, inner)``. A subnetwork with ``k`` of ``n`` units multiplies the first ``scaled`` of the ``outer``
repetitions by ``sqrt(k / n)``; values in bands are not multiplied.

Of the ``n`` units of a group a capacity ``c`` keeps ``kept(c)``: with ``m = n - round((1 - c)(n - 1))``, that is
``m``; but in a group of at least 128 units, whose axes all have ``outer`` and ``inner`` 1, it is, unless ``m`` is
``n``, ``round(m / 8)`` times 8, at least 8 and at most ``n``. Halves are rounded to even. They are the units with the
largest magnitudes of ``<group>.units.scores``, of equal ones the first. Band ``k`` has those that ``e_k`` keeps and
``e_(k-1)`` doesn't, ``kept(e_0) = 0``:

- ``<group>.band_units``, I32, ``(members,)``: the numbers of the units, the first kept first. So a capacity keeps the
  first ``kept(c)`` units of all bands in turn. Left out if there are no members.
- ``<tensor>.band_values``, the tensor's type, ``(elements,)``: those elements of a tensor of the index that belong to
  the band, in row-major order. Left out if there are none.

An element belongs to the latest of the bands of the units in which it lies, and at least to band 1. In
``<norm>.statistics_mean`` and ``<norm>.statistics_var`` a row belongs to the band in which its capacity lies, and its
elements at least to that one. If a norm has these, its ``running_mean`` and ``running_var`` belong to the last band.
All tensors that the index doesn't list are in band 1 under their own names.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ..pruning.channels import UNITS, Axis, UnitGroup
from .band_index import BandedTensor, BandIndex, band_file, write_files
from .bands import ROWS, SCORES, Files, belongs_to_last, edges_and_rows
from .score_levels import Integers, rank_order
from .tensor_file import BITS, PACKABLE, storable, without_aliases

MEMBERS, VALUES = ".band_units", ".band_values"
OWN_SCORES = f".{UNITS}{SCORES}"


def save_unit_bands(
    directory: str | os.PathLike[str],
    state_dict: Mapping[str, Tensor],
    groups: Mapping[str, UnitGroup],
    capacities: Sequence[float],
    statistics: Sequence[float],
) -> None:
    """Write a prunable model's tensors in bands of units; the same tensors always give the same bytes.

    Args:
        directory: An existing directory without files of these names.
        state_dict: Tensors of a prunable model, on any device, in any memory layout.
        groups: Its groups of units.
        capacities: Edges of the bands, ascending, in (0, 1]; 1.0 is added if it is missing.
        statistics: Capacities below 1 with stored running statistics, ascending.

    Raises:
        TypeError: If a value can't be stored.
        ValueError: If a score is not finite, an edge has no running statistics, or a name is reserved.
        OSError: If a file can't be written.
    """
    edges, stored, rows = edges_and_rows(state_dict, capacities, statistics)
    axes = _axes_by_tensor(groups)
    own = {*axes, *rows, *(name for name in state_dict if belongs_to_last(name, rows))}
    banded, entries, plain = {}, {}, {}
    for name, tensor in without_aliases(state_dict, own).items():
        if name in own:
            banded[name] = storable(name, tensor, PACKABLE, (MEMBERS, VALUES))
            entries[name] = BandedTensor(tensor.dtype, tuple(tensor.shape), axes.get(name, {}))
        else:
            plain[name] = storable(name, tensor, reserved=(MEMBERS, VALUES))
    index = BandIndex(edges, stored, entries, {}, {name: group.num_units for name, group in groups.items()})
    files: Files = {name: {} for name in index.needed_files()}
    files[band_file(1, len(edges))].update(plain)
    band_of = {name: _split_units(files, index, group, state_dict) for name, group in unit_groups(index).items()}
    for name, tensor in banded.items():
        _split_tensor(files, name, tensor, element_bands(index, name, band_of, len(edges)))
    write_files(directory, index, files)


def unit_groups(index: BandIndex) -> dict[str, UnitGroup]:
    """The groups of units that an index describes, as far as files need them."""
    axes: dict[str, list[Axis]] = {name: [] for name in index.units or {}}
    for tensor in index.tensors.values():
        for name, axis in tensor.axes.items():
            axes[name].append(axis)
    return {name: UnitGroup(name, count, tuple(axes[name]), {}) for name, count in (index.units or {}).items()}


def band_sizes(index: BandIndex, group: UnitGroup) -> list[int]:
    """How many units of a group each band has. It may be 0."""
    counts = [0, *(group.kept(capacity) for capacity in index.capacities)]
    return [count - before for before, count in pairwise(counts)]


def rows_up_to(index: BandIndex, number: int) -> list[int]:
    """The bands of the rows of statistics in bands up to `number`; these rows are the first."""
    bands = [index.band_of(capacity) for capacity in index.statistics]
    return [band for band in bands if band <= number]


def first_band(index: BandIndex, name: str) -> int:
    """The first band to which elements of a tensor can belong."""
    return len(index.capacities) if belongs_to_last(name, index.tensors.keys()) else 1


def element_bands(index: BandIndex, name: str, band_of: Mapping[str, Integers], used: int) -> Integers:
    """The band of every element of a tensor that has only some of its units and rows.

    Args:
        index: What the tensors are.
        name: The tensor's name.
        band_of: For each group the band of each unit that is there.
        used: The last band whose rows of statistics are there.

    Returns:
        Of the shape that the tensor has with these units and rows.
    """
    entry = index.tensors[name]
    shape = list(entry.shape)
    along = {
        axis.dim: np.broadcast_to(band_of[group][:, None], (axis.outer, len(band_of[group]), axis.inner)).reshape(-1)
        for group, axis in entry.axes.items()
    }
    if name.endswith(ROWS):
        along[0] = np.array(rows_up_to(index, used), dtype=np.int64)
    bands = np.full([1] * len(shape), first_band(index, name))
    for dim, of_places in along.items():
        shape[dim] = len(of_places)
        bands = np.maximum(bands, np.expand_dims(of_places, [other for other in range(len(shape)) if other != dim]))
    return np.broadcast_to(bands, shape)


def element_counts(index: BandIndex, name: str, sizes: Mapping[str, Sequence[int]], used: int) -> list[int]:
    """How many elements of a tensor belong to each of the bands from 1 to `used`.

    Args:
        index: What the tensors are.
        name: The tensor's name.
        sizes: For each group the number of units in each band.
        used: The last band.
    """
    entry, counts = index.tensors[name], [0]
    for number in range(1, used + 1):
        shape = list(entry.shape)
        for group, axis in entry.axes.items():
            shape[axis.dim] = axis.outer * sum(sizes[group][:number]) * axis.inner
        if name.endswith(ROWS):
            shape[0] = len(rows_up_to(index, number))
        counts.append(math.prod(shape) if number >= first_band(index, name) else 0)
    return [count - before for before, count in pairwise(counts)]


def _axes_by_tensor(groups: Mapping[str, UnitGroup]) -> dict[str, dict[str, Axis]]:
    """For every tensor in which units lie, its axes by group."""
    axes: dict[str, dict[str, Axis]] = {}
    for name, group in groups.items():
        for axis in (Axis(name + OWN_SCORES, 0), *group.axes):
            axes.setdefault(axis.tensor, {})[name] = axis
    return axes


def _split_tensor(files: Files, name: str, tensor: Tensor, bands: Integers) -> None:
    """Add the elements of a tensor to the files of their bands."""
    bits = tensor.reshape(-1).view(BITS[tensor.itemsize])
    for number in np.unique(bands).tolist():
        places = torch.from_numpy(np.flatnonzero(bands == number))
        files[band_file(number, len(files))][name + VALUES] = bits[places].view(tensor.dtype)


def _split_units(files: Files, index: BandIndex, group: UnitGroup, state_dict: Mapping[str, Tensor]) -> Integers:
    """Add the members of a group to the file of each band, and return the band of each unit."""
    scores = group.name + OWN_SCORES
    order, sizes = rank_order(state_dict[scores], scores), band_sizes(index, group)
    numbers = np.repeat(np.arange(1, len(sizes) + 1), sizes)
    for number in np.unique(numbers).tolist():
        members = torch.from_numpy(order[numbers == number].astype(np.int32))
        files[band_file(number, len(sizes))][group.name + MEMBERS] = members
    band_of = np.empty(len(order), dtype=np.int64)
    band_of[order] = numbers
    return band_of
