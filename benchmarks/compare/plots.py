"""The pictures of the comparison: quality over capacity, over bytes and over latency."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from prunnet_hf.pruning.masking import format_capacity
from prunnet_hf.retrieval.plots import draw_grid, label_percent, new_figure, save_png

from .figures import CROSS, SELF, Rows
from .methods import CAPACITIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = (
    *("#31688e", "#d1742e", "#2a9d5c", "#a5388f", "#6b6b6b", "#c9a227"),
    *("#17becf", "#8c564b", "#e377c2", "#1b1b1b", "#7fbc41", "#b2182b", "#5e3c99"),
)
TITLES = {SELF: "queries and gallery by the same network", CROSS: "gallery by the dense network"}
BYTES, TIME = "MB of the saved network", "ms for an image, one CPU thread"


def plot_capacities(every: Mapping[str, Rows], path: Path, title: str) -> Path:
    """Draw mAP over capacity: bands of a standard error around methods, a bar for a network of one capacity."""
    figure = new_figure(13, 5.2)
    figure.suptitle(title, fontsize=12)
    panels = figure.subplots(1, 2, sharey=True)
    colours, drawn = colours_of(every), list[float]()
    for axes, test in zip(panels, (SELF, CROSS), strict=True):
        drawn += [value for rows in every.values() for value in _draw(axes, rows, test, colours[series_of(rows)])]
        axes.set_title(TITLES[test], fontsize=11)
        axes.set_xscale("log")
        axes.set_xticks(CAPACITIES, [*map(format_capacity, CAPACITIES)])
        axes.minorticks_off()
        axes.set_xlabel("capacity of the query network")
        draw_grid(axes)
    label_percent(panels[0], "mAP", drawn)
    _add_legend(figure, panels[0])
    return save_png(figure, path)


def plot_costs(
    every: Mapping[str, Rows], path: Path, title: str, latencies: Mapping[str, Mapping[str, float]]
) -> Path:
    """Draw mAP against a gallery by the dense network over what the query network weighs and how long it takes.

    Args:
        every: The rows by entry.
        path: The picture.
        title: Above both panels.
        latencies: Milliseconds by granularity and capacity, measured in one process for all (see `latency`).
    """
    figure = new_figure(13, 5.2)
    figure.suptitle(title, fontsize=12)
    panels = figure.subplots(1, 2, sharey=True)
    colours = colours_of(every)
    for axes, label in zip(panels, (BYTES, TIME), strict=True):
        for rows in every.values():
            costs = _megabytes(rows) if label == BYTES else _milliseconds(rows, latencies)
            points, series = _points_over(rows, costs), series_of(rows)
            if points:
                axes.plot(*zip(*points, strict=True), label=series, color=colours[series], marker=_marker(rows))
        axes.set_xlabel(label)
        axes.set_xlim(left=0)
        draw_grid(axes)
    panels[0].set_ylabel("mAP (%)")
    _add_legend(figure, panels[-1])
    return save_png(figure, path)


def _megabytes(rows: Rows) -> dict[float, float]:
    """Of each network; the dense file of a prunable network, which has its scores, is left out."""
    sizes = {capacity: rows.cost("file_bytes", capacity) for capacity in CAPACITIES}
    return {c: size / 1e6 for c, size in sizes.items() if size is not None and not (c == 1.0 and rows.is_nested)}


def _milliseconds(rows: Rows, latencies: Mapping[str, Mapping[str, float]]) -> dict[float, float]:
    """Of networks of its shapes."""
    times = latencies.get(str(rows.rows[0]["record"]["recipe"].get("granularity")), {})
    return {capacity: times[f"{capacity:g}"] for capacity in CAPACITIES if f"{capacity:g}" in times}


def _points_over(rows: Rows, costs: Mapping[float, float]) -> list[tuple[float, float]]:
    """Cost and mAP of each capacity that has both. Networks alone search their own gallery."""
    figures = {capacity: rows.figure(CROSS, capacity) for capacity in costs}
    return [(costs[capacity], figure.mean) for capacity, figure in figures.items() if figure is not None]


def _draw(axes: Axes, rows: Rows, test: str, colour: str) -> list[float]:
    """Draw an entry, and return the ends of its bands or bars."""
    found = {capacity: rows.figure(test if test in rows.tests else SELF, capacity) for capacity in CAPACITIES}
    figures = {capacity: figure for capacity, figure in found.items() if figure is not None}
    capacities, means = [*figures], [figure.mean for figure in figures.values()]
    errors = [figure.error or 0.0 for figure in figures.values()]
    style = {"color": colour, "label": series_of(rows), "marker": _marker(rows), "markersize": 6}
    low, high = ([mean + sign * error for mean, error in zip(means, errors, strict=True)] for sign in (-1, 1))
    if rows.is_nested:
        axes.plot(capacities, means, linewidth=1.5, **style)
        axes.fill_between(capacities, low, high, color=colour, alpha=0.15, linewidth=0)
    else:
        axes.errorbar(capacities, means, yerr=errors, linestyle="none", capsize=3, **style)
    return [*low, *high]


def series_of(rows: Rows) -> str:
    """What the legend calls an entry: networks of one method for one capacity each, apart from a dense one, share it.

    Example: `"bct"` for the entry `"bct 0.2"`.
    """
    capacity = rows.entry.capacity
    return rows.entry.name if capacity is None else rows.entry.name.removesuffix(f" {capacity:g}")


def colours_of(every: Mapping[str, Rows]) -> dict[str, str]:
    """A colour for each series."""
    series = dict.fromkeys(series_of(rows) for rows in every.values())
    return {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(series)}


def _add_legend(figure: Figure, axes: Axes) -> None:
    handles = {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside right upper", frameon=False, fontsize=9)


def _marker(rows: Rows) -> str:
    return "o" if rows.is_nested else "D" if rows.entry.has_teacher else "*"
