"""Examples of a test, as a picture: a few of its queries, drawn at random, and what networks find for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic

import numpy as np
from datasets import ClassLabel, Dataset
from numpy.typing import NDArray
from PIL import Image

from ..data.reading import read_image, stored_images
from ..data.splits import LABEL
from .answers import Answers, answers_of
from .contact_sheet import Block, Hit, Row, contact_sheet
from .dataset_encoding import Encoded, Key
from .protocols import Columns
from .search import exact_cosines, normalize, search

NUM_QUERIES, NUM_FOUND = 3, 5
_NAMES = ("name", "id")
"""Columns that can name a query which has no class."""


@dataclass(frozen=True)
class Pictured(Generic[Key]):
    """The queries or the gallery of a test.

    Attributes:
        images: Read again, those that are shown.
        encoded: Their embeddings and what else the data set says of them, in the same order.
    """

    images: Dataset
    encoded: Encoded[Key]


@dataclass(frozen=True)
class Shown:
    """How a picture calls a network.

    Attributes:
        name: Its name.
        detail: What else to say of it; may be empty.
    """

    name: str
    detail: str


def draw_examples(
    query: Pictured[Key],
    gallery: Pictured[Key],
    protocol: str,
    networks: Mapping[Key, Shown],
    *,
    embedded_by: Key,
    seed: int,
    foot: Sequence[str] = (),
) -> Image.Image:
    """Draw what networks find for a few queries in a gallery that one of them embedded.

    Args:
        query: Images to search with.
        gallery: Images to search among.
        protocol: Name of the rule that says what is right.
        networks: Those that embed the queries, from the top row to the bottom one.
        embedded_by: The network that embedded the gallery.
        seed: Decides which queries are shown; see `choose_queries`.
        foot: Lines of text below.
    """
    columns = query.encoded.columns, gallery.encoded.columns
    rows = choose_queries(protocol, *columns, seed)
    answers = [answers_of(protocol, *columns, row) for row in rows]
    queries, found_among = stored_images(query.images), stored_images(gallery.images)
    embeddings = np.concatenate([query.encoded.embeddings[key][rows] for key in networks])
    found = _search(embeddings, gallery.encoded.embeddings[embedded_by], answers * len(networks))
    hits = [
        [Hit(read_image(found_among[place]), cosine, place in answer.right) for place, cosine in each]
        for each, answer in zip(found, answers * len(networks), strict=True)
    ]
    blocks = [
        Block(
            read_image(queries[row]),
            _caption(query.images, row),
            [Row(shown.name, shown.detail, hits[n * len(rows) + place]) for n, shown in enumerate(networks.values())],
        )
        for place, row in enumerate(rows)
    ]
    return contact_sheet(blocks, foot)


def choose_queries(protocol: str, query: Columns, gallery: Columns, seed: int) -> list[int]:
    """Draw queries at random, of different classes, each with something to find; at most `NUM_QUERIES`.

    Args:
        protocol: Name of the rule that says what can be found.
        query: What the data set says of the queries, apart from their pixels.
        gallery: The same of the gallery.
        seed: The same seed draws the same queries. No other random numbers are touched.

    Returns:
        Their rows.
    """
    classes = query.get(LABEL)
    chosen: dict[object, int] = {}
    count = len(next(iter(query.values())))
    for row in np.random.default_rng(seed).permutation(count).tolist():
        of_class = row if classes is None else classes[row]
        if of_class not in chosen and answers_of(protocol, query, gallery, row).right.size:
            chosen[of_class] = row
        if len(chosen) == NUM_QUERIES:
            break
    return list(chosen.values())


def _search(
    queries: NDArray[np.float32], gallery: NDArray[np.float32], answers: Sequence[Answers]
) -> list[list[tuple[int, float]]]:
    """For each query the rows that it finds, best first, with their cosines; without those that are ignored."""
    most_ignored = max(len(answer.ignored) for answer in answers)
    found = []
    for query, ranks, answer in zip(
        queries, search(queries, gallery, min(NUM_FOUND + most_ignored, len(gallery))), answers, strict=True
    ):
        kept = ranks[~np.isin(ranks, answer.ignored)][:NUM_FOUND]
        cosines = exact_cosines(normalize(query[np.newaxis]), normalize(gallery[kept]))[0]
        found.append(list(zip(kept.tolist(), cosines.tolist(), strict=True)))
    return found


def _caption(images: Dataset, row: int) -> str:
    label = images.features.get(LABEL)
    if isinstance(label, ClassLabel):
        return f"query: {label.int2str(images.select_columns([LABEL])[row][LABEL])}"
    names = [name for name in _NAMES if name in images.column_names]
    return f"query: {images.select_columns(names[:1])[row][names[0]]}" if names else "query"
