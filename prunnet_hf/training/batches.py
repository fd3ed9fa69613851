"""The batches of an epoch on each process. All processes have the same number, in groups that make one update.

Data sets are divided evenly, and images that don't fill a batch on every process are left out of the epoch. Streams
are read to the end: processes may have different numbers of batches, and different numbers of images in a batch. So
before each update they tell each other how many images they have. Every image gets the same weight, and a process that
has no images left takes part with weight 0.
"""

from __future__ import annotations

import base64
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, send_to_device
from datasets import Dataset, IterableDataset
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from ..data.reading import stored_images
from ..data.stream_loader import Position, StreamLoader
from ..data.streams import ROW, ImageDataset, NumberedRows, num_images
from ..data.transforms import TrainingCollator
from ..data.workers import batches_of, ignore_stopping
from ..runs.arguments import RunArguments
from .processes import Agreement


@dataclass(frozen=True)
class MicroBatch:
    """One batch of one process.

    Attributes:
        tensors: `pixel_values` `(batch, 3, height, width)` and `labels` `(batch,)`, on the device; unless they come
            from a stream also `row` `(batch,)`, the places of the images in the data set.
        weight: Weight of this batch's mean loss: 1 if all batches of an update have the same number of images.
        is_update: Whether the optimiser steps after this batch.
    """

    tensors: dict[str, Tensor]
    weight: float
    is_update: bool


class Batches(Protocol):
    """What the training loop needs of its data."""

    updates_per_epoch: int
    """For a stream, the fewest possible: uneven shards may add a few."""
    waiting_seconds: float
    """Seconds spent waiting for images so far."""

    def epoch(self, epoch: int, start: Any = None) -> Iterator[MicroBatch]:
        """The batches of an epoch, from its beginning or from a `position`. All processes have the same number."""

    def position(self) -> Any:
        """Where all processes are in the epoch, to be saved. All of them must call this, after an update."""


def create_batches(
    images: ImageDataset, collate: TrainingCollator, arguments: RunArguments, accelerator: Accelerator
) -> Batches:
    """The batches of the training images.

    Raises:
        ValueError: If there are too few images for one update.
    """
    options, processes = arguments.train, accelerator.num_processes
    total = options.batch_size * processes * options.gradient_accumulation_steps
    if num_images(images) < total:
        raise ValueError(
            f"batch_size={options.batch_size} x {processes} processes x "
            f"gradient_accumulation_steps={options.gradient_accumulation_steps} is more than the "
            f"{num_images(images)} training images: choose smaller values."
        )
    if isinstance(images, IterableDataset):
        return StreamedBatches(images, collate, arguments, accelerator)
    return DealtBatches(images, collate, arguments, accelerator)


class DealtBatches:
    """Batches of a data set, divided evenly.

    Seed and epoch decide the order of the images. An update takes the next ones, whatever the number of processes: two
    processes with batches of 32 take the same images as one with batches of 64.
    """

    def __init__(
        self, images: Dataset, collate: TrainingCollator, arguments: RunArguments, accelerator: Accelerator
    ) -> None:
        options, num_workers = arguments.train, arguments.data.num_workers
        self.collate = collate
        self.device = accelerator.device
        self.accumulation = options.gradient_accumulation_steps
        self.sampler = _Dealer(
            len(images), options.batch_size, accelerator.process_index, accelerator.num_processes, options.seed
        )
        self.loader = DataLoader(
            NumberedRows(stored_images(images)),
            batch_sampler=self.sampler,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            collate_fn=collate,
            worker_init_fn=ignore_stopping,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # not the one of dropout, which a resumed epoch would disturb
        )
        self.updates_per_epoch = self.sampler.num_batches // self.accumulation
        # The number of processes may change as long as an update takes the same images.
        images_a_batch = options.batch_size * accelerator.num_processes
        self.settings = {**_settings(images, arguments), "num_processes x batch_size": images_a_batch}
        self.waiting_seconds = 0.0
        self._done = 0

    def epoch(self, epoch: int, start: Mapping[str, Any] | None = None) -> Iterator[MicroBatch]:
        """See `Batches`."""
        self.collate.set_epoch(epoch)
        _check_same_settings(start, self.settings)
        self._done = 0 if start is None else start["done"]
        self.sampler.epoch, self.sampler.batches = epoch, range(self._done, self.updates_per_epoch * self.accumulation)
        for batch in _noting_waits(self, batches_of(self.loader)):
            self._done += 1
            yield MicroBatch(
                send_to_device(batch, self.device, non_blocking=True), 1.0, self._done % self.accumulation == 0
            )

    def position(self) -> dict[str, Any]:
        """See `Batches`."""
        return {"settings": self.settings, "done": self._done}


class _Dealer(Sampler[list[int]]):
    """The indices of the images in each batch of one process.

    Attributes:
        num_batches: Number of batches of each process in an epoch.
        epoch: The epoch to go through.
        batches: Which of its batches to give.
    """

    def __init__(self, num_images: int, batch_size: int, rank: int, world_size: int, seed: int) -> None:
        self.num_images, self.batch_size, self.rank, self.world_size = num_images, batch_size, rank, world_size
        self.seed = seed
        self.num_batches = num_images // (batch_size * world_size)
        self.epoch, self.batches = 0, range(self.num_batches)

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.num_images)
        for batch in self.batches:
            first = (batch * self.world_size + self.rank) * self.batch_size
            yield order[first : first + self.batch_size].tolist()

    def __len__(self) -> int:
        return len(self.batches)


class StreamedBatches:
    """Batches of a stream, with each image once in an epoch."""

    def __init__(
        self, images: IterableDataset, collate: TrainingCollator, arguments: RunArguments, accelerator: Accelerator
    ) -> None:
        options = arguments.train
        self.collate = collate
        self.accelerator = accelerator
        self.accumulation = options.gradient_accumulation_steps
        self.num_images = num_images(images)
        # Each worker reads its own shards. (With a data set the number of workers makes no difference.)
        self.settings = {
            **_settings(images, arguments),
            "num_processes": accelerator.num_processes,
            "batch_size": options.batch_size,
            "num_workers": arguments.data.num_workers,
        }
        self.waiting_seconds = 0.0
        self._agreement = Agreement(accelerator)
        self.loader = StreamLoader(
            images,
            collate,
            batch_size=options.batch_size,
            num_workers=arguments.data.num_workers,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
            seed=options.seed,
        )
        self.updates_per_epoch = self.num_images // (
            options.batch_size * accelerator.num_processes * self.accumulation
        )
        side = arguments.data.image_size
        # For a process without images, with weight 0. It has two images because batch norms need more than one.
        self.filler = {"pixel_values": torch.zeros(2, 3, side, side), "labels": torch.zeros(2, dtype=torch.int64)}
        self._times_seen = np.zeros(self.num_images, dtype=np.uint8)

    def epoch(self, epoch: int, start: Mapping[str, Any] | None = None) -> Iterator[MicroBatch]:
        """See `Batches`.

        Raises:
            ValueError: If images were missing or came twice, or `start` comes from a run with other settings.
        """
        self.collate.set_epoch(epoch)
        _check_same_settings(start, self.settings)
        self._times_seen[:] = 0
        own = None
        if start is not None:
            own = _position(start["positions"][self.accelerator.process_index])
            self._times_seen[:] = _unpacked(start["times_seen"][self.accelerator.process_index], self.num_images)
        batches = _noting_waits(self, self.loader.epoch(epoch, own))
        while True:
            group = list(islice(batches, self.accumulation))
            for batch in group:
                np.add.at(self._times_seen, batch.pop(ROW).numpy(), 1)
            counts = self._counts(group)
            if not counts.any():
                break
            yield from self._weighed(group, counts)
        self._check_seen()

    def position(self) -> dict[str, Any]:
        """See `Batches`."""
        return {
            "settings": self.settings,
            "times_seen": gather_object([_packed(self._times_seen)]),
            "positions": gather_object([asdict(self.loader.position)]),
        }

    def _check_seen(self) -> None:
        times = torch.from_numpy(self._times_seen).int().to(self.accelerator.device)
        together: Tensor = self.accelerator.reduce(times, reduction="sum")
        wrong = (together != 1).nonzero().flatten()
        if len(wrong):
            raise ValueError(
                f"Of {self.num_images} images {int((together == 0).sum())} were missing in an epoch and "
                f"{int((together > 1).sum())} came more than once (first: row {int(wrong[0])} of the list, counted "
                "from 0). Files are missing from the archives, or are in them twice: check their checksums."
            )

    def _counts(self, group: list[dict[str, Tensor]]) -> Tensor:
        """Images in each batch of the group on each process, `(num_processes, accumulation)`."""
        counts = [len(batch["labels"]) for batch in group] + [0] * (self.accumulation - len(group))
        return self._agreement.gather(counts)

    def _weighed(self, group: list[dict[str, Tensor]], counts: Tensor) -> Iterator[MicroBatch]:
        # Losses are averaged over each batch, the processes and `accumulation` batches; these weights undo all three.
        shares = counts[self.accelerator.process_index] * (counts.numel() / counts.sum())
        num_batches = int(counts.any(dim=0).sum())
        for index in range(num_batches):
            batch = group[index] if index < len(group) else self.filler
            if len(batch["labels"]) == 1:  # batch norms need a second image; the mean loss stays
                batch = {name: torch.cat([tensor, tensor]) for name, tensor in batch.items()}
            tensors = send_to_device(batch, self.accelerator.device)
            yield MicroBatch(tensors, float(shares[index]), index == num_batches - 1)


def _position(state: Mapping[str, Any]) -> Position:
    """A position as a checkpoint has it. JSON makes text of the workers' numbers."""
    images = {int(worker): count for worker, count in state["images"].items()}
    return Position(images, state["turn"], state["tail"])


def _packed(counts: NDArray[np.uint8]) -> str:
    """Small counts as text for JSON."""
    return base64.b64encode(zlib.compress(counts.tobytes())).decode()


def _unpacked(stored: str | Tensor, length: int) -> NDArray[np.uint8]:
    """The counts that `_packed` stored, or that an earlier version stored as a tensor."""
    if isinstance(stored, Tensor):
        return stored.numpy()
    return np.frombuffer(zlib.decompressobj().decompress(base64.b64decode(stored), length), dtype=np.uint8)


def _noting_waits(batches: Batches, loaded: Iterable[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    """The same items. The time spent waiting for each is added to `batches.waiting_seconds`."""
    start = time.perf_counter()
    for batch in loaded:
        batches.waiting_seconds += time.perf_counter() - start
        yield batch
        start = time.perf_counter()


def _settings(images: ImageDataset, arguments: RunArguments) -> dict[str, Any]:
    """The settings that decide the order of images with both kinds of batches."""
    return {
        "num_images": num_images(images),
        "gradient_accumulation_steps": arguments.train.gradient_accumulation_steps,
        "seed": arguments.train.seed,
    }


def _check_same_settings(start: Mapping[str, Any] | None, settings: Mapping[str, Any]) -> None:
    """Refuse to resume within an epoch if images would be lost or repeated."""
    if start is None:
        return
    was = start["settings"]
    changed = [
        f"{name}={was.get(name)} became {settings[name]}" for name in settings if was.get(name) != settings[name]
    ]
    if changed:
        raise ValueError(
            f"The checkpoint was saved within an epoch, and since then {', '.join(changed)}: images of this "
            "epoch would be lost or repeated. Resume with the value from before, or remove checkpoints until the "
            "newest lies between two epochs."
        )
