"""Joins the files of a progressive checkpoint: to the whole prunable model, or to a subnetwork from some bands.

Memory for a whole weight is allocated only after the types and sizes of its masks and values were found to be right.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..pruning.calibration import OWN_AND_STORED, interpolation, mix
from ..pruning.masking import kept_count
from ..pruning.subnetworks import scored_units
from .band_index import INDEX_NAME, WEIGHT, BandedTensor, BandIndex, band_file, ranks_file, read_index
from .bands import KNOTS, MASK, MAX_LEVELS, NUM_KNOTS, RANKS, ROWS, SCORES, VALUES, save_bands, statistics_in_band
from .form import Form, Source, Weights
from .score_levels import Integers, knot_levels, level_scores, segment_sizes
from .tensor_file import BITS, damaged
from .unit_band_reader import kept_units, load_unit_bands
from .unit_bands import save_unit_bands

Tensors = Mapping[str, Tensor]
Part = tuple[Integers, Tensor]


def load_bands(
    index: BandIndex, files: Mapping[str, str | os.PathLike[str]], capacity: float | None = None
) -> dict[str, Tensor]:
    """Read the tensors of a prunable model, or of its subnetwork of `capacity`.

    Args:
        index: What the files must be.
        files: Where each of `index.needed_files(capacity)` is.
        capacity: In (0, 1]; None for the whole model.

    Returns:
        The tensors by name, on the CPU. The whole model has bit for bit those that were saved, except the scores,
        which are float32 and have the same order (see `score_levels`). A subnetwork has those that pruning the whole
        model gives.

    Raises:
        CheckpointFormatError: If a file is damaged or belongs to another model.
    """
    read = {name: index.read(files[name], name) for name in index.needed_files(capacity)}
    count = len(index.capacities)
    used = count if capacity is None else index.band_of(capacity)
    bands: list[Tensors] = [read[band_file(number, count)] for number in range(1, used + 1)]
    # A band that is taken whole doesn't need its ranks.
    ranks: list[Tensors] = [read.get(ranks_file(number, count), {}) for number in range(1, used + 1)]
    state_dict = _plain(bands)
    for name, entry in index.tensors.items():
        sizes = segment_sizes(index.capacities, math.prod(entry.shape))[:used]
        parts = _parts(name, entry, sizes, bands)
        if capacity is None:
            state_dict[name] = _filled(entry, parts)
            state_dict[name.removesuffix(WEIGHT) + SCORES] = _scores(name, entry, parts, ranks)
        else:
            if capacity not in index.capacities:
                wanted = kept_count(capacity, math.prod(entry.shape)) - sum(sizes[:-1])
                parts[-1] = _first_kept(name, parts[-1], ranks[-1], wanted)
            # Pruning turns -0.0 into +0.0, whether it is kept or not.
            state_dict[name] = _filled(entry, parts) + 0.0
    known, rows = _rows(index, bands, ranks)
    return state_dict | (rows if capacity is None else _mixed(index.statistics, capacity, known, rows, bands[-1]))


def _plain(bands: Sequence[Tensors]) -> dict[str, Tensor]:
    """The tensors that are stored as they are."""
    special = (MASK, VALUES, *ROWS)
    return {name: tensor for band in bands for name, tensor in band.items() if not name.endswith(special)}


def _parts(name: str, entry: BandedTensor, sizes: Sequence[int], bands: Sequence[Tensors]) -> list[Part]:
    """For each band the indices of a weight's members in row-major order, and their values."""
    num_left = math.prod(entry.shape)
    for size, band in zip(sizes, bands, strict=True):
        _check(band, name + MASK, torch.uint8, -(-num_left // 8) if 0 < size < num_left else None)
        _check(band, name + VALUES, entry.dtype, size or None)
        num_left -= size
    left, parts = np.arange(math.prod(entry.shape)), []
    for size, band in zip(sizes, bands, strict=True):
        if name + MASK in band:
            mask = np.unpackbits(band[name + MASK].numpy(), bitorder="little")
            if np.count_nonzero(mask[: len(left)]) != size or mask[len(left) :].any():
                raise damaged(f"{name + MASK!r} must have {size} bits set, none of them beyond the first {len(left)}")
            is_member = mask[: len(left)].view(np.bool_)
            members, left = left[is_member], left[~is_member]
        else:
            members, left = left[:size], left[size:]  # all that remain, or none
        parts.append((members, band.get(name + VALUES, torch.empty(0, dtype=entry.dtype))))
    return parts


def _check(tensors: Tensors, name: str, dtype: torch.dtype, size: int | None) -> None:
    """Raise unless the tensor `name` has this type and the shape `(size,)`, or is missing if `size` is None."""
    tensor = tensors.get(name)
    found = None if tensor is None else (tensor.dtype, tuple(tensor.shape))
    if found != (None if size is None else (dtype, (size,))):
        wanted = "left out" if size is None else f"{dtype} of shape ({size},)"
        raise damaged(f"{name!r} is {'missing' if found is None else found}; it must be {wanted}")


def _first_kept(name: str, part: Part, ranks: Tensors, count: int) -> Part:
    """The first `count` members by score, in row-major order."""
    members, values = part
    _check(ranks, name + RANKS, torch.uint8, len(members) or None)
    if not len(members):
        return part
    chosen = np.sort(np.argsort(ranks[name + RANKS].numpy(), kind="stable")[:count])
    return members[chosen], values[torch.from_numpy(chosen)]


def _filled(entry: BandedTensor, parts: Sequence[Part]) -> Tensor:
    """A weight with these parts and zeros elsewhere."""
    full = torch.zeros(math.prod(entry.shape), dtype=BITS[entry.dtype.itemsize])
    for members, values in parts:
        full.numpy()[members] = values.view(full.dtype).numpy()
    return full.view(entry.dtype).reshape(entry.shape)


def _scores(name: str, entry: BandedTensor, parts: Sequence[Part], ranks: Sequence[Tensors]) -> Tensor:
    """The scores of a layer, float32, rebuilt from the levels of its members in all bands."""
    scores, before = np.empty(math.prod(entry.shape), dtype=np.float32), np.inf
    for (members, _), of_band in zip(parts, ranks, strict=True):
        _check(of_band, name + RANKS, torch.uint8, len(members) or None)
        _check(of_band, name + KNOTS, torch.float32, NUM_KNOTS if len(members) else None)
        if not len(members):
            continue
        levels, num_levels = of_band[name + RANKS].numpy(), min(len(members), MAX_LEVELS)
        table = level_scores(of_band[name + KNOTS], knot_levels(num_levels, NUM_KNOTS), repr(name + KNOTS)).numpy()
        if levels.max() >= num_levels or table[0] >= before:
            raise damaged(f"{name + RANKS!r} must be below {num_levels}, and scores below those of the band before")
        scores[members], before = table[levels], table[-1]
    return torch.from_numpy(scores).reshape(entry.shape)


def _rows(
    index: BandIndex, bands: Sequence[Tensors], ranks: Sequence[Tensors]
) -> tuple[list[float], dict[str, Tensor]]:
    """The capacities with statistics in these files, ascending, and rows `(capacities, features)` by name."""
    known: list[float] = []
    pieces: dict[str, list[Tensor]] = {}
    for number, (band, of_band) in enumerate(zip(bands, ranks, strict=True), start=1):
        edge = index.capacities[number - 1]
        known += statistics_in_band(index.capacities, index.statistics, number) if of_band else []
        known += [edge] if edge in index.statistics else []
        for file in (of_band, band):
            for name in file:
                if name.endswith(ROWS):
                    pieces.setdefault(name, []).append(file[name])
    for name, parts in pieces.items():
        alike = {(part.dtype, part.shape[1:]) for part in parts if part.ndim == 2}
        if len(alike) != 1 or sum(part.shape[0] if part.ndim == 2 else -1 for part in parts) != len(known):
            raise damaged(f"{name!r} must have a row for each of the capacities {known}, all of one type and length")
    return known, {name: torch.cat(parts) for name, parts in pieces.items()}


def _mixed(
    stored: Sequence[float], capacity: float, known: Sequence[float], rows: Tensors, last: Tensors
) -> dict[str, Tensor]:
    """The running statistics of a subnetwork, named like the norms' own."""
    mixture = interpolation(stored, capacity)
    statistics = {}
    for own, ending in OWN_AND_STORED:
        for name in (name for name in rows if name.endswith(f".{ending}")):
            own_name = name.removesuffix(ending) + own
            of_row: dict[int | None, Tensor] = {
                stored.index(at): row for at, row in zip(known, rows[name], strict=True)
            }
            if own_name in last:
                of_row[None] = last[own_name]
            lacking = [row for row, _ in mixture if row not in of_row or of_row[row].shape != rows[name].shape[1:]]
            if lacking:
                raise damaged(
                    f"{own_name!r} or rows of {name!r}, needed for capacity {capacity}, are missing or misshapen"
                )
            statistics[own_name] = mix(of_row, mixture)
    return statistics


def _read(source: Source, capacity: float | None) -> Weights | None:
    found = source.find(INDEX_NAME)
    if found is None:
        return None
    index = read_index(found)
    files = {name: _find_band(source, name, index) for name in index.needed_files(capacity)}
    tensors = load_bands(index, files, capacity) if index.units is None else load_unit_bands(index, files, capacity)
    if capacity is None:
        return Weights(tensors)
    return Weights(tensors, index.statistics, None if index.units is None else kept_units(index, capacity))


def _find_band(source: Source, name: str, index: BandIndex) -> str:
    found = source.find(name)
    if found is None:
        raise OSError(
            f"{source.path} is a checkpoint in bands of capacity {list(index.capacities)} and needs {name}, which is "
            "not there. Copy or save all files again, or load once with access to the Hub."
        )
    return found


def _write(directory: Path, model: Any, state_dict: Mapping[str, Tensor], edges: Sequence[float] | None) -> None:
    stored = model.config.stored_subnetworks
    if model.config.granularity == "channel":
        save_unit_bands(directory, state_dict, scored_units(model), edges or [], stored)
    else:
        save_bands(directory, state_dict, model.prunable_layers(), edges or [], stored)


BANDS = Form(
    name="bands",
    files=(INDEX_NAME, "band-*-of-*.safetensors"),
    suits=lambda config: config.prunable,
    read=_read,
    write=_write,
    on_request=True,
)
