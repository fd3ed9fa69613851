from __future__ import annotations

import os
from pathlib import Path

import pytest

from prunnet_hf.data.official_files import (
    bad_line,
    check_identities,
    find_file,
    join_inside,
    numbered_lines,
    refuse_repeats,
    require_images,
    require_root,
)

SOURCE = "Ask the owners."


def test_root_becomes_absolute(tmp_path, monkeypatch):
    (tmp_path / "set").mkdir()
    monkeypatch.chdir(tmp_path)
    assert require_root("set", "the set", SOURCE) == tmp_path / "set"


@pytest.mark.parametrize("name", ["nowhere", "file"])
def test_root_that_is_no_folder_is_shown(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError, match=rf"root='.*{name}'.*folder.*set\."):
        require_root(tmp_path / name, "the set", SOURCE)


def test_first_place_that_exists_is_taken(tmp_path):
    for name in ("b", "c"):
        (tmp_path / name).touch()
    assert find_file(tmp_path, "a", "b", "c", source=SOURCE) == tmp_path / "b"


def test_missing_file_is_named_with_all_its_places(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path}/a.*missing.*b/a, c\).*owners"):
        find_file(tmp_path, "a", "b/a", "c", source=SOURCE)
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path}/a.*missing.*owners"):
        find_file(tmp_path, "a", source=SOURCE)


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_lines_are_numbered_from_one_and_empty_ones_passed_over(tmp_path, line_end):
    (tmp_path / "list.txt").write_bytes(line_end.join([b"a b", b"", b"  c  ", b"d"]))
    assert list(numbered_lines(tmp_path / "list.txt")) == [(1, "a b"), (3, "c"), (4, "d")]


def test_a_pipe_among_the_files_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a")
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path}/a is missing.*owners"):
        find_file(tmp_path, "a", source=SOURCE)


def test_a_line_without_end_is_refused_by_its_number(tmp_path):
    with (tmp_path / "list.txt").open("wb") as file:
        file.write(b"a b\n")
        file.truncate(10**8)  # zeros that take no room on disk
    with pytest.raises(ValueError, match=r"list\.txt, line 2, has more than 10000000 letters.*Download"):
        list(numbered_lines(tmp_path / "list.txt"))


def test_a_long_bad_line_is_shown_in_part():
    assert len(str(bad_line(Path("list.txt"), 2, "x" * 10**6, "a number"))) < 300
    with pytest.raises(ValueError, match=r"list\.txt.*path inside") as error:
        join_inside(Path("root"), "../" * 10**5, where="list.txt")
    assert len(str(error.value)) < 400


def test_lines_in_another_encoding_are_read_by_its_name_or_refused(tmp_path):
    (tmp_path / "list.txt").write_bytes("车 1".encode("gb2312"))
    assert list(numbered_lines(tmp_path / "list.txt", encoding="gb2312")) == [(1, "车 1")]
    with pytest.raises(ValueError, match=r"list\.txt.*text.*utf-8"):
        list(numbered_lines(tmp_path / "list.txt"))


def test_bad_line_is_named_and_shown():
    error = bad_line(Path("names.txt"), 7, "x y", "one word")
    assert str(error) == "names.txt, line 7: expected one word; got 'x y'."


@pytest.mark.parametrize("relative", ["a.jpg", "img/a.jpg", "a..b/c...jpg", "./a.jpg"])
def test_paths_inside_are_joined(relative):
    assert join_inside(Path("/set"), relative, where="list.txt, line 1") == Path("/set") / relative


@pytest.mark.parametrize(
    "relative", ["../a.jpg", "img/../../a.jpg", "img/..", "/etc/passwd", "", ".", "img\\..\\a.jpg", "a\0.jpg"]
)
def test_paths_that_lead_elsewhere_are_refused(relative):
    with pytest.raises(ValueError, match=r"list\.txt, line 1.*path inside /set.*attack"):
        join_inside(Path("/set"), relative, where="list.txt, line 1")


def test_repeated_names_are_counted_and_shown():
    refuse_repeats(["a", "b"], Path("list.txt"))
    with pytest.raises(ValueError, match=r"list\.txt.*2 images.*b\."):
        refuse_repeats(["a", "b", "c", "a", "b", "b"], Path("list.txt"))


def test_missing_images_are_counted_and_shown(tmp_path):
    (tmp_path / "x").mkdir()
    for name in ("a.jpg", "x/b.jpg"):
        (tmp_path / name).touch()
    require_images(tmp_path, ["a.jpg", "x/b.jpg"], where=Path("list.txt"), source=SOURCE)
    names = ["a.jpg", "b.jpg", "x/b.jpg", "x/a.jpg", "y/a.jpg", "a.jpg/a.jpg"]
    with pytest.raises(FileNotFoundError) as error:
        require_images(tmp_path, names, where=Path("list.txt"), source=SOURCE)
    assert str(error.value) == (
        f"4 of the 6 images that list.txt names are not in {tmp_path}: b.jpg, x/a.jpg, y/a.jpg, a.jpg/a.jpg. {SOURCE}"
    )


def test_identities_of_a_sound_test_pass():
    check_identities(["1", "1"], ["2"], ["2", "3"], what="cats", where=Path("list.txt"))


@pytest.mark.parametrize(("query", "gallery"), [(["2", "1"], ["1", "2"]), (["2"], ["2", "1"])])
def test_identities_that_are_trained_and_tested_on_are_shown(query, gallery):
    with pytest.raises(ValueError, match=r"list\.txt: 1 cats.*trained.*tested.*1\."):
        check_identities(["0", "1", "1"], query, gallery, what="cats", where=Path("list.txt"))


def test_queries_with_nothing_to_find_are_shown():
    with pytest.raises(ValueError, match=r"list\.txt: 2 cats.*queries.*missing.*gallery: 3, 4\."):
        check_identities(["0"], ["4", "2", "3", "3"], ["2"], what="cats", where=Path("list.txt"))
