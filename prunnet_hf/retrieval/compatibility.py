"""Compatibility: may two networks' embeddings be compared, and how well does each search the other's gallery?

The matrix holds every metric for every pair (query capacity, gallery capacity) of one model. Its diagonal is the
self-test (both sides by one subnetwork), its last column the cross-test (the gallery by the dense network).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ..masking import format_capacity
from .protocols import Columns
from .protocols import RetrievalProtocol
from .spaces import check_compatible as check_compatible  # noqa: PLC0414  # users look for it here

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SMALLEST_COLOUR_SPAN = 0.05
"""Values closer than this are drawn in like colours: half a point must not look like a cliff."""

SHOWN_METRICS = 3
"""Whole matrices that a reader can take in, beginning with the headline; of further metrics the tests are told."""
_LEGEND = (
    "outlined: query and gallery by the same subnetwork (self-test)\n"
    "gallery capacity 1.00: gallery by the dense network (cross-test)"
)


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
        """Refuse what can't be a result, such as a value in percent."""
        for field in ("query_capacity", "gallery_capacity"):
            if not 0 < getattr(self, field) <= 1:
                raise ValueError(f"{field} must lie in (0, 1], got {getattr(self, field)!r}")
        if not 0 <= self.value <= 1:
            raise ValueError(f"value of {self.metric!r} must lie in [0, 1], not in percent, got {self.value!r}")


def compatibility_matrix(
    protocol: RetrievalProtocol,
    query_embeddings: Mapping[float, NDArray[np.float32]],
    gallery_embeddings: Mapping[float, NDArray[np.float32]],
    query_columns: Columns,
    gallery_columns: Columns,
    *,
    progress: bool = False,
) -> list[CompatibilityResult]:
    """Evaluate every pair of capacities of one model.

    Args:
        protocol: What to measure.
        query_embeddings: `(num_queries, dim)` arrays by capacity.
        gallery_embeddings: `(num_gallery, dim)` arrays by capacity; the same mapping again where the set has no
            gallery of its own.
        query_columns: What the protocol needs to know of the queries.
        gallery_columns: What it needs to know of the gallery.
        progress: Whether to show a bar.

    Returns:
        One result for each pair and metric: query capacity ascending, then gallery capacity, then metrics in the
        protocol's order.

    Raises:
        ValueError: If there are no embeddings, or the protocol refuses them.
    """
    if not query_embeddings or not gallery_embeddings:
        raise ValueError("query_embeddings and gallery_embeddings must hold the embeddings of at least one capacity")
    pairs = list(product(sorted(query_embeddings), sorted(gallery_embeddings)))
    return [
        CompatibilityResult(query, gallery, metric, value)
        for query, gallery in tqdm(pairs, desc="compatibility", unit="pair", disable=not progress)
        for metric, value in protocol(
            query_embeddings[query], gallery_embeddings[gallery], query_columns, gallery_columns
        ).items()
    ]


def format_matrix(results: Sequence[CompatibilityResult], metric: str) -> str:
    """Lay out one metric as a table for a terminal, in percent.

    Args:
        results: From `compatibility_matrix`; a pair that is missing shows as a dash.
        metric: Which metric.

    Returns:
        Lines: rows are query capacities, columns gallery capacities, both ascending.

    Raises:
        ValueError: If no result has this metric, or two have the same pair.
    """
    query_capacities, gallery_capacities, values = _as_grid(results, metric)
    lines = [
        f"{metric} (%)".ljust(16) + "gallery capacity",
        "query capacity".ljust(16) + "".join(f"{format_capacity(capacity):>7}" for capacity in gallery_capacities),
    ]
    lines += [
        f"{format_capacity(capacity):>14}  " + "".join(f"{_percent(value):>7}" for value in row)
        for capacity, row in zip(query_capacities, values, strict=True)
    ]
    return "\n".join(lines)


def format_tests(results: Sequence[CompatibilityResult]) -> str:
    """Lay out self-test and cross-test by every metric as a table for a terminal, in percent.

    Args:
        results: From `compatibility_matrix`.

    Returns:
        Lines: rows are query capacities, ascending; self-tests first, then cross-tests, the gallery embedded at the
        largest capacity.

    Raises:
        ValueError: If there are no results.
    """
    metrics, rows = _test_rows(results)
    widths = [max(len(metric), 6) + 2 for metric in metrics]
    lines = [f"{'(%)':<12}{'capacity':>10}" + _cells(metrics, widths)]
    lines += [f"{test:<12}{format_capacity(capacity):>10}" + _cells(values, widths) for test, capacity, values in rows]
    return "\n".join(lines)


def markdown_tests(results: Sequence[CompatibilityResult]) -> str:
    """Lay out self-test and cross-test by every metric as a Markdown table, in percent.

    Args:
        results: As in `format_tests`.

    Returns:
        The table's lines, in the order of `format_tests`.

    Raises:
        ValueError: As in `format_tests`.
    """
    metrics, rows = _test_rows(results)
    lines = [f"| (%) | capacity | {' | '.join(metrics)} |", f"|---|---:|{'---:|' * len(metrics)}"]
    lines += [f"| {test} | {format_capacity(capacity)} | {' | '.join(values)} |" for test, capacity, values in rows]
    return "\n".join(lines)


def _test_rows(results: Sequence[CompatibilityResult]) -> tuple[list[str], list[tuple[str, float, list[str]]]]:
    """The metrics, and for each test and query capacity its values by these, as text."""
    if not results:
        raise ValueError("results must hold at least one value")
    metrics = list(dict.fromkeys(result.metric for result in results))
    values = {(r.query_capacity, r.gallery_capacity, r.metric): r.value for r in results}
    largest = max(result.gallery_capacity for result in results)
    rows = []
    for test in ("self-test", "cross-test"):
        for capacity in sorted({result.query_capacity for result in results}):
            gallery = capacity if test == "self-test" else largest
            cells = [_percent(values.get((capacity, gallery, metric), float("nan"))) for metric in metrics]
            rows.append((test, capacity, cells))
    return metrics, rows


def _cells(texts: Sequence[str], widths: Sequence[int]) -> str:
    return "".join(f"{text:>{width}}" for text, width in zip(texts, widths, strict=True))


def markdown_matrix(results: Sequence[CompatibilityResult], metric: str) -> str:
    """Lay out one metric as a Markdown table, in percent.

    Args:
        results: As in `format_matrix`.
        metric: As in `format_matrix`.

    Returns:
        Lines: rows are query capacities, columns gallery capacities, both ascending.

    Raises:
        ValueError: As in `format_matrix`.
    """
    query_capacities, gallery_capacities, values = _as_grid(results, metric)
    lines = [
        f"| query \\ gallery | {' | '.join(map(format_capacity, gallery_capacities))} |",
        f"|---{'|---:' * len(gallery_capacities)}|",
    ]
    lines += [
        f"| **{format_capacity(capacity)}** | {' | '.join(_percent(value) for value in row)} |"
        for capacity, row in zip(query_capacities, values, strict=True)
    ]
    return "\n".join(lines)


def plot_matrix(
    results: Sequence[CompatibilityResult],
    path: str | os.PathLike[str],
    *,
    metrics: Sequence[str] = ("mAP", "recall@1"),
    title: str = "Compatibility of subnetworks",
) -> Path:
    """Draw the metrics as heat maps side by side, and save them as a PNG.

    Args:
        results: From `compatibility_matrix`; a pair that is missing stays blank.
        path: Where to write; an existing file is replaced only by a complete one.
        metrics: Which metrics, one panel each.
        title: Above all panels.

    Returns:
        The path.

    Raises:
        ValueError: If `metrics` is empty, or as in `format_matrix`.
    """
    if not metrics:
        raise ValueError("metrics must name at least one metric to draw")
    grids = [_as_grid(results, metric) for metric in metrics]
    # Here, because only plots need matplotlib; a Figure of its own, because pyplot's state belongs to the caller.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    query_capacities, gallery_capacities, _ = grids[0]
    width = (1.9 + 0.72 * len(gallery_capacities)) * len(metrics)
    figure = Figure(figsize=(max(width, 5.0), 1.8 + 0.62 * len(query_capacities)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=13)
    for axes, metric, grid in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, grids, strict=True):
        _draw_panel(axes, metric, *grid)
    figure.supxlabel(_LEGEND, fontsize=8, color="0.35")
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.unfinished")
    figure.savefig(unfinished, format="png", metadata={"Software": None})
    os.replace(unfinished, path)
    return path


def _draw_panel(
    axes: Axes,
    metric: str,
    query_capacities: list[float],
    gallery_capacities: list[float],
    values: NDArray[np.float64],
) -> None:
    from matplotlib.patches import Rectangle

    low, high = _colour_limits(values)
    axes.imshow(values, cmap="viridis", vmin=low, vmax=high, aspect="auto")
    axes.set_title(f"{metric} (%)", fontsize=11)
    axes.set_xlabel("gallery capacity")
    axes.set_ylabel("query capacity")
    axes.set_xticks(range(len(gallery_capacities)), [*map(format_capacity, gallery_capacities)])
    axes.set_yticks(range(len(query_capacities)), [*map(format_capacity, query_capacities)])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for (row, column), value in np.ndenumerate(values):
        colour = "black" if value > (low + high) / 2 else "white"
        if not np.isnan(value):
            axes.text(column, row, _percent(value), ha="center", va="center", color=colour, fontsize=10)
        if query_capacities[row] == gallery_capacities[column]:
            outline = Rectangle((column - 0.46, row - 0.46), 0.92, 0.92, fill=False, edgecolor=colour, linewidth=1.5)
            axes.add_patch(outline)


def _colour_limits(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the range of the values, widened where they are nearly equal."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    missing = max(_SMALLEST_COLOUR_SPAN - (high - low), 0.0)
    return low - missing / 2, high + missing / 2


def _as_grid(
    results: Sequence[CompatibilityResult], metric: str
) -> tuple[list[float], list[float], NDArray[np.float64]]:
    """Return query capacities, gallery capacities and a `(query, gallery)` array of values, NaN where missing."""
    chosen = [result for result in results if result.metric == metric]
    if not chosen:
        known = ", ".join(sorted({result.metric for result in results})) or "none"
        raise ValueError(f"results hold no metric {metric!r}: they hold {known}")
    query_capacities = sorted({result.query_capacity for result in chosen})
    gallery_capacities = sorted({result.gallery_capacity for result in chosen})
    values = np.full((len(query_capacities), len(gallery_capacities)), np.nan)
    for result in chosen:
        cell = query_capacities.index(result.query_capacity), gallery_capacities.index(result.gallery_capacity)
        if not np.isnan(values[cell]):
            raise ValueError(
                f"results hold {metric!r} twice for query capacity {format_capacity(result.query_capacity)} and "
                f"gallery capacity {format_capacity(result.gallery_capacity)}: keep one run's results apart from "
                "another's"
            )
        values[cell] = result.value
    return query_capacities, gallery_capacities, values


def _percent(value: float) -> str:
    return "-" if np.isnan(value) else f"{100 * value:.1f}"
