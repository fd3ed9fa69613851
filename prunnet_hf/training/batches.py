"""The batches of an epoch on every process, in step with each other and in groups that make one update.

Data sets are dealt out evenly, and what doesn't fill a batch on every process is left out of this epoch. Streams are
read to the end: processes may then have different numbers of batches, and of images in them. So they agree before each
update on how many images each has, weigh every image alike, and whoever has run out goes along with weight 0.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, send_to_device
from datasets import Dataset, IterableDataset
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from ..data.reading import stored_images
from ..data.stream_loader import Position, StreamLoader
from ..data.streams import ROW, ImageDataset, NumberedRows, num_images
from ..data.transforms import TrainingCollator
from ..runs.arguments import RunArguments
from .processes import Agreement


@dataclass(frozen=True)
class MicroBatch:
    """One batch of one process.

    Attributes:
        tensors: `pixel_values` `(batch, 3, height, width)` and `labels` `(batch,)`, on the device.
        weight: Of this batch's mean loss: 1 where all batches of an update have as many images.
        is_update: Whether the optimiser steps after it.
    """

    tensors: dict[str, Tensor]
    weight: float
    is_update: bool


class Batches(Protocol):
    """What the training loop asks of its data."""

    updates_per_epoch: int
    """Of a stream the fewest there can be: uneven shards may add a few."""
    waiting_seconds: float
    """Spent in waiting for images so far."""

    def epoch(self, epoch: int, start: Any = None) -> Iterator[MicroBatch]:
        """The batches of an epoch, from its beginning or from a `position`; alike in number on all processes."""

    def position(self) -> Any:
        """Where in the epoch all processes stand, to be saved; called by all of them, after an update."""


def create_batches(
    images: ImageDataset, collate: TrainingCollator, arguments: RunArguments, accelerator: Accelerator
) -> Batches:
    """The batches of training images, as the arguments say.

    Raises:
        ValueError: If there are too few images for one update.
    """
    options, processes = arguments.train, accelerator.num_processes
    total = options.batch_size * processes * options.gradient_accumulation_steps
    if num_images(images) < total:
        raise ValueError(
            f"batch_size={options.batch_size} x {processes} processes x "
            f"gradient_accumulation_steps={options.gradient_accumulation_steps} is more than the "
            f"{num_images(images)} training images: choose smaller ones."
        )
    if isinstance(images, IterableDataset):
        return StreamedBatches(images, collate, arguments, accelerator)
    return DealtBatches(images, collate, arguments, accelerator)


class DealtBatches:
    """Batches of a data set, dealt out evenly.

    Seed and epoch decide the order of the images, and an update takes the next ones in it, however many processes
    share them: two processes with batches of 32 see what one sees with batches of 64.
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
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # an epoch begun again must not draw from the one that dropout draws from
        )
        self.updates_per_epoch = self.sampler.num_batches // self.accumulation
        # Processes may change in number as long as an update takes the same images.
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
        for batch in _noting_waits(self, self.loader):
            self._done += 1
            del batch[ROW]
            yield MicroBatch(
                send_to_device(batch, self.device, non_blocking=True), 1.0, self._done % self.accumulation == 0
            )

    def position(self) -> dict[str, Any]:
        """See `Batches`."""
        return {"settings": self.settings, "done": self._done}


class _Dealer(Sampler[list[int]]):
    """The places of the images in each batch of one process.

    Attributes:
        num_batches: How many each process can have in an epoch.
        epoch: The one to deal.
        batches: Those of its batches that are wanted.
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
    """Batches of a stream: each image once an epoch."""

    def __init__(
        self, images: IterableDataset, collate: TrainingCollator, arguments: RunArguments, accelerator: Accelerator
    ) -> None:
        options = arguments.train
        self.collate = collate
        self.accelerator = accelerator
        self.accumulation = options.gradient_accumulation_steps
        self.num_images = num_images(images)
        # Each worker has shards of its own; how many read a data set makes no difference.
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
        # Goes through the network with weight 0 where a process has run out; two images, for batch norms.
        self.filler = {"pixel_values": torch.zeros(2, 3, side, side), "labels": torch.zeros(2, dtype=torch.int64)}
        self._times_seen = np.zeros(self.num_images, dtype=np.uint8)

    def epoch(self, epoch: int, start: Mapping[str, Any] | None = None) -> Iterator[MicroBatch]:
        """See `Batches`.

        Raises:
            ValueError: If images of the stream were missing or came twice, or `start` is of other settings.
        """
        self.collate.set_epoch(epoch)
        _check_same_settings(start, self.settings)
        self._times_seen[:] = 0
        own = None
        if start is not None:
            own = Position(**start["positions"][self.accelerator.process_index])
            self._times_seen[:] = start["times_seen"][self.accelerator.process_index].numpy()
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
            "times_seen": gather_object([torch.tensor(self._times_seen)]),
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
        # Losses are averaged over each batch, over the processes and over `accumulation` batches: undo all three.
        shares = counts[self.accelerator.process_index] * (counts.numel() / counts.sum())
        num_batches = int(counts.any(dim=0).sum())
        for index in range(num_batches):
            batch = group[index] if index < len(group) else self.filler
            if len(batch["labels"]) == 1:  # all that this process has: batch norms want company, the loss stays
                batch = {name: torch.cat([tensor, tensor]) for name, tensor in batch.items()}
            tensors = send_to_device(batch, self.accelerator.device)
            yield MicroBatch(tensors, float(shares[index]), index == num_batches - 1)


def _noting_waits(batches: Batches, loaded: Iterable[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    """The same items; the time until each is there is added to `batches.waiting_seconds`."""
    start = time.perf_counter()
    for batch in loaded:
        batches.waiting_seconds += time.perf_counter() - start
        yield batch
        start = time.perf_counter()


def _settings(images: ImageDataset, arguments: RunArguments) -> dict[str, Any]:
    """What decides which images come when, whatever the kind of batches."""
    return {
        "num_images": num_images(images),
        "gradient_accumulation_steps": arguments.train.gradient_accumulation_steps,
        "seed": arguments.train.seed,
    }


def _check_same_settings(start: Mapping[str, Any] | None, settings: Mapping[str, Any]) -> None:
    """Refuse to go on amid an epoch where images would be lost and repeated."""
    if start is None:
        return
    was = start["settings"]
    changed = [
        f"{name}={was.get(name)} became {settings[name]}" for name in settings if was.get(name) != settings[name]
    ]
    if changed:
        raise ValueError(
            f"The checkpoint lies amid an epoch, and since then {', '.join(changed)}: images of this epoch would be "
            "lost and repeated. Resume with what it was, or remove checkpoints until the newest lies between two "
            "epochs."
        )
