"""The figures of a card: what a finished run recorded, checked, and looked up by capacity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from ..runs.record import EVALUATE_AGAIN, RECORD, RunRecord
from ..runs.run_directory import without_local_paths
from ..storage.band_index import INDEX_NAME, read_index
from ..storage.forms import WEIGHT_FILES


@dataclass(frozen=True)
class CapacityRow:
    """One capacity in the tables of a card.

    Attributes:
        capacity: In (0, 1].
        trained: Whether training optimised it; None where the run doesn't say.
        kept_weights: Prunable weights that are kept.
        prunable_weights: All prunable weights.
        file_bytes: Of the ready subnetwork's weights; None if there is none.
        download_bytes: Of the weights that `from_pretrained(..., capacity=...)` fetches; None if that isn't known.
        multiply_adds: Of one image; None if they weren't counted.
        latency_ms: Of one image.
        self_test: Headline metric in [0, 1], queries and gallery by this network.
        cross_test: The same, gallery by the largest network.
        self_to_dense: `self_test` less the largest network's.
        cross_to_dense: `cross_test` less the largest network's self-test.
    """

    capacity: float
    trained: bool | None
    kept_weights: int
    prunable_weights: int
    file_bytes: int | None
    download_bytes: int | None
    multiply_adds: int | None
    latency_ms: float
    self_test: float
    cross_test: float
    self_to_dense: float
    cross_to_dense: float


def read_run(run: Path) -> RunRecord:
    """Read what a card is made from: the record of a run, with the recipe that `config.yaml` holds.

    Args:
        run: A finished run directory.

    Raises:
        FileNotFoundError: If it has no `metrics.json` or `config.yaml`.
        ValueError: If one of them is damaged, lacks what a card needs, or is of a newer format.
    """
    record, file = RunRecord.read(run / RECORD), run / "config.yaml"
    try:
        recipe = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{file} is missing: train_accelerate.py writes it when a run is finished.") from error
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{file} is damaged ({error}): {EVALUATE_AGAIN}.") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"{file} must hold a mapping; got {type(recipe).__name__}: {EVALUATE_AGAIN}.")
    return replace(record, recipe=without_local_paths(recipe))


def capacity_rows(
    run: RunRecord, files: Mapping[float, int] | None = None, downloads: Mapping[float, int] | None = None
) -> list[CapacityRow]:
    """The tables' rows, capacities ascending.

    Args:
        run: The run.
        files: Bytes of ready subnetworks by capacity; None: those that the run recorded of its own.
        downloads: Bytes to fetch for a capacity, where the dense model lies in capacity bands.
    """
    metric, largest = run.headline, max(run.evaluated_capacities)
    dense = run.value(metric, largest, largest)
    rows = []
    for entry in run.capacities:
        capacity = entry.capacity
        own, across = run.value(metric, capacity, capacity), run.value(metric, capacity, largest)
        rows.append(
            CapacityRow(
                capacity=capacity,
                trained=entry.trained,
                kept_weights=entry.kept_weights,
                prunable_weights=entry.prunable_weights,
                file_bytes=entry.file_bytes if files is None else files.get(capacity),
                download_bytes=(downloads or {}).get(capacity),
                multiply_adds=entry.multiply_adds,
                latency_ms=entry.latency_ms,
                self_test=own,
                cross_test=across,
                self_to_dense=own - dense,
                cross_to_dense=across - dense,
            )
        )
    return rows


def weights_bytes(folder: Path) -> int:
    """Bytes of the weight files in a folder of a model."""
    return sum(file.stat().st_size for pattern in WEIGHT_FILES for file in folder.glob(pattern))


def band_downloads(folder: Path, capacities: Sequence[float]) -> dict[float, int] | None:
    """Bytes of the weight files that each capacity needs of a model in capacity bands.

    Args:
        folder: Of the model.
        capacities: Each in (0, 1].

    Returns:
        For each capacity the bands up to the one it lies in, and unless it is that one's edge its ranks; None if the
        model doesn't lie in bands.
    """
    file = folder / INDEX_NAME
    if not file.is_file():
        return None
    index = read_index(file)
    return {capacity: sum(index.files[name].size for name in index.needed_files(capacity)) for capacity in capacities}
