"""The PQ Index on a card: how compressible a run's weights are at the capacities that the run evaluated.

It is computed from the weights and recorded, with its picture, in the run directory. So the card can be rendered again
without the weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..compression.report import Compressibility, CompressibilityRow, compressibility
from ..prunable_model import PrunNetPreTrainedModel
from ..pruning.pq_index import check_exponents
from ..runs.run_directory import write_json
from ..storage.json_text import load_json

_RECORD, _PICTURE = "compressibility.json", "compressibility.png"
_FORMAT = 1
_REMEDY = "Remove it, or make the card again where the run's model/ is, which writes it again."


@dataclass(frozen=True)
class IndexRow:
    """One capacity in the card's table.

    Attributes:
        capacity: In (0, 1].
        kept_weights: Number of prunable weights that it keeps.
        network: PQ Index of all these weights as one scope, in [0, 1).
        mean: Mean of the layers' indices, weighted by the layers' sizes.
        lowest: The lowest index of a layer.
        highest: The highest index of a layer.
        bound: The least number of weights that SAP keeps, layer by layer, as a share of all prunable weights, in
            [0, 1].
    """

    capacity: float
    kept_weights: int
    network: float
    mean: float
    lowest: float
    highest: float
    bound: float


def record_indices(directory: Path, model: PrunNetPreTrainedModel, capacities: Sequence[float]) -> None:
    """Measure a model, and write `compressibility.json` with its picture; do nothing if it can't be pruned.

    Args:
        directory: The run directory to write to.
        model: The run's model.
        capacities: The capacities that the run evaluated, each in (0, 1].

    Raises:
        ValueError: If a weight or score of the model isn't finite.
    """
    if not model.config.prunable:
        return
    found = compressibility(model, capacities)
    found.plot(directory / _PICTURE)
    # The record comes last, because a card that finds it also shows the picture.
    write_json(directory / _RECORD, {"format": _FORMAT, **asdict(found)})


def recorded_indices(run: Path) -> Compressibility | None:
    """What `record_indices` wrote; None if it wrote nothing.

    Args:
        run: A run directory.

    Raises:
        ValueError: If the record is damaged or of a newer format.
    """
    file = run / _RECORD
    if not file.is_file():
        return None
    try:
        record = load_json(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is damaged ({error}). {_REMEDY}") from error
    if not isinstance(record, dict) or record.get("format") != _FORMAT:
        found = record.get("format") if isinstance(record, dict) else record
        raise ValueError(f"{file} must have format {_FORMAT}; got {found!r}. {_REMEDY}")
    try:
        return _read(record)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is damaged ({type(error).__name__}: {error}). {_REMEDY}") from error


def index_rows(found: Compressibility) -> list[IndexRow]:
    """The rows of the card's table, capacities ascending."""
    by_layer = [found.of(layer) for layer in found.layers]
    rows = []
    for whole, *layers in zip(found.of(None), *by_layer, strict=True):
        indices = [row.index for row in layers]
        weighted = [row.index * row.num_weights for row in layers]
        rows.append(
            IndexRow(
                capacity=whole.capacity,
                kept_weights=whole.kept,
                network=whole.index,
                mean=math.fsum(weighted) / whole.num_weights,
                lowest=min(indices),
                highest=max(indices),
                bound=math.fsum(row.keep_bound for row in layers) / whole.num_weights,
            )
        )
    return rows


def _read(record: dict[str, Any]) -> Compressibility:
    p, q = check_exponents(record["p"], record["q"])
    found = Compressibility(tuple(_read_row(entry) for entry in record["rows"]), p, q, record["eta"])
    if not 0.0 <= found.eta < math.inf:
        raise ValueError(f"eta must be at least 0 and finite; got {found.eta!r}")
    if not found.layers:
        raise ValueError("rows must hold at least one layer")
    for layer in found.layers:
        if [row.capacity for row in found.of(layer)] != found.capacities:
            raise ValueError(f"layer {layer!r} must have the capacities {found.capacities}")
    return found


def _read_row(entry: dict[str, Any]) -> CompressibilityRow:
    row = CompressibilityRow(**entry)
    is_named = row.layer is None or isinstance(row.layer, str)
    are_counts = row.num_weights >= 1 and 0 <= row.keep_bound <= row.kept <= row.num_weights
    if not (is_named and are_counts and 0 < row.capacity <= 1 and 0 <= row.index < 1):
        raise ValueError(f"{entry} is out of range")
    return row
