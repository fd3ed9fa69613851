from __future__ import annotations

import inspect
from dataclasses import fields
from functools import partial

import pytest
from PIL import Image

from prunnet_hf.data.loading import SOURCES, load_splits
from prunnet_hf.runs.arguments import DataArguments
from tests.miniatures.gldv2 import make_gldv2
from tests.miniatures.in_shop import make_in_shop

IN_FOLDERS = [name for name, source in SOURCES.items() if source.needs_folder]


def test_image_folder_is_loaded_from_its_folder(tmp_path):
    tests = [f"test/{name}/{view}.png" for name in ("bee", "fox") for view in (0, 1)]
    for name in ("train/ant/0.png", "train/dog/0.png", *tests):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(tmp_path / name)
    splits = load_splits("image_folder", str(tmp_path))
    assert splits.train.features["label"].names == ["ant", "dog"]
    assert (len(splits.train), len(splits.query)) == (2, 4)


def test_glyphs_need_no_folder():
    splits = load_splits("glyphs")
    assert (splits.num_classes, len(splits.train), len(splits.query)) == (200, 3600, 900)


@pytest.mark.parametrize("name", SOURCES)
def test_options_of_a_source_are_arguments_of_its_loader_and_of_load_splits(name):
    load = SOURCES[name].load
    accepted = inspect.signature(load).parameters.keys() & inspect.signature(load_splits).parameters.keys()
    assert set(SOURCES[name].options) == accepted - {"data_dir"}
    assert not isinstance(load, partial) or load.keywords == {"name": name}


def test_help_names_every_source_and_who_takes_an_option():
    help_of = {field.name: field.metadata["help"] for field in fields(DataArguments)}
    assert all(name in help_of["dataset"] for name in SOURCES)
    assert "roxford5k or rparis6k (with data_dir)" in help_of["dataset"]
    assert help_of["num_classes"].startswith("For gldv2:")
    assert help_of["bounding_boxes"].startswith("For in_shop:")


@pytest.mark.parametrize("dataset", IN_FOLDERS)
def test_every_set_of_files_needs_its_folder(dataset):
    with pytest.raises(ValueError, match=f"{dataset}.*--data_dir"):
        load_splits(dataset)


@pytest.mark.parametrize("dataset", IN_FOLDERS)
def test_missing_folder_of_every_set_is_shown(dataset, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_splits(dataset, str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("dataset", "given", "message"),
    [
        ("glyphs", {"data_dir": "photos"}, r"--data_dir.*image_folder.*rparis6k;.* glyphs"),
        ("org/birds", {"data_dir": "photos"}, "--data_dir.*image_folder.* org/birds"),
        ("glyphs", {"streaming": True}, "--streaming .*image_folder, gldv2"),
        ("org/birds", {"streaming": True}, "--streaming .*image_folder, gldv2.* org/birds"),
        ("in_shop", {"class_share": 0.3}, "--class_share .*gldv2;.* in_shop"),
        ("veri776", {"num_classes": 0}, "--num_classes .*gldv2"),
        ("in_shop", {"subset": "full"}, "--subset .*gldv2"),
        ("gldv2", {"bounding_boxes": True}, "--bounding_boxes .*in_shop"),
    ],
)
def test_arguments_of_another_data_set_are_refused(dataset, given, message):
    with pytest.raises(ValueError, match=message):
        load_splits(dataset, **given)


def test_training_classes_do_not_matter_to_whoever_only_evaluates(tmp_path):
    make_in_shop(tmp_path)
    splits = load_splits("in_shop", str(tmp_path), class_share=0.3, num_classes=3, subset="full", evaluation_only=True)
    assert splits.num_classes == 6


def test_a_misspelt_name_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"in-shop\. Did you mean in_shop\?"):
        load_splits("in-shop", "folder")


def test_arguments_reach_the_reader(tmp_path):
    make_in_shop(tmp_path / "in_shop")
    make_gldv2(tmp_path / "gldv2", layout="extracted")
    boxed = load_splits("in_shop", str(tmp_path / "in_shop"), bounding_boxes=True, streaming=True)
    assert "bbox" in next(iter(boxed.train))
    assert load_splits("gldv2", str(tmp_path / "gldv2"), num_classes=2).num_classes == 2
    # One landmark of the full list isn't in the clean one.
    assert load_splits("gldv2", str(tmp_path / "gldv2"), subset="full").num_classes == 9
    assert load_splits("gldv2", str(tmp_path / "gldv2"), evaluation_only=True).train is None
