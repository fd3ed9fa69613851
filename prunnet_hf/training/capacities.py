"""The capacities of the passes of a training step: always the same ones, or some drawn at random for each step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, get_args

import numpy as np

from ..pruning.masking import format_capacity
from ..runs.methods import CapacitySampling, find_method

DENSE = 1.0
SHRINK_FROM = 0.6
"""The smallest capacity when training begins, if it comes down during training."""
_STREAM = 0x5A9D
"""Makes these random numbers differ from others with the same seed and step."""


class PassCapacities(Protocol):
    """The capacity of each pass of a step. It depends on the step's number only: all processes and resumed runs agree.

    Attributes:
        names: The name of each pass, such as `capacity-0.20`.
    """

    names: list[str]

    def __len__(self) -> int:
        """The number of passes of a step."""

    def at(self, step: int) -> list[float]:
        """The capacities of a step."""

    def resume(self, step: int, position: int) -> None:
        """Continue at `step` as if it were `position`, which differs if epochs now have more or fewer steps."""


class FixedCapacities:
    """The same capacities in every step.

    Args:
        capacities: Each in (0, 1].
    """

    def __init__(self, capacities: Sequence[float]) -> None:
        self.capacities = list(capacities)
        self.names = [f"capacity-{format_capacity(capacity)}" for capacity in capacities]

    def __len__(self) -> int:
        """See `PassCapacities`."""
        return len(self.capacities)

    def at(self, step: int) -> list[float]:
        """See `PassCapacities`."""
        return self.capacities

    def resume(self, step: int, position: int) -> None:
        """See `PassCapacities`."""


class OwnCapacity(FixedCapacities):
    """One pass, of a subnetwork as it is: there is nothing in it to choose by.

    Args:
        capacity: What it is called by, in (0, 1].
    """

    def __init__(self, capacity: float) -> None:
        super().__init__([DENSE])
        self.names = [f"capacity-{format_capacity(capacity)}"]


class SandwichCapacities:
    """The dense network, the smallest capacity, and some between them, drawn at random for each step.

    After the sandwich rule of universally slimmable networks (arXiv 1903.05134). The smallest capacity can come down
    during training, as in progressive shrinking (arXiv 1908.09791).

    Args:
        smallest: In (0, 1).
        num_draws: At least 1: one is drawn uniformly from each of as many equal parts of the range.
        shrink_steps: The number of steps in which the smallest capacity comes down evenly from `SHRINK_FROM`, if it is
            below that. With 0 it is the same from the start.
        seed: The seed of the draws.

    Raises:
        ValueError: If `num_draws` or `shrink_steps` is too small.
    """

    def __init__(self, smallest: float, num_draws: int, *, shrink_steps: int = 0, seed: int = 0) -> None:
        if num_draws < 1:
            raise ValueError(f"capacity_draws must be at least 1; got {num_draws!r}.")
        if shrink_steps < 0:
            raise ValueError(f"shrink_steps must be at least 0; got {shrink_steps!r}.")
        self.smallest, self.num_draws, self.shrink_steps, self.seed = smallest, num_draws, shrink_steps, seed
        self._first_step = 0
        draws = [f"capacity-drawn-{number}" for number in range(1, num_draws + 1)]
        self.names = [f"capacity-{format_capacity(DENSE)}", "capacity-smallest", *draws]

    def __len__(self) -> int:
        """See `PassCapacities`."""
        return self.num_draws + 2

    def at(self, step: int) -> list[float]:
        """See `PassCapacities`."""
        low = self._smallest_at(step)
        generator = np.random.default_rng([_STREAM, self.seed, step])
        places = (np.arange(self.num_draws) + generator.uniform(size=self.num_draws)) / self.num_draws
        return [DENSE, low, *(low + (DENSE - low) * places).tolist()]

    def resume(self, step: int, position: int) -> None:
        """See `PassCapacities`."""
        self._first_step = step - position

    def _smallest_at(self, step: int) -> float:
        position = step - self._first_step
        if position >= self.shrink_steps or self.smallest >= SHRINK_FROM:
            return self.smallest
        return SHRINK_FROM + (self.smallest - SHRINK_FROM) * position / self.shrink_steps


def pass_capacities(
    method: str,
    capacities: Sequence[float],
    *,
    sampling: CapacitySampling = "fixed",
    num_draws: int = 2,
    shrink_steps: int = 0,
    seed: int = 0,
) -> PassCapacities:
    """The passes of a training method.

    Args:
        method: A name in `METHODS`. `"independent"` has one pass at the one capacity given; all others begin with the
            dense network.
        capacities: The capacities to train, each in (0, 1].
        sampling: `"fixed"`: a pass for each of `capacities`. `"sandwich"`: see `SandwichCapacities`, with the smallest
            of `capacities`. `"independent"` doesn't use it.
        num_draws: See `SandwichCapacities`.
        shrink_steps: See `SandwichCapacities`.
        seed: See `SandwichCapacities`.

    Raises:
        ValueError: If an argument isn't allowed.

    Example:
        >>> pass_capacities("prunnet", [0.2, 0.5]).at(0)
        [1.0, 0.2, 0.5]
        >>> pass_capacities("prunnet", [0.1, 0.5], sampling="sandwich", shrink_steps=100).at(50)[:2]
        [1.0, 0.35]
    """
    if sampling not in get_args(CapacitySampling):
        raise ValueError(
            f"capacity_sampling must be one of {', '.join(get_args(CapacitySampling))}; got {sampling!r}."
        )
    if not find_method(method).has_subnetworks:
        return FixedCapacities(capacities)
    below = sorted(capacity for capacity in capacities if capacity < DENSE)
    if not below:
        raise ValueError(f"capacities must name a subnetwork, such as 0.2; got {list(capacities)}.")
    if sampling == "sandwich":
        return SandwichCapacities(below[0], num_draws, shrink_steps=shrink_steps, seed=seed)
    return FixedCapacities([DENSE, *below])
