"""The figures of a card, from what a run recorded and from the sizes of files: one row for each capacity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..runs.record import EVALUATE_AGAIN, RECORD, RunRecord
from ..runs.run_directory import without_local_paths
from ..runs.yaml_text import load_yaml
from ..storage.band_index import INDEX_NAME, read_index


@dataclass(frozen=True)
class CapacityRow:
    """One capacity in the tables of a card.

    Attributes:
        capacity: In (0, 1].
        trained: Whether training optimised it; None if not recorded.
        kept_weights: Number of prunable weights that are kept.
        prunable_weights: Number of all prunable weights.
        kept_units: Number of units that are kept; None with single weights.
        units: Number of all units; None with single weights.
        file_bytes: Size of the ready subnetwork's weight file; None if there is none.
        download_bytes: Size of the files that `from_pretrained(..., capacity=...)` fetches; None if not known.
        parameters: Number of all parameters; None if they weren't counted.
        dense_parameters: Those of the dense network; None with single weights.
        multiply_adds: Multiply-adds for one image; None if they weren't counted.
        executed_multiply_adds: Those that dense kernels do; None if they weren't counted.
        latency_ms: Milliseconds for one image.
        latency_runtime: What ran it; None if not recorded.
        self_test: Headline metric in [0, 1] if this network embeds queries and gallery.
        cross_test: The same if the largest network embeds the gallery.
        self_to_dense: `self_test` minus the largest network's self-test.
        cross_to_dense: `cross_test` minus the largest network's self-test.
    """

    capacity: float
    trained: bool | None
    kept_weights: int
    prunable_weights: int
    kept_units: int | None
    units: int | None
    file_bytes: int | None
    download_bytes: int | None
    parameters: int | None
    dense_parameters: int | None
    multiply_adds: int | None
    executed_multiply_adds: int | None
    latency_ms: float
    latency_runtime: str | None
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
        recipe = load_yaml(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{file} is missing: train_accelerate.py writes it when a run is finished.") from error
    except ValueError as error:
        raise ValueError(f"{file} is damaged ({error}): {EVALUATE_AGAIN}.") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"{file} must hold a mapping; got {type(recipe).__name__}: {EVALUATE_AGAIN}.")
    return replace(record, recipe=without_local_paths(recipe))


def capacity_rows(
    run: RunRecord, files: Mapping[float, int] | None = None, downloads: Mapping[float, int] | None = None
) -> list[CapacityRow]:
    """The rows of the tables, capacities ascending.

    Args:
        run: The run.
        files: Bytes of the ready subnetworks by capacity; None takes what the run recorded.
        downloads: Bytes to fetch for each capacity, if the dense model is saved in capacity bands.
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
                kept_units=entry.kept_units,
                units=entry.units,
                file_bytes=entry.file_bytes if files is None else files.get(capacity),
                download_bytes=(downloads or {}).get(capacity),
                parameters=entry.parameters,
                dense_parameters=entry.dense_parameters,
                multiply_adds=entry.multiply_adds,
                executed_multiply_adds=entry.executed_multiply_adds,
                latency_ms=entry.latency_ms,
                latency_runtime=entry.latency_runtime,
                self_test=own,
                cross_test=across,
                self_to_dense=own - dense,
                cross_to_dense=across - dense,
            )
        )
    return rows


def band_downloads(folder: Path, capacities: Sequence[float]) -> dict[float, int] | None:
    """Bytes that have to be fetched for each capacity of a model that is saved in capacity bands.

    Args:
        folder: The model's folder.
        capacities: Each in (0, 1].

    Returns:
        For each capacity the size of the bands up to the one it lies in, and of that band's ranks, if it has some,
        unless the capacity is the band's edge; None if the model isn't saved in bands.
    """
    file = folder / INDEX_NAME
    if not file.is_file():
        return None
    index = read_index(file)
    return {capacity: sum(index.files[name].size for name in index.needed_files(capacity)) for capacity in capacities}
