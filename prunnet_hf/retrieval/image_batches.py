"""From stored images to embeddings, batch by batch: images that can't be read are returned, not raised."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset
from tqdm import tqdm

from ..data.reading import read_image
from ..data.workers import batches_of, ignore_stopping
from ..image_files import UnreadableImageError
from ..modeling_prunnet import PrunNetModel
from .dataset_encoding import embed
from .embedding_table import PATH
from .foreign_encoders import ForeignEncoder

_CORRUPT_REMEDY = "Or pass --skip_corrupt_images (skip_corrupt_images=True) to embed the others."
Batch = tuple[Any, list[str], dict[str, str]]
"""Pixel values of the images that can be read, or None, their paths, and the error of each other image by path."""


class Reading:
    """A collate function that can be sent to worker processes; it returns errors of images instead of raising."""

    def __init__(self, image_processor: Callable[..., Mapping[str, Tensor]]) -> None:
        self.image_processor = image_processor

    def __call__(self, rows: Sequence[dict[str, Any]]) -> Batch:
        """Decode and process the images of a batch."""
        images, problems = {}, {}
        for row in rows:
            try:
                images[row[PATH]] = read_image(row)
            except UnreadableImageError as error:
                problems[row[PATH]] = str(error)
        if not images:
            return None, [], problems
        pixel_values = self.image_processor(list(images.values()), return_tensors="pt")["pixel_values"]
        return pixel_values, list(images), problems


def read_batches(
    images: TorchDataset[dict[str, Any]], spans: Sequence[range], reading: Reading, batch_size: int, num_workers: int
) -> Iterator[Batch]:
    """The images at the places of all spans in order; no batch mixes two spans."""
    if not spans:
        return iter(())
    loader = DataLoader(
        images,
        batch_sampler=_PlacesBySpan(spans, batch_size),
        num_workers=num_workers,
        collate_fn=reading,
        worker_init_fn=ignore_stopping,
        generator=torch.Generator(),  # embedding must not change what dropout draws elsewhere
    )
    return batches_of(loader)


class _PlacesBySpan(Sampler[list[int]]):
    """Batches of places. A span's batches don't depend on the other spans."""

    def __init__(self, spans: Sequence[range], batch_size: int) -> None:
        self.spans = spans
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[list[int]]:
        for span in self.spans:
            for start in range(0, len(span), self.batch_size):
                yield list(span[start : start + self.batch_size])


def embed_part(
    model: PrunNetModel | ForeignEncoder, batches: Iterator[Batch], skip_corrupt_images: bool, bar: tqdm[Any]
) -> tuple[NDArray[np.float32], list[str], list[str]]:
    """Embeddings of a part, the paths of its images, and the paths of those that can't be read."""
    arrays = [np.empty((0, model.config.embedding_dim), dtype=np.float32)]
    embedded: list[str] = []
    skipped: list[str] = []
    for pixel_values, paths, problems in batches:
        if problems and not skip_corrupt_images:
            raise ValueError(f"{next(iter(problems.values()))} {_CORRUPT_REMEDY}")
        if pixel_values is not None:
            arrays.append(_finite(embed(model, pixel_values), paths))
        embedded += paths
        skipped += problems
        bar.update(len(paths) + len(problems))
    return np.concatenate(arrays), embedded, skipped


def _finite(embeddings: NDArray[np.float32], paths: Sequence[str]) -> NDArray[np.float32]:
    bad = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    if bad.size:
        raise ValueError(
            f"the model's embedding of {paths[bad[0]]!r} must be finite to be searched. In float16, try bfloat16 or "
            "float32; otherwise look at the model."
        )
    return embeddings
