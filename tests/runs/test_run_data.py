"""The images of a run: what is looked at beforehand, what is held out, and what can't be trained on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage

from prunnet_hf.data.splits import RetrievalSplits
from prunnet_hf.data.streams import as_stream
from prunnet_hf.runs import run_data
from prunnet_hf.runs.arguments import DataArguments, ModelArguments, RunArguments, TrainArguments
from prunnet_hf.runs.run_data import check_beforehand, load_run_data, set_apart


def arguments(eval_every: int = 1, **data: object) -> RunArguments:
    return RunArguments(ModelArguments(), DataArguments(**data), TrainArguments(eval_every=eval_every))


def images(num_classes: int = 5, broken: bool = False) -> Dataset:
    picture = PILImage.new("L", (2, 2))
    columns = {"image": [picture] * (2 * num_classes), "label": [label for label in range(num_classes)] * 2}
    names = ClassLabel(names=[f"class-{label}" for label in range(num_classes)])
    found = Dataset.from_dict(columns, features=Features({"image": Image(), "label": names}))
    if not broken:
        return found
    stored = found.cast_column("image", Image(decode=False)).to_list()
    stored[3]["image"] = {"bytes": stored[3]["image"]["bytes"][:40], "path": "cut short.png"}
    return Dataset.from_list(stored, features=found.features)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in [
        f"{place}/{view}.png" for place in ("train/ant", "train/dog", "test/bee", "test/fox") for view in "01"
    ]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        PILImage.new("L", (4, 4)).save(tmp_path / name)
    return tmp_path


def test_test_images_are_decoded_before_training_and_not_after(photos: Path) -> None:
    (photos / "test/bee/1.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"1 of 4 images .*bee/1\.png"):
        load_run_data(arguments(dataset="image_folder", data_dir=str(photos)))


def test_flags_reach_the_reader(photos: Path) -> None:
    splits = load_run_data(arguments(dataset="image_folder", data_dir=str(photos), streaming=True))
    assert splits.train is not None
    assert sorted(row["label"] for row in splits.train) == [0, 0, 1, 1]
    assert type(splits.train) is not Dataset


def test_unreadable_images_are_left_out_only_if_asked_to() -> None:
    with pytest.raises(ValueError, match=r"1 of 10 images .*cut short\.png"):
        check_beforehand(images(broken=True), skip_corrupt=False)
    assert len(check_beforehand(images(broken=True), skip_corrupt=True)) == 9


def test_streams_and_large_sets_are_not_decoded_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = as_stream(images(broken=True))
    assert check_beforehand(stream, skip_corrupt=False) is stream
    with pytest.raises(ValueError, match=r"--skip_corrupt_images .*streams.* 10\b"):
        check_beforehand(stream, skip_corrupt=True)
    large = images(broken=True)
    monkeypatch.setattr(run_data, "CHECKED_BEFOREHAND", 9)
    assert check_beforehand(large, skip_corrupt=False) is large
    with pytest.raises(ValueError, match=r"up to 9 images.* 10\b"):
        check_beforehand(large, skip_corrupt=True)


def test_test_classes_are_looked_at_where_none_are_held_out() -> None:
    splits = RetrievalSplits(images(), images(2), images(2), "in_shop")
    train, validation = set_apart(splits, arguments())
    assert len(train) == 10
    assert validation is splits


def test_classes_are_held_out_to_be_looked_at() -> None:
    splits = RetrievalSplits(images(), images(2), images(2), "in_shop")
    train, validation = set_apart(splits, arguments(validation_share=0.4))
    assert (len(train), len(validation.query)) == (6, 4)
    assert validation.query is validation.gallery
    assert (validation.train, validation.protocol) == (None, "leave_one_out")


def test_classes_that_are_tested_on_already_are_those_to_look_at() -> None:
    splits = RetrievalSplits(images(), images(2), images(2), "leave_one_out", held_out=True)
    train, validation = set_apart(splits, arguments(validation_share=0.4))
    assert len(train) == 10
    assert validation is splits


@pytest.mark.parametrize("into", [None, "gallery.parquet"])
def test_only_runs_into_a_space_that_exists_can_do_without_test_images(photos: Path, into: str | None) -> None:
    shutil.rmtree(photos / "test")
    for name in ("cat", "owl"):
        shutil.copytree(photos / "train/ant", photos / "train" / name)
    data = DataArguments(dataset="image_folder", data_dir=str(photos), validation_share=0.5)
    run = RunArguments(ModelArguments(), data, TrainArguments(eval_every=1, into=into))
    if into is None:
        with pytest.raises(FileNotFoundError, match=r"test is missing\. data_dir"):
            load_run_data(run)
    else:
        splits = load_run_data(run)
        assert (splits.held_out, len(splits.train), len(splits.query)) == (True, 4, 4)


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_one_class_left_by_corrupt_images_is_refused(share: float) -> None:
    train = images()
    stored = train.cast_column("image", Image(decode=False)).to_list()
    for row in stored:
        if row["label"] > 0:
            row["image"] = {"bytes": b"no picture", "path": None}
    splits = RetrievalSplits(Dataset.from_list(stored, features=train.features), images(2), images(2), "in_shop")
    with pytest.raises(ValueError, match=r"train must.*2 classes; it has 1: class-0|only 1 have the two images"):
        set_apart(splits, arguments(skip_corrupt_images=True, validation_share=share))


def test_streams_can_not_hold_classes_out() -> None:
    test = as_stream(images(2))
    splits = RetrievalSplits(as_stream(images()), test, test, "leave_one_out")
    with pytest.raises(ValueError, match=r"--validation_share .*--streaming"):
        set_apart(splits, arguments(validation_share=0.4))
