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


def note_measured(run: Path, record: RunRecord) -> None:
    """Write what was measured into the configurations of the run's models, so that it goes wherever they go.

    Ready subnetworks have it as well, like those that `prune` cuts.

    Args:
        run: The run directory.
        record: Of this run.
    """
    measured = measured_by(record)
    folders = [run / "model", *(subnetwork_directory(run, capacity) for capacity in record.evaluated_capacities)]
    for file in (folder / CONFIG_NAME for folder in folders):
        if measured is None or not file.is_file():
            continue
        config = load_json(file.read_text(encoding="utf-8"))
        if config.get("embedding_space") == measured["space"]:
            write_json(file, dict(sorted({**config, "measured": measured}.items())))
