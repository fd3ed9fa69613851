"""Batches of a stream: every image once in an epoch, for any number of processes and workers, from any point on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from datasets import IterableDataset
from datasets.distributed import split_dataset_by_node
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info
from torch.utils.data import IterableDataset as TorchStream

from .reading import stored_images
from .workers import batches_of, ignore_stopping

SHUFFLE_BUFFER = 1000
"""Number of undecoded images that each worker keeps and draws the next one from."""

Batch = dict[str, Tensor]
Collate = Callable[[Sequence[Mapping[str, Any]]], Batch]


@dataclass
class Position:
    """How far a process has come in an epoch of a stream; saved in checkpoints.

    Attributes:
        images: Number of images of each worker that went into whole batches (without workers: under 0).
        turn: The worker whose batch comes next.
        tail: Number of batches given out that were made of the workers' leftovers at the end.
    """

    images: dict[int, int] = field(default_factory=dict)
    turn: int = 0
    tail: int = 0


class StreamLoader:
    """The batches of one process's share of a stream.

    Shards are shared among processes and, within each, among workers (`datasets.distributed.split_dataset_by_node`).
    If there are fewer shards than processes, each process reads all of them and keeps its share of the images. Each
    worker ends with a batch of what is left. These leftovers are joined here, so that all batches except the last ones
    are whole, and none holds a single image, which batch norms refuse.

    Args:
        stream: See `streams`.
        collate: Makes a batch of rows of `stored_images`; runs in the workers.
        batch_size: Images in a batch of this process, at least 2.
        num_workers: Number of worker processes that read images for this process; 0 reads them here.
        rank: This process's number.
        world_size: Number of processes.
        seed: Decides, with the epoch, the order of shards and images.

    Attributes:
        position: How far this process has come in the epoch.
    """

    def __init__(
        self,
        stream: IterableDataset,
        collate: Collate,
        *,
        batch_size: int,
        num_workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
    ) -> None:
        shuffled = stored_images(stream).shuffle(seed=seed, buffer_size=SHUFFLE_BUFFER)
        self.stream = split_stream(shuffled, rank, world_size)
        self.collate = collate
        self.batch_size = batch_size
        shares_shards = stream.num_shards >= world_size
        # A worker without a shard would do nothing and give a warning.
        self.num_workers = min(num_workers, stream.num_shards // world_size if shares_shards else stream.num_shards)
        self.position = Position()

    def epoch(self, epoch: int, start: Position | None = None) -> Iterator[Batch]:
        """The batches of an epoch, or the rest of them.

        Args:
            epoch: The epoch's number.
            start: A `position` to go on from, of a loader made with the same arguments.
        """
        self.stream.set_epoch(epoch)
        start = start or Position()
        self.position = Position(dict(start.images), start.turn, start.tail)
        loader = DataLoader(
            _ThenNothing(self.stream, start.images),
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            collate_fn=_Tagging(self.collate),
            worker_init_fn=ignore_stopping,
            generator=torch.Generator(),  # dropout must draw the same numbers after a resumed epoch
        )
        held: tuple[int, Batch] | None = None
        leftovers: dict[int, Batch] = {}
        for worker, batch in _in_turn(batches_of(loader), max(self.num_workers, 1), start.turn):
            if len(batch["labels"]) < self.batch_size:
                leftovers[worker] = batch
                continue
            # The last whole batch is held back, in case a single leftover image must join it.
            if held is not None:
                yield self._advance(*held, worker)
            held = worker, batch
        tail = ([held[1]] if held else []) + [leftovers[worker] for worker in sorted(leftovers)]
        for part in islice(_evenly(tail, self.batch_size), start.tail, None):
            self.position.tail += 1
            yield part

    def _advance(self, worker: int, batch: Batch, next_worker: int) -> Batch:
        images = self.position.images
        images[worker] = images.get(worker, 0) + self.batch_size
        self.position.turn = next_worker
        return batch


def split_stream(stream: IterableDataset, rank: int, world_size: int) -> IterableDataset:
    """One process's share: whole shards if there are enough, so that no two processes read the same file."""
    strategy = "shards" if stream.num_shards >= world_size else "examples"
    return split_dataset_by_node(stream, rank, world_size, strategy=strategy)


class _ThenNothing(TorchStream[Mapping[str, Any] | None]):
    """A stream that skips the first images of each worker, and gives a None at the end of each worker's images."""

    def __init__(self, stream: IterableDataset, images: Mapping[int, int]) -> None:
        self.stream = stream
        self.images = images

    def __iter__(self) -> Iterator[Mapping[str, Any] | None]:
        yield from islice(iter(self.stream), self.images.get(_worker(), 0), None)
        yield None


class _Tagging:
    """A collate function that also says which worker it ran in, and whether that worker has ended."""

    def __init__(self, collate: Collate) -> None:
        self.collate = collate

    def __call__(self, rows: Sequence[Mapping[str, Any] | None]) -> tuple[int, Batch | None, bool]:
        images = [row for row in rows if row is not None]
        return _worker(), self.collate(images) if images else None, len(images) < len(rows)


def _in_turn(
    batches: Iterator[tuple[int, Batch | None, bool]], num_workers: int, turn: int
) -> Iterator[tuple[int, Batch]]:
    """Batches of the workers in turn, beginning with `turn`, although a loader always begins with worker 0."""
    waiting: dict[int, deque[tuple[Batch | None, bool]]] = {worker: deque() for worker in range(num_workers)}
    while waiting:
        while not waiting[turn]:
            worker, batch, is_end = next(batches)
            waiting[worker].append((batch, is_end))
        batch, is_end = waiting[turn].popleft()
        if batch is not None:
            yield turn, batch
        following = [worker for worker in waiting if worker > turn] + list(waiting)
        if is_end:
            del waiting[turn]
        turn = next((worker for worker in following if worker in waiting), turn)


def _worker() -> int:
    info = get_worker_info()
    return 0 if info is None else info.id


def _evenly(batches: Sequence[Batch], batch_size: int) -> Iterator[Batch]:
    """Join batches and split them again into ones of nearly equal size, none of a single image."""
    if not batches:
        return
    whole = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    total = len(whole["labels"])
    num_parts = -(-total // batch_size)
    if num_parts > 1 and total // num_parts < 2:
        num_parts -= 1
    parts = {name: torch.tensor_split(tensor, num_parts) for name, tensor in whole.items()}
    for index in range(num_parts):
        yield {name: tensors[index] for name, tensors in parts.items()}
