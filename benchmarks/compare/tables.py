"""The tables of the comparison, in Markdown and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .figures import CROSS, MEAN, SELF, Figure, Rows, passes_of, stored_bytes
from .methods import CAPACITIES, DEFAULT, DEFAULT_UNITS

COLUMNS = (*CAPACITIES, MEAN)
STORED = (0.1, 0.2, 1.0)
"""For which capacities networks were trained alone."""


def quality_table(every: Mapping[str, Rows]) -> list[str]:
    """Self-test and cross-test of every entry at each capacity, in percent with standard errors."""
    return _table(every, lambda rows, test, capacity: rows.figure(test, capacity))


SHORT = (0.05, 0.1, 0.2, 0.6, 1.0)
SHORT_NAMES = {DEFAULT: "weights", DEFAULT_UNITS: "units"}


def short_table(recipes: Mapping[str, Mapping[str, Rows]]) -> list[str]:
    """The cross-test of the default in both granularities, of each recipe; nothing if there is no row of them."""
    lines = [
        f"| {recipe.title()} | {granularity} | {' | '.join(_cell(rows[name].figure(CROSS, c)) for c in SHORT)} |"
        for recipe, rows in recipes.items()
        for name, granularity in SHORT_NAMES.items()
        if name in rows
    ]
    head = [f"| | capacities of | {' | '.join(map(_column, SHORT))} |", f"|---|---|{'---:|' * len(SHORT)}"]
    return [*head, *lines] if lines else []


def difference_table(every: Mapping[str, Rows]) -> list[str]:
    """The same, less what the default has; nothing if the default has no row.

    A network trained alone is compared with the default's self-test and its cross-test, since the default's queries
    need no gallery of their own.
    """
    if DEFAULT not in every:
        return []
    others = {name: rows for name, rows in every.items() if name != DEFAULT}
    default = every[DEFAULT]

    def difference(rows: Rows, test: str, capacity: float | str) -> Figure | None:
        own = rows.figure(test if test in rows.tests else SELF, capacity)
        base = default.figure(test, capacity)
        return None if own is None or base is None else own.minus(base)

    return _table(others, difference, both_tests=True)


def _table(
    every: Mapping[str, Rows],
    figure: Callable[[Rows, str, float | str], Figure | None],
    *,
    both_tests: bool = False,
) -> list[str]:
    lines = [f"| method | seeds | test | {' | '.join(map(_column, COLUMNS))} |"]
    lines.append(f"|---|---:|---|{'---:|' * len(COLUMNS)}")
    for name, rows in every.items():
        for test in (SELF, CROSS) if both_tests else rows.tests:
            cells = [_cell(figure(rows, test, capacity)) for capacity in COLUMNS]
            first = f"{name} | {len(rows.rows)}" if test == SELF else " |"
            lines.append(f"| {first} | {test} | {' | '.join(cells)} |")
    return lines


def cost_table(every: Mapping[str, Rows]) -> list[str]:
    """What each method costs: passes a step, CPU minutes of a run, and what must be stored for all capacities."""
    names = ", ".join(f"{capacity:g}" for capacity in STORED)
    lines = [f"| method | passes a step | CPU minutes a run | MB for {names} |", "|---|---:|---:|---:|"]
    for name, rows in every.items():
        stored = stored_bytes(every, rows, STORED)
        size = "-" if stored is None else f"{stored / 1e6:.2f}"
        lines.append(f"| {name} | {passes_of(rows)} | {_cell(rows.cpu_minutes)} | {size} |")
    return lines


def summary(every: Mapping[str, Rows]) -> dict[str, Any]:
    """All figures by entry, test and capacity: mean, standard error and number of seeds."""
    return {name: _summary(rows) for name, rows in every.items()}


def _summary(rows: Rows) -> dict[str, Any]:
    tests = {
        test: {_column(capacity): vars(figure) for capacity in COLUMNS if (figure := rows.figure(test, capacity))}
        for test in rows.tests
    }
    return {
        "seeds": [row["seed"] for row in rows.rows],
        "flags": rows.rows[0]["flags"],
        **tests,
        "cpu_minutes": vars(rows.cpu_minutes) if rows.cpu_minutes else None,
    }


def _column(capacity: float | str) -> str:
    if isinstance(capacity, str):
        return capacity
    return "dense" if capacity == 1.0 else f"{capacity:g}"


def _cell(figure: Figure | None) -> str:
    return "-" if figure is None else str(figure)
