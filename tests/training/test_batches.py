"""Batches: every image of a stream once and with the same weight, and the same number on every process."""

from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from datasets import ClassLabel, Dataset, Features, Image, IterableDataset, Value
from PIL import Image as PILImage

from prunnet_hf.data.streams import stream_of
from prunnet_hf.data.transforms import TrainingCollator, train_transform
from prunnet_hf.runs.arguments import DataArguments, ModelArguments, RunArguments, TrainArguments
from prunnet_hf.training.batches import create_batches
from tests.processes import run_processes

Seen = tuple[list[int], float, bool]
"""Labels, weight, and whether it ends an update."""
SIZES = (9, 2, 7, 1, 5, 3, 8)
TOTAL = 35
LABEL = ClassLabel(num_classes=TOTAL)


def png(value: int) -> dict[str, Any]:
    file = io.BytesIO()
    PILImage.new("L", (5, 5), value).save(file, "png")
    return {"bytes": file.getvalue(), "path": None}


def shard(sizes: list[tuple[int, int]]):
    for first, size in sizes:
        for row in range(first, first + size):
            yield {"image": png(row), "label": row, "row": row}


def stream(claimed: int = TOTAL) -> IterableDataset:
    """Uneven shards; each image is a class of its own, so labels tell images."""
    starts = [sum(SIZES[:index]) for index in range(len(SIZES))]
    features = Features({"image": Image(), "label": LABEL, "row": Value("int64")})
    return stream_of(shard, {"sizes": list(zip(starts, SIZES, strict=True))}, features, claimed)


def dataset(count: int = TOTAL) -> Dataset:
    columns = {"image": [png(value) for value in range(count)], "label": list(range(count))}
    return Dataset.from_dict(columns, features=Features({"image": Image(), "label": LABEL}))


def batches_of(images: Dataset | IterableDataset, accumulation: int = 1, workers: int = 0, batch_size: int = 4):
    arguments = RunArguments(
        ModelArguments(),
        DataArguments(image_size=4, resize=5, num_workers=workers),
        TrainArguments(batch_size=batch_size, gradient_accumulation_steps=accumulation),
    )
    transform = train_transform(4, resize=5, mean=[0.0] * 3, std=[1.0] * 3, augmentation="crop_flip")
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulation)
    return create_batches(images, TrainingCollator(transform, 0), arguments, accelerator)


def seen(batches: Any, epoch: int = 0, start: Any = None, most: int | None = None) -> list[Seen]:
    found = []
    for batch in batches.epoch(epoch, start):
        found.append((batch.tensors["labels"].tolist(), batch.weight, batch.is_update))
        if batch.is_update and most is not None and sum(update for _, _, update in found) == most:
            break
    return found


def streamed_epochs() -> dict[str, Any]:
    """One process's view of two epochs, and of a third interrupted after one update."""
    results: dict[str, Any] = {}
    for accumulation, workers in ((1, 0), (2, 2)):
        batches = batches_of(stream(), accumulation, workers)
        whole = [seen(batches, epoch) for epoch in (0, 1)]
        before = seen(batches, 1, most=1)
        position = batches.position()
        after = seen(batches_of(stream(), accumulation, workers), 1, position)
        results[f"{accumulation} {workers}"] = (whole, before + after)
    return results


def in_all_processes() -> tuple[dict[str, Any], list[Seen], list[Seen]]:
    return streamed_epochs(), seen(batches_of(dataset(), batch_size=2)), with_a_lonely_image()


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_process_does_its_part(world_size: int, tmp_path: Path) -> None:
    alone = world_size == 1
    results = [in_all_processes()] if alone else run_processes(world_size, in_all_processes, folder=tmp_path)
    check_streams([streamed for streamed, _, _ in results])
    check_dealt([dealt for _, dealt, _ in results])
    if world_size == 2:
        check_company([lonely for _, _, lonely in results])


def check_streams(ranks: list[dict[str, Any]]) -> None:
    """Processes end together, every image counts once, and an interrupted epoch is the same."""
    for key in ranks[0]:
        for epoch in (0, 1):
            views = [rank[key][0][epoch] for rank in ranks]
            assert all([part[2] for part in view] == [part[2] for part in views[0]] for view in views)
            counted = [label for view in views for labels, weight, _ in view if weight for label in labels]
            assert sorted(counted) == list(range(TOTAL))
            check_weights(views, len(ranks), int(key.split()[0]))
        assert [rank[key][1] for rank in ranks] == [rank[key][0][1] for rank in ranks]


def check_dealt(ranks: list[list[Seen]]) -> None:
    """Update by update the processes share the images that one process alone would have taken."""
    # 35 images in batches of 2: 17 of them for one process, 8 for each of 2, 5 for each of 3.
    assert [len(rank) for rank in ranks] == [{1: 17, 2: 8, 3: 5}[len(ranks)]] * len(ranks)
    order = [label for parts in zip(*ranks, strict=True) for labels, _, _ in parts for label in labels]
    alone = [label for labels, _, _ in seen(batches_of(dataset(), batch_size=2)) for label in labels]
    assert order == alone[: len(order)]


def check_weights(views: list[list[Seen]], world_size: int, accumulation: int) -> None:
    """Every image of an update must have the same part in the mean over processes and accumulated batches."""
    ends = [0] + [index + 1 for index, part in enumerate(views[0]) if part[2]]
    assert ends[-1] == len(views[0])
    for first, end in pairwise(ends):
        parts = [part for view in views for part in view[first:end]]
        images = sum(len(labels) for labels, weight, _ in parts if weight)
        for labels, weight, _ in parts:
            if weight:
                assert weight / len(labels) / (world_size * accumulation) == pytest.approx(1 / images)


def with_a_lonely_image() -> list[Seen]:
    """What two processes see of five images, one of them in a shard of its own; nothing for another number of them."""
    if Accelerator(cpu=True).num_processes != 2:
        return []
    features = Features({"image": Image(), "label": LABEL, "row": Value("int64")})
    return seen(batches_of(stream_of(shard, {"sizes": [(0, 1), (1, 4)]}, features, 5), batch_size=2))


def check_company(ranks: list[list[Seen]]) -> None:
    """A single image comes twice in its batch, with the weight of one."""
    (lonely,) = [rank for rank in ranks if rank[0][0] == [0, 0]]
    (other,) = [rank for rank in ranks if rank is not lonely]
    # One of three images on one of two processes, then none, as the other still has two.
    assert [weight for _, weight, _ in lonely] == pytest.approx([2 * 1 / 3, 0])
    assert [weight for _, weight, _ in other] == pytest.approx([2 * 2 / 3, 2])
    assert sorted(label for labels, _, _ in other for label in labels) == [1, 2, 3, 4]


def test_whole_batches_weigh_one_and_the_last_weigh_what_they_hold() -> None:
    # 35 images in batches of 4: 8 whole ones, and one of 3 at the end, which are updates of their own.
    found = seen(batches_of(stream()))
    assert [len(labels) for labels, _, _ in found] == [4] * 8 + [3]
    assert all(weight == 1 and update for _, weight, update in found)
    # Two batches an update: 17 batches of 2 and a single left-over image, which makes a batch of 3 of the last.
    found = seen(batches_of(stream(), accumulation=2, batch_size=2))
    sizes, weights = [len(labels) for labels, _, _ in found], [weight for _, weight, _ in found]
    assert sizes == [2] * 16 + [3]
    assert weights[:16] == [1.0] * 16
    # The last update is one batch alone: its mean loss is halved by accumulation, so it counts twice.
    assert weights[16] == 2.0
    assert [update for _, _, update in found] == [False, True] * 8 + [True]


def test_a_stream_with_other_images_than_its_list_is_refused() -> None:
    with pytest.raises(ValueError, match=r"36 images 1 were missing .*0 came more than once .*row 35"):
        seen(batches_of(stream(claimed=36)))


@pytest.mark.parametrize(("accumulation", "updates", "used"), [(1, 8, 32), (3, 2, 24)])
def test_data_sets_are_shuffled_and_leave_out_what_fills_no_update(accumulation: int, updates: int, used: int) -> None:
    # 35 images make 8 batches of 4, and these 2 updates of 3.
    batches = batches_of(dataset(), accumulation)
    assert batches.updates_per_epoch == updates
    epochs = [seen(batches, epoch) for epoch in (0, 1, 0)]
    assert epochs[0] == epochs[2] != epochs[1]
    labels = [label for found, _, _ in epochs[0] for label in found]
    assert len(labels) == len(set(labels)) == used
    assert all(weight == 1 for _, weight, _ in epochs[0])
    assert sum(update for _, _, update in epochs[0]) == updates


@pytest.mark.parametrize("workers", [0, 2])
def test_data_sets_resume_amid_an_epoch(workers: int) -> None:
    whole = seen(batches_of(dataset(), workers=workers), 1)
    for done in (1, 5, 8):
        interrupted = batches_of(dataset(), workers=workers)
        before = seen(interrupted, 1, most=done)
        after = seen(batches_of(dataset(), workers=workers), 1, interrupted.position())
        assert before + after == whole


def swapped(sizes: list[tuple[int, int]]):
    """As `shard`, but the first image again in place of the second."""
    for row in shard(sizes):
        yield {**row, "row": 0} if row["row"] == 1 else row


def test_a_stream_with_one_image_twice_in_place_of_another_is_refused() -> None:
    features = Features({"image": Image(), "label": LABEL, "row": Value("int64")})
    images = stream_of(swapped, {"sizes": [(0, 20), (20, 15)]}, features, TOTAL)
    with pytest.raises(ValueError, match=r"35 images 1 were missing .*1 came more than once"):
        seen(batches_of(images))


@pytest.mark.parametrize("kind", ["data set", "stream"])
@pytest.mark.parametrize(
    ("change", "message"), [({"batch_size": 6}, "batch_size=4 became 6"), ({"accumulation": 2}, "=1 became 2")]
)
def test_resuming_amid_an_epoch_with_other_settings_is_refused(
    kind: str, change: dict[str, int], message: str
) -> None:
    images = dataset() if kind == "data set" else stream()
    begun = batches_of(images)
    seen(begun, most=2)
    position = begun.position()
    with pytest.raises(ValueError, match=f"within an epoch.*{message}.*Resume"):
        seen(batches_of(images, **change), 0, position)


def test_other_workers_are_refused_for_streams_alone() -> None:
    begun, streamed = batches_of(dataset()), batches_of(stream())
    whole = seen(batches_of(dataset()))
    before = seen(begun, most=2)
    seen(streamed, most=2)
    assert before + seen(batches_of(dataset(), workers=2), 0, begun.position()) == whole
    with pytest.raises(ValueError, match="num_workers=0 became 2"):
        seen(batches_of(stream(), workers=2), 0, streamed.position())


@pytest.mark.parametrize("images", [dataset(7), stream()])
def test_too_few_images_for_an_update(images: Dataset | IterableDataset) -> None:
    with pytest.raises(ValueError, match=r"batch_size=4 .*gradient_accumulation_steps=9"):
        batches_of(images, accumulation=9)


def test_augmentation_depends_on_seed_epoch_and_image_alone() -> None:
    def pixels(workers: int, epoch: int) -> torch.Tensor:
        rng = np.random.default_rng(0)
        pictures = [PILImage.fromarray(rng.integers(0, 256, (5, 5, 3)).astype(np.uint8)) for _ in range(TOTAL)]
        images = Dataset.from_dict(
            {"image": pictures, "label": list(range(TOTAL))}, features=Features({"image": Image(), "label": LABEL})
        )
        batches = list(batches_of(images, workers=workers).epoch(epoch))
        labels = torch.cat([batch.tensors["labels"] for batch in batches])
        values = torch.zeros(TOTAL, 3, 4, 4)
        values[labels] = torch.cat([batch.tensors["pixel_values"] for batch in batches])
        return values

    alone, helped = pixels(0, 3), pixels(2, 3)
    assert torch.equal(alone, helped)
    assert not torch.equal(alone, pixels(0, 4))
