"""A folder of images to an embedding table: any number of images in bounded memory, resumed where it was killed.

Only the list of paths is held for all images; embeddings go to the disk part by part (`embedding_parts`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset
from tqdm import tqdm
from transformers import BaseImageProcessor

from ..configuration_prunnet import PrunNetConfig
from ..data.reading import read_image
from ..data.sets.image_folder import list_images
from ..data.splits import IMAGE, listed
from ..modeling_prunnet import PrunNetModel
from .dataset_encoding import embed
from .embedding_parts import EmbeddingParts, check_output
from .embedding_table import PATH, as_table, table_schema
from .spaces import check_known_space

logger = logging.getLogger(__name__)

IMAGES_PER_PART = 1024
_CORRUPT_REMEDY = "Or pass --skip_corrupt_images (skip_corrupt_images=True) to embed the others."
_Batch = tuple[Tensor | None, list[str], dict[str, str]]
"""Pixel values of the images that can be read, their paths, and what is wrong with the others by path."""


def encode_folder(
    model: PrunNetModel,
    data_dir: str | os.PathLike[str],
    output: str | os.PathLike[str],
    image_processor: BaseImageProcessor,
    *,
    batch_size: int = 64,
    num_workers: int = 0,
    skip_corrupt_images: bool = False,
    images_per_part: int = IMAGES_PER_PART,
    progress: bool = True,
) -> list[str]:
    """Embed all images of a folder, and of the folders in it, into a Parquet file.

    Killed at any moment and called again with the same arguments, it goes on at the first part that is missing.

    Args:
        model: A trained network, dense or a subnetwork, on the device it is to run on.
        data_dir: The folder. An image's label is the name of the folder of `data_dir` it lies in, however deep; null
            where it lies in `data_dir` itself.
        output: The file to write; see `embedding_table`. Until it is whole there is only `<output>.partial/`.
        image_processor: Turns images into pixel_values.
        batch_size: Images a forward pass.
        num_workers: Processes that read images; 0 reads them here.
        skip_corrupt_images: Leave images that can't be decoded out, with a warning, instead of stopping.
        images_per_part: How many images are embedded once more at most after the process was killed.
        progress: Whether to show a bar.

    Returns:
        The images that were left out, as paths relative to `data_dir`.

    Raises:
        FileNotFoundError: If `data_dir` or the folder of `output` doesn't exist.
        FileExistsError: If `output` exists.
        ValueError: If the model's embedding space is unknown, there are no images, one can't be decoded or embedded,
            a number is out of range, or what an earlier call has left is of another model or other images.
        OSError: If a file can't be written.
    """
    _check_at_least(1, batch_size=batch_size, images_per_part=images_per_part)
    _check_at_least(0, num_workers=num_workers)
    config = model.config
    schema = table_schema(
        config.embedding_dim, check_known_space(config.embedding_space), config.capacity, _model_name(config)
    )
    check_places(data_dir, output)
    root = Path(data_dir).absolute()  # workers may not share this process's working directory
    paths = _listed_images(root)
    spans = [paths[start : start + images_per_part] for start in range(0, len(paths), images_per_part)]
    parts = EmbeddingParts(Path(output).absolute(), schema, _plan(model, image_processor, images_per_part))
    # Taken before any image is read: one that changes meanwhile is found out by the next call.
    digests = [_digest(root, span) for span in spans]
    skipped = _check_done(parts, spans, digests, skip_corrupt_images)
    missing = {number: span for number, span in enumerate(spans) if number not in skipped}
    num_missing = sum(map(len, missing.values()))
    batches = _read_batches(root, list(missing.values()), _Reading(image_processor), batch_size, num_workers)
    initial = len(paths) - num_missing
    with tqdm(desc="encode", total=len(paths), initial=initial, unit="image", disable=not progress) as bar:
        for number, span in missing.items():
            own = islice(batches, -(-len(span) // batch_size))
            array, embedded, skipped[number] = _embed_part(model, own, skip_corrupt_images, bar)
            rows = as_table(schema, array, embedded, [_label(path) for path in embedded])
            parts.write(number, rows, digests[number], skipped[number])
    left_out = [path for number in sorted(skipped) for path in skipped[number]]
    _report(left_out, len(paths))
    parts.finish(len(spans))
    return left_out


class _Files(TorchDataset[dict[str, Any]]):
    """Images as they lie in a folder, by their place in a list; rows as `read_image` takes them."""

    def __init__(self, root: Path, paths: Sequence[str]) -> None:
        self.root = root
        self.paths = paths

    def __getitem__(self, place: int) -> dict[str, Any]:
        path = self.paths[place]
        return {PATH: path, IMAGE: {"path": str(self.root / path), "bytes": None}}


class _Reading:
    """A collate function that worker processes can be sent; it hands on what can't be read instead of raising."""

    def __init__(self, image_processor: Callable[..., Mapping[str, Tensor]]) -> None:
        self.image_processor = image_processor

    def __call__(self, rows: Sequence[dict[str, Any]]) -> _Batch:
        images, problems = {}, {}
        for row in rows:
            try:
                images[row[PATH]] = read_image(row)
            except ValueError as error:
                problems[row[PATH]] = str(error)
        if not images:
            return None, [], problems
        pixel_values = self.image_processor(list(images.values()), return_tensors="pt")["pixel_values"]
        return pixel_values, list(images), problems


def _read_batches(
    root: Path, spans: Sequence[Sequence[str]], reading: _Reading, batch_size: int, num_workers: int
) -> Iterator[_Batch]:
    """The images of all spans in order, in batches none of which is of two spans."""
    if not spans:
        return iter(())
    loader = DataLoader(
        _Files(root, [path for span in spans for path in span]),
        batch_sampler=_PlacesBySpan([len(span) for span in spans], batch_size),
        num_workers=num_workers,
        collate_fn=reading,
        generator=torch.Generator(),  # embedding amid other work must not change what dropout draws
    )
    return iter(loader)


class _PlacesBySpan(Sampler[list[int]]):
    """Batches of places in a list of consecutive spans: the same whichever spans are there already."""

    def __init__(self, sizes: Sequence[int], batch_size: int) -> None:
        self.sizes = sizes
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[list[int]]:
        begin = 0
        for size in self.sizes:
            for start in range(begin, begin + size, self.batch_size):
                yield list(range(start, min(start + self.batch_size, begin + size)))
            begin += size


def _embed_part(
    model: PrunNetModel, batches: Iterator[_Batch], skip_corrupt_images: bool, bar: tqdm[Any]
) -> tuple[NDArray[np.float32], list[str], list[str]]:
    """Embeddings of a part, the paths of its images, and of those that can't be read."""
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
            f"the model's embedding of {paths[bad[0]]!r} is not finite, so it can't be searched: look at the model "
            "(in float16, try bfloat16 or float32)."
        )
    return embeddings


def _check_done(
    parts: EmbeddingParts, spans: Sequence[list[str]], digests: Sequence[str], skip_corrupt_images: bool
) -> dict[int, list[str]]:
    """The finished parts, each with the images that it left out, once they are found to be of these images."""
    skipped = {}
    for number in parts.done():
        span, digest = (spans[number], digests[number]) if number < len(spans) else ([], "")
        skipped[number] = parts.check(number, digest, span)
        if skipped[number] and not skip_corrupt_images:
            raise ValueError(
                f"an earlier call has left out images that can't be decoded: {listed(skipped[number])}. "
                "Pass --skip_corrupt_images (skip_corrupt_images=True) again, or remove the parts it has left."
            )
    return skipped


def check_places(data_dir: str | os.PathLike[str], output: str | os.PathLike[str]) -> None:
    """Refuse, before any work, a folder that isn't there, and a place where no table can be written.

    Raises:
        FileNotFoundError: If `data_dir` or the folder of `output` doesn't exist.
        FileExistsError: If `output` exists.
    """
    if not Path(data_dir).is_dir():
        raise FileNotFoundError(f"data_dir={str(data_dir)!r} is no folder; give one that holds images.")
    check_output(Path(output).absolute())


def _model_name(config: PrunNetConfig) -> str:
    """The repository, or of a local folder its name: the path means nothing to whom the table is given."""
    source = config.name_or_path or ""
    return Path(source).name if Path(source).is_absolute() else source


def _listed_images(root: Path) -> list[str]:
    paths = list_images(root)
    if not paths:
        raise ValueError(f"data_dir={str(root)!r} holds no images (by their suffix, hidden files left aside).")
    for path in paths:
        try:
            path.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"the name of {path!r} is no valid UTF-8, which Parquet needs: rename it.") from error
    return paths


def _label(path: str) -> str | None:
    folder, slash, _ = path.partition("/")
    return folder if slash else None


def _digest(root: Path, paths: Sequence[str]) -> str:
    """Hash names, sizes and times of change: what a part is of, without reading its images again."""
    digest = hashlib.sha256()
    for path in paths:
        file = root / path
        state = file.stat() if file.exists() else None
        size, changed = (state.st_size, state.st_mtime_ns) if state else (-1, -1)
        digest.update(f"{path}\0{size}\0{changed}\n".encode())
    return digest.hexdigest()


def _plan(model: PrunNetModel, image_processor: BaseImageProcessor, images_per_part: int) -> dict[str, Any]:
    weights = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        weights.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        weights.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    processing = json.dumps(image_processor.to_dict(), sort_keys=True, default=str)
    return {
        "embedding_space": model.config.embedding_space,
        "capacity": model.config.capacity,
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "weights": weights.hexdigest()[:16],
        "image_processor": hashlib.sha256(processing.encode()).hexdigest()[:16],
        "images_per_part": images_per_part,
    }


def _report(left_out: list[str], total: int) -> None:
    if len(left_out) == total:
        raise ValueError(f"none of the {total} images can be decoded: {listed(left_out)}. Nothing would be left.")
    if left_out:
        logger.warning(
            "%d of %d images can't be decoded: %s. They are left out.", len(left_out), total, listed(left_out)
        )


def _check_at_least(least: int, **numbers: int) -> None:
    for name, number in numbers.items():
        if number < least:
            raise ValueError(f"{name} must be at least {least}, got {number}.")
