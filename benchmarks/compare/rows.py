"""A row: what the tables need of a finished run, in one small file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prunnet_hf.runs.record import RunRecord

from .plan import Run

ROW_FORMAT = 1


def row_of(run: Run, record: Mapping[str, Any], cpu_seconds: float, in_teacher: float | None = None) -> dict[str, Any]:
    """The row of a finished run.

    Args:
        run: The run.
        record: What its `metrics.json` holds; of the results, self-tests and cross-tests by the first metric stay.
        cpu_seconds: Of all its processes together.
        in_teacher: What its queries find in the gallery of the dense network alone; None if it isn't compared so.
    """
    read = RunRecord.from_json(record, run.name)
    largest = read.evaluated_capacities[-1]
    own, cross = (
        {
            f"{capacity:g}": read.value(read.headline, capacity, capacity if is_own else largest)
            for capacity in read.evaluated_capacities
        }
        for is_own in (True, False)
    )
    if in_teacher is not None:
        cross = {f"{largest:g}": in_teacher}
    return {
        "format": ROW_FORMAT,
        "entry": run.entry.name,
        "recipe": run.recipe,
        "phase": run.phase,
        "trial": run.trial,
        "seed": run.seed,
        "flags": run.flags,
        "metric": read.headline,
        "self": own,
        "cross": cross,
        "cpu_seconds": round(cpu_seconds, 1),
        "record": {**record, "results": _tests(record["results"], read.headline, largest)},
    }


def _tests(results: list[Mapping[str, Any]], metric: str, largest: float) -> list[Mapping[str, Any]]:
    """The self-tests and cross-tests among the results of a metric."""
    return [
        result
        for result in results
        if result["metric"] == metric and result["gallery_capacity"] in (result["query_capacity"], largest)
    ]
