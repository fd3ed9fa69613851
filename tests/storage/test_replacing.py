"""What killed saves have left in a directory, by whoever comes next. The moves: test_pretrained.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from prunnet_hf.storage.replacing import Replaceable, is_free, replaced_whole, tidy_directory
from tests.processes import die_at_rename

PAGE = Replaceable(files=("picture", "page"), last="page")
OTHER = Replaceable(files=("picture", "other"), last="other")


def save(folder: Path, text: str, what: Replaceable = PAGE) -> None:
    with replaced_whole(folder, what) as staging:
        for name in what.files:
            (staging / name).write_text(text)


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_first_save_that_is_killed_leaves_a_free_directory(renames: int, tmp_path: Path) -> None:
    die_at_rename(renames, lambda: save(tmp_path, "new"))  # of its list of files, of a picture, of the page
    assert [*tmp_path.glob(".saving-*")] != []
    assert is_free(tmp_path, PAGE)
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("renames", [1, 2, 3, 4])
def test_what_is_of_another_kind_is_neither_removed_nor_taken_for_free(renames: int, tmp_path: Path) -> None:
    save(tmp_path, "old")
    die_at_rename(renames, lambda: save(tmp_path, "new"))  # of the list, of two old files away, of a new picture
    assert not is_free(tmp_path, OTHER)
    assert [*tmp_path.glob(".saving-*")] != []
    tidy_directory(tmp_path, PAGE)
    assert contents(tmp_path) == {"page": "old", "picture": "old"}


def test_what_is_free(tmp_path: Path) -> None:
    assert is_free(tmp_path / "new")
    assert is_free(tmp_path)
    (tmp_path / "mine").write_text("mine")
    assert not is_free(tmp_path)
    assert not is_free(tmp_path / "mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert not is_free(tmp_path / "link")
