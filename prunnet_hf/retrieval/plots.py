"""Pictures of a compatibility matrix: every pair of capacities as a heat map, self-test and cross-test as curves."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..pruning.masking import format_capacity
from ..storage.whole_file import whole_file
from .compatibility import CompatibilityResult, as_grid, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SMALLEST_COLOUR_SPAN = 0.05
"""Values closer than this get similar colours: half a point must not look like a large difference."""
_LEGEND = (
    "outlined: query and gallery by the same subnetwork (self-test)\n"
    "gallery capacity 1.00: gallery by the dense network (cross-test)"
)
_SELF_COLOUR, _CROSS_COLOUR, _DENSE_COLOUR = "#31688e", "#d1742e", "0.35"
_SMALLEST_PERCENT_SPAN = 10.0
"""An axis of percent spans at least this much: half a point must not look like a large difference."""


def plot_matrix(
    results: Sequence[CompatibilityResult],
    path: str | os.PathLike[str],
    *,
    metrics: Sequence[str] = ("mAP", "recall@1"),
    title: str = "Compatibility of subnetworks",
) -> Path:
    """Draw the metrics as heat maps side by side, and save them as a PNG.

    Args:
        results: From `compatibility_matrix`; a missing pair stays blank.
        path: Where to write; an existing file is replaced only by a complete one.
        metrics: The metrics, one panel for each.
        title: Written above all panels.

    Returns:
        The path.

    Raises:
        ValueError: If `metrics` is empty, or as in `format_matrix`.
    """
    if not metrics:
        raise ValueError("metrics must name at least one metric to draw")
    grids = [as_grid(results, metric) for metric in metrics]
    query_capacities, gallery_capacities, _ = grids[0]
    width = (1.9 + 0.72 * len(gallery_capacities)) * len(metrics)
    figure = new_figure(max(width, 5.0), 1.8 + 0.62 * len(query_capacities))
    figure.suptitle(title, fontsize=13)
    for axes, metric, grid in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, grids, strict=True):
        _draw_panel(axes, metric, *grid)
    figure.supxlabel(_LEGEND, fontsize=8, color="0.35")
    return save_png(figure, Path(path))


def plot_curve(
    results: Sequence[CompatibilityResult],
    path: str | os.PathLike[str],
    *,
    metric: str,
    trained: Collection[float],
    title: str = "Quality over capacity",
) -> Path:
    """Draw self-test and cross-test of one metric over capacity, and save them as a PNG.

    Args:
        results: From `compatibility_matrix`; the largest capacity's self-test becomes a line to compare with.
        path: Where to write; an existing file is replaced only by a complete one.
        metric: The metric.
        trained: The capacities that training optimised. Their markers are filled, those of others hollow.
        title: Written above the curves.

    Returns:
        The path.

    Raises:
        ValueError: As in `format_matrix`.
    """
    query_capacities, gallery_capacities, values = as_grid(results, metric)
    capacities = [capacity for capacity in query_capacities if capacity in gallery_capacities]
    cells = [(query_capacities.index(c), gallery_capacities.index(c)) for c in capacities]
    self_test = [100 * values[row, column] for row, column in cells]
    cross_test = [100 * values[row, -1] for row, _ in cells]
    largest = format_capacity(gallery_capacities[-1])
    figure = new_figure(7.5, 4.4)
    axes = figure.subplots()
    axes.axhline(
        self_test[-1],
        color=_DENSE_COLOUR,
        linewidth=1,
        linestyle="--",
        label=f"gallery and queries at capacity {largest}: {self_test[-1]:.1f}",
    )
    _draw_curve(axes, capacities, self_test, trained, _SELF_COLOUR, "o", "self-test: gallery by the same subnetwork")
    _draw_curve(
        axes, capacities, cross_test, trained, _CROSS_COLOUR, "s", f"cross-test: gallery at capacity {largest}"
    )
    _label_curve(axes, capacities, metric, [*self_test, *cross_test])
    axes.set_title(title, fontsize=12)
    return save_png(figure, Path(path))


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
            axes.text(column, row, percent(value), ha="center", va="center", color=colour, fontsize=10)
        if query_capacities[row] == gallery_capacities[column]:
            outline = Rectangle((column - 0.46, row - 0.46), 0.92, 0.92, fill=False, edgecolor=colour, linewidth=1.5)
            axes.add_patch(outline)


def _colour_limits(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the range of the values, widened if they are nearly equal."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    missing = max(_SMALLEST_COLOUR_SPAN - (high - low), 0.0)
    return low - missing / 2, high + missing / 2


def _draw_curve(
    axes: Axes,
    capacities: Sequence[float],
    values: Sequence[float],
    trained: Collection[float],
    colour: str,
    marker: str,
    label: str,
) -> None:
    axes.plot(capacities, values, color=colour, linewidth=1.5, label=label)
    for capacity, value in zip(capacities, values, strict=True):
        face = colour if capacity in trained else "white"
        axes.plot(
            capacity,
            value,
            marker=marker,
            markersize=6,
            color=colour,
            markerfacecolor=face,
            linestyle="none",
            zorder=3,
        )


def _label_curve(axes: Axes, capacities: Sequence[float], metric: str, values: Sequence[float]) -> None:
    label_percent(axes, metric, values)
    axes.set_xlim(0.0, 1.03)
    axes.set_xticks(capacities, [*map(format_capacity, capacities)], fontsize=8, rotation=45)
    axes.set_xlabel("capacity of the query network (filled: trained, hollow: not trained as such)")
    draw_grid(axes)
    axes.legend(frameon=False, fontsize=9, loc="lower right")


def label_percent(axes: Axes, metric: str, values: Sequence[float]) -> None:
    """Name the vertical axis after a metric in percent, and make it span the values and a margin."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    missing = max(_SMALLEST_PERCENT_SPAN - (high - low), 0.0)
    margin = missing / 2 + 0.05 * (high - low + missing)
    axes.set_ylim(low - margin, high + margin)
    axes.set_ylabel(f"{metric} (%)")


def draw_grid(axes: Axes) -> None:
    """Draw a light grid, and leave out the frame above and to the right."""
    axes.grid(color="0.92")
    axes.spines[["top", "right"]].set_visible(False)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of `width` by `height` inches, made without pyplot, whose state belongs to the caller."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # here, because only plots need matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_png(figure: Figure, path: Path) -> Path:
    """Save a figure; an existing file is replaced only by a complete one. Returns `path`."""
    with whole_file(path) as file:
        figure.savefig(file, format="png", metadata={"Software": None})
    return path
