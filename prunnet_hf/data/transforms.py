"""Training images: augmented and turned into tensors. Outside training the image processor does that."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from ..image_colours import to_rgb
from .reading import read_image
from .splits import LABEL
from .streams import ROW

Augmentation = Literal["crop_flip", "crop", "affine"]

ROTATION = 10.0
"""`affine` rotates by up to so many degrees either way."""
SHEAR = 10.0
"""`affine` shears by up to so many degrees either way."""
SHIFT = 0.1
"""`affine` shifts by up to this share of the side."""
SCALE = (0.85, 1.15)
"""`affine` scales by a factor in this range."""


def train_transform(
    image_size: int, *, resize: int, mean: Sequence[float], std: Sequence[float], augmentation: str
) -> Callable[[Image.Image], Tensor]:
    """The function that turns a training image into what the network sees.

    Args:
        image_size: The result's side in pixels.
        resize: Shorter side in pixels before the crop (bicubic).
        mean: Subtracted from each channel.
        std: Each channel is divided by it.
        augmentation: `"crop_flip"`, a random crop, mirrored with chance 1/2 (as in the paper); `"crop"`, a random
            crop only, for images whose mirror image means something else; `"affine"`, a small rotation, shear, shift
            and scaling before the crop, for drawings.

    Returns:
        A function from a PIL image of any mode to a float tensor `(3, image_size, image_size)`.

    Raises:
        ValueError: If `augmentation` is unknown, or `resize` is smaller than `image_size`.
    """
    if augmentation not in get_args(Augmentation):
        raise ValueError(f"augmentation must be one of {', '.join(get_args(Augmentation))}; got {augmentation!r}.")
    if resize < image_size:
        raise ValueError(
            f"resize must be at least image_size ({image_size}), or nothing is left to crop; got {resize}."
        )
    # Pillow does everything: on single small images torchvision's tensor operations take twice the time.
    steps: list[Any] = [to_rgb, v2.Resize(resize, InterpolationMode.BICUBIC)]
    if augmentation == "affine":
        steps.append(_Affine())
    steps.append(v2.RandomCrop(image_size))
    if augmentation == "crop_flip":
        steps.append(v2.RandomHorizontalFlip())
    compose: Callable[[Image.Image], Tensor] = v2.Compose([*steps, _ToNormalizedTensor(mean, std)])
    return compose


class _Affine(v2.RandomAffine):  # type: ignore[misc]
    """A small random affine map; new pixels at the edges get the mean colour of the image's border."""

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


class TrainingCollator:
    """Turns rows of `stored_images` into a batch; reads and augments, so that worker processes do both.

    Only the seed, the epoch and the image's `row` decide the random changes of an image. The number of processes and
    workers and the place where a run was interrupted don't matter.

    Args:
        transform: From `train_transform`.
        seed: The run's seed.
    """

    def __init__(self, transform: Callable[[Image.Image], Tensor], seed: int) -> None:
        self.transform = transform
        self.seed = seed
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # shared with workers that live on

    def set_epoch(self, epoch: int) -> None:
        """Draw other random changes, in the workers too, from the next batch on."""
        self._epoch.fill_(epoch)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Stack rows into `pixel_values` `(batch, 3, height, width)`, `labels` and `row`, both `(batch,)`."""
        return {
            "pixel_values": torch.stack([self._pixel_values(row) for row in rows]),
            "labels": torch.tensor([row[LABEL] for row in rows]),
            ROW: torch.tensor([row[ROW] for row in rows]),
        }

    def _pixel_values(self, row: Mapping[str, Any]) -> Tensor:
        image = read_image(row)
        # Seed, epoch and row are mixed, or images would share the numbers of their neighbours.
        draw = np.random.SeedSequence([self.seed, int(self._epoch), row[ROW]]).generate_state(1, np.uint64)
        # torch.manual_seed would be slower and reseed the GPUs too.
        generator = torch.default_generator
        before = generator.get_state()
        try:
            generator.manual_seed(int(draw[0]))
            return self.transform(image)
        finally:
            generator.set_state(before)
