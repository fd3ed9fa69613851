"""Images to embeddings: one pass over a data set, through as many subnetworks as are wanted."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import BaseImageProcessor


def encode(
    models: Mapping[float, nn.Module],
    dataset: Dataset,
    image_processor: BaseImageProcessor,
    *,
    batch_size: int = 64,
    num_workers: int = 0,
    progress: bool = True,
) -> dict[float, NDArray[np.float32]]:
    """Embed the images of a data set with several subnetworks, reading each image once.

    Args:
        models: `PrunNetModel`s by capacity, each on the device it is to run on; put into eval mode.
        dataset: With a column `image`.
        image_processor: Turns images into pixel_values.
        batch_size: Images a forward pass.
        num_workers: Processes that read images; 0 reads them here.
        progress: Whether to show a bar.

    Returns:
        For each capacity the embeddings `(len(dataset), embedding_dim)`, not normalised, in the data set's order.

    Raises:
        ValueError: If `models` or `dataset` is empty.
    """
    if not models or not len(dataset):
        raise ValueError(
            f"nothing to encode: {len(models)} models and {len(dataset)} images; pass at least one of each."
        )
    parts: dict[float, list[NDArray[np.float32]]] = {capacity: [] for capacity in models}
    batches = pixel_batches(dataset, image_processor, batch_size=batch_size, num_workers=num_workers)
    total = -(-len(dataset) // batch_size)
    with torch.inference_mode():
        for pixel_values in tqdm(batches, desc="encode", total=total, unit="batch", disable=not progress):
            for capacity, model in models.items():
                parts[capacity].append(_embed(model.eval(), pixel_values))
    return {capacity: np.concatenate(embeddings) for capacity, embeddings in parts.items()}


def pixel_batches(
    dataset: Dataset, image_processor: BaseImageProcessor, *, batch_size: int = 64, num_workers: int = 0
) -> Iterator[Tensor]:
    """The images of a data set, processed as for inference, as batches `(batch, 3, height, width)` in order."""
    images = dataset.select_columns("image")
    yield from DataLoader(
        images,
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=_Processing(image_processor),
    )


class _Processing:
    """A collate function that worker processes can be sent."""

    def __init__(self, image_processor: Callable[..., Mapping[str, Tensor]]) -> None:
        self.image_processor = image_processor

    def __call__(self, examples: list[dict[str, object]]) -> Tensor:
        return self.image_processor([example["image"] for example in examples], return_tensors="pt")["pixel_values"]


def _embed(model: nn.Module, pixel_values: Tensor) -> NDArray[np.float32]:
    parameter = next(model.parameters())
    inputs = pixel_values.to(parameter.device, parameter.dtype)
    embeddings: NDArray[np.float32] = model(pixel_values=inputs).pooler_output.float().cpu().numpy()
    return embeddings
