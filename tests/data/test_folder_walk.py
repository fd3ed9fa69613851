"""The walk over folders of images: every image once, also behind links, and no word left out on the rest."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from prunnet_hf.data.folder_walk import find_images


def make(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def link(place: Path, target: Path) -> None:
    place.symlink_to(target, target_is_directory=True)


def test_images_in_order_of_name_without_what_is_hidden(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path, "b/1.PNG", "a/x/2.jpg", "a/3.txt", ".git/4.png", "a/.5.png", "6.webp", "c.png/7.png", "a/README")
    found = find_images(tmp_path)
    assert found.images == ["6.webp", "a/x/2.jpg", "b/1.PNG", "c.png/7.png"]
    assert found.folders == ["a", "b", "c.png"]
    assert found.passed_over == {"hidden": 2, ".txt": 1, "without a suffix": 1}
    (line,) = caplog.messages
    assert line.startswith(f"{tmp_path}: 4 files are passed over: 2 hidden, 1 ")


def test_nothing_is_said_where_nothing_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    find_images(make(tmp_path, "a/1.png"))
    assert caplog.messages == []


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        find_images(tmp_path / "none")


def test_links_to_folders_and_files_are_followed(tmp_path: Path) -> None:
    elsewhere = make(tmp_path / "elsewhere", "cats/1.png", "cats/old/2.png", "3.png")
    root = make(tmp_path / "root", "dogs/4.png")
    link(root / "cats", elsewhere / "cats")
    link(root / "dogs" / "3.png", elsewhere / "3.png")
    assert find_images(root).images == ["cats/1.png", "cats/old/2.png", "dogs/3.png", "dogs/4.png"]
    link(tmp_path / "entry", root)
    assert find_images(tmp_path / "entry").images == find_images(root).images


def test_loops_end_and_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path, "a/1.png", "b/2.png")
    link(tmp_path / "up", tmp_path)
    link(tmp_path / "a" / "b", tmp_path / "b")
    link(tmp_path / "b" / "a", tmp_path / "a")
    (tmp_path / "itself").symlink_to("itself")
    found = find_images(tmp_path)
    assert (found.images, found.folders) == (["a/1.png", "b/2.png"], ["a", "b"])
    assert "1 links lead nowhere: itself. 3 folders that links lead to were walked already" in caplog.text
    assert "under another name: a/b, b/a, up." in caplog.text


def test_a_folder_is_walked_under_its_plainest_name(tmp_path: Path) -> None:
    """Without links before with links, then the least deep, then the first by name."""
    elsewhere = make(tmp_path / "elsewhere", "ant/1.png", "ant/deep/2.png")
    root = make(tmp_path / "root", "zoo/3.png")
    for name, target in (
        ("all", elsewhere),
        ("ant", elsewhere / "ant"),
        ("bug", elsewhere / "ant"),
        ("0", root / "zoo"),
    ):
        link(root / name, target)
    assert find_images(root).images == ["ant/1.png", "ant/deep/2.png", "zoo/3.png"]
    assert find_images(root).met_again == ["0", "bug", "all/ant"]


def test_broken_links_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    link(make(tmp_path, "a/1.png") / "dogs", tmp_path / "nowhere")
    link(tmp_path / "a" / "2.png", tmp_path / "nowhere")
    assert find_images(tmp_path).images == [
        "a/1.png",
        "a/2.png",
    ]  # the second one's name is in the error of opening it
    assert "1 links lead nowhere: dogs." in caplog.text


def test_many_suffixes_are_cut_and_odd_ones_escaped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    find_images(make(tmp_path, "a.\n", "b.\n", *(f"{number}.s{number}" for number in range(12))))
    assert "14 files are passed over: 2 '.\\n', 1 .s" in caplog.text
    assert "3 with other suffixes." in caplog.text


def test_suffixes_that_another_package_registers_later_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "1.heic")
    assert find_images(tmp_path).images == []
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "EXTENSION", dict(Image.EXTENSION))

    class Heif(Image.Image):
        """Stands for pillow_heif's."""

    Heif.__module__ = "pillow_heif.as_plugin"
    Image.register_open("HEIF", Heif)
    Image.register_extension("HEIF", ".heic")
    assert find_images(tmp_path).images == ["1.heic"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("caf\u00e9.png", "cafe\u0301.png"),
        ("caf\u00e9/1.png", "cafe\u0301/2.png"),
        ("a/caf\u00e9/1.png", "a/cafe\u0301/1.png"),
    ],
)
def test_names_that_print_alike_are_refused(tmp_path: Path, one: str, other: str) -> None:
    with pytest.raises(ValueError, match=r"has two names.*alike, '.*cafe\\u0301.*' and '.*caf\\xe9.*Rename"):
        find_images(make(tmp_path, one, other))


@pytest.mark.parametrize("other", ["cat ", " cat", "cat\u200b", "c\u00adat", "\ufeffcat", "cat\u00a0"])
def test_folders_that_differ_by_what_is_not_seen_are_refused(tmp_path: Path, other: str) -> None:
    with pytest.raises(ValueError, match=r"print alike, '.*cat.*' and '.*c.*at.*'.*Rename"):
        find_images(make(tmp_path, "cat/1.png", f"{other}/1.png"))


def test_folders_that_are_seen_to_differ_are_two(tmp_path: Path) -> None:
    names = ["Cat/1.png", "a b/1.png", "a  b/1.png", "ab/1.png", "cat/1.png", "x\u00b2/1.png", "x2/1.png"]
    assert find_images(make(tmp_path, *names)).images == sorted(names)


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff.txt")).touch()
    assert find_images(tmp_path).images == []
    (tmp_path / os.fsdecode(b"\xff.png")).touch()
    with pytest.raises(ValueError, match=r"'\\udcff\.png'.*valid UTF-8"):
        find_images(tmp_path)
