"""What the default was meant to reach, and whether it did."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from .figures import CROSS, MEAN, SELF, Figure, Rows
from .methods import DEFAULT, DEFAULT_UNITS, DENSE_ALONE

ALONE = {
    DEFAULT: {0.1: "alone 0.1", 0.2: "alone 0.2", 1.0: DENSE_ALONE},
    DEFAULT_UNITS: {0.1: "thin, alone 0.1", 0.2: "thin, alone 0.2", 1.0: DENSE_ALONE},
}
"""For both granularities by capacity the network that was trained for it and no other."""
LARGEST_LOSS = {0.2: 1.5, 0.1: 3.0, 0.05: 8.0}
"""How much less than the dense network the subnetwork of a capacity may find in the dense network's gallery."""


def target_table(every: Mapping[str, Rows]) -> list[str]:
    """A line for each target whose rows are there; nothing if the default has none."""
    lines = [
        f"| {name} | {text} | {figure} | {_answer(figure, met)} |"
        for name in ALONE
        if name in every
        for text, figure, met in _targets(every[name], every)
    ]
    return ["| | target | measured | met |", "|---|---|---:|---|", *lines] if lines else []


def _targets(default: Rows, every: Mapping[str, Rows]) -> Iterator[tuple[str, Figure, bool]]:
    for capacity, name in ALONE[default.entry.name].items():
        alone = every[name].figure(SELF, capacity) if name in every else None
        for test in (SELF, CROSS) if capacity < 1 else (SELF,):
            own = default.figure(test, capacity)
            if alone is not None and own is not None:
                ahead = own.minus(alone)
                yield f"{test}-test at {capacity:g} less `{name}`: at least 0, less one error", ahead, within(ahead)
    for capacity, most in LARGEST_LOSS.items():
        loss = loss_of(default, capacity)
        if loss is not None:
            yield f"dense less cross-test at {capacity:g}: at most {most:g}", loss, loss.mean <= most
    base = default.figure(CROSS, MEAN)
    for name, rows in every.items():
        mean = rows.figure(CROSS, MEAN)
        if rows.is_nested and name not in ALONE and base is not None and mean is not None:
            ahead = base.minus(mean)
            yield f"mean of cross-tests less `{name}`: at least 0, less one error", ahead, within(ahead)


def _answer(figure: Figure, met: bool) -> str:
    """Whether it was met; one seed, which has no standard error, can't say much."""
    return ("yes" if met else "no") + (", by one seed" if figure.error is None else "")


def within(ahead: Figure) -> bool:
    """Whether a difference is at least 0, or less than one standard error below."""
    return ahead.mean + (ahead.error or 0.0) >= 0


def loss_of(rows: Rows, capacity: float) -> Figure | None:
    """By how much the subnetwork of a capacity is below its own dense network, in percent over seeds."""
    name = f"{capacity:g}"
    found = [100 * (row[SELF]["1"] - row[CROSS][name]) for row in rows.rows if {name, "1"} <= row[CROSS].keys()]
    return Figure.of(found)
