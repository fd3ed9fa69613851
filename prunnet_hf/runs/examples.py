"""The picture `examples.png` of a run: a few test queries, and what its networks find for them.

Test images are read again for it, at most a few dozen. Streams can only be read from front to back, so a run on
streams has no such picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from datasets import Dataset

from ..data.splits import RetrievalSplits
from ..modeling_prunnet import PrunNetModel
from ..retrieval.contact_sheet import save_picture
from ..retrieval.dataset_encoding import Encoded
from ..retrieval.examples import Pictured, Shown, draw_examples
from ..retrieval.gallery_picture import network_name
from .record import RunRecord
from .run_directory import EXAMPLES

NUM_SUBNETWORKS = 2


def write_examples(
    run: Path,
    record: RunRecord,
    networks: Mapping[float, PrunNetModel],
    splits: RetrievalSplits,
    query: Encoded[float],
    gallery: Encoded[float],
    *,
    seed: int,
) -> None:
    """Draw what the dense network, and the smallest subnetworks that are saved, find in the dense network's gallery.

    Args:
        run: The run directory. A picture of an earlier evaluation is replaced, or removed.
        record: Of this run; the picture says how good each network is over all queries.
        networks: Those that were evaluated, by capacity.
        splits: The images to search.
        query: Its queries, embedded by all of these networks.
        gallery: Its gallery, embedded by all of these networks.
        seed: Decides which queries are drawn.
    """
    if not (isinstance(splits.query, Dataset) and isinstance(splits.gallery, Dataset)):
        (run / EXAMPLES).unlink(missing_ok=True)
        print(f"\nThere is no {EXAMPLES}: its images would have to be read again, which streams can't do one by one.")
        return
    largest = record.evaluated_capacities[-1]
    shown = {
        capacity: Shown(network_name(networks[capacity]), _quality(record, capacity, largest))
        for capacity in shown_capacities(record)
    }
    picture = draw_examples(
        Pictured(splits.query, query),
        Pictured(splits.gallery, gallery),
        splits.protocol,
        shown,
        embedded_by=largest,
        seed=seed,
        foot=_foot(record, alone=len(shown) == 1),
    )
    save_picture(picture, run / EXAMPLES)


def _quality(record: RunRecord, query: float, gallery: float) -> str:
    return f"{record.headline} {100 * record.value(record.headline, query, gallery):.1f} %"


def shown_capacities(record: RunRecord) -> list[float]:
    """The largest capacity, and the smallest that are saved, from large to small."""
    *others, largest = record.capacities
    return [largest.capacity, *reversed([row.capacity for row in others if row.file_bytes][:NUM_SUBNETWORKS])]


def _foot(record: RunRecord, *, alone: bool) -> list[str]:
    searched = f"{record.num_gallery:,} images"
    searching = f"It searches {searched}." if alone else f"All search the {searched} that the dense network embedded."
    return [
        f"The queries were drawn at random; {record.headline} is over all {record.num_queries:,}. {searching}",
        "Green with a tick: a right answer. Red with a cross: a wrong one. Below each image: its cosine.",
    ]
