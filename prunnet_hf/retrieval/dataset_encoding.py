"""Data sets to embeddings: one pass over the images, through as many subnetworks as are wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from datasets import IterableDataset
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import BaseImageProcessor

from ..data.reading import BOX, read_image, stored_images
from ..data.splits import IMAGE
from ..data.stream_loader import split_stream
from ..data.streams import ROW, ImageDataset, NumberedRows, num_images
from ..data.workers import batches_of, ignore_stopping
from ..modeling_prunnet import PrunNetModel
from .foreign_encoders import ForeignEncoder
from .protocols import Side
from .spaces import space_of

Key = TypeVar("Key")


@dataclass(frozen=True)
class Encoded(Generic[Key]):
    """Embedded images, in the order they were read in.

    Attributes:
        rows: `(n,)`, the place of each image in its data set.
        columns: What the data set says of each image apart from its pixels: n values under each name.
        embeddings: `(n, embedding_dim)` by the key of the network, not normalised.
    """

    rows: NDArray[np.int64]
    columns: dict[str, list[Any]]
    embeddings: dict[Key, NDArray[np.float32]]

    def __repr__(self) -> str:
        return f"Encoded({len(self.rows):,} images, columns {list(self.columns)}, networks {list(self.embeddings)})"

    def side(self, key: Key) -> Side:
        """The embeddings of one network, in the form that protocols take."""
        return Side(self.embeddings[key], self.columns)

    def in_order(self, total: int) -> Encoded[Key]:
        """The same, in the data set's order.

        Args:
            total: The number of images in the data set.

        Raises:
            ValueError: If images are missing or came twice, as all results would then be wrong.
        """
        times = np.bincount(self.rows, minlength=total)
        if len(times) != total or not (times == 1).all():
            raise ValueError(
                f"Of {total} images {int((times == 0).sum())} were not read and {int((times > 1).sum())} more than "
                f"once (first: row {int(np.argmax(times != 1))} of the list). The data set's archives lack files or "
                "hold them twice: compare their checksums."
            )
        if (np.diff(self.rows) > 0).all():
            return self
        order = np.argsort(self.rows)
        columns = {name: [values[place] for place in order] for name, values in self.columns.items()}
        return Encoded(self.rows[order], columns, {key: array[order] for key, array in self.embeddings.items()})


def encode(
    models: Mapping[Key, PrunNetModel | ForeignEncoder],
    dataset: ImageDataset,
    image_processor: BaseImageProcessor | None = None,
    *,
    batch_size: int = 64,
    num_workers: int = 0,
    progress: bool = True,
) -> dict[Key, NDArray[np.float32]]:
    """Embed the images of a data set with several subnetworks, reading each image once.

    Args:
        models: By capacity or any other key, each on the device to use; they are put into eval mode.
        dataset: Has a column `image`.
        image_processor: Turns images into pixel_values; by default the first model's own.
        batch_size: Number of images in a forward pass.
        num_workers: Number of processes that read images; 0 reads them here.
        progress: Whether to show a bar.

    Returns:
        For each key the embeddings `(num_images, embedding_dim)`, not normalised, in the data set's order.

    Raises:
        ValueError: If `models` or `dataset` is empty, the models are of several embedding spaces, or an image can't be
            read.
    """
    share = encode_share(
        models, dataset, image_processor, batch_size=batch_size, num_workers=num_workers, progress=progress
    )
    return share.in_order(num_images(dataset)).embeddings


def encode_share(
    models: Mapping[Key, PrunNetModel | ForeignEncoder],
    dataset: ImageDataset,
    image_processor: BaseImageProcessor | None = None,
    *,
    rank: int = 0,
    world_size: int = 1,
    batch_size: int = 64,
    num_workers: int = 0,
    progress: bool = True,
) -> Encoded[Key]:
    """Embed one process's share of a data set; `encode` for one of several processes.

    Args:
        models: As in `encode`.
        dataset: As in `encode`, the same on all processes.
        image_processor: As in `encode`.
        rank: This process's number.
        world_size: Number of processes; their shares together are the data set.
        batch_size: As in `encode`.
        num_workers: As in `encode`.
        progress: As in `encode`.

    Returns:
        The images that this process has read.

    Raises:
        ValueError: As in `encode`.
    """
    total = num_images(dataset)
    if not models or not total:
        raise ValueError(f"nothing to encode: {len(models)} models and {total} images; pass at least one of each.")
    _check_one_space(list(models.values()))
    processing = _Processing(image_processor or next(iter(models.values())).image_processor)
    rows: list[int] = []
    columns: dict[str, list[Any]] = {name: [] for name in dataset.features if name not in (IMAGE, BOX, ROW)}
    parts: dict[Key, list[NDArray[np.float32]]] = {key: [_no_embeddings(model)] for key, model in models.items()}
    loader = _share_loader(dataset, rank, world_size, processing, batch_size, num_workers)
    num_batches = -(-total // (batch_size * world_size))
    with torch.inference_mode():
        batches = batches_of(loader)
        for pixel_values, others in tqdm(
            batches, desc="encode", total=num_batches, unit="batch", disable=not progress
        ):
            for key, model in models.items():
                parts[key].append(embed(model, pixel_values))
            rows += [other[ROW] for other in others]
            for name, values in columns.items():
                values += [other[name] for other in others]
    embeddings = {key: np.concatenate(arrays) for key, arrays in parts.items()}
    return Encoded(np.asarray(rows, dtype=np.int64), columns, embeddings)


def pixel_batches(
    dataset: ImageDataset, image_processor: BaseImageProcessor, *, batch_size: int = 64, num_workers: int = 0
) -> Iterator[Tensor]:
    """The images of a data set, processed as for inference, in batches `(batch, 3, height, width)`.

    They come in the data set's order, or for a stream in the order in which its workers read it.
    """
    loader = _share_loader(dataset, 0, 1, _Processing(image_processor), batch_size, num_workers)
    yield from (pixel_values for pixel_values, _ in batches_of(loader))


@torch.inference_mode()
def embed(model: PrunNetModel | ForeignEncoder, pixel_values: Tensor) -> NDArray[np.float32]:
    """Embed a batch on the model's device and in its precision; the model is put into eval mode.

    Args:
        model: Dense or a subnetwork, or one that isn't ours.
        pixel_values: `(batch, 3, height, width)`, from the image processor.

    Returns:
        `(batch, embedding_dim)`, not normalised.
    """
    if isinstance(model, ForeignEncoder):
        return model.embed(pixel_values)
    model.train(False)
    parameter = next(model.parameters())
    inputs = pixel_values.to(parameter.device, parameter.dtype)
    embeddings: NDArray[np.float32] = model(pixel_values=inputs).pooler_output.float().cpu().numpy()
    return embeddings


class _Processing:
    """A collate function that can be sent to worker processes: pixel values, and the other columns of the rows."""

    def __init__(self, image_processor: Callable[..., Mapping[str, Tensor]]) -> None:
        self.image_processor = image_processor

    def __call__(self, rows: Sequence[dict[str, Any]]) -> tuple[Tensor, list[dict[str, Any]]]:
        pixel_values = self.image_processor([read_image(row) for row in rows], return_tensors="pt")["pixel_values"]
        return pixel_values, [{name: value for name, value in row.items() if name != IMAGE} for row in rows]


def _share_loader(
    dataset: ImageDataset, rank: int, world_size: int, collate: _Processing, batch_size: int, num_workers: int
) -> DataLoader[Any]:
    images = stored_images(dataset)
    if isinstance(images, IterableDataset):
        share = split_stream(images, rank, world_size)
        num_workers = min(num_workers, share.num_shards)
    else:
        places = range(rank * len(images) // world_size, (rank + 1) * len(images) // world_size)
        share = NumberedRows(images, places)
    # It has its own generator, so that embedding doesn't change what dropout draws in training.
    return DataLoader(
        share,
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=collate,
        worker_init_fn=ignore_stopping,
        generator=torch.Generator(),
    )


def _check_one_space(models: Sequence[PrunNetModel | ForeignEncoder]) -> None:
    spaces = sorted({str(space_of(model)) for model in models})
    if len(spaces) > 1:
        raise ValueError(
            f"models are of {len(spaces)} embedding spaces ({', '.join(spaces)}), so their embeddings can't be "
            "compared: pass subnetworks of one trained model."
        )


def _no_embeddings(model: PrunNetModel | ForeignEncoder) -> NDArray[np.float32]:
    return np.empty((0, model.config.embedding_dim), dtype=np.float32)
