"""What the PQ Index says about a model: how far each of its layers, and the whole network, could be pruned.

The index is measured on the weights that a capacity keeps. It gives the smallest number of these weights that
sparsity-informed adaptive pruning (SAP) would keep. Both need the weights only, no data. Whether a network of that
size is still good has to be measured.

With `granularity="channel"` they are the weights that lie in units, and those of them that the thin network has. The
index then says how far single weights could be left out beside the units.

Source: arXiv 2302.05601.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..prunable_model import PrunNetPreTrainedModel
from ..pruning.allocation import UNIFORM
from ..pruning.layers import naming_layer
from ..pruning.masking import check_capacities, format_capacity, kept_count
from ..pruning.pq_index import DEFAULT_P, DEFAULT_Q, KeptPowers, check_exponents, join, kept_powers, powers_of_pruned
from ..pruning.subnetworks import check_scores, dense_twin, find_masks, scored_units, unit_weights
from ..pruning.thinning import thin_tensors
from ..retrieval.markdown import as_code
from .sap_bound import sap_keep_bound

DEFAULT_CAPACITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass(frozen=True)
class CompressibilityRow:
    """One layer, or all layers as one scope, at one capacity.

    Attributes:
        layer: Name of the layer, or None for all prunable layers as one scope.
        capacity: Kept share, in (0, 1].
        num_weights: How many weights the scope has in the dense network.
        kept: How many of them the capacity keeps.
        index: PQ Index of the kept weights, in [0, 1).
        keep_bound: SAP's bound `r`, the smallest number of weights to keep, in [0, kept].
    """

    layer: str | None
    capacity: float
    num_weights: int
    kept: int
    index: float
    keep_bound: float


@dataclass(frozen=True)
class Compressibility:
    """The result of `compressibility`.

    Attributes:
        rows: The whole network at each capacity, ascending, then each layer in the same way, in their order.
        p: Exponent of the lower norm in the index.
        q: Exponent of the upper norm.
        eta: See `sap_keep_bound`.
    """

    rows: tuple[CompressibilityRow, ...]
    p: float
    q: float
    eta: float

    def __repr__(self) -> str:
        sizes = f"{len(self.layers)} layers at {len(self.capacities)} capacities"
        return f"Compressibility({sizes}, p={self.p:g}, q={self.q:g}, eta={self.eta:g})"

    @property
    def capacities(self) -> list[float]:
        """The capacities, ascending."""
        return [row.capacity for row in self.of(None)]

    @property
    def layers(self) -> list[str]:
        """Names of the layers, from the first to the last."""
        return list(dict.fromkeys(row.layer for row in self.rows if row.layer is not None))

    def of(self, layer: str | None) -> list[CompressibilityRow]:
        """The rows of one layer, or of all layers as one scope (None), by ascending capacity.

        Raises:
            KeyError: If there is no such layer.
        """
        rows = [row for row in self.rows if row.layer == layer]
        if not rows:
            raise KeyError(f"no layer {layer!r}; there are {self.layers}")
        return rows

    def as_markdown(self) -> str:
        """Three Markdown tables: the whole network, each layer's index, and each layer's bound as a share."""
        whole = self.of(None)
        exponents = f"p = {self.p:g}, q = {self.q:g}"
        return "\n".join(
            [
                f"PQ Index ({exponents}) of the kept weights of all prunable layers as one scope; SAP's bound "
                f"(eta = {self.eta:g}), as a number of weights and as a share of all:",
                "",
                "| capacity | kept weights | PQ Index | keep at least | as share |",
                "|---:|---:|---:|---:|---:|",
                *(_whole_line(row) for row in whole),
                "",
                f"PQ Index ({exponents}) of each layer's kept weights, by capacity:",
                "",
                *self._layer_table([[f"{row.index:.3f}" for row in self.of(layer)] for layer in self.layers]),
                "",
                "SAP's bound on each layer, as a share of its weights, by capacity:",
                "",
                *self._layer_table([[_bound_as_share(row) for row in self.of(layer)] for layer in self.layers]),
            ]
        )

    def plot(self, path: str | os.PathLike[str], *, title: str = "PQ Index of the kept weights") -> Path:
        """Draw the indices over capacity, and save them as a PNG.

        Args:
            path: Where to write; an existing file is replaced only by a complete one.
            title: Above the picture.

        Returns:
            The path.
        """
        from .plots import plot_indices  # here because only plots need matplotlib

        by_layer = np.array([[row.index for row in self.of(layer)] for layer in self.layers])
        whole = np.array([row.index for row in self.of(None)])
        return plot_indices(self.layers, self.capacities, by_layer, whole, path, title=title)

    def _layer_table(self, cells: Sequence[Sequence[str]]) -> Iterator[str]:
        yield f"| layer | weights | {' | '.join(map(format_capacity, self.capacities))} |"
        yield f"|---|---:|{'---:|' * len(self.capacities)}"
        for layer, values in zip(self.layers, cells, strict=True):
            yield f"| {as_code(layer)} | {self.of(layer)[0].num_weights:,} | {' | '.join(values)} |"


def compressibility(
    model: PrunNetPreTrainedModel,
    capacities: Sequence[float] | None = None,
    *,
    p: float = DEFAULT_P,
    q: float = DEFAULT_Q,
    eta: float = 0.0,
) -> Compressibility:
    """Measure how unequal the kept weights are, in each prunable layer and in all together, at several capacities.

    Args:
        model: A prunable model, or a pruned one, which can only be measured at its own capacity.
        capacities: Kept shares, each in (0, 1]. By default 0.1, 0.2, ..., 1.0, or the pruned model's own.
        p: Exponent of the lower norm in the index, in (0, 1], less than `q`.
        q: Exponent of the upper norm, at least 1.
        eta: At least 0; see `sap_keep_bound`.

    Returns:
        A row for each layer and capacity, which can be printed as tables and plotted.

    Raises:
        TypeError: If `model` isn't a PrunNet model, or an argument isn't a number.
        ValueError: If nothing in the model is prunable, an argument is out of range, a weight or score isn't finite,
            or `capacities` has another capacity than a pruned model's own.
    """
    if not isinstance(model, PrunNetPreTrainedModel):
        raise TypeError(f"model must be a PrunNetModel or PrunNetForImageClassification; got {type(model).__name__}.")
    p, q = check_exponents(p, q)
    chosen = _choose_capacities(model, capacities)
    by_layer = [
        (some, {None: join([*layers.values()]), **layers}) for some, layers in _read_layers(model, chosen, p, q)
    ]
    sizes = _num_weights(model)
    sizes[None] = sum(sizes.values())
    rows = (
        row
        for name in by_layer[0][1]
        for some, scopes in by_layer
        for row in _rows(name, sizes[name], some, scopes[name], eta)
    )
    return Compressibility(tuple(rows), p, q, eta)


def _choose_capacities(model: PrunNetPreTrainedModel, capacities: Sequence[float] | None) -> list[float]:
    own = model.config.capacity
    if capacities is None:
        return list(DEFAULT_CAPACITIES) if model.config.prunable else [own]
    checked = check_capacities(capacities)
    if not checked:
        raise ValueError("capacities must hold at least one capacity in (0, 1], such as [0.2, 0.4]; got none.")
    if not model.config.prunable and checked != [own]:
        raise ValueError(
            f"capacities must be [{format_capacity(own)}] or left out, because this model is pruned already; got "
            f"{capacities!r}. For other capacities, load the dense checkpoint that it was pruned from."
        )
    return checked


def _read_layers(
    model: PrunNetPreTrainedModel, capacities: Sequence[float], p: float, q: float
) -> list[tuple[Sequence[float], dict[str | None, KeptPowers]]]:
    """All layers at some of the capacities, then at the next ones: at all together, or at one after the other."""
    if model.config.granularity == "channel":
        return [([capacity], _read_thin(model, capacity, p, q)) for capacity in capacities]
    names = _layer_names(model)
    if not names:
        raise ValueError(
            f"model must have prunable layers, Conv2d or Linear inside its backbone; this {type(model).__name__} has "
            "none."
        )
    found: dict[str | None, KeptPowers] = {}
    for name in names:
        with naming_layer(name):
            found[name] = _read_layer(model, name, capacities, p, q)
    return [(capacities, found)]


def _num_weights(model: PrunNetPreTrainedModel) -> dict[str | None, int]:
    """The number of weights of each layer in the dense network."""
    if model.config.granularity == "channel":
        weights = unit_weights(dense_twin(model))
        return {name.removesuffix(".weight"): weight.numel() for name, weight in weights.items()}
    return {name: model.get_parameter(f"{name}.weight").numel() for name in _layer_names(model)}


def _layer_names(model: PrunNetPreTrainedModel) -> list[str]:
    if model.config.prunable:
        return list(model.prunable_layers())
    return [name.removesuffix(".weight") for name in model.packable_weights()]


def _read_layer(
    model: PrunNetPreTrainedModel, name: str, capacities: Sequence[float], p: float, q: float
) -> KeptPowers:
    weights = model.get_parameter(f"{name}.weight").detach()
    if model.config.prunable:
        return kept_powers(weights, model.get_parameter(f"{name}.scores").detach(), capacities, p, q)
    if model.config.allocation == UNIFORM:
        return powers_of_pruned(weights, kept_count(capacities[0], weights.numel()), p, q)
    return powers_of_pruned(weights, int(weights.count_nonzero()), p, q)


@torch.no_grad()
def _read_thin(model: PrunNetPreTrainedModel, capacity: float, p: float, q: float) -> dict[str | None, KeptPowers]:
    """The layers of the thin network of one capacity."""
    weights = unit_weights(model)
    if model.config.prunable:
        check_scores(model)
        (masks,) = find_masks(model, [capacity])
        kept = {name: mask.nonzero().flatten() for name, mask in masks.items()}
        weights = thin_tensors(weights, scored_units(model), kept)
    found: dict[str | None, KeptPowers] = {}
    for name, weight in weights.items():
        layer = name.removesuffix(".weight")
        with naming_layer(layer):
            found[layer] = powers_of_pruned(weight, weight.numel(), p, q)
    return found


def _rows(
    layer: str | None, num_weights: int, capacities: Sequence[float], powers: KeptPowers, eta: float
) -> Iterator[CompressibilityRow]:
    for capacity, count, index in zip(capacities, powers.counts.tolist(), powers.indices().tolist(), strict=True):
        kept = int(count)
        bound = sap_keep_bound(index, kept, powers.p, powers.q, eta)
        yield CompressibilityRow(layer, capacity, num_weights, kept, index, bound)


def _whole_line(row: CompressibilityRow) -> str:
    bound = f"{math.ceil(row.keep_bound):,} | {_bound_as_share(row)}"
    return f"| {format_capacity(row.capacity)} | {row.kept:,} | {row.index:.3f} | {bound} |"


def _bound_as_share(row: CompressibilityRow) -> str:
    return f"{row.keep_bound / row.num_weights:.3f}"
