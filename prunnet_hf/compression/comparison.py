"""Several runs of the pruning loop side by side: round by round, and at equal capacities."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..pruning.masking import format_capacity
from ..retrieval.markdown import as_text
from .sap_arguments import differences
from .trajectory import Trajectory, short_capacity

CAPACITIES = (0.8, 0.5, 0.4, 0.25, 0.1, 0.05, 0.02, 0.01)
"""Capacities at which runs are compared."""


def compare(trajectories: Sequence[Trajectory], capacities: Sequence[float] = CAPACITIES) -> str:
    """Two Markdown tables, of all rounds and of quality at equal capacities, and where each index falls and rises.

    Args:
        trajectories: At least one, of the same data set, protocol, metric and training; seeds may differ.
        capacities: Kept shares, each in (0, 1].

    Raises:
        ValueError: If the runs can't be compared.
    """
    metric = shared_metric(trajectories)
    lines = [
        f"| schedule | round | capacity | PQ Index | {as_text(metric)} (%) | training (s) |",
        "|---|---:|---:|---:|---:|---:|",
        *(line for trajectory in trajectories for line in _rounds(trajectory, metric)),
        "",
        f"{as_text(metric)} (%) at equal capacities, linear in the capacity's logarithm between two rounds:",
        "",
        f"| schedule | {' | '.join(map(format_capacity, capacities))} |",
        f"|---|{'---:|' * len(capacities)}",
        *(_at_capacities(trajectory, metric, capacities) for trajectory in trajectories),
        "",
        *(f"- {trajectory.name}: {trajectory.course}" for trajectory in trajectories),
    ]
    return "\n".join(lines)


def quality_at(trajectory: Trajectory, metric: str, capacity: float) -> float | None:
    """Quality at a capacity, linear in its logarithm between two rounds; None outside the range of the rounds."""
    points = sorted((math.log(entry.capacity), entry.metrics[metric]) for entry in trajectory.rounds)
    places, values = zip(*points, strict=True)
    if not places[0] <= math.log(capacity) <= places[-1]:
        return None
    return float(np.interp(math.log(capacity), places, values))


def shared_metric(trajectories: Sequence[Trajectory]) -> str:
    """The headline metric of runs that can be compared.

    Raises:
        ValueError: If there is no run, or they differ in data set, protocol or headline metric, in how they train
            (except the seed) or in the index that they measure (p and q).
    """
    kinds = {(run.run["dataset"], run.run["protocol"], run.metric) for run in trajectories}
    if len(kinds) != 1:
        raise ValueError(
            "runs to compare must have the same data set, protocol and metric, and be at least one; got "
            f"{sorted(kinds) or 'none'}."
        )
    first = _quality(trajectories[0])
    for other in trajectories[1:]:
        changes = differences(first, _quality(other), ignored=("seed",))
        if changes:
            raise ValueError(
                "runs to compare must train in the same way and measure the same index; "
                f"{other.name!r} differs from {trajectories[0].name!r}: {', '.join(changes)}. Leave it out."
            )
    return trajectories[0].metric


def _quality(trajectory: Trajectory) -> dict[str, Any]:
    """What decides quality and index, apart from the schedule."""
    pruning = trajectory.run["pruning"]
    return {**trajectory.run["recipe"], "p": pruning["p"], "q": pruning["q"]}


def _rounds(trajectory: Trajectory, metric: str) -> Iterator[str]:
    for entry in trajectory.rounds:
        cells = [trajectory.name, str(entry.number), short_capacity(entry.capacity), f"{entry.index:.3f}"]
        yield f"| {' | '.join([*cells, f'{100 * entry.metrics[metric]:.1f}', f'{entry.training_seconds:.0f}'])} |"


def _at_capacities(trajectory: Trajectory, metric: str, capacities: Sequence[float]) -> str:
    values = [quality_at(trajectory, metric, capacity) for capacity in capacities]
    cells = ["-" if value is None else f"{100 * value:.1f}" for value in values]
    return f"| {' | '.join([as_text(trajectory.name), *cells])} |"
