"""The largest capacity within a budget, such as the size of a file or the time that an image may take."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import NoReturn

import numpy as np

from ..prunable_model import PrunNetPreTrainedModel
from ..pruning.masking import format_capacity
from ..storage.weights_digest import settle_space
from .costs import SubnetworkCosts, cut, without_scores
from .latency import measure_latency

STEPS = 10_000
"""Capacities are looked for in steps of one ten-thousandth."""
MEASURED_CAPACITIES = 5
"""At how many capacities latency is measured first."""
ATTEMPTS = 4
"""How often a smaller capacity is tried if the one that was found turns out to be too slow."""


class FoundCapacity(float):
    """A capacity, to be used as the number that it is, and how it was found, which its `repr` says.

    Attributes:
        figures: What was limited, by the name of the argument: the value at this capacity.
        how: The same in words, with the limit, and how the value was found.
    """

    figures: dict[str, float]
    how: tuple[str, ...]

    def __new__(
        cls, capacity: float, figures: dict[str, float] | None = None, how: tuple[str, ...] = ()
    ) -> FoundCapacity:
        """Make a capacity in (0, 1]."""
        found = super().__new__(cls, capacity)
        found.figures, found.how = figures or {}, how
        return found

    def __repr__(self) -> str:
        return f"{self} ({'; '.join(self.how)})"

    __str__ = float.__repr__


def capacity_for(
    model: PrunNetPreTrainedModel,
    *,
    max_bytes: float | None = None,
    max_macs: float | None = None,
    max_latency_ms: float | None = None,
    max_loss: float | None = None,
) -> FoundCapacity:
    """Find the largest capacity that meets all budgets, for `model.prune(capacity=capacity_for(model, ...))`.

    Multiply-adds and latency of granularity `"weight"` can't be limited, as they are the same at all capacities.

    Args:
        model: A prunable model.
        max_bytes: How large the file of weights may be that `save_pretrained` writes for the subnetwork. Exact.
        max_macs: How many multiply-adds one image may take, of convolutions and matrix products. Exact.
        max_latency_ms: How many milliseconds of one thread's CPU time one image may take, on this machine, in ONNX
            Runtime if the extra `onnx` is installed (see `measure_latency`). It is measured at five capacities,
            interpolated, and measured again at the answer.
        max_loss: How many points (hundredths) of the headline metric the subnetwork may lose against the dense network
            where both search its gallery, as `config.measured` has it, interpolated between the capacities there. With
            no other budget, the answer is the smallest capacity from which on this is met, as the largest is 1.

    Returns:
        The capacity, up to a ten-thousandth.

    Raises:
        TypeError: If a budget isn't a number.
        ValueError: If no budget is given, or one can't be met (the message says what is the least), if the model is
            pruned already or its granularity doesn't allow a budget, or if `config.measured` lacks what `max_loss`
            needs.
    """
    given = {"max_bytes": max_bytes, "max_macs": max_macs, "max_latency_ms": max_latency_ms, "max_loss": max_loss}
    limits = {name: limit for name, limit in given.items() if limit is not None}
    _check(model, limits)
    budgets = [BUDGETS[name](name, limit, model) for name, limit in limits.items()]
    step = STEPS
    for budget in budgets:
        step = budget.largest(step) if len(budgets) > 1 else budget.alone()
    figures = {budget.name: budget.value(step) for budget in budgets}
    return FoundCapacity(step / STEPS, figures, tuple(budget.said(figures[budget.name]) for budget in budgets))


def _check(model: PrunNetPreTrainedModel, limits: Mapping[str, float]) -> None:
    if not model.config.prunable:
        raise ValueError(
            f"model is pruned already (capacity {format_capacity(model.config.capacity)}). Load the dense checkpoint "
            "from which it was pruned."
        )
    if not limits:
        raise ValueError(f"capacity_for needs a budget: pass {', '.join(BUDGETS)}, or several of them.")
    for name, limit in limits.items():
        if isinstance(limit, bool) or not isinstance(limit, Real):
            raise TypeError(f"{name} must be a number; got {limit!r} ({type(limit).__name__}).")
        if not 0 <= limit < math.inf:
            raise ValueError(f"{name} must be a finite number of at least 0; got {limit!r}.")
    useless = [name for name in ("max_macs", "max_latency_ms") if name in limits]
    if useless and model.config.granularity == "weight":
        raise ValueError(
            f"{useless[0]} must be left out for granularity 'weight', which leaves single weights out: dense kernels "
            "multiply by the zeros too, so every capacity takes as many multiply-adds and as long as the dense "
            "network. Limit max_bytes, or train with granularity='channel'."
        )


class _Budget(ABC):
    """A limit, and what tells which capacities, in steps from 1 to `STEPS`, are within it."""

    def __init__(self, name: str, limit: float, model: PrunNetPreTrainedModel) -> None:
        self.name = name
        self.limit = limit
        self.model = model

    @abstractmethod
    def largest(self, top: int) -> int:
        """The largest step up to `top` that is within the limit; a ValueError if there is none."""

    def alone(self) -> int:
        """The step to choose if there is no other budget."""
        return self.largest(STEPS)

    @abstractmethod
    def value(self, step: int) -> float:
        """What is limited, at this step."""

    @abstractmethod
    def said(self, value: float) -> str:
        """A value with the limit, and how it was found, in words."""

    def refuse(self, least: str) -> NoReturn:
        raise ValueError(f"{self.name}={self.limit!r} can't be met: {least}. Allow more, or train a smaller network.")


class _Bytes(_Budget):
    def __init__(self, name: str, limit: float, model: PrunNetPreTrainedModel) -> None:
        super().__init__(name, limit, model)
        self.costs = SubnetworkCosts(model)

    def largest(self, top: int) -> int:
        if self.value(top) <= self.limit:
            return top
        bound = bisect_right(range(1, top), self.limit, key=lambda step: self.costs.least_file_bytes(step / STEPS))
        for step in range(bound, 0, -1):
            if self.value(step) <= self.limit:
                return step
        self.refuse(f"the smallest subnetwork has a file of {self.value(1):,} bytes")

    def value(self, step: int) -> int:
        return self.costs.file_bytes(step / STEPS)

    def said(self, value: float) -> str:
        return f"a file of {value:,} bytes, at most {self.limit:,}"


class _Macs(_Budget):
    def __init__(self, name: str, limit: float, model: PrunNetPreTrainedModel) -> None:
        super().__init__(name, limit, model)
        self.costs = SubnetworkCosts(model)

    def largest(self, top: int) -> int:
        found = bisect_right(range(1, top + 1), self.limit, key=self.value)
        return found or self.refuse(f"the smallest subnetwork takes {self.value(1):,} multiply-adds")

    def value(self, step: int) -> int:
        return self.costs.multiply_adds(step / STEPS)

    def said(self, value: float) -> str:
        return f"{value:,} multiply-adds, at most {self.limit:,}"


class _Latency(_Budget):
    """Latency is measured at some steps and taken to grow in straight lines between them."""

    def __init__(self, name: str, limit: float, model: PrunNetPreTrainedModel) -> None:
        super().__init__(name, limit, model)
        self.plain = without_scores(model)
        self.known: dict[int, float] = {}
        self.where = ""

    def largest(self, top: int) -> int:
        self.measure(np.linspace(1, top, MEASURED_CAPACITIES).round().astype(int).tolist())
        if self.known[1] > self.limit:
            self.refuse_all()
        aim = self.limit
        for _ in range(ATTEMPTS):
            step = self.interpolated(aim)
            self.measure([step])
            if self.known[step] <= self.limit:
                return step
            aim *= self.limit / self.known[step]
        within = [step for step, milliseconds in self.known.items() if milliseconds <= self.limit]
        # There may be none left: what is measured again can be slower.
        return max(within, default=0) or self.refuse_all()

    def refuse_all(self) -> NoReturn:
        self.refuse(f"the smallest subnetwork takes {self.known[1]:.3g} ms ({self.where})")

    def interpolated(self, milliseconds: float) -> int:
        """The largest step that is expected to take no longer."""
        steps = sorted(self.known)
        growing = np.maximum.accumulate([self.known[step] for step in steps])
        return int(np.interp(milliseconds, growing, steps))

    def measure(self, steps: Sequence[int]) -> None:
        """Measure these steps, which take turns, and note what was found."""
        found = measure_latency({step: cut(self.plain, step / STEPS) for step in steps})
        self.known |= found.milliseconds
        self.where = f"{found.runtime}, {found.device}"

    def value(self, step: int) -> float:
        if step not in self.known:
            self.measure([step])
        return self.known[step]

    def said(self, value: float) -> str:
        return f"{value:.3g} ms, at most {self.limit:g}, measured ({self.where})"


class _Loss(_Budget):
    """Loss is what was measured by a run, in straight lines between the capacities that it evaluated."""

    def __init__(self, name: str, limit: float, model: PrunNetPreTrainedModel) -> None:
        super().__init__(name, limit, model)
        settle_space(model)  # what was measured doesn't hold for weights that have changed since
        measured = model.config.measured or {}
        self.measured = measured if measured.get("space") == model.config.embedding_space else {}
        values = {float(capacity): value for capacity, value in sorted((self.measured.get("values") or {}).items())}
        if 1.0 not in values:
            raise ValueError(
                f"{name} needs config.measured, where this model has no quality of the dense network. A run of "
                "train_accelerate.py writes it, also with --eval_only true, and it goes when weights are changed."
            )
        self.capacities = sorted(values)
        points = [round(100 * (values[1.0] - values[capacity]), 6) for capacity in self.capacities]
        # Below the smallest capacity that was evaluated, nothing is known.
        self.losses = np.interp(np.arange(1, STEPS + 1) / STEPS, self.capacities, points, left=np.inf)
        self.meets = self.losses <= limit

    def largest(self, top: int) -> int:
        found = np.flatnonzero(self.meets[:top])
        if len(found):
            return int(found[-1]) + 1
        known = f"which was evaluated at {', '.join(map(format_capacity, self.capacities))}"
        self.refuse(
            f"the other budgets allow capacities up to {top / STEPS}, where the least loss of "
            f"{self.measured['metric']}, {known}, is {self.losses[:top].min():.2f} points"
        )

    def alone(self) -> int:
        """The smallest step from which on all are within the limit: the largest is always the dense network's."""
        outside = np.flatnonzero(~self.meets)
        return int(outside[-1]) + 2 if len(outside) else 1

    def value(self, step: int) -> float:
        return float(self.losses[step - 1])

    def said(self, value: float) -> str:
        source = f"{self.measured['dataset']}, {self.measured['protocol']}"
        return (
            f"{value:.2f} points of {self.measured['metric']} less than the dense network in its gallery ({source}), "
            f"at most {self.limit:g}, interpolated between {', '.join(map(format_capacity, self.capacities))}"
        )


BUDGETS: dict[str, type[_Budget]] = {
    "max_bytes": _Bytes,
    "max_macs": _Macs,
    "max_latency_ms": _Latency,
    "max_loss": _Loss,
}
"""In the order in which they are looked at: what is exact and cheap first, and last what rather asks for more."""
