"""Pictures of the PQ Index: of a model, over capacity and layer by layer; and of pruning loops, round by round."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..pruning.masking import format_capacity
from ..retrieval.plots import draw_grid, label_percent, new_figure, save_png
from .comparison import shared_metric
from .trajectory import Trajectory

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = ("#31688e", "#d1742e", "#35b779", "#8e3179", "0.35", "#b8a300", "#5ab4d6", "#e05a7a")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_LAYER_COLOUR = "0.8"
_INCHES_PER_LAYER = 0.16
_ROUND_CAPACITIES = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def plot_indices(
    layers: Sequence[str],
    capacities: Sequence[float],
    by_layer: NDArray[np.float64],
    network: NDArray[np.float64],
    path: str | os.PathLike[str],
    *,
    title: str = "PQ Index of the kept weights",
) -> Path:
    """Draw the index of a model over capacity, as curves and as a heat map of its layers, and save it as a PNG.

    Args:
        layers: Names of the layers, from the first to the last.
        capacities: Ascending, each in (0, 1].
        by_layer: Index of each layer at each capacity, `(layers, capacities)`, in [0, 1).
        network: Index of all layers as one scope, `(capacities,)`, in [0, 1).
        path: Where to write; an existing file is replaced only by a complete one.
        title: Title above both panels.

    Returns:
        The path.
    """
    figure = new_figure(12.0, max(4.5, 1.6 + _INCHES_PER_LAYER * len(layers)))
    figure.suptitle(title, fontsize=13)
    curves, heat_map = figure.subplots(1, 2)
    _draw_curves(curves, capacities, by_layer, network)
    image = heat_map.imshow(by_layer, cmap="viridis", vmin=0.0, aspect="auto", interpolation="nearest")
    figure.colorbar(image, ax=heat_map, label="PQ Index")
    _label_heat_map(heat_map, layers, capacities)
    return save_png(figure, Path(path))


def plot_trajectories(
    trajectories: Sequence[Trajectory], path: str | os.PathLike[str], *, title: str = "Pruning, round by round"
) -> Path:
    """Draw index and quality of pruning loops over rounds and capacity, and save the picture as a PNG.

    Args:
        trajectories: At least one, of the same data set, protocol and metric; each with at least one round.
        path: Where to write; an existing file is replaced only by a complete one.
        title: Title above all panels.

    Returns:
        The path.

    Raises:
        ValueError: If the runs can't be compared.
    """
    metric = shared_metric(trajectories)
    figure = new_figure(14.0, 5.0)
    figure.suptitle(title, fontsize=13)
    over_rounds, over_capacity, quality = figure.subplots(1, 3)
    for number, run in enumerate(trajectories):
        capacities = [entry.capacity for entry in run.rounds]
        _draw_run(over_rounds, number, run.name, [entry.number for entry in run.rounds], run.indices)
        _draw_run(over_capacity, number, run.name, capacities, run.indices)
        _draw_run(quality, number, run.name, capacities, [100 * entry.metrics[metric] for entry in run.rounds])
    over_rounds.set_xlabel("round (0: all weights)")
    over_rounds.xaxis.get_major_locator().set_params(integer=True)
    smallest = min(entry.capacity for run in trajectories for entry in run.rounds)
    for axes in (over_capacity, quality):
        _label_capacities(axes, smallest)
    for axes in (over_rounds, over_capacity):
        axes.set_ylim(bottom=0.0)
        axes.set_ylabel("PQ Index of the kept weights, after training")
    label_percent(quality, metric, [100 * entry.metrics[metric] for run in trajectories for entry in run.rounds])
    figure.legend(*quality.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return save_png(figure, Path(path))


def _draw_curves(
    axes: Axes, capacities: Sequence[float], by_layer: NDArray[np.float64], network: NDArray[np.float64]
) -> None:
    for number, indices in enumerate(by_layer):
        label = "each layer" if number == 0 else None
        axes.plot(capacities, indices, color=_LAYER_COLOUR, linewidth=0.8, marker=".", markersize=3, label=label)
    axes.plot(capacities, network, color=_COLOURS[0], linewidth=2, marker="o", markersize=5, label="all layers as one")
    axes.set_xlim(0.0, 1.03)
    axes.set_ylim(0.0, max(0.1, 1.05 * float(max(by_layer.max(), network.max()))))
    axes.set_xticks(capacities, [*map(format_capacity, capacities)], fontsize=8, rotation=45)
    axes.set_xlabel("capacity")
    axes.set_ylabel("PQ Index (0: all magnitudes equal)")
    axes.legend(frameon=False, fontsize=9)
    draw_grid(axes)


def _label_heat_map(axes: Axes, layers: Sequence[str], capacities: Sequence[float]) -> None:
    axes.set_xticks(range(len(capacities)), [*map(format_capacity, capacities)], fontsize=8, rotation=45)
    axes.set_yticks(range(len(layers)), layers, fontsize=6)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("capacity")


def _draw_run(axes: Axes, number: int, name: str, places: Sequence[float], values: Sequence[float]) -> None:
    colour, marker = _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)]
    axes.plot(places, values, color=colour, marker=marker, markersize=5, linewidth=1.5, label=name)
    draw_grid(axes)


def _label_capacities(axes: Axes, smallest: float) -> None:
    """A log axis up to 1 with ticks at round numbers, the first at or below the smallest capacity."""
    low = max((tick for tick in _ROUND_CAPACITIES if tick <= smallest), default=_ROUND_CAPACITIES[0])
    ticks = [tick for tick in _ROUND_CAPACITIES if tick >= low]
    axes.set_xscale("log")
    axes.set_xticks(ticks, [*map(format_capacity, ticks)], fontsize=8, rotation=45)
    axes.minorticks_off()
    axes.set_xlim(min(low, smallest) / 1.1, 1.1)
    axes.set_xlabel("capacity: kept share of the prunable weights")
