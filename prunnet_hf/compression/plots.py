"""The picture of a model's PQ Index: over capacity for the whole network, as a heat map for its layers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..masking import format_capacity
from ..retrieval.plots import new_figure
from ..retrieval.plots import save_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOUR, _LAYER_COLOUR = "#31688e", "0.8"
_INCHES_A_LAYER = 0.16


def plot_indices(
    layers: Sequence[str],
    capacities: Sequence[float],
    by_layer: NDArray[np.float64],
    network: NDArray[np.float64],
    path: str | os.PathLike[str],
    *,
    title: str = "PQ Index of the kept weights",
) -> Path:
    """Draw indices over capacity, and save them as a PNG.

    Args:
        layers: Names of the layers, from the first to the last.
        capacities: Ascending, each in (0, 1].
        by_layer: Index of each layer at each capacity, `(layers, capacities)`, in [0, 1).
        network: Index of all layers as one scope, `(capacities,)`, in [0, 1).
        path: Where to write; an existing file is replaced only by a complete one.
        title: Above both panels.

    Returns:
        The path.
    """
    figure = new_figure(12.0, max(4.5, 1.6 + _INCHES_A_LAYER * len(layers)))
    figure.suptitle(title, fontsize=13)
    curves, heat_map = figure.subplots(1, 2)
    _draw_curves(curves, capacities, by_layer, network)
    _draw_heat_map(heat_map, layers, capacities, by_layer)
    return save_png(figure, Path(path))


def _draw_curves(
    axes: Axes, capacities: Sequence[float], by_layer: NDArray[np.float64], network: NDArray[np.float64]
) -> None:
    for number, indices in enumerate(by_layer):
        label = "each layer" if number == 0 else None
        axes.plot(capacities, indices, color=_LAYER_COLOUR, linewidth=0.8, marker=".", markersize=3, label=label)
    axes.plot(capacities, network, color=_COLOUR, linewidth=2, marker="o", markersize=5, label="all layers as one")
    axes.set_xlim(0.0, 1.03)
    axes.set_ylim(0.0, max(0.1, 1.05 * float(max(by_layer.max(), network.max()))))
    axes.set_xticks(capacities, [*map(format_capacity, capacities)], fontsize=8, rotation=45)
    axes.set_xlabel("capacity")
    axes.set_ylabel("PQ Index (0: all magnitudes equal)")
    axes.grid(color="0.92")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)


def _draw_heat_map(
    axes: Axes, layers: Sequence[str], capacities: Sequence[float], by_layer: NDArray[np.float64]
) -> None:
    from matplotlib.figure import Figure

    image = axes.imshow(by_layer, cmap="viridis", vmin=0.0, aspect="auto", interpolation="nearest")
    axes.set_xticks(range(len(capacities)), [*map(format_capacity, capacities)], fontsize=8, rotation=45)
    axes.set_yticks(range(len(layers)), layers, fontsize=6)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("capacity")
    figure = axes.get_figure()
    if isinstance(figure, Figure):
        figure.colorbar(image, ax=axes, label="PQ Index")
