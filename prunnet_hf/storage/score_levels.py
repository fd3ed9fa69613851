"""The scores of a layer as a few levels, from which positive scores with the same order are rebuilt.

Only the magnitudes of scores matter, and only their order: a capacity keeps the largest, and among equal ones those
with the lower flat index (`masking`). Signs change no mask, even if training goes on: the gradient of a score is
``G * W * sign(S)``, so negating a score mirrors its path and leaves the path of its magnitude as it was.
The weights of a layer are put in that order, and the order is cut into pieces, the *levels*. Level 0 has the largest
magnitudes. A file holds the level of each weight and the magnitudes at some levels, the *knots*.

Rebuilt scores are positive, equal within a level and strictly smaller from level to level. Between two knots they
follow a straight line in the bit patterns of the floats, which have the order of the positive floats. A level needs a
bit pattern of its own, so knots closer than one bit pattern a level are moved up to that distance. Ranking rebuilt
scores gives the same levels and the same knots, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..pruning.masking import check_finite, kept_count
from .tensor_file import damaged

Integers = NDArray[np.int64]

SMALLEST_BITS, LARGEST_BITS = 0x00800000, 0x7F7FFFFF
"""Bit patterns of the smallest normal and the largest finite positive float32, between which rebuilt scores lie."""


def rank_order(scores: Tensor, name: str = "scores") -> Integers:
    """The weights of a layer from the first kept to the last: by magnitude, equal ones by flat index.

    Args:
        scores: Scores of a layer, of any shape and floating-point type, finite.
        name: Their name in the error message.

    Returns:
        Flat indices `(n,)`.

    Raises:
        ValueError: If a score is not finite.
    """
    magnitudes = scores.detach().abs().cpu().reshape(-1)
    check_finite(name, magnitudes)
    if magnitudes.dtype == torch.float64:
        return np.argsort(-magnitudes.numpy(), kind="stable")
    # Magnitude and place in one integer: sorting these is several times as fast as a stable sort of floats.
    bits = magnitudes.float().numpy().view(np.uint32).astype(np.int64)
    keys = ((LARGEST_BITS - bits) << 32) | np.arange(len(bits))
    keys.sort()
    return keys & 0xFFFFFFFF


def segment_sizes(capacities: Sequence[float], num_weights: int) -> list[int]:
    """How many weights each of the ascending `capacities` keeps in addition to the one before it. It may be 0."""
    counts = [0, *(kept_count(capacity, num_weights) for capacity in capacities)]
    return [count - before for before, count in pairwise(counts)]


def share_levels(sizes: Sequence[int], limit: int) -> list[int]:
    """How many levels each segment of a layer's order gets.

    If there are at most `limit` weights, each gets its own level. Otherwise each segment that isn't empty gets one,
    and the rest is shared by size, rounded down.

    Args:
        sizes: Weights in each segment.
        limit: The most levels in total, at least the number of segments.

    Example:
        >>> share_levels([3, 0, 5], 8), share_levels([1, 0, 999], 12)
        ([3, 0, 5], [1, 0, 10])
    """
    total, segments = sum(sizes), sum(size > 0 for size in sizes)
    if total <= limit:
        return list(sizes)
    return [1 + (limit - segments) * size // total if size else 0 for size in sizes]


def levels_of(sizes: Sequence[int], num_levels: Sequence[int]) -> Integers:
    """The level of each rank `(sum(sizes),)`, ascending. Each segment's ranks are spread evenly over its levels.

    Example:
        >>> levels_of([3, 4], [3, 2]).tolist()
        [0, 1, 2, 3, 3, 4, 4]
    """
    first, parts = 0, [np.empty(0, dtype=np.int64)]
    for size, count in zip(sizes, num_levels, strict=True):
        parts.append(first + np.arange(size) * count // max(size, 1))
        first += count
    return np.concatenate(parts)


def knot_levels(num_levels: int, num_knots: int) -> Integers:
    """Levels `(num_knots,)` of the knots, from the first to the last; of few levels, some have several knots.

    Example:
        >>> knot_levels(9, 5).tolist(), knot_levels(2, 5).tolist()
        ([0, 2, 4, 6, 8], [0, 0, 0, 0, 1])
    """
    return np.arange(num_knots) * (num_levels - 1) // (num_knots - 1)


def fit_knots(magnitudes: Tensor, levels: Integers) -> Tensor:
    """Knots for a layer: magnitudes, moved if necessary so that every level between them gets a float of its own.

    Args:
        magnitudes: `(k,)`, the largest of each level in `levels`, descending, any floating-point type.
        levels: `(k,)`, ascending.

    Returns:
        float32 `(k,)`, between the smallest normal and the largest finite number.
    """
    bits = magnitudes.detach().float().numpy().view(np.int32).astype(np.int64)
    # A knot at level l must be at least l' - l patterns above one at l' > l: pattern plus level must not increase.
    heights = np.minimum(np.maximum(bits, SMALLEST_BITS) + levels, LARGEST_BITS)
    heights = np.maximum.accumulate(heights[::-1])[::-1]
    return torch.from_numpy((heights - levels).astype(np.int32)).view(torch.float32)


def level_scores(knots: Tensor, levels: Integers, name: str) -> Tensor:
    """The scores of all levels, on straight lines in the bit patterns between knots.

    Args:
        knots: float32 `(k,)`, perhaps damaged.
        levels: `(k,)`, their levels, ascending, the first 0.
        name: The name of the knots in the error message.

    Returns:
        float32 `(levels[-1] + 1,)`, positive and strictly decreasing.

    Raises:
        CheckpointFormatError: If `fit_knots` can't have returned these knots.
    """
    bits = knots.numpy().view(np.int32).astype(np.int64)
    drops, steps = bits[:-1] - bits[1:], np.diff(levels)
    inside = bits.min() >= SMALLEST_BITS and bits.max() <= LARGEST_BITS
    if not inside or (drops < steps).any() or drops[steps == 0].any():
        raise damaged(
            f"{name} must be positive normal float32 numbers that decrease by at least one bit pattern a level; they "
            "aren't"
        )
    every = np.arange(levels[-1] + 1)
    left = np.searchsorted(levels, every, side="right") - 1
    right = np.minimum(left + 1, len(levels) - 1)
    spans = np.maximum(levels[right] - levels[left], 1)
    lines = bits[left] - (every - levels[left]) * (bits[left] - bits[right]) // spans
    return torch.from_numpy(lines.astype(np.int32)).view(torch.float32)
