"""What a run found out about its model, written into the model's own configuration: `config.measured`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers.utils import CONFIG_NAME

from ..pruning.masking import format_capacity
from ..storage.json_text import load_json
from .record import RunRecord
from .run_directory import subnetwork_directory, write_json


def measured_by(record: RunRecord) -> dict[str, Any] | None:
    """The cross-tests of a run by its headline metric, as `PrunNetConfig.measured` has them.

    Args:
        record: Of the finished run.

    Returns:
        None if the model is a lone network, without a dense one that could embed the gallery.
    """
    if record.model is None or not record.model.prunable or record.evaluated_capacities[-1] < 1.0:
        return None
    values = {c: record.value(record.headline, c, 1.0) for c in record.evaluated_capacities}
    return {
        "space": record.model.embedding_space,
        "dataset": record.dataset,
        "protocol": record.protocol,
        "metric": record.headline,
        "values": {format_capacity(capacity): value for capacity, value in values.items()},
    }


def compatible_with(record: RunRecord) -> dict[str, Any] | None:
    """The space that exists into which a run has trained, as `PrunNetConfig.compatible_with` has it.

    Args:
        record: Of the finished run.

    Returns:
        None if it made, or now has, a space of its own.
    """
    into = record.into
    if into is None or into.kept is False:
        return None
    return {
        "space": into.embedding_space,
        "teacher": into.teacher,
        "gallery": into.gallery,
        "dataset": record.dataset,
        "protocol": record.protocol,
        "metric": record.headline,
        "values": {capacity: values[record.headline] for capacity, values in into.values.items()},
        "itself": None if into.itself is None else into.itself[record.headline],
    }


def note_measured(run: Path, record: RunRecord) -> None:
    """Write what was measured into the configurations of the run's models, so that it goes wherever they go.

    Ready subnetworks have it as well, like those that `prune` cuts.

    Args:
        run: The run directory.
        record: Of this run.
    """
    found = {"measured": measured_by(record), "compatible_with": compatible_with(record)}
    folders = [run / "model", *(subnetwork_directory(run, capacity) for capacity in record.evaluated_capacities)]
    for file in (folder / CONFIG_NAME for folder in folders):
        if not file.is_file():
            continue
        config = load_json(file.read_text(encoding="utf-8"))
        own = record.model is not None and config.get("embedding_space") == record.model.embedding_space
        noted = {name: content for name, content in found.items() if content is not None}
        if own and noted:
            write_json(file, dict(sorted({**config, **noted}.items())))
