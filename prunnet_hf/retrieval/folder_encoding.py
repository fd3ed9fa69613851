"""A folder of images to an embedding table: any number of images in limited memory; it can be killed and resumed.

Only the list of paths is in memory for all images; embeddings are written to disk in parts (`embedding_parts`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import unicodedata
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
from ..data.folder_walk import find_images
from ..data.official_files import require_folder
from ..data.reading import read_image
from ..data.splits import IMAGE, listed
from ..data.workers import batches_of, ignore_stopping
from ..image_files import UnreadableImageError
from ..modeling_prunnet import PrunNetModel
from ..storage.weights_digest import settle_space
from .dataset_encoding import embed
from .embedding_parts import EmbeddingParts, check_output, claim_output
from .embedding_table import PATH, as_table, table_schema
from .spaces import check_known_space

logger = logging.getLogger(__name__)

IMAGES_PER_PART = 1024
_CORRUPT_REMEDY = "Or pass --skip_corrupt_images (skip_corrupt_images=True) to embed the others."
_Batch = tuple[Tensor | None, list[str], dict[str, str]]
"""Pixel values of the images that can be read, their paths, and the error of each other image by path."""


def encode_folder(
    model: PrunNetModel,
    data_dir: str | os.PathLike[str],
    output: str | os.PathLike[str],
    image_processor: BaseImageProcessor | None = None,
    *,
    batch_size: int = 64,
    num_workers: int = 0,
    skip_corrupt_images: bool = False,
    images_per_part: int = IMAGES_PER_PART,
    progress: bool = True,
) -> list[str]:
    """Embed all images of a folder, and of folders inside it, into a Parquet file.

    If it is killed and called again with the same arguments, it goes on with the first missing part.

    Args:
        model: A trained network, dense or a subnetwork, on the device to use.
        data_dir: The folder. An image's label is the first part of its path inside `data_dir`; null if the image lies
            in `data_dir` itself.
        output: The file to write, see `embedding_table`. Until it is whole, only `<output>.partial/` exists.
        image_processor: Turns images into pixel_values; by default the model's own.
        batch_size: Number of images in a forward pass.
        num_workers: Number of processes that read images; 0 reads them here.
        skip_corrupt_images: Leave out images that can't be decoded, with a warning, instead of stopping.
        images_per_part: At most so many images are embedded again after the process was killed.
        progress: Whether to show a bar.

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
    _check_at_least(1, batch_size=batch_size, images_per_part=images_per_part)
    _check_at_least(0, num_workers=num_workers)
    settle_space(model)
    image_processor = image_processor or model.image_processor
    config = model.config
    schema = table_schema(
        config.embedding_dim, check_known_space(config.embedding_space), config.capacity, _model_name(config)
    )
    check_places(data_dir, output)
    root = Path(data_dir).absolute()  # workers may not share this process's working directory
    with claim_output(Path(output).absolute()):
        paths = _listed_images(root)
        return _encode_claimed(
            model,
            root,
            paths,
            EmbeddingParts(Path(output).absolute(), schema, _plan(model, image_processor, images_per_part)),
            _Reading(image_processor),
            batch_size=batch_size,
            num_workers=num_workers,
            skip_corrupt_images=skip_corrupt_images,
            images_per_part=images_per_part,
            progress=progress,
        )


def encode_files(
    model: PrunNetModel,
    paths: Sequence[str],
    *,
    batch_size: int,
    num_workers: int,
    skip_corrupt_images: bool,
    progress: bool,
) -> tuple[NDArray[np.float32], set[int]]:
    """Embed image files as `encode_folder` does, into memory.

    Returns:
        `(num_embedded, embedding_dim)` float32, in the order of the paths; and the places in `paths` of those that
        were left out.

    Raises:
        ValueError: If an image can't be decoded or embedded, or a number is out of range.
    """
    _check_at_least(1, batch_size=batch_size)
    _check_at_least(0, num_workers=num_workers)
    batches = _read_batches(Path.cwd(), [paths], _Reading(model.image_processor), batch_size, num_workers)
    with tqdm(desc="encode", total=len(paths), unit="image", disable=not progress) as bar:
        array, _, left_out = _embed_part(model, batches, skip_corrupt_images, bar)
    _warn_of(left_out, len(paths))
    without = set(left_out)
    return array, {place for place, path in enumerate(paths) if path in without}


def _encode_claimed(
    model: PrunNetModel,
    root: Path,
    paths: Sequence[str],
    parts: EmbeddingParts,
    reading: _Reading,
    *,
    batch_size: int,
    num_workers: int,
    skip_corrupt_images: bool,
    images_per_part: int,
    progress: bool,
) -> list[str]:
    spans = [list(paths[start : start + images_per_part]) for start in range(0, len(paths), images_per_part)]
    # Taken before any image is read, so that the next call finds images that changed meanwhile.
    digests = [_digest(root, span) for span in spans]
    skipped = _check_done(parts, spans, digests, skip_corrupt_images)
    missing = {number: span for number, span in enumerate(spans) if number not in skipped}
    num_missing = sum(map(len, missing.values()))
    batches = _read_batches(root, list(missing.values()), reading, batch_size, num_workers)
    initial = len(paths) - num_missing
    with tqdm(desc="encode", total=len(paths), initial=initial, unit="image", disable=not progress) as bar:
        for number, span in missing.items():
            own = islice(batches, -(-len(span) // batch_size))
            array, embedded, skipped[number] = _embed_part(model, own, skip_corrupt_images, bar)
            rows = as_table(parts.schema, array, embedded, [label_of(path) for path in embedded])
            parts.write(number, rows, digests[number], skipped[number])
    left_out = [path for number in sorted(skipped) for path in skipped[number]]
    _report(left_out, len(paths))
    without = set(left_out)
    parts.finish(len(spans), [path for path in paths if path not in without])
    return left_out


class _Files(TorchDataset[dict[str, Any]]):
    """The images of a folder by their place in a list, as rows for `read_image`."""

    def __init__(self, root: Path, paths: Sequence[str]) -> None:
        self.root = root
        self.paths = paths

    def __getitem__(self, place: int) -> dict[str, Any]:
        path = self.paths[place]
        return {PATH: path, IMAGE: {"path": str(self.root / path), "bytes": None}}


class _Reading:
    """A collate function that can be sent to worker processes; it returns errors of images instead of raising."""

    def __init__(self, image_processor: Callable[..., Mapping[str, Tensor]]) -> None:
        self.image_processor = image_processor

    def __call__(self, rows: Sequence[dict[str, Any]]) -> _Batch:
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


def _read_batches(
    root: Path, spans: Sequence[Sequence[str]], reading: _Reading, batch_size: int, num_workers: int
) -> Iterator[_Batch]:
    """The images of all spans in order; no batch mixes two spans."""
    if not spans:
        return iter(())
    loader = DataLoader(
        _Files(root, [path for span in spans for path in span]),
        batch_sampler=_PlacesBySpan([len(span) for span in spans], batch_size),
        num_workers=num_workers,
        collate_fn=reading,
        worker_init_fn=ignore_stopping,
        generator=torch.Generator(),  # embedding must not change what dropout draws elsewhere
    )
    return batches_of(loader)


class _PlacesBySpan(Sampler[list[int]]):
    """Batches of places in a list of consecutive spans. A span's batches don't depend on the other spans."""

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


def _check_done(
    parts: EmbeddingParts, spans: Sequence[list[str]], digests: Sequence[str], skip_corrupt_images: bool
) -> dict[int, list[str]]:
    """The images that each finished part left out, after checking that the part is of these images."""
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
    """Refuse, before any work, a missing folder, or a path where no table can be written.

    Raises:
        FileNotFoundError: If `data_dir` or the folder of `output` doesn't exist.
        FileExistsError: If `output` exists.
    """
    require_folder("data_dir", data_dir, "It must hold images.")
    check_output(Path(output).absolute())


def _model_name(config: PrunNetConfig) -> str:
    """The repository's name, or the name of a local folder, whose whole path would mean nothing to others."""
    source = config.name_or_path or ""
    return Path(source).name if Path(source).is_absolute() else source


def _listed_images(root: Path) -> list[str]:
    paths = find_images(root).images
    if not paths:
        raise ValueError(
            f"data_dir={str(root)!r} holds no images: it needs files with the suffix of an image, not hidden."
        )
    return paths


def label_of(path: str) -> str | None:
    """The label of an image by its path inside a folder: the first part, if it lies in a folder there."""
    folder, slash, _ = path.partition("/")
    return unicodedata.normalize("NFC", folder) if slash else None  # as training writes the names of classes


def _digest(root: Path, paths: Sequence[str]) -> str:
    """Hash names, sizes and modification times, to recognise a part's images without reading them again."""
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
        raise ValueError(f"none of the {total} images can be decoded: {listed(left_out)}. There is nothing to write.")
    _warn_of(left_out, total)


def _warn_of(left_out: list[str], total: int) -> None:
    if left_out:
        logger.warning(
            "%d of %d images can't be decoded: %s. They are left out.", len(left_out), total, listed(left_out)
        )


def _check_at_least(least: int, **numbers: int) -> None:
    for name, number in numbers.items():
        if number < least:
            raise ValueError(f"{name} must be at least {least}, got {number}.")
