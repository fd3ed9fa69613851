"""The progressive checkpoint: a dense model in bands of capacity. A device downloads only those that it needs.

`unit_bands` has the layout for models that leave out whole units. That for single weights is version 1. Integers and
floats are little-endian, text is UTF-8, files except the index are safetensors.
With edges ``e_1 < ... < e_N = 1`` and ``e_0 = 0`` the directory has ``config.json`` and:

- ``bands.index.json``: ``format`` (``prunnet-bands``), ``version`` (1), ``capacities`` (the edges), ``statistics``
  (the capacities below 1 with stored running statistics, ascending, all inner edges among them), ``tensors`` (the
  *banded* weights, whose names end in ``.weight``: name to ``{"dtype": "F32", "shape": [64, 3, 7, 7]}``) and ``files``
  (all those below: name to ``{"size", "sha256"}``). A reader refuses a file of another size or SHA-256.
- ``band-00001-of-0000N.safetensors`` and so on: band ``k`` has the weights that ``e_k`` keeps and ``e_(k-1)`` doesn't.
- ``band-00001-of-0000N.ranks.safetensors`` and so on: their order, needed for capacities that aren't an edge.

Of the ``n`` weights of a layer, a capacity keeps ``kept(c) = n - round((1 - c)(n - 1))``, computed in float64, where
``round`` rounds halves to even; ``kept(e_0) = 0``. So the next ``kept(e_k) - kept(e_(k-1))`` weights by score are the
members of band ``k``. A weight without members in a band has no tensors in its two files. Otherwise:

- ``<weight>.band_mask``, U8, in the band: one bit for each weight that is in no earlier band, in row-major order, bit
  0 of a byte first, 1 for members; the unused high bits of the last byte are 0. Left out if all remaining weights are
  members, as in the last band.
- ``<weight>.band_values``, the weight's type, ``(members,)``, in the band: the members in row-major order.
- ``<weight>.band_ranks``, U8, ``(members,)``, in the ranks, in the same order: the level of each member, one of
  ``L = min(256, members)``, 0 for the largest scores. Place ``p`` by score has the level ``floor(p * L / members)``.
- ``<weight>.band_knots``, F32, ``(33,)``, in the ranks: scores at the levels ``floor(i * (L - 1) / 32)``, from which
  all are rebuilt (`score_levels`). The tensor ``<layer>.scores`` itself is not stored.

A capacity ``c`` inside band ``k`` keeps all members of the bands before it and ``kept(c) - kept(e_(k-1))`` members of
band ``k``: those of the lowest levels, and within a level the first in row-major order.

``<norm>.statistics_mean`` and ``<norm>.statistics_var`` have a row for each capacity of ``statistics``. The row of an
inner edge ``e_k`` is in band ``k``, ``(1, features)``; those strictly between ``e_(k-1)`` and ``e_k`` are in ranks
``k``, ``(rows, features)``. If there is only one band, it has these tensors without rows. ``<norm>.running_mean`` and
``<norm>.running_var``, the dense network's, are in the last band. So all statistics that are interpolated for ``c``
(`calibration.interpolation`) are in the bands up to its own and that band's ranks. All other tensors are in band 1.

The header's ``__metadata__`` has ``format``, ``version``, ``file`` (its own name) and, in band 1, ``contents``: the
index's ``capacities``, ``statistics`` and ``tensors`` as JSON with sorted names and no spaces.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..pruning.calibration import OWN_AND_STORED
from ..pruning.masking import check_capacities, format_capacity
from .band_index import WEIGHT, BandedTensor, BandIndex, band_file, ranks_file, write_files
from .score_levels import Integers, fit_knots, knot_levels, levels_of, rank_order, segment_sizes
from .tensor_file import BITS, PACKABLE, storable, without_aliases

MASK, VALUES, RANKS, KNOTS = ".band_mask", ".band_values", ".band_ranks", ".band_knots"
MAX_LEVELS = 256
NUM_KNOTS = 33
SCORES = ".scores"
ROWS = tuple(f".{rows}" for _, rows in OWN_AND_STORED)
"""Tensors with these endings hold a row of statistics for each stored capacity."""

Files = dict[str, dict[str, Tensor]]


def save_bands(
    directory: str | os.PathLike[str],
    state_dict: Mapping[str, Tensor],
    layers: Collection[str],
    capacities: Sequence[float],
    statistics: Sequence[float],
) -> None:
    """Write a prunable model's tensors in bands; the same tensors always give the same bytes.

    Args:
        directory: An existing directory without files of these names.
        state_dict: Tensors of a prunable model, on any device, in any memory layout.
        layers: Names of its prunable layers.
        capacities: Edges of the bands, ascending, in (0, 1]; 1.0 is added if it is missing.
        statistics: Capacities below 1 with stored running statistics, ascending.

    Raises:
        TypeError: If a value can't be stored.
        ValueError: If a score is not finite, an edge has no running statistics, or a name is reserved.
        OSError: If a file can't be written.
    """
    edges, stored, rows = edges_and_rows(state_dict, capacities, statistics)
    files: Files = {name(k, len(edges)): {} for k in range(1, len(edges) + 1) for name in (band_file, ranks_file)}
    banded = {}
    own = {layer + ending for layer in layers for ending in (WEIGHT, SCORES)}
    for name, tensor in without_aliases(state_dict, own).items():
        if name not in own and name not in rows:
            late = belongs_to_last(name, rows)
            files[band_file(len(edges) if late else 1, len(edges))][name] = storable(
                name, tensor, reserved=(MASK, VALUES, RANKS, KNOTS)
            )
    for layer in layers:
        weight = storable(layer + WEIGHT, state_dict[layer + WEIGHT], PACKABLE)
        banded[layer + WEIGHT] = BandedTensor(weight.dtype, tuple(weight.shape))
        _split_weight(files, layer, weight, state_dict[layer + SCORES], edges)
    for name in rows:
        _split_rows(files, name, storable(name, state_dict[name]), edges, stored)
    write_files(directory, BandIndex(edges, stored, banded, {}), files)


def check_bands(model: Any, bands: Sequence[float] | None, push_to_hub: bool) -> list[float] | None:
    """Return the edges `bands`, ascending, after checking that they suit the model."""
    if bands is None:
        return None
    edges = check_capacities(bands, "bands")
    if not model.config.prunable:
        raise ValueError(
            f"bands={edges} is for prunable models; this one is pruned to capacity "
            f"{format_capacity(model.config.capacity)} and has no scores. Save it without bands, or save the dense "
            "model from which it was pruned."
        )
    if push_to_hub:
        raise ValueError(
            f"push_to_hub must be False if bands={edges} are given. Save first; then call "
            f"model.push_to_hub(repo_id, bands={edges})."
        )
    return edges


def edges_and_rows(
    state_dict: Mapping[str, Tensor], capacities: Sequence[float], statistics: Sequence[float]
) -> tuple[tuple[float, ...], tuple[float, ...], list[str]]:
    """The edges, the capacities with stored statistics, and the names of the tensors that have a row for each.

    Raises:
        ValueError: If an edge has no running statistics.
    """
    edges = (*(capacity for capacity in capacities if capacity < 1.0), 1.0)
    rows = [name for name in state_dict if name.endswith(ROWS)]
    stored = tuple(statistics) if rows else ()
    lacking = [edge for edge in edges[:-1] if edge not in stored]
    if rows and lacking:
        raise ValueError(
            f"bands must end at capacities with stored running statistics, {list(stored)} and 1.0; got {lacking} too. "
            "Choose among these, or train or calibrate a model whose config.statistics_capacities has them."
        )
    return edges, stored, rows


def belongs_to_last(name: str, rows: Collection[str]) -> bool:
    """Whether a tensor is a running statistic of the dense network, in a norm that also has those of subnetworks."""
    return any(name.endswith(f".{own}") and name.removesuffix(own) + stored in rows for own, stored in OWN_AND_STORED)


def statistics_in_band(edges: Sequence[float], stored: Sequence[float], number: int) -> list[float]:
    """The capacities whose rows of statistics are in the ranks of band `number`, from 1: those strictly inside it."""
    below = edges[number - 2] if number > 1 else 0.0
    return [capacity for capacity in stored if below < capacity < edges[number - 1]]


def _split_weight(files: Files, layer: str, weight: Tensor, scores: Tensor, edges: Sequence[float]) -> None:
    """Add the members, ranks and knots of one layer to the files of each band."""
    order = rank_order(scores, layer + SCORES)
    sizes = segment_sizes(edges, len(order))
    levels, knots = _levels_and_knots(scores, order, sizes)
    band_of, level_of = np.empty(len(order), dtype=np.int32), np.empty(len(order), dtype=np.uint8)
    band_of[order], level_of[order] = np.repeat(np.arange(len(sizes)), sizes), levels
    bits = weight.reshape(-1).view(BITS[weight.itemsize])
    for index, size in enumerate(sizes):
        left = band_of[band_of >= index]
        members = torch.from_numpy(np.flatnonzero(band_of == index))
        if not size:
            continue
        band, ranks = (files[name(index + 1, len(edges))] for name in (band_file, ranks_file))
        if size < len(left):
            band[layer + WEIGHT + MASK] = torch.from_numpy(np.packbits(left == index, bitorder="little"))
        band[layer + WEIGHT + VALUES] = bits[members].view(weight.dtype)
        ranks[layer + WEIGHT + RANKS] = torch.from_numpy(level_of)[members]
        ranks[layer + WEIGHT + KNOTS] = knots[index]


def _levels_and_knots(scores: Tensor, order: Integers, sizes: Sequence[int]) -> tuple[Integers, list[Tensor]]:
    """Return the level, within its band, of each place in `order`, and the knots of each band."""
    num_levels = [min(size, MAX_LEVELS) for size in sizes]
    level_at = levels_of(sizes, num_levels)
    first = np.concatenate([[0], np.cumsum(num_levels)])
    # A band without members has no levels. Its knots, which aren't stored, are at the next band's first or the last.
    starts = np.minimum(first[:-1], level_at[-1])
    at = np.concatenate(
        [start + knot_levels(max(count, 1), NUM_KNOTS) for start, count in zip(starts, num_levels, strict=True)]
    )
    largest = order[np.searchsorted(level_at, at)]
    knots = fit_knots(scores.detach().abs().cpu().reshape(-1)[torch.from_numpy(largest)], at)
    return level_at - np.repeat(first[:-1], sizes), list(knots.split(NUM_KNOTS))


def _split_rows(files: Files, name: str, rows: Tensor, edges: Sequence[float], stored: Sequence[float]) -> None:
    """Add the rows of the statistics `name`, `(len(stored), features)`, to the files of their capacities."""
    for number, edge in enumerate(edges, start=1):
        inside = statistics_in_band(edges, stored, number)
        for file, capacities in ((band_file, [edge] if edge < 1.0 else []), (ranks_file, inside)):
            if capacities or (number == len(edges) == 1 and file is band_file):
                files[file(number, len(edges))][name] = rows[[stored.index(capacity) for capacity in capacities]]
