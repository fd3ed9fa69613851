"""Image processor of PrunNet models: resize the shorter side, crop the centre, normalise."""

import os
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_transforms import convert_to_rgb
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling

from .configuration_prunnet import refuse_copying_code
from .image_files import refuse_ratio


class PrunNetImageProcessor(TorchvisionBackend):
    """Turns images into `pixel_values` `(batch, 3, height, width)`.

    The default is the paper's evaluation at 224 pixels: the shorter side to 256 (bicubic), then the central 224 x 224.
    """

    resample = PILImageResampling.BICUBIC
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    size = {"shortest_edge": 256}
    crop_size = {"height": 224, "width": 224}
    default_to_square = False
    do_resize = True
    do_center_crop = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> Any:  # type: ignore[override]
        """Save as transformers' image processors do.

        Raises:
            ValueError: If `register_for_auto_class` was called.
        """
        refuse_copying_code(self)
        return super().save_pretrained(save_directory, **kwargs)

    def process_image(
        self,
        image: Any,
        do_convert_rgb: bool | None = None,
        input_data_format: Any = None,
        device: Any = None,
        **kwargs: Any,
    ) -> Tensor:
        """Turn one image into a tensor `(channels, height, width)`; `to_rgb` converts a PIL image of any mode.

        Raises:
            ValueError: If the image is so long that resizing its shorter side would fill the memory.
        """
        if do_convert_rgb and isinstance(image, Image.Image):
            image = to_rgb(image)
        tensor: Tensor = super().process_image(image, do_convert_rgb, input_data_format, device, **kwargs)
        refuse_ratio((tensor.shape[-1], tensor.shape[-2]))
        return tensor


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to RGB, with white behind transparency. Training and inference both use this.

    Args:
        image: In 16 and 32 bit images (modes `I;16`, `I`) the range 0 to 65535 becomes 0 to 255.
    """
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image).clip(0, 65535) / 257.0).round().astype(np.uint8)).convert("RGB")
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    return Image.fromarray(np.asarray(convert_to_rgb(image, return_numpy=True)))
