"""Compatibility: can two networks' embeddings be compared, and how well does each search the other's gallery?

The matrix holds every metric for every pair (query capacity, gallery capacity) of one model. Its diagonal is the
self-test (both sides embedded by one subnetwork), its last column the cross-test (the gallery embedded by the dense
network).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ..pruning.masking import format_capacity
from .markdown import as_text
from .protocols import RetrievalProtocol, Side
from .spaces import check_compatible as check_compatible  # noqa: PLC0414  # users look for it here

SHOWN_METRICS = 3
"""How many metrics are shown as whole matrices, the headline first; the others only as self-test and cross-test."""


@dataclass(frozen=True)
class CompatibilityResult:
    """One value of the matrix; `dataclasses.asdict` gives its entry in `metrics.json`, `**` reads it back.

    Attributes:
        query_capacity: Capacity of the subnetwork that embedded the queries, in (0, 1].
        gallery_capacity: Capacity of the subnetwork that embedded the gallery, in (0, 1].
        metric: Name of the metric.
        value: In [0, 1].
    """

    query_capacity: float
    gallery_capacity: float
    metric: str
    value: float

    def __post_init__(self) -> None:
        """Refuse impossible results, such as a value in percent."""
        for field in ("query_capacity", "gallery_capacity"):
            if not 0 < getattr(self, field) <= 1:
                raise ValueError(f"{field} must lie in (0, 1], got {getattr(self, field)!r}")
        if not 0 <= self.value <= 1:
            raise ValueError(f"value of {self.metric!r} must lie in [0, 1], not in percent, got {self.value!r}")


def compatibility_matrix(
    protocol: RetrievalProtocol,
    queries: Mapping[float, Side],
    gallery: Mapping[float, Side],
    *,
    progress: bool = False,
) -> list[CompatibilityResult]:
    """Evaluate every pair of capacities of one model.

    Args:
        protocol: What to measure.
        queries: By capacity.
        gallery: By capacity; the same mapping again if the data set has no gallery of its own.
        progress: Whether to show a bar.

    Returns:
        One result for each pair and metric: query capacity ascending, then gallery capacity, then metrics in the
        protocol's order.

    Raises:
        ValueError: If a side has no capacity, or the protocol refuses one.
    """
    if not queries or not gallery:
        raise ValueError(
            f"queries and gallery must hold at least one capacity each, got {list(queries)} and {list(gallery)}"
        )
    pairs = list(product(sorted(queries), sorted(gallery)))
    return [
        CompatibilityResult(query_capacity, gallery_capacity, metric, value)
        for query_capacity, gallery_capacity in tqdm(pairs, desc="compatibility", unit="pair", disable=not progress)
        for metric, value in protocol(queries[query_capacity], gallery[gallery_capacity]).items()
    ]


def format_matrix(results: Sequence[CompatibilityResult], metric: str) -> str:
    """Write one metric as a table for a terminal, in percent.

    Args:
        results: From `compatibility_matrix`; a missing pair is shown as a dash.
        metric: Which metric.

    Returns:
        Lines: rows are query capacities, columns gallery capacities, both ascending.

    Raises:
        ValueError: If no result has this metric, or two have the same pair.
    """
    query_capacities, gallery_capacities, values = as_grid(results, metric)
    lines = [
        f"{metric} (%)".ljust(16) + "gallery capacity",
        "query capacity".ljust(16) + "".join(f"{format_capacity(capacity):>7}" for capacity in gallery_capacities),
    ]
    lines += [
        f"{format_capacity(capacity):>14}  " + "".join(f"{percent(value):>7}" for value in row)
        for capacity, row in zip(query_capacities, values, strict=True)
    ]
    return "\n".join(lines)


def format_tests(results: Sequence[CompatibilityResult]) -> str:
    """Write self-test and cross-test by every metric as a table for a terminal, in percent.

    Args:
        results: From `compatibility_matrix`.

    Returns:
        Lines: rows are query capacities, ascending; self-tests first, then cross-tests, where the gallery is embedded
        at the largest capacity.

    Raises:
        ValueError: If there are no results.
    """
    metrics, rows = _test_rows(results)
    widths = [max(len(metric), 6) + 2 for metric in metrics]
    lines = [f"{'(%)':<12}{'capacity':>10}" + _cells(metrics, widths)]
    lines += [f"{test:<12}{format_capacity(capacity):>10}" + _cells(values, widths) for test, capacity, values in rows]
    return "\n".join(lines)


def markdown_tests(results: Sequence[CompatibilityResult]) -> str:
    """Write self-test and cross-test by every metric as a Markdown table, in percent.

    Args:
        results: As in `format_tests`.

    Returns:
        The table's lines, in the order of `format_tests`.

    Raises:
        ValueError: As in `format_tests`.
    """
    metrics, rows = _test_rows(results)
    lines = [f"| (%) | capacity | {' | '.join(map(as_text, metrics))} |", f"|---|---:|{'---:|' * len(metrics)}"]
    lines += [f"| {test} | {format_capacity(capacity)} | {' | '.join(values)} |" for test, capacity, values in rows]
    return "\n".join(lines)


def _test_rows(results: Sequence[CompatibilityResult]) -> tuple[list[str], list[tuple[str, float, list[str]]]]:
    """The metrics, and their values as text for each test and query capacity."""
    if not results:
        raise ValueError("results must hold at least one value")
    metrics = list(dict.fromkeys(result.metric for result in results))
    values = {(r.query_capacity, r.gallery_capacity, r.metric): r.value for r in results}
    largest = max(result.gallery_capacity for result in results)
    rows = []
    for test in ("self-test", "cross-test"):
        for capacity in sorted({result.query_capacity for result in results}):
            gallery = capacity if test == "self-test" else largest
            cells = [percent(values.get((capacity, gallery, metric), float("nan"))) for metric in metrics]
            rows.append((test, capacity, cells))
    return metrics, rows


def _cells(texts: Sequence[str], widths: Sequence[int]) -> str:
    return "".join(f"{text:>{width}}" for text, width in zip(texts, widths, strict=True))


def markdown_matrix(results: Sequence[CompatibilityResult], metric: str) -> str:
    """Write one metric as a Markdown table, in percent.

    Args:
        results: As in `format_matrix`.
        metric: As in `format_matrix`.

    Returns:
        Lines: rows are query capacities, columns gallery capacities, both ascending.

    Raises:
        ValueError: As in `format_matrix`.
    """
    query_capacities, gallery_capacities, values = as_grid(results, metric)
    lines = [
        f"| query \\ gallery | {' | '.join(map(format_capacity, gallery_capacities))} |",
        f"|---{'|---:' * len(gallery_capacities)}|",
    ]
    lines += [
        f"| **{format_capacity(capacity)}** | {' | '.join(percent(value) for value in row)} |"
        for capacity, row in zip(query_capacities, values, strict=True)
    ]
    return "\n".join(lines)


def as_grid(
    results: Sequence[CompatibilityResult], metric: str
) -> tuple[list[float], list[float], NDArray[np.float64]]:
    """Arrange one metric as a grid.

    Args:
        results: As in `format_matrix`.
        metric: As in `format_matrix`.

    Returns:
        Query capacities, gallery capacities, both ascending, and a `(query, gallery)` array of values in [0, 1], NaN
        if missing.

    Raises:
        ValueError: As in `format_matrix`.
    """
    chosen = [result for result in results if result.metric == metric]
    if not chosen:
        known = ", ".join(sorted({result.metric for result in results})) or "none"
        raise ValueError(f"results don't hold the metric {metric!r}: they hold {known}")
    query_capacities = sorted({result.query_capacity for result in chosen})
    gallery_capacities = sorted({result.gallery_capacity for result in chosen})
    values = np.full((len(query_capacities), len(gallery_capacities)), np.nan)
    for result in chosen:
        cell = query_capacities.index(result.query_capacity), gallery_capacities.index(result.gallery_capacity)
        if not np.isnan(values[cell]):
            raise ValueError(
                f"results hold {metric!r} twice for query capacity {format_capacity(result.query_capacity)} and "
                f"gallery capacity {format_capacity(result.gallery_capacity)}: pass the results of one run only"
            )
        values[cell] = result.value
    return query_capacities, gallery_capacities, values


def percent(value: float) -> str:
    """Write a value in [0, 1] in percent, as in all tables and pictures; NaN, a missing value, becomes a dash."""
    return "-" if np.isnan(value) else f"{100 * value:.1f}"
