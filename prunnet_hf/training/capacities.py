"""Which capacities the passes of a training step have: always the same ones, or some drawn anew for each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal
from typing import get_args

import numpy as np

from ..masking import format_capacity

CapacitySampling = Literal["fixed", "sandwich"]
DENSE = 1.0
_STREAM = 0x5A9D
"""Sets these random numbers apart from others that seed and step decide."""


@dataclass(frozen=True)
class PassCapacities:
    """The capacity of each pass of a step: a function of the step's number, alike on all processes and after resuming.

    Attributes:
        ranges: For each pass the capacities it may have, from lowest to highest, which may be the same.
        seed: Decides the draws.
    """

    ranges: tuple[tuple[float, float], ...]
    seed: int = 0

    def __len__(self) -> int:
        return len(self.ranges)

    @property
    def names(self) -> list[str]:
        """What to call each pass, such as `capacity-0.20`, or of a draw `capacity-0.10-0.55`."""
        return ["-".join(["capacity", *map(format_capacity, sorted({low, high}))]) for low, high in self.ranges]

    def at(self, step: int) -> list[float]:
        """The capacities of a step; drawn uniformly from their ranges."""
        generator = np.random.default_rng([_STREAM, self.seed, step])
        return [low if low == high else float(generator.uniform(low, high)) for low, high in self.ranges]


def pass_capacities(
    method: str,
    capacities: Sequence[float],
    *,
    sampling: CapacitySampling = "fixed",
    num_draws: int = 2,
    seed: int = 0,
) -> PassCapacities:
    """The passes of a training method.

    Args:
        method: `"independent"` has one pass at the one capacity given, all others begin with the dense network.
        capacities: Trained capacities, each in (0, 1].
        sampling: `"fixed"`: a pass for each of `capacities`. `"sandwich"`: one for the smallest of them, and
            `num_draws` for capacities drawn from equal parts of the range from it to 1 (the sandwich rule of
            universally slimmable networks, arXiv 1903.05134).
        num_draws: At least 1.
        seed: Decides the draws.

    Raises:
        ValueError: If `sampling` or `num_draws` isn't one of the allowed values.

    Example:
        >>> pass_capacities("prunnet", [0.1, 0.5], sampling="sandwich", num_draws=2).names
        ['capacity-1.00', 'capacity-0.10', 'capacity-0.10-0.55', 'capacity-0.55-1.00']
    """
    if sampling not in get_args(CapacitySampling):
        raise ValueError(
            f"capacity_sampling must be one of {', '.join(get_args(CapacitySampling))}; got {sampling!r}."
        )
    if num_draws < 1:
        raise ValueError(f"capacity_draws must be at least 1; got {num_draws!r}.")
    if method == "independent":
        return PassCapacities(tuple((capacity, capacity) for capacity in capacities), seed)
    below = sorted(capacity for capacity in capacities if capacity < DENSE)
    if sampling == "fixed":
        return PassCapacities(tuple((capacity, capacity) for capacity in [DENSE, *below]), seed)
    smallest = below[0]
    edges = [round(smallest + (DENSE - smallest) * part / num_draws, 12) for part in range(num_draws + 1)]
    return PassCapacities(((DENSE, DENSE), (smallest, smallest), *pairwise(edges)), seed)
