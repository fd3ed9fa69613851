from __future__ import annotations

import pytest
from PIL import Image

from prunnet_hf.data.loading import load_splits


def test_image_folder_is_loaded_from_its_folder(tmp_path):
    for name in ("train/ant/0.png", "test/bee/0.png", "test/bee/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(tmp_path / name)
    splits = load_splits("image_folder", str(tmp_path))
    assert splits.train.features["label"].names == ["ant"]
    assert (len(splits.train), len(splits.query)) == (1, 2)


def test_glyphs_need_no_folder():
    splits = load_splits("glyphs")
    assert (splits.num_classes, len(splits.train), len(splits.query)) == (200, 3600, 900)


def test_image_folder_without_a_folder_is_refused():
    with pytest.raises(ValueError, match="--dataset image_folder needs --data_dir DIR"):
        load_splits("image_folder")


@pytest.mark.parametrize("dataset", ["glyphs", "org/birds"])
def test_folder_for_another_data_set_is_refused(dataset):
    with pytest.raises(ValueError, match=f"got 'photos' with --dataset {dataset}"):
        load_splits(dataset, "photos")


def test_missing_folder_is_shown(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere' is no folder"):
        load_splits("image_folder", str(tmp_path / "nowhere"))
