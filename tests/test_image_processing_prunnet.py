"""The image processor: the paper's evaluation by default, any size on request."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from prunnet_hf import PrunNetImageProcessor
from prunnet_hf.image_colours import to_rgb

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
DEVIATION = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


@pytest.mark.parametrize("size", [(640, 480), (100, 900), (224, 224), (10, 10)])
def test_the_default_is_the_central_224_pixels(size: tuple[int, int]) -> None:
    pixel_values = PrunNetImageProcessor()(Image.new("RGB", size), return_tensors="pt").pixel_values
    assert pixel_values.shape == (1, 3, 224, 224)
    assert pixel_values.dtype == torch.float32


def test_colours_are_normalised_with_imagenets_statistics() -> None:
    image = Image.new("RGB", (64, 64), (255, 0, 51))
    pixel_values = PrunNetImageProcessor()(image, return_tensors="pt").pixel_values[0]
    expected = (torch.tensor([1.0, 0.0, 0.2]).view(3, 1, 1) - MEAN) / DEVIATION
    torch.testing.assert_close(pixel_values, expected.expand(3, 224, 224))


def test_the_shorter_side_is_resized_and_the_centre_cropped() -> None:
    # 8 x 4 pixels, columns 0..7: at its own size the central 4 x 4 are columns 2..5.
    columns = np.tile(np.arange(8, dtype=np.uint8)[None, :, None] * 30, (4, 1, 3))
    processor = PrunNetImageProcessor(size={"shortest_edge": 4}, crop_size={"height": 4, "width": 4})
    pixel_values = processor(Image.fromarray(columns), return_tensors="pt").pixel_values[0]
    found = (pixel_values * DEVIATION + MEAN) * 255
    torch.testing.assert_close(found, torch.tensor([60.0, 90.0, 120.0, 150.0]).expand(3, 4, 4), rtol=0, atol=1e-3)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_other_colour_modes_become_rgb(mode: str) -> None:
    image = Image.new("RGB", (32, 32), (90, 90, 90)).convert(mode)
    assert PrunNetImageProcessor()(image, return_tensors="pt").pixel_values.shape == (1, 3, 224, 224)


def test_sixteen_bits_become_eight() -> None:
    levels = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)  # 257 times 0, 1, 128 and 255
    image = Image.fromarray(levels)
    assert image.mode == "I;16"
    assert np.asarray(to_rgb(image))[0].tolist() == [[level] * 3 for level in (0, 1, 128, 255)]
    whites = Image.fromarray(np.full((32, 32), 65535, dtype=np.uint16))
    processor, white = PrunNetImageProcessor(), Image.new("RGB", (32, 32), "white")
    found, expected = (processor(picture, return_tensors="pt").pixel_values for picture in (whites, white))
    torch.testing.assert_close(found, expected)


def test_transparency_lies_over_white() -> None:
    assert to_rgb(Image.new("RGBA", (1, 1), (255, 0, 0, 0))).getpixel((0, 0)) == (255, 255, 255)
    assert to_rgb(Image.new("RGBA", (1, 1), (255, 0, 0, 255))).getpixel((0, 0)) == (255, 0, 0)


def test_a_batch_of_different_sizes() -> None:
    batch = [Image.new("RGB", (30, 40)), Image.new("RGB", (50, 20))]
    processor = PrunNetImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    assert processor(batch, return_tensors="pt").pixel_values.shape == (2, 3, 32, 32)


def test_it_survives_a_round_trip(tmp_path: Path) -> None:
    processor = PrunNetImageProcessor(size={"shortest_edge": 48}, crop_size={"height": 40, "width": 40})
    processor.save_pretrained(tmp_path)
    loaded = PrunNetImageProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == processor.to_dict()
    image = Image.effect_noise((70, 50), 80).convert("RGB")
    found, expected = (p(image, return_tensors="pt").pixel_values for p in (loaded, processor))
    assert torch.equal(found, expected)


def pixels(image: object, **settings: object) -> torch.Tensor:
    found: torch.Tensor = PrunNetImageProcessor()(image, return_tensors="pt", **settings).pixel_values
    return found


BYTES = np.random.default_rng(1).integers(0, 256, (40, 50, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "same",
    [
        BYTES.astype(np.uint16) * 257,
        BYTES / 255.0,
        (BYTES / 255.0).astype(np.float16),
        np.moveaxis(BYTES, -1, 0),
        torch.from_numpy(BYTES) / 255,
        torch.from_numpy(BYTES).permute(2, 0, 1),
    ],
)
def test_every_kind_of_array_is_the_image_it_stands_for(same: object) -> None:
    torch.testing.assert_close(pixels(same), pixels(Image.fromarray(BYTES)), rtol=0, atol=0)


def test_an_array_with_transparency_lies_over_white() -> None:
    array = np.dstack([BYTES, BYTES[..., :1]])
    torch.testing.assert_close(pixels(array), pixels(Image.fromarray(array)), rtol=0, atol=0)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_floats_and_sixteen_bits_of_pillow_are_scaled(mode: str) -> None:
    grey = BYTES[..., 0]
    values = grey / np.float32(255) if mode == "F" else grey.astype(np.int32) * 257
    image = Image.fromarray(values)
    assert image.mode == mode
    torch.testing.assert_close(pixels(image), pixels(Image.fromarray(grey)), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("image", "error", "words"),
    [
        (BYTES.astype(np.float32), ValueError, "floats.*0 to 1.*255"),
        (BYTES / 255.0 - 0.5, ValueError, r"floats.*0 to 1.*-0\.5"),
        (np.full((9, 9, 3), np.nan), ValueError, "floats.*0 to 1.*nan"),
        (BYTES.astype(np.int64), TypeError, "int64.*uint8"),
        (Image.fromarray(BYTES[..., 0]).convert("I"), ValueError, "mode 'I'.*16 bits.*25[0-5].*uint8"),
        (Image.fromarray(np.full((9, 9), 70000, dtype=np.int32)), ValueError, "mode 'I'.*65535.*70000"),
        (Image.fromarray(BYTES[..., 0]).convert("F"), ValueError, "floats.*0 to 1.*25[0-5]"),
        (np.zeros((9, 9, 7), dtype=np.uint8), ValueError, r"\(9, 9, 7\).*PIL"),
        (np.zeros((3, 9, 3), dtype=np.uint8), ValueError, r"\(3, 9, 3\).*channels.*PIL"),
    ],
)
def test_values_of_an_unknown_range_are_refused(image: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        pixels(image)


def test_the_format_of_channels_can_be_said() -> None:
    array = BYTES[:3]
    expected = pixels(Image.fromarray(array))
    torch.testing.assert_close(pixels(array, input_data_format="channels_last"), expected, rtol=0, atol=0)


def test_normalising_without_rescaling_is_refused() -> None:
    for image in (BYTES, BYTES / 255.0):
        with pytest.raises(ValueError, match=r"do_rescale=False.*255.*Leave do_rescale out"):
            pixels(image, do_rescale=False)


def test_bytes_can_be_kept() -> None:
    found = pixels(Image.new("RGB", (9, 9), (255, 0, 51)), do_rescale=False, do_normalize=False)
    assert found[0, :, 0, 0].tolist() == [255, 0, 51]


def test_addresses_are_not_fetched() -> None:
    with pytest.raises(ValueError, match=r"https://example\.org/a\.png doesn't exist"):
        pixels("https://example.org/a.png")


@pytest.mark.parametrize("name", ["size", "crop_size"])
@pytest.mark.parametrize("pixels", [0, -1, 4097, 10**9, 5.5, "224", True])
def test_sides_that_no_network_takes_are_refused(name, pixels):
    sides = {"shortest_edge": pixels} if name == "size" else {"height": 224, "width": pixels}
    with pytest.raises(ValueError, match=rf"^{name} must hold whole numbers.*1 to 4096; got {pixels!r} for.*Correct"):
        PrunNetImageProcessor.from_dict({name: sides})
