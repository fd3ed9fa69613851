"""A training's images are known again by class names, number and list, in another folder and as a stream too."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from prunnet_hf.data.identity import differences_of_data, identify
from prunnet_hf.data.loading import load_splits
from tests.training.tiny_run import make_photos


def identity(photos: Path, **options: bool) -> dict[str, object]:
    return identify(load_splits("image_folder", str(photos), **options).train)


def test_the_same_images_in_another_folder_or_as_a_stream_are_the_same(photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "moved")
    here = identity(photos)
    assert here["class_names"] == [f"train-{number}" for number in range(5)]
    assert here["num_images"] == 30
    assert here == identity(tmp_path / "moved") == identity(photos, streaming=True)
    assert differences_of_data(here, here) == differences_of_data({}, here) == []


@pytest.mark.parametrize("streaming", [False, True])
def test_what_became_of_them_is_said(tmp_path: Path, streaming: bool) -> None:
    photos = make_photos(tmp_path / "photos")
    before, train = identity(photos, streaming=streaming), photos / "train"
    (train / "train-2/0.png").rename(train / "train-2/9.png")
    assert differences(before, photos, streaming) == ["the file names or labels in their list differ"]
    (train / "train-2/9.png").unlink()
    assert differences(before, photos, streaming) == ["30 images became 29"]
    (train / "train-1").rename(train / "zebra")
    assert differences(before, photos, streaming) == ["class 1 was 'train-1' and is 'train-2'", "30 images became 29"]
    shutil.rmtree(train / "zebra")
    assert differences(before, photos, streaming) == ["5 classes became 4", "30 images became 23"]


def differences(before: dict[str, object], photos: Path, streaming: bool) -> list[str]:
    return differences_of_data(before, identity(photos, streaming=streaming))


def test_images_without_names_are_known_by_their_sizes() -> None:
    glyphs = load_splits("glyphs", None).train
    assert glyphs is not None
    assert identify(glyphs)["digest"] == identify(glyphs.select(range(len(glyphs))))["digest"]
    swapped = identify(glyphs.select([1, 0, *range(2, len(glyphs))]))
    assert swapped["num_images"] == len(glyphs)
