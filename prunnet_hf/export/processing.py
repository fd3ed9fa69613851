"""The image processor as the first part of an ONNX file, for devices that would otherwise have to program it again.

The file then takes `image`, uint8 `(height, width, 3)` of any size, upright and in RGB, and gives `pooler_output`
`(1, embedding_dim)`. Only operators are used that ONNX Runtime's builds for CPUs and for browsers (wasm) have.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from transformers.image_utils import PILImageResampling

from ..image_colours import to_rgb
from ..image_files import open_image
from ..image_processing_prunnet import PrunNetImageProcessor
from .distances import Distance, distance_between, name_of
from .onnx import INPUT, OPSET, OUTPUT, Embedder, open_session

IMAGE = "image"
"""The input: one picture."""
TOLERANCE = 1e-3
"""How far an embedding may be, in cosine distance, from that of the image processor's pixel values. Resizing rounds to
levels from 0 to 255, of which a few differ by one, and int8 rounds what follows again."""
_MODES = {
    # Pillow's and torchvision's cubic, not that of ONNX by default. Weights outside the image are left out.
    PILImageResampling.BICUBIC: 'mode = "cubic", cubic_coeff_a = -0.5, exclude_outside = 1',
    PILImageResampling.BILINEAR: 'mode = "linear"',
}
_GRAPH = """
<ir_version: 10, opset_import: ["" : {opset}]>
processing (uint8[height, width, 3] {image}) => (float[1, 3, {height}, {width}] {pixel_values})
<
  int64[1] image_zero = {{0}}, int64[2] image_two = {{2, 2}}, int64[2] image_axes = {{2, 3}},
  int64[2] image_batch_sizes = {{1, 3}}, int64[2] image_cropped = {{{height}, {width}}},
  float[1, 3, 1, 1] image_mean = {{{mean}}}, float[1, 3, 1, 1] image_std = {{{std}}}{constant}
>
{{
  image_first = Transpose <perm = [2, 0, 1]> ({image})
  image_batch = Unsqueeze (image_first, image_zero)
  image_sides = Shape <start = 0, end = 2> ({image})
  {target}
  image_sizes = Concat <axis = 0> (image_batch_sizes, image_target)
  image_resized = Resize <{mode}, antialias = 1> (image_batch, , , image_sizes)
  image_spare = Sub (image_target, image_cropped)
  image_start = Div (image_spare, image_two)
  image_end = Add (image_start, image_cropped)
  image_square = Slice (image_resized, image_start, image_end, image_axes)
  image_levels = Cast <to = 1> (image_square)
  image_centred = Sub (image_levels, image_mean)
  {pixel_values} = Div (image_centred, image_std)
}}
"""
_TO_SHORTER_SIDE = """\
image_shorter = ReduceMin <keepdims = 1> (image_sides)
  image_scaled = Mul (image_sides, image_side)
  image_target = Div (image_scaled, image_shorter)"""
_ADVICE = "Leave out processing='inside', and process images on the device."


@dataclass(frozen=True)
class _Steps:
    """What an image processor does, as far as it can be written.

    Attributes:
        mode: Attributes of the operator Resize.
        side: The length of the shorter side after resizing; None resizes to height and width.
        height: Of the pixel values, as `width`.
        mean: What is subtracted from the levels of each channel.
        std: What they are then divided by.
    """

    mode: str
    side: int | None
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def with_processing(network: bytes, processor: Any, image_size: int) -> bytes:
    """Put the image processor before a network.

    Args:
        network: The contents of an ONNX file that `to_onnx` made.
        processor: A `PrunNetImageProcessor` that resizes, bilinearly or bicubically, and crops the centre.
        image_size: Side of the square of pixels that the network takes.

    Returns:
        The contents of the new file.

    Raises:
        ImportError: If a package of the extra `onnx` isn't installed.
        ValueError: If the image processor does anything else.
    """
    import onnx.compose
    import onnx.parser

    before, after = onnx.parser.parse_model(_text(_steps(processor, image_size))), onnx.load_from_string(network)
    before.ir_version = after.ir_version
    model = onnx.compose.merge_models(before, after, io_map=[(INPUT, INPUT)])
    for shaped in (*model.graph.value_info, *model.graph.output):
        for size in shaped.type.tensor_type.shape.dim:
            if size.dim_param == "batch":
                size.dim_value = 1
    content: bytes = model.SerializeToString()
    return content


def check_processing(
    content: bytes, network: bytes, processor: Any, image_size: int, tolerance: float = TOLERANCE
) -> None:
    """Check that a file embeds pictures of many sizes as the network embeds what the image processor makes of them.

    Args:
        content: The contents of a file that `with_processing` made.
        network: What it was made of.
        processor: The image processor.
        image_size: Side of the square of pixels that the network takes.
        tolerance: How far embeddings may be from each other, in cosine distance.

    Raises:
        RuntimeError: If it doesn't.
    """
    session, plain = open_session(content), open_session(network)
    for picture in _pictures(image_size):
        pixels = processor(Image.fromarray(picture), return_tensors="np")["pixel_values"]
        expected, found = plain.run([OUTPUT], {INPUT: pixels})[0], session.run([OUTPUT], {IMAGE: picture})[0]
        distance = 1 - float((found * expected).sum())
        if not distance <= tolerance:  # also if it isn't a number
            raise RuntimeError(
                f"processing='inside' is refused, because the embedding of a picture of {picture.shape[1]} x "
                f"{picture.shape[0]} pixels has a cosine distance of {distance:.1e} from that of what the image "
                f"processor makes of it, where {tolerance:g} is allowed. {_ADVICE}"
            )


@torch.inference_mode()
def distance_with_processing(
    content: bytes, network: Embedder, processor: Any, images: Sequence[Any], image_size: int, allowed: float
) -> Distance:
    """The distance of embeddings of images from torch's, for which the image processor makes pixel values of them.

    Args:
        content: The contents of a file that `with_processing` made.
        network: In torch.
        processor: The image processor.
        images: Images as `model.encode` takes them; if there are none, pictures of many sizes.
        image_size: Side of the square of pixels that the network takes.
        allowed: How far the worst may be.

    Raises:
        RuntimeError: If one is further.
    """
    session = open_session(content)
    found, expected = [], []
    for image in images if len(images) else map(Image.fromarray, _pictures(image_size)):
        rgb = to_rgb(open_image(image) if isinstance(image, str | os.PathLike) else image)
        found.append(torch.from_numpy(session.run([OUTPUT], {IMAGE: np.asarray(rgb)})[0]))
        expected.append(network(processor(rgb, return_tensors="pt")["pixel_values"]))
    distance = distance_between(torch.cat(found), torch.cat(expected))
    if not distance.worst <= allowed:
        raise RuntimeError(
            f"processing='inside' is refused, because the embedding of {name_of(images, distance.place)} has a "
            f"cosine distance of {distance.worst:.1e} from torch's, where {allowed:g} is allowed. {_ADVICE}"
        )
    return distance


def _pictures(image_size: int) -> list[NDArray[np.uint8]]:
    """Smooth coloured pictures `(height, width, 3)`, always the same: large, tall, wide, tiny, of the size taken."""
    sides = (image_size, 2 * image_size + 1, 5 * image_size)
    shapes = [(sides[1], sides[2]), (sides[2], sides[1]), (sides[0], 7 * sides[0]), (5, 7), (1, 1), (sides[0],) * 2]
    generator = torch.Generator().manual_seed(0)
    corners = torch.randint(0, 256, (len(shapes), 3, 6, 6), generator=generator, dtype=torch.uint8).float()
    pictures = (
        F.interpolate(corners[i : i + 1], shape, mode="bilinear", align_corners=True) for i, shape in enumerate(shapes)
    )
    return [picture[0].permute(1, 2, 0).round().to(torch.uint8).numpy() for picture in pictures]


def _text(steps: _Steps) -> str:
    """The graph in ONNX's own syntax."""
    resized = f"int64[2] image_target = {{{steps.height}, {steps.width}}}"
    if steps.side is not None:
        resized = f"int64[1] image_side = {{{steps.side}}}"
    return _GRAPH.format(
        opset=OPSET,
        image=IMAGE,
        pixel_values=INPUT,
        height=steps.height,
        width=steps.width,
        mean=", ".join(map(repr, steps.mean)),
        std=", ".join(map(repr, steps.std)),
        constant=f", {resized}",
        target="" if steps.side is None else _TO_SHORTER_SIDE,
        mode=steps.mode,
    )


def _steps(processor: Any, image_size: int) -> _Steps:
    """Read what an image processor does, and refuse what can't be written."""
    if not isinstance(processor, PrunNetImageProcessor):
        raise ValueError(
            f"processing='inside' writes what a PrunNetImageProcessor does; the model's image processor is a "
            f"{type(processor).__name__}. {_ADVICE}"
        )
    if not processor.do_resize:
        raise ValueError(f"processing='inside' needs an image processor with do_resize; it has False. {_ADVICE}")
    mode = _MODES.get(PILImageResampling(processor.resample))
    if mode is None:
        known = " or ".join(f"{known.value} ({known.name})" for known in _MODES)
        raise ValueError(
            f"processing='inside' knows resample {known}; the image processor has {int(processor.resample)}. {_ADVICE}"
        )
    size = _given(processor.size)
    crop = _given(processor.crop_size) if processor.do_center_crop else size
    side = size.get("shortest_edge") if len(size) == 1 else None
    expected = {"height": image_size, "width": image_size}
    if crop != expected or (size != expected and (side is None or side < image_size)):
        raise ValueError(
            f"processing='inside' needs an image processor that resizes the shorter side to at least image_size="
            f"{image_size}, or both to it, and crops to it; it has size={size}, crop_size={crop}. {_ADVICE}"
        )
    return _Steps(mode, side, image_size, image_size, *_normalisation(processor))


def _given(sizes: Any) -> dict[str, int]:
    """The sizes that are set, of those that transformers knows."""
    given: Mapping[str, int | None] = dict(sizes or {})
    return {name: pixels for name, pixels in given.items() if pixels is not None}


def _normalisation(processor: PrunNetImageProcessor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """What is subtracted from levels from 0 to 255, and what they are divided by, which rescales them, too."""
    factor = processor.rescale_factor if processor.do_rescale else 1.0
    mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else ((0.0,) * 3, (1.0,) * 3)
    return tuple(float(value / factor) for value in mean), tuple(float(value / factor) for value in std)
