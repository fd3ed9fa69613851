"""Every image once an epoch, for any number of processes and workers, also after an interruption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from itertools import islice, product
from typing import Any

import pytest
import torch
from datasets import Dataset, Features, Image, IterableDataset, Value
from hypothesis import given, settings
from hypothesis import strategies as st

from prunnet_hf.data import stream_loader
from prunnet_hf.data.stream_loader import StreamLoader
from prunnet_hf.data.streams import as_stream, stream_of

FEATURES = Features({"image": Image(), "row": Value("int64")})


def shard(sizes: list[tuple[int, int]]):
    for first, size in sizes:
        for row in range(first, first + size):
            yield {"image": {"bytes": b"%d" % row, "path": None}, "row": row}


def stream_with(*sizes: int) -> IterableDataset:
    """Shards of these sizes; the images are never decoded here."""
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    return stream_of(shard, {"sizes": list(zip(starts, sizes, strict=True))}, FEATURES, sum(sizes))


def rows_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    assert all(int(row["image"]["bytes"]) == row["row"] for row in rows)
    return {"labels": torch.tensor([row["row"] for row in rows])}


def loader(stream: IterableDataset, rank: int = 0, world_size: int = 1, workers: int = 0, **options) -> StreamLoader:
    options = {"batch_size": 4, "num_workers": workers, "rank": rank, "world_size": world_size, "seed": 3} | options
    return StreamLoader(stream, rows_of, **options)


def batches(*arguments, epoch: int = 0, **options) -> list[list[int]]:
    return [batch["labels"].tolist() for batch in loader(*arguments, **options).epoch(epoch)]


@pytest.mark.parametrize(
    ("sizes", "world_size", "workers"),
    [
        *product([(9, 2, 7, 1, 5, 3, 8), (13, 6), (30,)], [1, 2, 3], [0]),
        ((9, 2, 7, 1, 5, 3, 8), 1, 2),
        ((9, 2, 7, 1, 5, 3, 8), 3, 2),
        ((30,), 2, 2),
    ],
)
def test_every_image_once_an_epoch(sizes, world_size, workers):
    stream = stream_with(*sizes)
    for epoch in (1,) if workers else (0, 1):
        parts = [batches(stream, rank, world_size, workers, epoch=epoch) for rank in range(world_size)]
        rows = [row for part in parts for batch in part for row in batch]
        assert sorted(rows) == list(range(sum(sizes)))


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any),
    world_size=st.integers(1, 4),
    batch_size=st.integers(2, 5),
)
def test_law_of_every_image_once(sizes, world_size, batch_size):
    stream = stream_with(*sizes)
    parts = [batches(stream, rank, world_size, batch_size=batch_size) for rank in range(world_size)]
    assert sorted(row for part in parts for batch in part for row in batch) == list(range(sum(sizes)))
    for part in parts:
        assert all(len(batch) <= batch_size + 1 for batch in part)
        # A single image only where the process has no other.
        assert all(len(batch) > 1 for batch in part) or len(part) == 1


@pytest.mark.parametrize(
    ("size", "batch_size", "expected"), [(8, 4, [4, 4]), (9, 4, [4, 3, 2]), (5, 4, [3, 2]), (3, 2, [3]), (1, 4, [1])]
)
def test_the_last_batches_share_what_is_left(size, batch_size, expected):
    # 9 = 4 + 4 + 1: the single image joins the four before it, which part into 3 and 2.
    assert [len(batch) for batch in batches(stream_with(size), batch_size=batch_size)] == expected


def test_leftovers_of_all_workers_make_whole_batches():
    # Each of 2 workers reads one shard of 6: a batch of 4, and 2 left over; together these are one more batch.
    assert [len(batch) for batch in batches(stream_with(6, 6), workers=2)] == [4, 4, 4]


def test_order_differs_by_epoch_and_seed_only():
    stream = as_stream(
        Dataset.from_dict(
            {"image": [{"bytes": b"%d" % row, "path": None} for row in range(40)]},
            features=Features({"image": Image()}),
        ),
        8,
    )
    first = batches(stream)
    assert first == batches(stream)
    assert [row for batch in first for row in batch] != list(range(40))
    assert first != batches(stream, epoch=1)
    assert first != batches(stream, seed=4)


@pytest.mark.parametrize(
    ("world_size", "workers", "stops"),
    # The last stops are among the batches made of what two workers had left over.
    [(1, 0, None), (2, 0, None), (1, 2, (0, 4, 8, 9)), (2, 2, (2, 3))],
)
def test_resumed_anywhere_an_epoch_goes_on_as_if_never_interrupted(world_size, workers, stops):
    stream = stream_with(9, 2, 7, 1, 5, 3, 8)
    for rank in range(world_size):
        running, whole = loader(stream, rank, world_size, workers), []
        positions = [deepcopy(running.position)]
        for batch in running.epoch(2):
            whole.append(batch["labels"].tolist())
            positions.append(deepcopy(running.position))
        for done in stops or range(len(positions)):
            resumed = loader(stream, rank, world_size, workers).epoch(2, positions[done])
            assert [batch["labels"].tolist() for batch in resumed] == whole[done:]


def test_an_epoch_can_be_left_before_its_end():
    stream = stream_with(9, 2, 7, 1, 5, 3, 8)
    whole = batches(stream, workers=2, epoch=2)
    interrupted = loader(stream, workers=2)
    epoch = interrupted.epoch(2)
    before = [batch["labels"].tolist() for batch in islice(epoch, 5)]
    epoch.close()
    resumed = loader(stream, workers=2).epoch(2, interrupted.position)
    assert before + [batch["labels"].tolist() for batch in resumed] == whole


def test_skipped_images_are_not_collated():
    stream, collated = stream_with(12), []

    def collate(rows):
        collated.extend(row["row"] for row in rows)
        return rows_of(rows)

    first = StreamLoader(stream, collate, batch_size=4)
    epoch = first.epoch(0)
    next(epoch)
    collated.clear()
    rest = StreamLoader(stream, collate, batch_size=4).epoch(0, first.position)
    assert len(list(rest)) == 2
    assert len(collated) == 8


def test_no_worker_is_started_without_a_shard(capfd):
    assert loader(stream_with(4, 4, 4), workers=8).num_workers == 3
    assert loader(stream_with(4, 4, 4), 1, 2, workers=8).num_workers == 1
    batches(stream_with(4, 4, 4), workers=8)
    # The workers would say so, which are processes of their own.
    assert "Too many dataloader workers" not in capfd.readouterr().err


def test_the_buffer_is_smaller_than_a_tar_of_the_largest_set():
    # 4,132,914 training images in 500 tars.
    assert stream_loader.SHUFFLE_BUFFER < 4_132_914 / 500
