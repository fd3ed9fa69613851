"""The image processor in an ONNX file: its levels are those of the package's own, for images of any size."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument
from PIL import Image
from transformers import CLIPImageProcessor

from prunnet_hf import PrunNetImageProcessor, PrunNetModel
from prunnet_hf.export.device_folder import export_folder
from prunnet_hf.export.processing import TOLERANCE, with_processing

MODEL_CARDS = Path(__file__).parents[2] / "model_cards"

SIZE = 8
SHORTER_SIDE: dict[str, Any] = {"size": {"shortest_edge": 10}, "crop_size": {"height": SIZE, "width": SIZE}}
PROCESSORS: dict[str, dict[str, Any]] = {
    "shorter side, then crop": SHORTER_SIDE,
    "bilinear": {**SHORTER_SIDE, "resample": 2},
    "both sides": {"size": {"height": SIZE, "width": SIZE}, "do_center_crop": False},
    "from 0 to 1": {**SHORTER_SIDE, "do_normalize": False},
    "levels": {**SHORTER_SIDE, "do_normalize": False, "do_rescale": False},
}
LEVELS = 2
"""By so many levels of 255 may two ways of resizing differ, when they enlarge an image."""


@cache
def pixels_of(kind: str) -> tuple[PrunNetImageProcessor, onnxruntime.InferenceSession]:
    """An image processor, and its ONNX file before a network that gives its pixel values as they are."""
    same = f"""<ir_version: 10, opset_import: ["" : 20]>
        network (float[batch, 3, {SIZE}, {SIZE}] pixel_values) => (float[batch, 3, {SIZE}, {SIZE}] pooler_output)
        {{ pooler_output = Identity (pixel_values) }}"""
    processor = PrunNetImageProcessor(**PROCESSORS[kind])
    content = with_processing(onnx.parser.parse_model(same).SerializeToString(), processor, SIZE)
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    return processor, onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


def difference(kind: str, image: np.ndarray) -> float:
    """The largest difference of pixel values, in levels from 0 to 255."""
    processor, session = pixels_of(kind)
    expected = processor(Image.fromarray(image), return_tensors="np")["pixel_values"]
    (found,) = session.run(None, {"image": image})
    assert found.shape == expected.shape == (1, 3, SIZE, SIZE)
    std = np.array(processor.image_std if processor.do_normalize else [1, 1, 1]).reshape(3, 1, 1)
    return float(np.abs((found - expected) * std * (255 if processor.do_rescale else 1)).max())


@pytest.mark.parametrize("kind", PROCESSORS)
@settings(max_examples=30, deadline=None)
@given(height=st.integers(1, 300), width=st.integers(1, 300), seed=st.integers(0, 9))
def test_pixel_values_are_those_of_the_image_processor(kind: str, height: int, width: int, seed: int) -> None:
    height, width = min(height, 100 * width), min(width, 100 * height)
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    assert difference(kind, noise) <= LEVELS + 1e-3


def test_one_colour_stays_that_colour_in_every_channel() -> None:
    _, session = pixels_of("levels")
    image = np.full((31, 17, 3), (10, 20, 30), dtype=np.uint8)
    (found,) = session.run(None, {"image": image})
    np.testing.assert_array_equal(found, np.broadcast_to(np.float32([10, 20, 30]).reshape(1, 3, 1, 1), found.shape))


def test_grey_images_must_be_made_rgb_before() -> None:
    _, session = pixels_of("levels")
    with pytest.raises(InvalidArgument, match="image"):
        session.run(None, {"image": np.zeros((9, 9), dtype=np.uint8)})


@pytest.mark.parametrize(
    ("processor", "message"),
    [
        (CLIPImageProcessor(), "PrunNetImageProcessor.*CLIPImageProcessor.*Leave out"),
        (
            PrunNetImageProcessor(**SHORTER_SIDE, resample=0),
            r"resample 3 \(BICUBIC\) or 2 \(BILINEAR\).*has 0.*Leave out",
        ),
        (PrunNetImageProcessor(**SHORTER_SIDE, do_resize=False), "do_resize.*False.*Leave out"),
        (
            PrunNetImageProcessor(size={"shortest_edge": 7}, crop_size=SHORTER_SIDE["crop_size"]),
            "size=8.*'shortest_edge': 7",
        ),
        (PrunNetImageProcessor(), "size=8.*'height': 224.*Leave out"),
        (
            PrunNetImageProcessor(size={"shortest_edge": 8, "longest_edge": 9}, crop_size=SHORTER_SIDE["crop_size"]),
            "longest",
        ),
    ],
)
def test_what_cannot_be_written_is_refused(processor: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        with_processing(b"", processor, SIZE)


@pytest.mark.real_data
def test_photos_have_the_embeddings_that_the_image_processor_gives_them(tmp_path: Path) -> None:
    """Every 40th photo of a shop's shelves, whole and cut to other shapes, by a fifth of a trained network."""
    assert "PRUNNET_DATA" in os.environ, "PRUNNET_DATA must name the folder that holds grocery/ and omniglot/."
    network = PrunNetModel.from_pretrained(MODEL_CARDS / "glyphs" / "model").prune(0.2)
    file = export_folder(network, tmp_path / "phone", processing="inside")[1].path
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    photos = [
        Image.open(path).convert("RGB")
        for path in sorted(Path(os.environ["PRUNNET_DATA"], "grocery/test").rglob("*.jpg"))[::40]
    ]
    assert len(photos) == 26
    pictures = [photo.crop((0, 0, *shape)) for photo in photos for shape in (photo.size, (117, 31), (20, 90))]
    found = np.concatenate([session.run(None, {"image": np.asarray(picture)})[0] for picture in pictures])
    assert (1 - (found * network.encode(pictures, progress=False)).sum(axis=1)).max() <= TOLERANCE
