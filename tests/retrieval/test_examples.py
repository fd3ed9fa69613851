"""Which queries are drawn as examples, and what stands in the picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from datasets import Image as ImageFeature
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from prunnet_hf.retrieval.contact_sheet import FRAME, GREEN, MARGIN, PHOTO, RED
from prunnet_hf.retrieval.dataset_encoding import Encoded
from prunnet_hf.retrieval.examples import NUM_QUERIES, Pictured, Shown, choose_queries, draw_examples
from tests.retrieval.test_answers import CASES

COLOURS = [(250, 250, 0), (0, 250, 250), (250, 0, 250), (40, 40, 40)]
FIRST_PHOTO = 302
"""Where the photos that were found begin, from the left."""


def images(columns: Mapping[str, Any], count: int) -> Dataset:
    """As many plain colours as there are rows, and the columns."""
    pictures = [Image.new("RGB", (9, 9), COLOURS[row % len(COLOURS)]) for row in range(count)]
    dataset = Dataset.from_dict({"image": pictures, **columns})
    return dataset.cast_column("image", ImageFeature())


def pictured(columns: Mapping[str, Any], embeddings: Any) -> Pictured[str]:
    array = np.asarray(embeddings, dtype=np.float32)
    encoded = Encoded(np.arange(len(array)), dict(columns), {"dense": array, "phone": array[:, ::-1]})
    return Pictured(images(columns, len(array)), encoded)


@given(st.lists(st.integers(0, 5), min_size=2, max_size=30), st.integers(0, 2**32))
def test_queries_are_of_different_classes_and_have_something_to_find(labels: list[int], seed: int) -> None:
    columns = {"label": labels}
    chosen = choose_queries("leave_one_out", columns, columns, seed)
    pairs = {label for label in labels if labels.count(label) > 1}
    classes = [labels[row] for row in chosen]
    assert len(set(classes)) == len(classes) == min(NUM_QUERIES, len(pairs))
    assert set(classes) <= pairs
    assert choose_queries("leave_one_out", columns, columns, seed) == chosen


def test_another_seed_draws_other_queries() -> None:
    columns = {"label": [0] * 50 + [1] * 50}
    assert len({tuple(choose_queries("leave_one_out", columns, columns, seed)) for seed in range(5)}) > 1


def test_the_picture_shows_what_is_found_without_what_is_ignored() -> None:
    """One vehicle seen by one camera; of the gallery, image 0 is by the same camera, and 2 by another."""
    query = pictured({"label": [5], "camera": [1]}, [[1, 0.9, 0.8, 0]])
    gallery = pictured({"label": [5, 6, 5, 6], "camera": [1, 1, 2, 2]}, np.eye(4))
    networks = {"dense": Shown("dense network", "mAP 50.0 %"), "phone": Shown("capacity 0.10", "")}
    picture = draw_examples(query, gallery, "veri776", networks, embedded_by="dense", seed=0, foot=["A line."])
    # The dense network finds 1 2 3, in this order; the phone's query, the same from back to front, 3 2 1.
    assert [frame(picture, place, row=0) for place in range(3)] == [RED, GREEN, RED]
    assert [photo(picture, place, row=0) for place in range(3)] == [COLOURS[1], COLOURS[2], COLOURS[3]]
    assert [photo(picture, place, row=1) for place in range(3)] == [COLOURS[3], COLOURS[2], COLOURS[1]]
    assert picture.width == FIRST_PHOTO + 3 * 106 + MARGIN  # the image by the same camera isn't there


def test_five_are_shown_even_if_ignored_images_come_first() -> None:
    """Nine images, of which one is the query, which would find itself first."""
    columns = {"label": [0] * 9}
    query = pictured(columns, np.eye(9) + 0.1)
    picture = draw_examples(query, query, "leave_one_out", {"dense": Shown("", "")}, embedded_by="dense", seed=0)
    assert picture.width == FIRST_PHOTO + 5 * 106 + MARGIN


def frame(picture: Image.Image, place: int, row: int) -> str:
    return "#{:02x}{:02x}{:02x}".format(*picture.getpixel((FIRST_PHOTO + place * 106 + 1, MARGIN + row * 122 + 1)))


def photo(picture: Image.Image, place: int, row: int) -> Any:
    return picture.getpixel((FIRST_PHOTO + place * 106 + FRAME + 20, MARGIN + row * 122 + PHOTO // 2))


@pytest.mark.parametrize("protocol", CASES)
def test_every_protocol_can_be_drawn(protocol: str) -> None:
    query, gallery = CASES[protocol][:2]
    count = len(next(iter(gallery.values()), range(4)))
    queries = pictured(query, np.random.default_rng(0).standard_normal((len(next(iter(query.values()))), count)))
    found = pictured(gallery, np.eye(count))
    first, again = (
        draw_examples(queries, found, protocol, {"dense": Shown("dense", "")}, embedded_by="dense", seed=1)
        for _ in range(2)
    )
    assert first.tobytes() == again.tobytes()
    assert first.width > FIRST_PHOTO + MARGIN


def test_a_query_is_called_by_its_class_or_its_name() -> None:
    features = Features(
        {"image": ImageFeature(), "label": ClassLabel(names=["kiwi", "banana"]), "name": Value("string")}
    )
    rows = {"image": [Image.new("RGB", (9, 9))] * 4, "label": [0, 0, 1, 1], "name": list("abcd")}
    named = Dataset.from_dict(rows, features=features)
    columns = {"label": rows["label"], "name": rows["name"]}
    encoded = Encoded(np.arange(4), columns, {"dense": np.eye(4, dtype=np.float32)})
    without_class = named.remove_columns("label")
    pictures = [
        draw_examples(
            Pictured(images, encoded),
            Pictured(named, encoded),
            "leave_one_out",
            {"dense": Shown("dense", "")},
            embedded_by="dense",
            seed=0,
        ).tobytes()
        for images in (named, without_class, named.rename_column("name", "id"), named.remove_columns("name"))
    ]
    assert pictures[0] == pictures[2] == pictures[3]  # the class is what counts
    assert pictures[0] != pictures[1]
