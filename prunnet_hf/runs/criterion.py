"""Whether a network that was trained further may keep its old embedding space: BCT's criterion, with what is measured.

Its queries must find in the old gallery at least what those of the network before found there, less one standard error
over the queries, at every capacity that is stored (after BCT, arXiv 2003.11942, whose criterion is without the error).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers.utils import CONFIG_NAME

from ..modeling_prunnet import PrunNetModel
from ..pruning.masking import format_capacity
from ..retrieval.compatibility import percent
from ..retrieval.dataset_encoding import Encoded
from ..retrieval.metrics import LEAVE_ONE_OUT
from ..retrieval.protocols import Side, leave_one_out, resolve_protocol
from ..retrieval.rankings import count_relevant
from ..retrieval.search import search
from ..storage.json_text import load_json
from .record import IntoRecord
from .run_directory import subnetwork_directory, write_json

GROUPS = 50
"""Into so many groups of queries a test is split for its standard error, unless each query can be scored alone."""


_OF_A_SPACE = ("measured", "compatible_with")
"""Entries of a configuration that hold only in one space."""


def judged(
    into: IntoRecord,
    before: Encoded[float],
    protocol: str,
    there: Side | None,
) -> IntoRecord:
    """Compare what a network finds in the old gallery with what it found before it was trained further.

    Args:
        into: What it finds now, by capacity.
        before: The queries, embedded by the network as it was, at each capacity that must hold.
        protocol: Name of the rule.
        there: The old gallery; None if its vectors of the test images aren't known. Nothing is kept then.
    """
    if there is None or not into.values:
        return replace(into, kept=False)
    found, errors = {}, {}
    for capacity in before.embeddings:
        name, query = format_capacity(capacity), before.side(capacity)
        found[name] = next(iter(resolve_protocol(protocol)(query, there).values()))
        errors[name] = standard_error(protocol, query, there)
    compared = replace(into, before=found, standard_errors=errors)
    return replace(compared, kept=not compared.failed)


def standard_error(protocol: str, query: Side, gallery: Side) -> float:
    """The standard error over queries of the headline metric of a test, in [0, 1].

    Args:
        protocol: Name of the rule.
        query: The queries.
        gallery: What they search.
    """
    values = _of_each_query(protocol, query, gallery)
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def networks_before(network: PrunNetModel, capacities: Iterable[float]) -> dict[float, PrunNetModel]:
    """A network as it was, at each capacity that must hold; of a subnetwork only its own."""
    if not network.config.prunable:
        return {network.config.capacity: network}
    return {capacity: network.prune(capacity) for capacity in sorted(set(capacities))}


def name_space(run: Path, space: str, capacities: Iterable[float]) -> None:
    """Write another id of their space into the configurations of a run's models. Their weights stay as they are.

    What was measured in another space goes.

    Args:
        run: The run directory.
        space: The id.
        capacities: Of ready subnetworks.
    """
    for folder in (run / "model", *(subnetwork_directory(run, capacity) for capacity in capacities)):
        file = folder / CONFIG_NAME
        if file.is_file():
            config: dict[str, Any] = load_json(file.read_text(encoding="utf-8"))
            stale = [name for name in _OF_A_SPACE if (config.get(name) or {}).get("space", space) != space]
            write_json(file, dict(sorted({**config, **dict.fromkeys(stale), "embedding_space": space}.items())))


def format_criterion(into: IntoRecord, metric: str) -> str:
    """The comparison as lines for a terminal, in percent, and what follows from it."""
    if not into.before:
        return (
            "It isn't known whether old galleries can be searched, as the gallery has no vectors of the test images: "
            "the model has a new space. Give the model that made the gallery by --teacher."
        )
    lines = [f"{metric} (%) in the old gallery", f"{'capacity':>8}  {'old':>7}  {'new':>7}  {'error':>7}"]
    for name, old in into.before.items():
        cells = (percent(value) for value in (old, into.values[name][metric], into.standard_errors[name]))
        lines.append("  ".join([f"{name:>8}", *(f"{cell:>7}" for cell in cells)]))
    verdict = f"The model stays in the space {into.embedding_space}: new queries are at least old ones less an error."
    if into.failed:
        names = ", ".join(into.failed)
        verdict = f"Capacity {names}: below old queries by more than one standard error. The model has a new space."
    return "\n".join([*lines, verdict])


def _of_each_query(protocol: str, query: Side, gallery: Side) -> NDArray[np.float64]:
    """The headline metric of each query, or of each of some groups of queries."""
    measure = resolve_protocol(protocol)
    if measure is leave_one_out:
        labels, itself = np.asarray(query.columns["label"]), np.arange(len(query))
        hits = labels[search(query.embeddings, gallery.embeddings, exclude=itself)] == labels[:, np.newaxis]
        metric = next(iter(LEAVE_ONE_OUT.values()))
        return np.asarray(metric(hits, count_relevant(labels, labels, exclude=itself)), dtype=np.float64)
    groups = (_some(query, range(first, len(query), GROUPS)) for first in range(min(GROUPS, len(query))))
    return np.array([next(iter(measure(group, gallery).values())) for group in groups])


def _some(side: Side, rows: range) -> Side:
    columns: Mapping[str, list[Any]] = {name: [values[row] for row in rows] for name, values in side.columns.items()}
    return Side(side.embeddings[list(rows)], columns)
