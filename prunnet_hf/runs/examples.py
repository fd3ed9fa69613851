"""The picture `examples.png` of a run: a few test queries, and what its networks find for them.

Of a run into a space that exists it shows the gallery of that space, and what its own vectors find there.

Test images are read again for it, at most a few dozen. Streams can only be read from front to back, so a run on
streams has no such picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from ..data.splits import RetrievalSplits
from ..modeling_prunnet import PrunNetModel
from ..pruning.masking import format_capacity
from ..retrieval.contact_sheet import save_picture
from ..retrieval.dataset_encoding import Encoded
from ..retrieval.examples import Pictured, Shown, draw_examples
from ..retrieval.gallery_picture import network_name
from .record import RunRecord
from .reference import Reference
from .run_directory import EXAMPLES

NUM_SUBNETWORKS = 2
_KNOWN = None
"""The key of what embedded a known gallery, beside capacities."""
_Shown = dict[float | None, Shown]


@dataclass(frozen=True)
class _Test:
    """Who asks, which gallery, and how the picture calls them.

    Attributes:
        query: The queries' embeddings by all that ask.
        gallery: The gallery's embeddings.
        embedded_by: The key of those that are searched.
        shown: All that ask, from the top row to the bottom one.
        searched: Which images that are.
    """

    query: Encoded[float | None]
    gallery: Encoded[float | None]
    embedded_by: float | None
    shown: _Shown
    searched: str


def write_examples(
    run: Path,
    record: RunRecord,
    networks: Mapping[float, PrunNetModel],
    splits: RetrievalSplits,
    query: Encoded[float],
    gallery: Encoded[float],
    *,
    seed: int,
    reference: Reference | None = None,
) -> None:
    """Draw what the dense network, and the smallest subnetworks that are saved, find in the dense network's gallery.

    If the gallery of the space that was trained into is known, it is searched instead.

    Args:
        run: The run directory. A picture of an earlier evaluation is replaced, or removed.
        record: Of this run; the picture says how good each network is over all queries.
        networks: Those that were evaluated, by capacity.
        splits: The images to search.
        query: Its queries, embedded by all of these networks.
        gallery: Its gallery, embedded by all of these networks.
        seed: Decides which queries are drawn.
        reference: The space that was trained into.
    """
    if not (isinstance(splits.query, Dataset) and isinstance(splits.gallery, Dataset)):
        (run / EXAMPLES).unlink(missing_ok=True)
        print(f"\nThere is no {EXAMPLES}: its images would have to be read again, which streams can't do one by one.")
        return
    named = {capacity: network_name(networks[capacity]) for capacity in shown_capacities(record)}
    test = _known_test(record, named, query, gallery, reference) or _own_test(record, named, query, gallery)
    picture = draw_examples(
        Pictured(splits.query, test.query),
        Pictured(splits.gallery, test.gallery),
        splits.protocol,
        test.shown,
        embedded_by=test.embedded_by,
        seed=seed,
        foot=_foot(record, test),
    )
    save_picture(picture, run / EXAMPLES)


def _own_test(record: RunRecord, named: Mapping[float, str], query: Encoded[float], gallery: Encoded[float]) -> _Test:
    largest = record.evaluated_capacities[-1]
    shown: _Shown = {
        capacity: Shown(name, _quality(record, record.value(record.headline, capacity, largest)))
        for capacity, name in named.items()
    }
    return _Test(_with(query), _with(gallery), largest, shown, "that the dense network embedded")


def _known_test(
    record: RunRecord,
    named: Mapping[float, str],
    query: Encoded[float],
    gallery: Encoded[float],
    reference: Reference | None,
) -> _Test | None:
    """The test against the gallery of the space that was trained into; None if its vectors aren't known."""
    into = record.into
    if reference is None or into is None or into.itself is None:
        return None
    shown: _Shown = {_KNOWN: Shown("gallery's own", _quality(record, into.itself[record.headline]))}
    for capacity, name in named.items():
        shown[capacity] = Shown(name, _quality(record, into.values[format_capacity(capacity)][record.headline]))
    asked, searched = _with(query, reference.query), _with(gallery, reference.gallery_vectors)
    return _Test(asked, searched, _KNOWN, shown, "in the gallery that was there before")


def _with(encoded: Encoded[float], known: NDArray[np.float32] | None = None) -> Encoded[float | None]:
    embeddings: dict[float | None, NDArray[np.float32]] = dict(encoded.embeddings.items())
    if known is not None:
        embeddings[_KNOWN] = known
    return Encoded(encoded.rows, encoded.columns, embeddings)


def _quality(record: RunRecord, value: float) -> str:
    return f"{record.headline} {100 * value:.1f} %"


def shown_capacities(record: RunRecord) -> list[float]:
    """The largest capacity, and the smallest that are saved, from large to small."""
    *others, largest = record.capacities
    return [largest.capacity, *reversed([row.capacity for row in others if row.file_bytes][:NUM_SUBNETWORKS])]


def _foot(record: RunRecord, test: _Test) -> list[str]:
    images = f"{record.num_gallery:,} images"
    searching = f"It searches {images}." if len(test.shown) == 1 else f"All search the {images} {test.searched}."
    return [
        f"The queries were drawn at random; {record.headline} is over all {record.num_queries:,}. {searching}",
        "Green with a tick: a right answer. Red with a cross: a wrong one. Below each image: its cosine.",
    ]
