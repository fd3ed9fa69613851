"""Image processor of PrunNet models: resize the shorter side, crop the centre, normalise."""

import os
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, ChannelDimension, PILImageResampling

from .configuration_prunnet import model_in_run, refuse_copying_code
from .image_colours import to_rgb
from .image_files import open_image, refuse_ratio

LONGEST_SIDE = 4096
"""In pixels. No network takes larger images, and a wrong configuration could fill the memory with one."""


class PrunNetImageProcessor(TorchvisionBackend):
    """Turns images into `pixel_values` `(batch, 3, height, width)`.

    Images are paths, PIL images of any mode, and arrays or tensors of uint8, uint16, or floats from 0 to 1. Each is
    turned upright and becomes RGB over white, whatever `do_convert_rgb` says, so that one image has one result.

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

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in ("size", "crop_size"):
            for side, pixels in dict(getattr(self, name) or {}).items():
                if type(pixels) is not int or not 1 <= pixels <= LONGEST_SIDE:
                    raise ValueError(
                        f"{name} must hold whole numbers of pixels from 1 to {LONGEST_SIDE}; got {pixels!r:.80} for "
                        f"{side}. Correct it in preprocessor_config.json."
                    )

    def __repr__(self) -> str:
        """What it does to images; `to_json_string()` has everything."""
        steps = [f"{name}={dict(getattr(self, name) or {})}" for name in ("size", "crop_size")]
        steps += [f"{name}={tuple(getattr(self, name) or ())}" for name in ("image_mean", "image_std")]
        return f"{type(self).__name__}({', '.join(steps[:2])},\n  {', '.join(steps[2:])})"

    @classmethod
    def for_image_size(cls, image_size: int) -> "PrunNetImageProcessor":
        """The paper's evaluation at another size: the shorter side to 8/7 of it, then the centre."""
        return cls(
            size={"shortest_edge": round(image_size * 256 / 224)},
            crop_size={"height": image_size, "width": image_size},
        )

    @classmethod
    def get_image_processor_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read preprocessor_config.json.

        Raises:
            OSError: If there is none.
        """
        try:
            found: tuple[dict[str, Any], dict[str, Any]]
            found = super().get_image_processor_dict(pretrained_model_name_or_path, **kwargs)
        except OSError as error:
            instead = model_in_run(pretrained_model_name_or_path)
            if not instead:
                raise
            raise OSError(f"{pretrained_model_name_or_path} has no preprocessor_config.json. {instead}") from error
        return found

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> Any:  # type: ignore[override]
        """Save as transformers' image processors do.

        Raises:
            ValueError: If `register_for_auto_class` was called.
        """
        refuse_copying_code(self)
        return super().save_pretrained(save_directory, **kwargs)

    def fetch_images(self, image_url_or_urls: Any) -> Any:
        """Open paths as all of the package does; transformers would drop transparency and cut 16 bits.

        Raises:
            ValueError: If a file can't be read; the message names it. URLs aren't fetched.
        """
        if isinstance(image_url_or_urls, str | os.PathLike):
            return open_image(image_url_or_urls)
        return super().fetch_images(image_url_or_urls)

    def process_image(
        self,
        image: Any,
        do_convert_rgb: bool | None = None,
        input_data_format: Any = None,
        device: Any = None,
        do_rescale: bool | None = None,
        do_normalize: bool | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Turn one image into a tensor `(3, height, width)`.

        Raises:
            TypeError: If it is of another kind than those of `to_rgb`.
            ValueError: If its values are out of range, or to be normalised and not rescaled; or if it is so long that
                resizing its shorter side would fill the memory.
        """
        if do_normalize and not do_rescale:
            raise ValueError(
                "do_rescale=False with do_normalize=True takes values from 0 to 255 as if they were from 0 to 1. "
                "Leave do_rescale out: floats from 0 to 1 are known as such."
            )
        channels = None if input_data_format is None else ChannelDimension(input_data_format).value
        rgb = to_rgb(image, channels)
        refuse_ratio(rgb.size)
        return torch.from_numpy(np.array(rgb)).permute(2, 0, 1).contiguous().to(device)
