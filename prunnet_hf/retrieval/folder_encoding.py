"""A folder of images, or a list of files, to embeddings: in a Parquet file or in memory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm
from transformers import BaseImageProcessor

from ..data.official_files import require_folder
from ..image_encoding import bar_options
from ..modeling_prunnet import PrunNetModel
from .embedding_parts import check_output
from .foreign_encoders import ForeignEncoder
from .image_batches import Reading, embed_part, read_batches
from .image_sources import FileImages, folder_images
from .table_encoder import IMAGES_PER_PART, Encoding, TableEncoder, warn_of


def encode_folder(
    model: PrunNetModel | ForeignEncoder,
    data_dir: str | os.PathLike[str],
    output: str | os.PathLike[str],
    image_processor: BaseImageProcessor | None = None,
    *,
    batch_size: int = 64,
    num_workers: int = 0,
    skip_corrupt_images: bool = False,
    images_per_part: int = IMAGES_PER_PART,
    progress: bool | None = None,
) -> list[str]:
    """Embed all images of a folder, and of folders inside it, into a Parquet file.

    If it is killed and called again with the same arguments, it goes on with the first missing part.

    Args:
        model: A trained network, dense or a subnetwork, or a foreign one, on the device to use.
        data_dir: The folder. An image's label is the folder inside `data_dir` that it lies in, or inside its `train/`
            or `test/`; null if it lies in `data_dir` itself.
        output: The file to write, see `embedding_table`. Until it is whole, only `<output>.partial/` exists.
        image_processor: Turns images into pixel_values; by default the model's own.
        batch_size: Number of images in a forward pass.
        num_workers: Number of processes that read images; 0 reads them here.
        skip_corrupt_images: Leave out images that can't be decoded, with a warning, instead of stopping.
        images_per_part: At most so many images are embedded again after the process was killed.
        progress: Whether to show a bar; by default on a terminal, if it takes some seconds.

    Returns:
        The images that were left out, as paths relative to `data_dir`.

    Raises:
        FileNotFoundError: If `data_dir` or the folder of `output` doesn't exist.
        FileExistsError: If `output` exists.
        BlockingIOError: If another process is making `output`; the message names it.
        ValueError: If the model's embedding space is unknown, there are no images, an image can't be decoded or
            embedded, a number is out of range, or an earlier call has left parts of another model or other images.
        OSError: If a file can't be written.
    """
    how = Encoding(batch_size, num_workers, skip_corrupt_images, images_per_part, progress)
    encoder = TableEncoder(model, how, image_processor)
    check_places(data_dir, output)
    images = folder_images(Path(data_dir))
    return encoder.write(images, range(len(images)), Path(output).absolute())


def encode_files(
    model: PrunNetModel | ForeignEncoder,
    paths: Sequence[str],
    *,
    batch_size: int,
    num_workers: int,
    skip_corrupt_images: bool,
    progress: bool | None,
) -> tuple[NDArray[np.float32], set[int]]:
    """Embed image files as `encode_folder` does, into memory.

    Returns:
        `(num_embedded, embedding_dim)` float32, in the order of the paths; and the places in `paths` of those that
        were left out.

    Raises:
        ValueError: If an image can't be decoded or embedded, or a number is out of range.
    """
    how = Encoding(batch_size, num_workers, skip_corrupt_images, progress=progress)
    reading = Reading(model.image_processor)
    batches = read_batches(
        FileImages(Path.cwd(), paths), [range(len(paths))], reading, how.batch_size, how.num_workers
    )
    with tqdm(desc="encode", total=len(paths), unit="image", **bar_options(progress)) as bar:
        array, _, left_out = embed_part(model, batches, skip_corrupt_images, bar)
    warn_of(left_out, len(paths))
    without = set(left_out)
    return array, {place for place, path in enumerate(paths) if path in without}


def check_places(data_dir: str | os.PathLike[str], output: str | os.PathLike[str]) -> None:
    """Refuse, before any work, a missing folder, or a path where no table can be written.

    Raises:
        FileNotFoundError: If `data_dir` or the folder of `output` doesn't exist.
        FileExistsError: If `output` exists.
    """
    require_folder("data_dir", data_dir, "It must hold images.")
    check_output(Path(output).absolute())
