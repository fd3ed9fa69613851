"""What becomes of a finished step: figures, all mAP in [0, 1], by capacity or by what is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prunnet_hf.commands import model_directory
from prunnet_hf.data.folder_walk import find_images
from prunnet_hf.modeling_prunnet import PrunNetModel
from prunnet_hf.retrieval.alignment import Alignment
from prunnet_hf.retrieval.embedding_table import Embeddings, read_embeddings
from prunnet_hf.retrieval.image_sources import label_of
from prunnet_hf.retrieval.protocols import Side, leave_one_out
from prunnet_hf.runs.record import RECORD, RunRecord

from .plan import CAPACITIES, EVERY, INTO, MAP, MAPPED, MOVED, NETWORK, OWN, Step

if TYPE_CHECKING:
    from .running import Site

METRIC = "mAP"
CLEAN, SHIFTED = "clean", "shifted"
Vectors = NDArray[np.float32]


def figures_of(step: Step, site: Site, phone: Path) -> dict[str, Any]:
    """The figures of a step whose commands have ended.

    Args:
        step: Which step.
        site: Its folders.
        phone: For queries of a subnetwork: where it lies, with its parent's embeddings of all images.
    """
    directory = site.directory(step)
    if step.kind == OWN:
        return {"values": own_values(RunRecord.read(directory / RECORD), step.capacity)}
    if step.kind == INTO:
        return into_figures(RunRecord.read(directory / RECORD), step.capacity)
    if step.kind == MAPPED:
        return {"values": mapped_values(step, site)}
    network = directory / ("model" if directory != phone else NETWORK)
    queries = {CLEAN: site.place.data_dir, SHIFTED: site.images(MOVED)}
    return {"values": query_values(PrunNetModel.from_pretrained(network), read_embeddings(phone / EVERY), queries)}


def own_values(record: RunRecord, capacity: float | None) -> dict[str, float]:
    """What queries of each capacity find in the gallery of the dense network; of one that is alone in its own."""
    if capacity is not None:
        return {f"{capacity:g}": record.value(METRIC, capacity, capacity)}
    return {f"{each:g}": record.value(METRIC, each, 1.0) for each in CAPACITIES}


def into_figures(record: RunRecord, capacity: float | None) -> dict[str, Any]:
    """What queries of each capacity find in the known gallery, and what its own do; BCT's criterion if it was asked.

    Raises:
        ValueError: If the run had no known gallery of the test images.
    """
    into = record.into
    if into is None or not into.values or into.itself is None:
        raise ValueError("the run must have a test against a known gallery: it has none of the test images.")
    asked = CAPACITIES if capacity is None else (capacity,)
    figures: dict[str, Any] = {
        "values": {f"{each:g}": into.values[f"{each:.2f}"][METRIC] for each in asked},
        "itself": into.itself[METRIC],
    }
    if into.kept is not None:
        values = {float(name): found[METRIC] for name, found in into.values.items() if name in into.before}
        figures["criterion"] = {
            f"{each:g}": {"old": into.before[f"{each:.2f}"], "new": new, "error": into.standard_errors[f"{each:.2f}"]}
            for each, new in values.items()
        }
        figures["kept"] = into.kept
    return figures


def mapped_values(step: Step, site: Site) -> dict[str, float]:
    """What mapped queries of each capacity find in the gallery of the old network."""
    old, new = site.work / step.needs[0], site.usual_run(step.seed)
    alignment = Alignment.load(site.directory(step) / MAP)
    gallery, labels = embedded(PrunNetModel.from_pretrained(model_directory(str(old))), site.place.data_dir)
    values = {}
    network = PrunNetModel.from_pretrained(model_directory(str(new)))
    for capacity in CAPACITIES:
        queries, _ = embedded(network.prune(capacity), site.place.data_dir)
        mapped = alignment.apply(Embeddings(queries, alignment.new_space, capacity))
        values[f"{capacity:g}"] = precision(mapped.embeddings, gallery, labels)
    return values


def query_values(network: PrunNetModel, parent: Embeddings, queries: Mapping[str, Path]) -> dict[str, float]:
    """What a network's queries find in its parent's gallery of the clean test images.

    Args:
        network: Of whatever space: its vectors are compared as they are.
        parent: Embeddings of all clean images, by paths.
        queries: Folders with test images of the same names.
    """
    place = {path: row for row, path in enumerate(parent.paths)}
    values = {}
    for name, folder in queries.items():
        vectors, labels = embedded(network, folder)
        gallery = parent.embeddings[[place[path] for path in queried(folder)]]
        values[name] = precision(vectors, gallery, labels)
    return values


def queried(folder: Path) -> list[str]:
    """The test images of a folder, as a table names them."""
    return [f"test/{name}" for name in find_images(folder / "test").images]


def embedded(network: PrunNetModel, folder: Path) -> tuple[Vectors, list[str | None]]:
    """Embeddings and classes of the test images of a folder."""
    names = queried(folder)
    vectors = network.eval().encode([folder / name for name in names], progress=False)
    return vectors, [label_of(name) for name in names]


def precision(queries: Vectors, gallery: Vectors, labels: Sequence[str | None]) -> float:
    """The mean average precision of each image among all others of the gallery."""
    columns = {"label": list(labels)}
    return leave_one_out(Side(queries, columns), Side(gallery, columns))[METRIC]
