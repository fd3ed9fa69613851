"""What the rows say: means and standard errors over seeds, differences to the default, and costs."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .methods import CAPACITIES, ENTRIES, SIDE_ENTRIES, Entry, find_entry

SELF, CROSS = "self", "cross"
MEAN = "mean"
"""In the place of a capacity: the mean over `CAPACITIES`."""


@dataclass(frozen=True)
class Figure:
    """A mean over seeds.

    Attributes:
        mean: In the unit of the values.
        error: Its standard error, the standard deviation (n - 1) by the square root of n; None with one value.
        count: The number of values.
    """

    mean: float
    error: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure | None:
        """The figure of these values; None if there are none."""
        if not values:
            return None
        error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
        return cls(statistics.mean(values), error, len(values))

    def minus(self, other: Figure) -> Figure:
        """The difference of two means, whose standard error is the root of the sum of both squares."""
        errors = (self.error, other.error)
        error = None if None in errors else math.hypot(*(each or 0.0 for each in errors))
        return Figure(self.mean - other.mean, error, min(self.count, other.count))

    def __str__(self) -> str:
        return f"{self.mean:.1f}" + ("" if self.error is None else f" ± {self.error:.1f}")


@dataclass(frozen=True)
class Rows:
    """The rows of an entry on one data set, a row a seed."""

    entry: Entry
    rows: tuple[Mapping[str, Any], ...]

    def __post_init__(self) -> None:
        """Rows are in the order of their seeds."""
        object.__setattr__(self, "rows", tuple(sorted(self.rows, key=lambda row: row["seed"])))

    @property
    def is_nested(self) -> bool:
        """Whether one network serves all capacities."""
        return self.entry.capacity is None

    @property
    def tests(self) -> tuple[str, ...]:
        """Self-test and cross-test; of a network alone, which has no other's gallery to search, the self-test."""
        return (SELF, CROSS) if self.is_nested or self.entry.has_teacher else (SELF,)

    def figure(self, test: str, capacity: float | str) -> Figure | None:
        """In percent; None where nothing was measured.

        Args:
            test: `"self"` or `"cross"`.
            capacity: A capacity or `MEAN`, which only a network for all capacities has.
        """
        if capacity == MEAN:
            means = [mean_of(row[test]) for row in self.rows]
            return Figure.of([100 * mean for mean in means if mean is not None])
        return Figure.of([100 * row[test][f"{capacity:g}"] for row in self.rows if f"{capacity:g}" in row[test]])

    @property
    def cpu_minutes(self) -> Figure | None:
        """Of one run."""
        return Figure.of([row["cpu_seconds"] / 60 for row in self.rows])

    def cost(self, name: str, capacity: float) -> float | None:
        """The median over seeds of an entry of `CapacityRecord`, such as `file_bytes`; None if it wasn't recorded."""
        found = [cost_of(row, name, capacity) for row in self.rows]
        known = [value for value in found if value is not None]
        return statistics.median(known) if known else None


def mean_of(cells: Mapping[str, float]) -> float | None:
    """The mean over `CAPACITIES`; None if one is missing."""
    names = [f"{capacity:g}" for capacity in CAPACITIES]
    return statistics.mean(cells[name] for name in names) if all(name in cells for name in names) else None


def cost_of(row: Mapping[str, Any], name: str, capacity: float) -> float | None:
    """An entry of the row's `CapacityRecord` of this capacity."""
    costs = next((costs for costs in row["record"]["capacities"] if costs["capacity"] == capacity), {})
    value: float | None = costs.get(name)
    return value


def read_rows(results: Path, recipe: str, phase: str) -> dict[str, Rows]:
    """The rows of a phase by entry, in the order of the table of methods; entries without a row are left out.

    Raises:
        ValueError: If an entry has rows of several settings, of which no mean would say anything.
    """
    files = sorted((results / recipe / phase).glob("*.json"))
    rows = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    found = {entry.name: [row for row in rows if row["entry"] == entry.name] for entry in (*ENTRIES, *SIDE_ENTRIES)}
    for name, own in found.items():
        if any(row["flags"] != own[0]["flags"] for row in own):
            raise ValueError(
                f"{results / recipe / phase} has rows of {name!r} with several settings. Run the comparison "
                "again, which replaces those that the choice no longer names, or remove them."
            )
    return {name: Rows(find_entry(name), tuple(own)) for name, own in found.items() if own}


def passes_of(rows: Rows) -> str:
    """The passes of a training step, forward and backward, over its images."""
    recipe = rows.rows[0]["record"]["recipe"]
    if rows.entry.post_hoc:
        return "0"
    if not rows.is_nested:
        return "1, and 1 forward" if rows.entry.has_teacher else "1"
    if recipe.get("dense_epochs"):
        return f"{recipe['capacity_draws'] + 2}, and 1 forward; 1 in {recipe['dense_epochs']} epochs before"
    if recipe["capacity_sampling"] == "sandwich":
        return str(recipe["capacity_draws"] + 2)
    return str(1 + sum(capacity < 1 for capacity in recipe["capacities"]))


def stored_bytes(every: Mapping[str, Rows], rows: Rows, capacities: Iterable[float]) -> float | None:
    """What must be stored to have a network for each of the capacities; None if not all were measured.

    One network's file, which has its scores, gives all. Networks for one capacity each are stored side by side, those
    with a teacher beside it.

    Args:
        every: All rows of the data set, by entry.
        rows: Of the entry in question.
        capacities: The networks that are wanted; 1.0 is the dense one.
    """
    if rows.is_nested:
        return rows.cost("file_bytes", 1.0)
    of_capacity = {other.entry.capacity: other for other in every.values() if _is_family(other.entry, rows.entry)}
    sizes = [of_capacity[c].cost("file_bytes", c) if c in of_capacity else None for c in capacities]
    return None if None in sizes else sum(size for size in sizes if size is not None)


def _is_family(other: Entry, entry: Entry) -> bool:
    """Whether both are of the same way to have networks for one capacity each; all share the dense one."""
    if other.capacity is None:
        return False
    own, others = ((each.flags["method"], each.flags["granularity"]) for each in (entry, other))
    return other.capacity == 1.0 or own == others
