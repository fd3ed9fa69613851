"""Embeddings of images, for users: `model.encode` reads, processes and embeds images of any kind, and normalises."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from transformers.utils.logging import tqdm

from .image_colours import to_rgb
from .image_files import open_image, refuse_ratio
from .pruning.calibration import BAR_DELAY

_WANTED = "Pass a list of paths, PIL images or arrays"


def encode_images(
    model: Any, images: Any, *, batch_size: int, normalize: bool, progress: bool | None
) -> NDArray[np.float32]:
    """Embed images; see `PrunNetPreTrainedModel.encode`.

    Args:
        model: A PrunNet model.
        images: One image, or an iterable of images, each a path, PIL image, array or tensor.
        batch_size: Number of images in a forward pass.
        normalize: Whether embeddings get unit length.
        progress: Whether to show a bar, see `bar_options`.
    """
    network = model.base_model

    def embed(batch: list[Image.Image]) -> Tensor:
        return _embedded(network, model.image_processor(batch, return_tensors="pt")["pixel_values"])

    with torch.inference_mode(), _evaluating(network):
        return embed_batches(
            embed,
            images,
            model.config.embedding_dim,
            batch_size=batch_size,
            normalize=normalize,
            progress=progress,
        )


def embed_batches(
    embed: Callable[[list[Image.Image]], Tensor],
    images: Any,
    dim: int,
    *,
    batch_size: int,
    normalize: bool,
    progress: bool | None,
) -> NDArray[np.float32]:
    """Embed images of any kind by a function of upright RGB images.

    Args:
        embed: From images to their embeddings `(batch, dim)`, float32 on the CPU.
        images: As in `encode_images`.
        dim: Length of an embedding.
        batch_size: Number of images at a time; only these are in memory.
        normalize: Whether embeddings get unit length.
        progress: Whether to show a bar, see `bar_options`.
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size must be a whole number of at least 1; got {batch_size!r}.")
    if not isinstance(normalize, bool):
        raise TypeError(f"normalize must be True or False; got {normalize!r}.")
    bar = tqdm(_each(images), desc="encode", total=_count(images), unit="image", **bar_options(progress))
    embeddings = torch.cat([torch.empty(0, dim), *(embed(batch) for batch in _batches(bar, batch_size))])
    _check_finite(embeddings)
    array: NDArray[np.float32] = (F.normalize(embeddings) if normalize else embeddings).numpy()
    return array


def bar_options(progress: bool | None) -> dict[str, Any]:
    """What tqdm needs to show a bar as it was asked for.

    Args:
        progress: True for a bar, False for none, None for one on a terminal if the work takes some seconds.

    Raises:
        TypeError: If it is anything else.
    """
    if progress is not None and not isinstance(progress, bool):
        raise TypeError(f"progress must be True, False or None (a bar for long work on a terminal); got {progress!r}.")
    if progress is None:
        return {"disable": None, "delay": BAR_DELAY}  # tqdm's None asks whether it writes to a terminal
    return {"disable": not progress}


def unit_rows(embeddings: Any, argument: str, dim: int) -> NDArray[np.float32]:
    """Embeddings as rows of unit length.

    Args:
        embeddings: `(n, dim)`, or one embedding `(dim,)`.
        argument: Their name in errors.
        dim: The length that they must have.

    Raises:
        ValueError: If the shape is another, or an embedding is zero or not finite.
    """
    rows = np.atleast_2d(np.asarray(embeddings, dtype=np.float32))
    if rows.ndim != 2 or rows.shape[1] != dim:
        raise ValueError(f"{argument} must have the shape (n, {dim}), as model.encode gives it; got {rows.shape}.")
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    bad = np.flatnonzero(~((lengths > 0) & np.isfinite(lengths)))
    if bad.size:
        length = float(lengths[bad[0], 0])
        raise ValueError(
            f"{argument} row {bad[0]} has length {length}: embeddings must be finite and not zero. Embed it again."
        )
    unit: NDArray[np.float32] = (rows / lengths).astype(np.float32)
    return unit


def cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Inner products of unit rows, `(len(a), len(b))`, without the last bit beyond 1."""
    products: NDArray[np.float32] = np.clip(a @ b.T, -1.0, 1.0)
    return products


def _each(images: Any) -> Iterator[Any]:
    if isinstance(images, np.ndarray | Tensor) and images.ndim not in (2, 3, 4):
        raise ValueError(f"images must hold images; got an array of shape {tuple(images.shape)}. {_WANTED}.")
    if isinstance(images, str | os.PathLike | Image.Image):
        return iter([images])
    if isinstance(images, np.ndarray | Tensor):
        return iter(images if images.ndim == 4 else [images])
    if isinstance(images, bytes | Mapping) or not isinstance(images, Iterable):
        raise TypeError(f"images can't be of type {type(images).__name__}. {_WANTED}.")
    return iter(images)


def _count(images: Any) -> int | None:
    """The number of images for the bar, if it is known before they are read."""
    return len(images) if isinstance(images, Sized) and not isinstance(images, str | np.ndarray | Tensor) else None


def _batches(images: Iterable[Any], batch_size: int) -> Iterator[list[Image.Image]]:
    """The images in RGB; only one batch is in memory."""
    numbered = enumerate(images)
    while batch := [_rgb(image, place) for place, image in islice(numbered, batch_size)]:
        yield batch


def _rgb(image: Any, place: int) -> Image.Image:
    if isinstance(image, str | os.PathLike):
        image = open_image(image)
    try:
        rgb = to_rgb(image)
    except TypeError as error:
        raise TypeError(f"images[{place}]: {error}") from error
    except (OSError, SyntaxError, ValueError) as error:  # a picture that was opened before is decoded here
        raise ValueError(f"images[{place}]: {error}") from error
    refuse_ratio(rgb.size, f"images[{place}] ")
    return rgb


def _embedded(network: nn.Module, pixel_values: Tensor) -> Tensor:
    parameter = next(network.parameters())
    embeddings: Tensor = network(pixel_values.to(parameter.device, parameter.dtype)).pooler_output
    return embeddings.float().cpu()


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode, in which an embedding doesn't depend on the others of its batch; then as it was before."""
    training = [module for module in network.modules() if module.training]
    network.train(False)
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _check_finite(embeddings: Tensor) -> None:
    bad = (~embeddings.isfinite().all(dim=1)).nonzero()
    if bad.numel():
        raise ValueError(
            f"the model's embedding of images[{int(bad[0])}] must be finite to be searched. In float16, try bfloat16 "
            "or float32; otherwise look at the model."
        )
