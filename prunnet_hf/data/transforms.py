"""Training images: augmented and turned into tensors; outside training the image processor does that."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import Literal
from typing import get_args

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import v2

from ..image_processing_prunnet import to_rgb
from .splits import IMAGE
from .splits import LABEL

Augmentation = Literal["crop_flip", "crop", "affine"]

ROTATION = 10.0
"""Degrees either way, of `affine`."""
SHEAR = 10.0
"""Degrees either way, of `affine`."""
SHIFT = 0.1
"""Share of the side, of `affine`."""
SCALE = (0.85, 1.15)
"""Of `affine`."""


def train_transform(
    image_size: int, *, resize: int, mean: Sequence[float], std: Sequence[float], augmentation: str
) -> Callable[[Image.Image], Tensor]:
    """The way of a training image into the network.

    Args:
        image_size: Side in pixels of the result.
        resize: Shorter side in pixels before the crop (bicubic).
        mean: Of each channel, subtracted.
        std: Of each channel, divided by.
        augmentation: `"crop_flip"`, a random crop and a mirror image every other time (the paper's); `"crop"`, for
            images whose mirror image means something else; `"affine"`, a small rotation, shear, shift and scaling as
            well, for drawings.

    Returns:
        A function from a PIL image of any mode to a float tensor `(3, image_size, image_size)`.

    Raises:
        ValueError: If `augmentation` is unknown, or `resize` is smaller than `image_size`.
    """
    if augmentation not in get_args(Augmentation):
        raise ValueError(f"augmentation must be one of {', '.join(get_args(Augmentation))}; got {augmentation!r}.")
    if resize < image_size:
        raise ValueError(
            f"resize must be at least image_size ({image_size}), else nothing is left to crop; got {resize}."
        )
    # Pillow all the way: on single small images torchvision's tensor operations take twice the time.
    steps: list[Any] = [to_rgb, v2.Resize(resize, InterpolationMode.BICUBIC)]
    if augmentation == "affine":
        steps.append(_Affine())
    steps.append(v2.RandomCrop(image_size))
    if augmentation == "crop_flip":
        steps.append(v2.RandomHorizontalFlip())
    compose: Callable[[Image.Image], Tensor] = v2.Compose([*steps, _ToNormalizedTensor(mean, std)])
    return compose


class _Affine(v2.RandomAffine):  # type: ignore[misc]
    """A small random affine map; what comes into view from outside has the mean colour of the image's border."""

    def __init__(self) -> None:
        super().__init__(ROTATION, translate=(SHIFT, SHIFT), scale=SCALE, shear=SHEAR)

    def transform(self, inpt: Image.Image, params: dict[str, Any]) -> Image.Image:
        pixels = np.asarray(inpt)
        border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        fill = border.mean(axis=0).round().tolist()
        moved: Image.Image = v2.functional.affine(inpt, **params, interpolation=InterpolationMode.BILINEAR, fill=fill)
        return moved


class _ToNormalizedTensor:
    """Turns an RGB image into a float tensor `(3, height, width)`, normalised."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean = torch.tensor(mean).view(3, 1, 1) * 255.0
        self.std = torch.tensor(std).view(3, 1, 1) * 255.0

    def __call__(self, image: Image.Image) -> Tensor:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).float().sub_(self.mean).div_(self.std)


def with_train_transform(images: Dataset, transform: Callable[[Image.Image], Tensor]) -> Dataset:
    """The data set whose rows are `pixel_values` and `labels`, made when they are read."""
    return images.with_transform(_Rows(transform))


class _Rows:
    """Turns a batch of rows; a class, so that worker processes can be sent it."""

    def __init__(self, transform: Callable[[Image.Image], Tensor]) -> None:
        self.transform = transform

    def __call__(self, rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {"pixel_values": [self.transform(image) for image in rows[IMAGE]], "labels": rows[LABEL]}


def collate(rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """Stack rows into `pixel_values` `(batch, 3, height, width)` and `labels` `(batch,)`."""
    return {
        "pixel_values": torch.stack([row["pixel_values"] for row in rows]),
        "labels": torch.tensor([row["labels"] for row in rows]),
    }
