"""The gallery of a page: which images it shows, how small they are, and examples to search with."""

from __future__ import annotations

import io
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prunnet_hf import Embeddings, Gallery
from prunnet_hf.export.page.pictures import (
    BYTES_AN_IMAGE,
    THUMBNAILS,
    VECTORS,
    Shown,
    choose_images,
    short_names,
    write_examples,
    write_gallery_part,
)

SPACE = "0123456789abcdef"
COUNT = 10


def vectors(count: int = COUNT, dim: int = 16) -> np.ndarray:
    drawn = np.random.default_rng(0).normal(size=(count, dim)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Noise, which is hard to compress, of 200 x 150 pixels."""
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    paths = [folder / "ab"[number % 2] / f"{number}.png" for number in range(COUNT)]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (150, 200, 3)).astype(np.uint8)).save(path)
    return [str(path) for path in paths]


def saved(photos: list[str], folder: Path, factory: str = "Flat", *, with_embeddings: bool = True) -> Path:
    labels = [Path(path).parent.name for path in photos]
    table = Embeddings(vectors(len(photos)), SPACE, 1.0, list(photos), labels)
    Gallery.from_embeddings(table, factory).save(folder, with_embeddings=with_embeddings)
    return folder


def shown(photos: list[str], folder: Path) -> Shown:
    return choose_images(saved(photos, folder), COUNT)


def test_a_large_gallery_is_shown_in_part_from_the_first_image_to_the_last(photos: list[str], tmp_path: Path) -> None:
    chosen = choose_images(saved(photos, tmp_path), 4)
    assert chosen.paths == [photos[row] for row in (0, 3, 6, 9)]
    assert chosen.labels == ["a", "b", "a", "b"]
    np.testing.assert_allclose(chosen.vectors, vectors()[[0, 3, 6, 9]], atol=1e-6)
    assert chosen.about.num_images == COUNT
    assert choose_images(tmp_path, 1000).paths == photos


def test_vectors_beside_an_approximate_index_are_found_and_else_refused(photos: list[str], tmp_path: Path) -> None:
    with_vectors = saved(photos, tmp_path / "a", "SQ8")
    np.testing.assert_allclose(choose_images(with_vectors, COUNT).vectors, vectors(), atol=1e-6)
    without = saved(photos, tmp_path / "b", "SQ8", with_embeddings=False)
    with pytest.raises(ValueError, match=r"--gallery .*'SQ8'.*without --without_embeddings"):
        choose_images(without, COUNT)


def test_thumbnails_are_images_one_behind_the_other_and_fit(photos: list[str], tmp_path: Path) -> None:
    part = write_gallery_part(shown(photos, tmp_path / "g"), tmp_path)
    content = (tmp_path / THUMBNAILS).read_bytes()
    assert len(content) == sum(part["sizes"]) == part["thumbnails"]["bytes"]
    starts = np.cumsum([0, *part["sizes"]])
    pictures = [Image.open(io.BytesIO(content[a:b])) for a, b in pairwise(starts)]
    assert {picture.format for picture in pictures} == {"WEBP"}
    (size,) = {picture.size for picture in pictures}
    assert size[0] == size[1] < 128  # noise of 128 pixels takes more than 5 kB
    assert len(content) + part["vectors"]["bytes"] <= BYTES_AN_IMAGE * COUNT
    assert part["labels"] == ["a", "b"] * 5
    assert part["names"][:2] == ["a/0.png", "b/1.png"]
    json.dumps(part)


def test_vectors_are_rounded_to_half_precision(photos: list[str], tmp_path: Path) -> None:
    part = write_gallery_part(shown(photos, tmp_path / "g"), tmp_path)
    read = np.frombuffer((tmp_path / VECTORS).read_bytes(), "<f2").reshape(COUNT, part["dim"])
    np.testing.assert_allclose(read, vectors(), atol=2**-12)


def test_a_small_image_isnt_enlarged(tmp_path: Path) -> None:
    Image.new("L", (20, 30)).save(tmp_path / "small.png")
    part = write_gallery_part(shown([str(tmp_path / "small.png")], tmp_path / "g"), tmp_path)
    assert part["names"] == ["small.png"]
    with Image.open(tmp_path / THUMBNAILS) as picture:
        assert picture.size == (20, 20)


def test_embeddings_that_leave_no_room_for_thumbnails_are_refused(photos: list[str], tmp_path: Path) -> None:
    about = shown(photos, tmp_path / "g").about
    too_long = Shown(photos, [None] * COUNT, np.zeros((COUNT, 2_400), np.float32), about)
    with pytest.raises(ValueError, match=r"embedding_dim=2400 leaves 200 of 5,000 bytes.*shorter embeddings"):
        write_gallery_part(too_long, tmp_path)


def test_names_dont_tell_where_the_images_were() -> None:
    assert short_names(["/home/me/photos/a/1.jpg", "/home/me/photos/b/2.jpg"]) == ["a/1.jpg", "b/2.jpg"]
    assert short_names(["/home/me/1.jpg"]) == ["1.jpg"]
    assert short_names(["photos/a/1.jpg", "photos/a/2.jpg"]) == ["1.jpg", "2.jpg"]


def test_examples_of_the_gallery_know_their_rows(photos: list[str], tmp_path: Path) -> None:
    examples = write_examples(None, shown(photos, tmp_path / "g"), tmp_path)
    assert [example["row"] for example in examples] == list(range(COUNT))
    assert [example["label"] for example in examples] == ["a", "b"] * 5
    assert [example["name"] for example in examples][:2] == ["a/0.png", "b/1.png"]


def test_examples_of_a_folder_have_its_labels_and_large_ones_are_shrunk(photos: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "queries"
    (folder / "cat").mkdir(parents=True)
    small = Image.fromarray(np.random.default_rng(1).integers(0, 256, (48, 48, 3)).astype(np.uint8))
    small.save(folder / "cat/small.bmp")
    Image.new("RGB", (1280, 320)).save(folder / "large.png")
    examples = write_examples(folder, shown(photos, tmp_path / "g"), tmp_path)
    assert [(example["name"], example["label"], example["row"]) for example in examples] == [
        ("cat/small.bmp", "cat", None),
        ("large.png", None, None),
    ]
    with Image.open(tmp_path / examples[0]["url"]) as first, Image.open(tmp_path / examples[1]["url"]) as second:
        np.testing.assert_array_equal(first, small)  # no pixel differs from what Python would embed
        assert second.size == (640, 160)


def test_of_many_examples_some_are_taken(photos: list[str], tmp_path: Path) -> None:
    for number in range(24):
        Image.new("L", (8, 8)).save(tmp_path / f"{number:02}.png")
    examples = write_examples(tmp_path, shown(photos, tmp_path / "g"), tmp_path / "g")
    assert [example["name"] for example in examples] == [f"{number:02}.png" for number in range(1, 24, 2)]


def test_a_folder_without_images_is_refused(photos: list[str], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"--examples .*empty' has no images: put some"):
        write_examples(tmp_path / "empty", shown(photos, tmp_path / "g"), tmp_path)
    with pytest.raises(FileNotFoundError, match=r"--examples.*nowhere.*hold images"):
        write_examples(tmp_path / "nowhere", shown(photos, tmp_path / "g"), tmp_path)
