"""The `rank16` form of a prunable model's scores: their order in two bytes a weight instead of their values in four.

The layout in ``model.safetensors``, version 1, little-endian. All tensors are stored plain but the scores. Instead of
``<layer>.scores`` there are

- ``<layer>.scores_rank16``, U16, of the shape of ``<layer>.weight``: each weight's level (see `score_levels`), from 0
  for the largest scores to ``L - 1``, where ``L`` is the largest one stored plus 1;
- ``<layer>.score_knots``, F32, ``(257,)``: scores at the levels ``floor(i * (L - 1) / 256)`` for ``i`` from 0 to 256.

The header's ``__metadata__`` has ``format``: ``pt``, ``scores``: ``rank16`` and ``scores_version``: ``1``.

A writer gives every weight its own level in layers of up to 65,536 weights. In larger ones no level has weights from
both sides of a trained capacity's boundary, so the masks of these capacities, and of 1, are exact; masks between are
exact but for the order within one level, a few dozen weights in a layer of millions.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .score_levels import fit_knots
from .score_levels import knot_levels
from .score_levels import level_scores
from .score_levels import levels_of
from .score_levels import rank_order
from .score_levels import segment_sizes
from .score_levels import share_levels
from .tensor_file import CheckpointFormatError
from .tensor_file import damaged
from .tensor_file import read_tensors
from .tensor_file import storable
from .tensor_file import without_aliases
from .tensor_file import write_tensors

MAX_LEVELS = 2**16
NUM_KNOTS = 257
FORMAT_VERSION = 1

_SCORES, _RANKS, _KNOTS = ".scores", ".scores_rank16", ".score_knots"
_METADATA = {"format": "pt", "scores": "rank16", "scores_version": str(FORMAT_VERSION)}


def save_rank16(
    path: str | os.PathLike[str],
    state_dict: Mapping[str, Tensor],
    layers: Collection[str],
    capacities: Sequence[float],
) -> None:
    """Write a prunable model's tensors, its scores as ranks; the same tensors always give the same bytes.

    Args:
        path: File to write, which appears complete or not at all. Its directory must exist.
        state_dict: Tensors of a prunable model, on any device, in any memory layout.
        layers: Names of its prunable layers.
        capacities: Those whose masks are to be exact, ascending, in (0, 1].

    Raises:
        TypeError: If a value can't be stored.
        ValueError: If a score is not finite, or a name is reserved.
        OSError: If the file can't be written.
    """
    scores = {layer + _SCORES for layer in layers}
    tensors: dict[str, Tensor] = {}
    for name, tensor in without_aliases(state_dict, scores).items():
        plain = storable(name, tensor, reserved=(_RANKS, _KNOTS))
        if name in scores:
            layer = name.removesuffix(_SCORES)
            tensors[layer + _RANKS], tensors[layer + _KNOTS] = to_ranks(plain, capacities, name)
        else:
            tensors[name] = plain
    write_tensors(path, tensors, _METADATA)


def load_rank16(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read a prunable model's tensors, with float32 scores that have the order of the saved ones.

    Args:
        path: A file written by `save_rank16`.

    Raises:
        CheckpointFormatError: If the file is damaged, has no ranks, or is of a newer version.
    """
    try:
        tensors, metadata = read_tensors(path)
        _check_metadata(metadata or {})
        return {name: tensor for name, tensor in _with_scores(tensors)}
    except CheckpointFormatError as error:
        raise CheckpointFormatError(f"{path}: {error}") from error


def holds_rank16(names: Collection[str]) -> bool:
    """Whether a file with tensors of these names has ranks for scores."""
    return any(name.endswith(_RANKS) for name in names)


def to_ranks(scores: Tensor, capacities: Sequence[float], name: str = "scores") -> tuple[Tensor, Tensor]:
    """Ranks, uint16 of the shape of `scores`, and knots, float32 `(257,)`, of the scores of one layer.

    Args:
        scores: Finite, of any shape and floating-point type, on the CPU.
        capacities: Those whose masks are to be exact, ascending, in (0, 1].
        name: What the scores are called, for the error message.

    Raises:
        ValueError: If a score is not finite.
    """
    order = rank_order(scores, name)
    sizes = segment_sizes([*capacities, 1.0], len(order))
    level_at = levels_of(sizes, share_levels(sizes, MAX_LEVELS))
    at = knot_levels(int(level_at[-1]) + 1, NUM_KNOTS)
    firsts = order[np.searchsorted(level_at, at)]
    ranks = np.empty(len(order), dtype=np.uint16)
    ranks[order] = level_at
    knots = fit_knots(scores.abs().reshape(-1)[torch.from_numpy(firsts)], at)
    return torch.from_numpy(ranks).view(scores.shape), knots


def from_ranks(ranks: Tensor, knots: Tensor, name: str = "scores") -> Tensor:
    """Scores, float32 of the shape of `ranks`; what `to_ranks` gives for them are the same ranks and knots.

    Args:
        ranks: uint16, of any shape but an empty one.
        knots: float32 `(257,)`.
        name: What the scores are called, for the error message.

    Raises:
        CheckpointFormatError: If the knots don't decrease as they must.
    """
    flat = ranks.numpy().reshape(-1)
    table = level_scores(knots, knot_levels(int(flat.max()) + 1, NUM_KNOTS), f"the knots of {name!r}")
    return torch.from_numpy(table.numpy()[flat]).view(ranks.shape)


def _with_scores(tensors: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    layers = {name.removesuffix(_RANKS) for name in tensors if name.endswith(_RANKS)}
    if layers != {name.removesuffix(_KNOTS) for name in tensors if name.endswith(_KNOTS)}:
        raise damaged(f"not every layer with {_RANKS} has {_KNOTS}, or the other way round")
    both = sorted(layer for layer in layers if layer + _SCORES in tensors)
    if both:
        raise damaged(f"the scores of {both[:5]} are stored plain and as ranks; only one is allowed")
    found = [(name, tensor) for name, tensor in tensors.items() if not name.endswith((_RANKS, _KNOTS))]
    for layer in sorted(layers):
        ranks, knots, weight = tensors[layer + _RANKS], tensors[layer + _KNOTS], tensors.get(layer + ".weight")
        if weight is None or ranks.shape != weight.shape or ranks.dtype != torch.uint16 or not ranks.numel():
            raise damaged(
                f"{layer + _RANKS!r} is {ranks.dtype} of shape {tuple(ranks.shape)}; it must be torch.uint16 of the "
                f"shape of {layer + '.weight'!r}, {None if weight is None else tuple(weight.shape)}"
            )
        if knots.shape != (NUM_KNOTS,) or knots.dtype != torch.float32:
            raise damaged(
                f"{layer + _KNOTS!r} is {knots.dtype} of shape {tuple(knots.shape)}; it must be torch.float32 of "
                f"shape ({NUM_KNOTS},)"
            )
        found.append((layer + _SCORES, from_ranks(ranks, knots, layer + _SCORES)))
    return found


def _check_metadata(metadata: Mapping[str, Any]) -> None:
    if metadata.get("scores") != _METADATA["scores"]:
        raise damaged(f"metadata 'scores' is {metadata.get('scores')!r}; ranks are stored as {_METADATA['scores']!r}")
    version = str(metadata.get("scores_version"))
    if re.fullmatch(r"[1-9][0-9]{0,8}", version) and int(version) > FORMAT_VERSION:
        raise CheckpointFormatError(
            f"the version of the ranks is {version}; this prunnet_hf reads up to {FORMAT_VERSION}. Upgrade prunnet_hf."
        )
    if version != str(FORMAT_VERSION):
        raise damaged(f"metadata 'scores_version' is {version[:20]!r}; allowed is '{FORMAT_VERSION}'")
