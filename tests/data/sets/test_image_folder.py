from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as PILImage

from prunnet_hf.data.sets.image_folder import (
    check_images,
    find_corrupt_images,
    load_hub_dataset,
    load_image_folder,
)


def save_image(path: Path, grey: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PILImage.new("L", (8, 8), grey).save(path)


@pytest.fixture
def photos(tmp_path):
    """Two training classes and two test classes of two images each; the grey value is unique to the image."""
    names = [
        f"{folder}/{view}.png" for folder in ("train/dog", "train/ant", "test/fox", "test/bee") for view in (0, 1)
    ]
    for index, name in enumerate(names):
        save_image(tmp_path / "photos" / name, grey=10 * index)
    return tmp_path / "photos"


def grey_values(images: Dataset) -> list[int]:
    return [int(np.asarray(image)[0, 0]) for image in images["image"]]


def class_names(images: Dataset) -> list[str]:
    names: list[str] = images.features["label"].int2str(images["label"][:])
    return names


def test_folder_gives_images_labels_and_names_of_each_split(photos):
    splits = load_image_folder(photos)
    assert splits.protocol == "leave_one_out"
    assert splits.query is splits.gallery
    assert splits.train.features["label"].names == ["ant", "dog"]
    assert splits.query.features["label"].names == ["bee", "fox"]
    assert splits.train["label"][:] == splits.query["label"][:] == [0, 0, 1, 1]
    assert grey_values(splits.train) == [20, 30, 0, 10]
    assert grey_values(splits.query) == [60, 70, 40, 50]


def test_class_folders_may_be_named_like_splits(photos):
    (photos / "train" / "dog").rename(photos / "train" / "test")
    assert class_names(load_image_folder(photos).train) == ["ant", "ant", "test", "test"]


def test_loading_writes_nothing_into_the_folder(photos):
    before = sorted(photos.rglob("*"))
    check_images(load_image_folder(photos).train, skip_corrupt=False)
    assert sorted(photos.rglob("*")) == before


def test_relative_folder_survives_a_change_of_directory(photos, monkeypatch):
    monkeypatch.chdir(photos.parent)
    splits = load_image_folder("photos")
    monkeypatch.chdir(os.sep)
    assert grey_values(splits.train) == [20, 30, 0, 10]


def test_other_files_are_passed_over(photos):
    names = ("train/ant/notes.txt", "train/ant/._0.png", "train/ant/.thumbs/0.png", "train/.cache/0.png", "train/a.md")
    for name in names:
        path = photos / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"no image")
    splits = load_image_folder(photos)
    assert splits.train.features["label"].names == ["ant", "dog"]
    assert len(splits.train) == 4


def test_missing_folder_is_shown(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data_dir='.*nowhere'.*folder"):
        load_image_folder(tmp_path / "nowhere")


@pytest.mark.parametrize("split", ["train", "test"])
def test_missing_split_is_named(photos, split):
    (photos / split).rename(photos / "elsewhere")
    with pytest.raises(FileNotFoundError, match=rf"{split}.*missing\. data_dir.*train/<class>/<image>"):
        load_image_folder(photos)


@pytest.mark.parametrize("split", ["train", "test"])
def test_split_without_classes_is_named(photos, split):
    (photos / split).rename(photos / "elsewhere")
    (photos / split).mkdir()
    with pytest.raises(ValueError, match=rf"{split}.*class folders"):
        load_image_folder(photos)


def test_empty_class_is_named(photos):
    (photos / "train" / "cat").mkdir()
    with pytest.raises(ValueError, match=r"1 class folders.*train.*images: cat"):
        load_image_folder(photos)


def test_test_class_with_one_image_is_named(photos):
    (photos / "test" / "fox" / "0.png").unlink()
    with pytest.raises(ValueError, match=r"image only.*: fox"):
        load_image_folder(photos)


def test_class_in_both_splits_is_named_in_a_warning(photos, caplog):
    (photos / "train" / "dog").rename(photos / "train" / "fox")
    with caplog.at_level(logging.WARNING):
        splits = load_image_folder(photos)
    assert "1 test classes are also training classes: fox" in caplog.text
    assert class_names(splits.train) == ["ant", "ant", "fox", "fox"]


def test_disjoint_splits_give_no_warning(photos, caplog):
    with caplog.at_level(logging.WARNING):
        load_image_folder(photos)
    assert caplog.text == ""


def test_images_deeper_in_a_class_folder_count_and_folders_named_like_images_do_not(photos):
    save_image(photos / "train" / "ant" / "album.png" / "old" / "5.JPG", grey=90)
    assert class_names(load_image_folder(photos).train) == ["ant", "ant", "ant", "dog", "dog"]


def test_class_folders_may_be_links(photos):
    (photos / "train" / "ant").rename(photos / "elsewhere")
    (photos / "train" / "ant").symlink_to(photos / "elsewhere")
    assert class_names(load_image_folder(photos).train) == ["ant", "ant", "dog", "dog"]


def test_what_is_passed_over_is_counted_and_named(photos, caplog):
    for name in (
        "train/ant/2.heic",
        "train/dog/3.HEIC",
        "train/ant/4",
        "train/5.png",
        "test/fox/6.xml",
        "val/a/7.png",
    ):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        (photos / name).touch()
    (photos / "train" / "gnu").symlink_to(photos / "nowhere")
    (photos / "train" / "hen").symlink_to(photos / "train" / "ant")
    assert len(load_image_folder(photos).train) == 4
    for said in (
        "train: 3 files are passed over: 2 .heic, 1 without a suffix. 1 links lead nowhere: gnu. 1 folders that links "
        "lead to were walked already under another name: hen.",
        "train: 1 images lie in no class folder: 5.png.",
        "test: 1 files are passed over: 1 .xml.",
        "photos: only train and test are read, not val.",
    ):
        assert said in caplog.text


@pytest.mark.parametrize("split", ["train", "test"])
def test_one_folder_level_too_many_is_refused_and_the_deeper_folders_are_named(photos, split):
    (photos / split).rename(photos / "images")
    (photos / split).mkdir()
    (photos / "images").rename(photos / split / "images")
    deeper = {"train": "images/ant, images/dog", "test": "images/bee, images/fox"}[split]
    with pytest.raises(
        ValueError, match=rf"{split} holds one class folder only: images\. .*\({deeper}\).*move them up"
    ):
        load_image_folder(photos)


def test_one_class_is_refused(photos):
    shutil.rmtree(photos / "train" / "dog")
    with pytest.raises(ValueError, match=r"train holds one class folder only: ant\. There must be at least 2"):
        load_image_folder(photos)


def test_training_images_may_lack_classes_where_labels_are_optional(photos, caplog):
    assert load_image_folder(photos, labels_optional=True).num_classes == 2  # classes that are there are taken
    save_image(photos / "train" / "loose.png", grey=99)
    with caplog.at_level(logging.WARNING):
        splits = load_image_folder(photos, labels_optional=True)
    assert "all 5 images are taken without classes, as 1 lie in no folder: loose.png" in caplog.text
    assert grey_values(splits.train) == [20, 30, 0, 10, 99]
    assert (splits.train["label"][:], splits.num_classes, splits.num_shared_classes) == ([0] * 5, 0, None)
    (photos / "train/loose.png").unlink()
    shutil.rmtree(photos / "train/dog")
    assert load_image_folder(photos, labels_optional=True).num_classes == 0
    shutil.rmtree(photos / "train/ant")
    with pytest.raises(ValueError, match="train has no class folders"):
        load_image_folder(photos, labels_optional=True)


def test_class_folders_that_print_alike_are_refused(photos):
    save_image(photos / "train" / "caf\u00e9" / "0.png")
    save_image(photos / "train" / "cafe\u0301" / "1.png")
    with pytest.raises(ValueError, match=r"train' has two.*alike, 'cafe\\u0301' and 'caf\\xe9'.*Rename"):
        load_image_folder(photos)


def test_a_class_has_one_name_however_unicode_writes_it(photos, caplog):
    save_image(photos / "train" / "caf\u00e9" / "0.png")
    for view in (0, 1):
        save_image(photos / "test" / "cafe\u0301" / f"{view}.png")
    assert class_names(load_image_folder(photos).query)[2:4] == ["caf\u00e9"] * 2
    assert "1 test classes are also training classes: caf\u00e9" in caplog.text


def test_images_are_not_opened_by_loading(photos):
    for path in photos.rglob("*.png"):
        path.write_bytes(b"no image")
    assert len(load_image_folder(photos).train) == 4


def damage(photos: Path) -> list[str]:
    """Damage two of the training images in two ways; returns their paths in order."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    truncated, no_image = photos / "train" / "ant" / "2.jpg", photos / "train" / "dog" / "1.png"
    PILImage.fromarray(noise).save(truncated)
    truncated.write_bytes(truncated.read_bytes()[:-200])  # opens and verifies; only decoding fails
    no_image.write_text("no image")
    return [str(truncated), str(no_image)]


def test_corrupt_images_are_found_by_row(photos):
    truncated, no_image = damage(photos)
    assert find_corrupt_images(load_image_folder(photos).train) == {2: truncated, 4: no_image}


def test_corrupt_images_stop_the_run_with_their_names_and_count(photos):
    truncated, no_image = damage(photos)
    with pytest.raises(ValueError, match="--skip_corrupt_images") as error:
        check_images(load_image_folder(photos).train, skip_corrupt=False)
    assert f"2 of 5 images can't be decoded: {truncated}, {no_image}." in str(error.value)


def test_corrupt_images_are_left_out_if_the_user_says_so(photos, caplog):
    damage(photos)
    with caplog.at_level(logging.WARNING):
        images = check_images(load_image_folder(photos).train, skip_corrupt=True)
    assert grey_values(images) == [20, 30, 0]
    assert class_names(images) == ["ant", "ant", "dog"]
    assert "2 of 5 images can't be decoded" in caplog.text


def test_pipes_and_images_far_too_long_are_left_out_if_the_user_says_so(photos):
    folder = photos / "train" / "dog"
    os.mkfifo(folder / "pipe.png")
    PILImage.new("1", (10**6, 1)).save(folder / "long.png")
    images = load_image_folder(photos).train
    with pytest.raises(ValueError, match=r"2 of 6 images can't be decoded: .*long\.png.*pipe\.png"):
        check_images(images, skip_corrupt=False)
    assert len(check_images(images, skip_corrupt=True)) == 4


def test_nothing_but_corrupt_images_is_an_error_in_any_case(photos):
    for path in (photos / "train").rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"4.*4 images.*decoded.*Nothing.*left"):
        check_images(load_image_folder(photos).train, skip_corrupt=True)


def test_more_images_than_are_decoded_at_a_time_keep_their_rows():
    columns = {"image": [{"bytes": b"no image", "path": None}] * 600, "label": [0] * 600}
    images = Dataset.from_dict(columns, features=Features({"image": Image(), "label": ClassLabel(names=["a"])}))
    assert find_corrupt_images(images) == {row: f"image {row}" for row in range(600)}


def test_row_without_an_image_counts_as_corrupt():
    features = Features({"image": Image(), "label": ClassLabel(names=["a"])})
    images = Dataset.from_dict({"image": [PILImage.new("L", (8, 8)), None], "label": [0, 0]}, features=features)
    assert find_corrupt_images(images) == {1: "image 1"}


def test_sound_images_are_returned_as_they_are(photos):
    images = load_image_folder(photos).train
    assert check_images(images, skip_corrupt=False) is images


def save_hub_dataset(folder: Path, splits: dict[str, Sequence[int]], names: Sequence[str] = "abcdef") -> str:
    """A data set as the Hub holds it: Parquet files with the columns `photo` and `species`."""
    (folder / "data").mkdir(parents=True)
    features = Features({"photo": Image(), "species": ClassLabel(names=list(names)), "year": Value("int64")})
    for split, labels in splits.items():
        images = [PILImage.new("L", (8, 8), 10 * label + 10) for label in labels]
        columns = {"photo": images, "species": list(labels), "year": [2000] * len(labels)}
        Dataset.from_dict(columns, features=features).to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return str(folder)


@pytest.fixture(autouse=True)
def cache_in_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def test_hub_splits_with_classes_of_their_own_are_taken_as_they_are(tmp_path):
    splits = load_hub_dataset(save_hub_dataset(tmp_path / "set", {"train": [0, 2, 2, 5], "test": [4, 3, 4, 3]}))
    assert splits.train.column_names == splits.query.column_names == ["image", "label"]
    assert class_names(splits.train) == ["a", "c", "c", "f"]
    assert splits.train["label"][:] == [0, 1, 1, 2]
    assert grey_values(splits.train) == [10, 30, 30, 60]
    assert class_names(splits.query) == ["e", "d", "e", "d"]
    assert grey_values(splits.query) == [50, 40, 50, 40]


def test_hub_splits_that_share_classes_are_pooled_and_every_third_class_is_tested_on(tmp_path):
    name = save_hub_dataset(tmp_path / "set", {"train": [0, 1, 2, 3, 4, 5], "test": [5, 4, 3, 2, 1, 0]})
    splits = load_hub_dataset(name)
    assert class_names(splits.train) == ["a", "b", "d", "e", "e", "d", "b", "a"]
    assert splits.train["label"][:] == [0, 1, 2, 3, 3, 2, 1, 0]
    assert class_names(splits.query) == ["c", "f", "f", "c"]
    assert grey_values(splits.query) == [30, 60, 60, 30]


def test_hub_validation_split_stands_in_for_a_test_split_without_labels(tmp_path):
    parts = {"train": [0, 1], "validation": [2, 2, 3, 3], "test": [-1, -1]}
    splits = load_hub_dataset(save_hub_dataset(tmp_path / "set", parts))
    assert class_names(splits.query) == ["c", "c", "d", "d"]


def test_hub_splits_that_are_not_read_are_named(tmp_path, caplog):
    parts = {"train": [0, 1], "validation": [2, 2, 3, 3], "test": [4, 4, 5, 5]}
    splits = load_hub_dataset(save_hub_dataset(tmp_path / "set", parts))
    assert class_names(splits.query) == ["e", "e", "f", "f"]
    assert "only train and a test are read, not validation." in caplog.text


def test_hub_data_set_with_one_split_is_divided(tmp_path):
    splits = load_hub_dataset(save_hub_dataset(tmp_path / "set", {"train": [0, 0, 1, 1, 2, 2, 3, 4, 5, 5]}))
    assert class_names(splits.train) == ["a", "a", "b", "b", "d", "e"]
    assert class_names(splits.query) == ["c", "c", "f", "f"]


@pytest.mark.parametrize("labels", [[0, 0, 1, 1], [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]])
def test_hub_data_set_with_too_few_classes_is_refused(tmp_path, labels):
    with pytest.raises(ValueError, match=rf"images.*{labels[-1] + 1} classes.*6"):
        load_hub_dataset(save_hub_dataset(tmp_path / "set", {"train": labels}))


@pytest.mark.parametrize(("train", "test", "role"), [([0, 1], [2, 2], "gallery"), ([0, 0], [1, 1, 2, 2], "train")])
def test_hub_splits_of_one_class_are_refused(tmp_path, train, test, role):
    with pytest.raises(ValueError, match=rf"{role} .*2 classes.*1"):
        load_hub_dataset(save_hub_dataset(tmp_path / "set", {"train": train, "test": test}))


def test_hub_classes_that_print_alike_are_refused_also_if_only_one_is_tested_on(tmp_path):
    names = ["a", "b", "caf\u00e9", "cafe\u0301", "d"]
    parts = {"train": [0, 1, 2], "test": [3, 3, 4, 4]}
    with pytest.raises(ValueError, match=r"dataset='.*set' has two.*alike, 'cafe\\u0301' and 'caf\\xe9'.*Rename"):
        load_hub_dataset(save_hub_dataset(tmp_path / "set", parts, names))


def test_hub_images_without_a_label_are_counted(tmp_path, caplog):
    parts = {"train": [0, 1, -1], "validation": [2, 2, 3, 3], "test": [-1, -1]}
    load_hub_dataset(save_hub_dataset(tmp_path / "set", parts))
    assert "1 of 3 images of the split train have no label" in caplog.text
    assert "2 of 2 images of the split test have no label" in caplog.text


@pytest.mark.parametrize(
    ("features", "missing"),
    [
        ({"photo": Image(), "year": Value("int64")}, "one label column"),
        ({"species": ClassLabel(names=["a"]), "year": Value("int64")}, "one image column"),
        ({"left": Image(), "right": Image(), "label": ClassLabel(names=["a"])}, "one image column"),
    ],
)
def test_hub_data_set_without_the_columns_is_refused_and_shown(tmp_path, features, missing):
    values = {Image: PILImage.new("L", (8, 8)), Value: 0, ClassLabel: 0}
    columns = {name: [values[type(feature)]] for name, feature in features.items()}
    (tmp_path / "set").mkdir()
    Dataset.from_dict(columns, features=Features(features)).to_parquet(tmp_path / "set" / "train.parquet")
    with pytest.raises(ValueError, match=missing) as error:
        load_hub_dataset(str(tmp_path / "set"))
    assert all(name in str(error.value) for name in features)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "train", "test"), [("grocery", (49, 3327), (16, 1003)), ("omniglot", (133, 2660), (41, 820))]
)
def test_real_images_are_all_there_and_readable(name, train, test):
    """Classes and images of each split, as the README beside the data counts them."""
    if "PRUNNET_DATA" not in os.environ:
        pytest.fail("PRUNNET_DATA must name the folder that holds grocery/ and omniglot/.")
    splits = load_image_folder(Path(os.environ["PRUNNET_DATA"]) / name)
    for images, expected in ((splits.train, train), (splits.query, test)):
        assert (images.features["label"].num_classes, len(images)) == expected
        assert find_corrupt_images(images) == {}
    assert set(splits.train.features["label"].names).isdisjoint(splits.query.features["label"].names)
