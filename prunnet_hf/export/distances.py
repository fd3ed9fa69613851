"""How far an exported network's embeddings are from torch's, and how far they may be."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..pruning.masking import format_capacity

Batches = Sequence[NDArray[np.float32]]
"""Pixel values `(images, 3, size, size)`."""
Precision = Literal["fp32", "fp16", "int8"]
TOLERANCES: dict[Precision, float] = {"fp32": 1e-5, "fp16": 1e-3, "int8": 2e-2}
"""How far embeddings may be from torch's in float32: the mean of cosine distances over images."""
WORST = 5
"""How many times as far as the mean one image may be. For int8 that is 0.1, which is five times what the worst of 512
images has in docs/devices.md: what is refused isn't a little less exact than the others, it broke, and one such image
among hundreds hardly moves the mean."""


@dataclass(frozen=True)
class Distance:
    """Cosine distances of embeddings from torch's in float32, for the same images.

    Attributes:
        mean: Over the images.
        worst: The largest.
        place: Which image has the largest, counted from 0.
    """

    mean: float
    worst: float
    place: int

    def __str__(self) -> str:
        return f"{self.mean:.1g} on average, {self.worst:.1g} at worst"


def distance_between(found: Tensor, expected: Tensor) -> Distance:
    """The distance of embeddings `(images, dim)` of unit length from others, of any length."""
    distances = 1 - (found.double() * F.normalize(expected.double())).sum(dim=1)
    distances = distances.clamp(min=0)  # rounding; what isn't a number stays so
    worst, place = distances.max(dim=0)
    return Distance(float(distances.mean()), float(worst), int(place))


def refuse_distance(distance: Distance, precision: Precision, capacity: float, images: Sequence[Any]) -> None:
    """Refuse embeddings that are too far from torch's.

    Args:
        distance: From torch.
        precision: Of the exported network.
        capacity: Of the network.
        images: What `distance` was measured on; empty if on noise.

    Raises:
        RuntimeError: If the mean or the worst is above what is allowed, or isn't a number.
    """
    allowed = TOLERANCES[precision]
    if not distance.mean <= allowed:
        what = f"its embeddings have a mean cosine distance of {distance.mean:.1e} from torch's, where {allowed:g} is"
    elif not distance.worst <= WORST * allowed:
        what = (
            f"the embedding of {name_of(images, distance.place)} has a cosine distance of {distance.worst:.1e} from "
            f"torch's, where {WORST * allowed:g} is"
        )
    else:
        return
    raise RuntimeError(
        f"precision {precision!r} is refused at capacity {format_capacity(capacity)}, because {what} allowed. "
        "Leave it out, or pass more images."
    )


def name_of(images: Sequence[Any], place: int) -> str:
    """An image as an error names it."""
    if not images:
        return "noise"
    image = images[place]
    return str(image) if isinstance(image, str | os.PathLike) else f"images[{place}]"
