"""The figures of a card: what a finished run recorded, checked, and looked up by capacity."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..pruning.masking import format_capacity
from ..retrieval.compatibility import CompatibilityResult
from ..runs.description import METRICS_FORMAT
from ..runs.run_directory import without_local_paths
from ..storage.band_index import INDEX_NAME, read_index
from ..storage.forms import WEIGHT_FILES

NEEDED = ("dataset", "split", "protocol", "num_queries", "num_gallery", "command", "versions", "results", "capacities")
"""Without these entries of `metrics.json`, no figure could be told with its data set, split and command."""


@dataclass(frozen=True)
class FinishedRun:
    """What a run directory says of itself.

    Attributes:
        metrics: Content of `metrics.json`.
        recipe: Content of `config.yaml`, without paths of the machine it ran on.
        results: The compatibility matrix: every pair of capacities by every metric.
    """

    metrics: dict[str, Any]
    recipe: dict[str, Any]
    results: tuple[CompatibilityResult, ...]

    @property
    def metric_names(self) -> list[str]:
        """Names of the metrics, the headline first."""
        return list(dict.fromkeys(result.metric for result in self.results))

    @property
    def capacities(self) -> list[float]:
        """Evaluated capacities, ascending."""
        return sorted({result.query_capacity for result in self.results})

    def value(self, metric: str, query: float, gallery: float) -> float:
        """One cell of the matrix, in [0, 1].

        Raises:
            ValueError: If this pair was never evaluated.
        """
        for result in self.results:
            if (result.metric, result.query_capacity, result.gallery_capacity) == (metric, query, gallery):
                return result.value
        known = ", ".join(map(format_capacity, self.capacities))
        raise ValueError(
            f"capacity must be one that the run evaluated ({known}); it has no {metric} of queries at "
            f"{format_capacity(query)} in a gallery at {format_capacity(gallery)}. Evaluate it: train_accelerate.py "
            "--eval_only true --eval_capacities ..."
        )


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


def read_run(run: Path) -> FinishedRun:
    """Read what a card is made from.

    Args:
        run: A finished run directory.

    Raises:
        FileNotFoundError: If it has no `metrics.json` or `config.yaml`.
        ValueError: If one of them is damaged, lacks what a card can't do without, or is of a newer format.
    """
    metrics = _read(run / "metrics.json", json.loads)
    recipe = _read(run / "config.yaml", yaml.safe_load)
    missing = [name for name in NEEDED if not metrics.get(name)]
    if missing:
        raise ValueError(f"{run / 'metrics.json'} lacks {', '.join(missing)}: evaluate the run again (--eval_only).")
    if metrics.get("format") != METRICS_FORMAT:
        raise ValueError(
            f"{run / 'metrics.json'} must have format {METRICS_FORMAT}; got {metrics.get('format')!r}. Take the "
            "version of prunnet_hf that wrote it, or evaluate the run again (--eval_only)."
        )
    return FinishedRun(
        metrics, without_local_paths(recipe), tuple(CompatibilityResult(**entry) for entry in metrics["results"])
    )


def capacity_rows(
    run: FinishedRun, files: Mapping[float, int] | None = None, downloads: Mapping[float, int] | None = None
) -> list[CapacityRow]:
    """The tables' rows, capacities ascending.

    Args:
        run: The run.
        files: Bytes of ready subnetworks by capacity; None: those that the run recorded of its own.
        downloads: Bytes to fetch for a capacity, where the dense model lies in capacity bands.
    """
    metric, largest = run.metric_names[0], max(run.capacities)
    dense = run.value(metric, largest, largest)
    rows = []
    for entry in run.metrics["capacities"]:
        capacity = entry["capacity"]
        own, across = run.value(metric, capacity, capacity), run.value(metric, capacity, largest)
        rows.append(
            CapacityRow(
                capacity=capacity,
                trained=entry.get("trained"),
                kept_weights=entry["kept_weights"],
                prunable_weights=entry["prunable_weights"],
                file_bytes=entry["file_bytes"] if files is None else files.get(capacity),
                download_bytes=(downloads or {}).get(capacity),
                multiply_adds=entry.get("multiply_adds"),
                latency_ms=entry["latency_ms"],
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


def _read(path: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: a card is made from a finished run directory of train_accelerate.py."
        )
    try:
        content = parse(path.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path} is damaged ({error}): evaluate the run again (--eval_only).") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a mapping; got {type(content).__name__}.")
    return content
