"""Embedding by all processes of a run, with the results collected on the main process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import Tensor

from ..data.streams import ImageDataset, num_images
from ..image_processing_prunnet import PrunNetImageProcessor
from ..modeling_prunnet import PrunNetModel
from ..retrieval.dataset_encoding import Encoded, Key, encode_share

_NO_ROW = -1


def encode_together(
    accelerator: Accelerator,
    models: Mapping[Key, PrunNetModel],
    images: ImageDataset,
    processor: PrunNetImageProcessor,
    *,
    batch_size: int = 64,
    num_workers: int = 0,
    progress: bool = True,
) -> Encoded[Key] | None:
    """Embed a data set by all processes, each image once. All of them must call this.

    Args:
        accelerator: The accelerator of the run.
        models: The same on all processes.
        images: The same on all processes.
        processor: Turns images into pixel values.
        batch_size: Images in a forward pass, for each process.
        num_workers: Processes that read images, for each process.
        progress: Whether the main process shows a progress bar.

    Returns:
        On the main process all embeddings, in the data set's order; None on all others.

    Raises:
        ValueError: If images are missing or came twice, or can't be read.
    """
    share = encode_share(
        models,
        images,
        processor,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        batch_size=batch_size,
        num_workers=num_workers,
        progress=progress and accelerator.is_main_process,
    )
    if accelerator.num_processes == 1:  # gathering would copy everything
        return share.in_order(num_images(images))
    rows = _gathered(accelerator, share.rows, _NO_ROW)
    # One network at a time: all together may be larger than a device's memory.
    embeddings = {key: _gathered(accelerator, array, 0)[rows != _NO_ROW] for key, array in share.embeddings.items()}
    shares: list[dict[str, list[Any]]] = gather_object([share.columns])
    if not accelerator.is_main_process:
        return None
    columns = {name: [value for part in shares for value in part[name]] for name in share.columns}
    return Encoded(rows[rows != _NO_ROW], columns, embeddings).in_order(num_images(images))


def _gathered(accelerator: Accelerator, share: NDArray[Any], filler: int) -> NDArray[Any]:
    """The arrays of all processes, joined and each filled up to the longest; empty except on the main process."""
    tensor = torch.from_numpy(share).to(accelerator.device)
    padded = accelerator.pad_across_processes(tensor, dim=0, pad_index=filler)
    gathered: Tensor = accelerator.gather(padded)
    if not accelerator.is_main_process:
        return np.full((0, *share.shape[1:]), filler, dtype=share.dtype)
    return gathered.cpu().numpy()
