from __future__ import annotations

import io

import fsspec
import numpy as np
import pytest
from datasets import Dataset, Features, Image
from PIL import Image as PILImage

from prunnet_hf.data.reading import read_image, stored_images
from prunnet_hf.data.streams import as_stream
from prunnet_hf.image_files import UnreadableImageError


def png(width: int, height: int) -> bytes:
    """Grey values count the pixels from the upper left corner."""
    file = io.BytesIO()
    pixels = np.arange(width * height, dtype=np.uint8).reshape(height, width)
    PILImage.fromarray(pixels).save(file, "png")
    return file.getvalue()


def test_images_stay_undecoded_until_they_are_read(tmp_path):
    (tmp_path / "a.png").write_bytes(png(3, 2))
    images = Dataset.from_dict({"image": [str(tmp_path / "a.png")]}, features=Features({"image": Image()}))
    for stored in (stored_images(images), stored_images(as_stream(images))):
        row = next(iter(stored))
        assert row["image"] == {"bytes": None, "path": str(tmp_path / "a.png")}
        assert np.asarray(read_image(row))[..., 0].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_box_is_cut_out_its_lower_right_corner_left_out():
    row = {"image": {"bytes": png(4, 3), "path": None}, "bbox": [1, 0, 3, 2]}
    assert np.asarray(read_image(row))[..., 0].tolist() == [[1, 2], [5, 6]]


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        ({"bytes": png(9, 9)[:40], "path": "birds/7.png"}, r"birds/7\.png.*decoded"),
        ({"bytes": b"no image", "path": None}, "8 bytes without a name.*decoded"),
        ({"bytes": None, "path": "nowhere/8.png"}, r"nowhere/8\.png doesn't exist"),
    ],
)
def test_an_unreadable_image_is_named(stored, said):
    with pytest.raises(ValueError, match=f"image {said}"):
        read_image({"image": stored})


def test_a_box_that_holds_nothing_of_its_image_is_refused(tmp_path):
    PILImage.new("L", (20, 10)).save(tmp_path / "a.png")
    image = {"path": str(tmp_path / "a.png"), "bytes": None}
    assert read_image({"image": image, "bbox": [15, 5, 25, 15]}).size == (10, 10)
    for box in ([20, 0, 30, 10], [0, 10, 10, 20], [-5, 0, 0, 10]):
        with pytest.raises(ValueError, match=r"image.*a\.png.*\(20, 10\)"):
            read_image({"image": image, "bbox": box})


def test_a_row_without_an_image_is_shown():
    with pytest.raises(ValueError, match=r"image:.*'label': 3"):
        read_image({"image": None, "label": 3})


def test_an_image_far_too_long_is_refused_unless_its_box_is_not():
    image = {"bytes": png(300, 2), "path": "birds/7.png"}
    with pytest.raises(UnreadableImageError, match=r"birds/7\.png has 300 x 2 pixels"):
        read_image({"image": image})
    assert read_image({"image": image, "bbox": [0, 0, 30, 2]}).size == (30, 2)


def test_a_box_beyond_all_memory_is_refused():
    with pytest.raises(ValueError, match=r"box \[0, 0, 100000, 100000\].*too large.*birds/7\.png.*Correct"):
        read_image({"image": {"bytes": png(9, 9), "path": "birds/7.png"}, "bbox": [0, 0, 10**5, 10**5]})


def test_an_address_is_fetched():
    address = "memory://three.png"
    with fsspec.open(address, "wb") as file:
        file.write(png(3, 2))
    assert read_image({"image": {"bytes": None, "path": address}}).size == (3, 2)
    with pytest.raises(ValueError, match=r"memory://nothing\.png can't be fetched") as seen:
        read_image({"image": {"bytes": None, "path": "memory://nothing.png"}})
    assert not isinstance(seen.value, UnreadableImageError)
