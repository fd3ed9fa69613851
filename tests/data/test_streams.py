from __future__ import annotations

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, IterableDataset, Value
from torch.utils.data import DataLoader

from prunnet_hf.data.streams import NumberedRows, as_stream, num_images, stream_of

LETTERS = Dataset.from_dict(
    {"label": [2, 0, 1, 0, 2]}, features=Features({"label": ClassLabel(names=["a", "b", "c"])})
)


def shards(numbers, tenfold):
    for number in numbers:
        for index in range(2):
            yield {"row": 2 * number + index, "value": tenfold * number}


@pytest.mark.parametrize("num_shards", [1, 2, 64])
def test_a_stream_has_the_rows_with_their_places(num_shards):
    stream = as_stream(LETTERS, num_shards)
    found = sorted(stream, key=lambda row: row["row"])
    assert found == [{"label": label, "row": row} for row, label in enumerate([2, 0, 1, 0, 2])]
    assert stream.features["label"].names == ["a", "b", "c"]


@pytest.mark.parametrize(("asked", "given"), [(1, 1), (3, 3), (64, 5)])
def test_shards_are_as_many_as_asked_for_but_no_more_than_images(asked, given):
    assert as_stream(LETTERS, asked).num_shards == given


def test_rows_of_a_selection_are_numbered_in_it():
    found = {row["row"]: row["label"] for row in as_stream(LETTERS.select([4, 0, 1]))}
    assert found == {0: 2, 1: 2, 2: 0}


def test_lists_in_order_of_classes_are_dealt_at_random_and_always_alike():
    # 100 classes of 50 images each: a shard of neighbours would hold one or two classes.
    images = Dataset.from_dict(
        {"label": np.repeat(np.arange(100), 50).tolist()}, features=Features({"label": ClassLabel(num_classes=100)})
    )
    first = [row["label"] for row in as_stream(images, 50).take(100)]
    # Of 100 drawn at random about 64 classes are expected, 100 (1 - 0.99 ** 100).
    assert len(set(first)) > 45
    assert [row["label"] for row in as_stream(images, 50).take(100)] == first


def test_lists_are_shards_and_other_arguments_are_handed_on():
    features = Features({"row": Value("int64"), "value": Value("int64")})
    stream = stream_of(shards, {"numbers": [0, 1, 2], "tenfold": np.int64(10)}, features, 6)
    assert stream.num_shards == 3
    assert [(row["row"], row["value"]) for row in stream] == [(0, 0), (1, 0), (2, 10), (3, 10), (4, 20), (5, 20)]
    assert num_images(stream) == 6


def test_shuffling_keeps_the_number_of_images():
    assert num_images(LETTERS) == num_images(as_stream(LETTERS)) == 5
    assert num_images(as_stream(LETTERS).shuffle(seed=0, buffer_size=2)) == 5


def test_a_stream_from_elsewhere_does_not_say_how_many_images_it_has():
    with pytest.raises(TypeError, match=r"as_stream.*stream_of"):
        num_images(IterableDataset.from_generator(shards, gen_kwargs={"numbers": [1], "tenfold": 1}))


def test_numbered_rows_know_their_place():
    loader = DataLoader(NumberedRows(LETTERS, range(1, 4)), batch_size=2, collate_fn=list)
    assert list(loader) == [
        [{"label": 0, "row": 1}, {"label": 1, "row": 2}],
        [{"label": 0, "row": 3}],
    ]
    assert len(NumberedRows(LETTERS)) == 5
