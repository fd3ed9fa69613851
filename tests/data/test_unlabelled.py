"""Images without classes: which become a test where there is none, and what is refused."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from datasets import Dataset
from PIL import Image

from prunnet_hf.data.reading import stored_images
from prunnet_hf.data.sets.image_folder import load_image_folder
from prunnet_hf.data.splits import HoldOut, RetrievalSplits

WITHOUT_TEST = HoldOut(0.0, 0)


def album(folder: Path, *names: str) -> Path:
    for place, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), place).save(folder / name)
    return folder


def load(folder: Path, hold_out: HoldOut | None = WITHOUT_TEST) -> RetrievalSplits:
    return load_image_folder(folder, labels_optional=True, hold_out=hold_out)


def files(images: Dataset) -> list[str]:
    return [Path(row["image"]["path"]).name for row in stored_images(images)]


def test_every_tenth_image_of_a_flat_folder_is_to_find_itself(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = [f"{place:02d}.png" for place in range(25)]
    splits = load(album(tmp_path, *names))
    assert splits.query["id"][:] == files(splits.query) == ["09.png", "19.png"]
    assert files(splits.train) == [name for name in names if name not in ("09.png", "19.png")]
    assert (splits.protocol, splits.held_out, splits.num_classes) == ("same_image", True, 0)
    assert splits.query is splits.gallery
    assert "has no test folder: every tenth image is held out of training (2 of 25)" in caplog.text


def test_folders_in_an_album_without_train_and_test_are_no_classes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = [f"{year}/{place:02d}.png" for year in (2025, 2026) for place in range(10)]
    splits = load(album(tmp_path, *names))
    assert splits.query["id"][:] == ["2025/09.png", "2026/09.png"]  # as a table of the folder calls them
    assert "there is no train folder; there are 2025, 2026" in caplog.text


def test_a_train_folder_without_classes_can_do_without_a_test_folder(tmp_path: Path) -> None:
    splits = load(album(tmp_path, *(f"train/{place:02d}.png" for place in range(20))))
    assert splits.query["id"][:] == ["train/09.png", "train/19.png"]


def test_a_test_folder_is_taken_if_it_is_there(tmp_path: Path) -> None:
    tested = [f"test/{label}/{view}.png" for label in "ab" for view in (0, 1)]
    splits = load(album(tmp_path, "train/0.png", "train/1.png", *tested))
    assert (len(splits.train), splits.protocol, splits.held_out) == (2, "leave_one_out", False)


def test_too_few_images_to_hold_any_out_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data_dir=.* has 19 images .* 20 are needed.*test/<class>/<image>"):
        load(album(tmp_path, *(f"{place:02d}.png" for place in range(19))))


def test_classes_are_held_out_where_there_are_some(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = album(tmp_path, *(f"train/{label}/{view}.png" for label in "abcde" for view in (0, 1)))
    with caplog.at_level(logging.WARNING):
        splits = load_image_folder(folder, hold_out=HoldOut(0.4, 0))
    train, held_out = (set(images.features["label"].names) for images in (splits.train, splits.query))
    assert (len(train), len(held_out), train & held_out) == (3, 2, set())
    assert (splits.protocol, splits.held_out, len(splits.query)) == ("leave_one_out", True, 4)
    assert "2 training classes are tested on" in caplog.text
    with pytest.raises(FileNotFoundError, match=r"test is missing\..*test/<class>/<image>.*--validation_share 0\.2"):
        load_image_folder(folder, hold_out=WITHOUT_TEST)
    with pytest.raises(FileNotFoundError, match=r"test is missing\. data_dir"):
        load_image_folder(folder)
