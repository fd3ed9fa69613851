"""Files that are whole or absent, whatever happens to their writers."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from prunnet_hf.runs.run_directory import write_text
from prunnet_hf.storage.whole_file import whole_file, write_whole


def test_it_appears_when_it_is_complete(tmp_path: Path) -> None:
    with whole_file(tmp_path / "new") as file:
        file.write(b"half, ")
        file.flush()
        assert not (tmp_path / "new").exists()
        file.write(b"whole")
    assert (tmp_path / "new").read_bytes() == b"half, whole"
    assert os.listdir(tmp_path) == ["new"]


def test_two_writers_at_the_same_time(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with whole_file(path) as first:
        first.write(b"first, ")
        first.flush()
        with whole_file(path) as second:
            second.write(b"second")
        assert path.read_bytes() == b"second"
        first.write(b"and last")
    assert path.read_bytes() == b"first, and last"
    assert os.listdir(tmp_path) == ["file"]


def test_writers_that_race(tmp_path: Path) -> None:
    texts = [letter * 100_000 for letter in "ab"]
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda number: write_text(tmp_path / "file", texts[number % 2]), range(60)))
    assert (tmp_path / "file").read_text() in texts
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    def fail_half_way() -> None:
        with whole_file(tmp_path / "file") as file:
            file.write(b"new")
            raise error

    write_whole(tmp_path / "file", "old")
    with pytest.raises(error):
        fail_half_way()
    assert (tmp_path / "file").read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_killed_writer_leaves_nothing_at_the_name(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        with whole_file(tmp_path / "file") as file:
            file.write(b"half")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not (tmp_path / "file").exists()
    write_whole(tmp_path / "file", "whole")
    assert (tmp_path / "file").read_text() == "whole"


def test_the_temporary_file_may_lie_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    with whole_file(tmp_path / "file", tmp_path / "scratch") as file:
        file.write(b"whole")
        assert len(os.listdir(tmp_path / "scratch")) == 1
        assert os.listdir(tmp_path) == ["scratch"]
    assert os.listdir(tmp_path / "scratch") == []
    assert (tmp_path / "file").read_bytes() == b"whole"


def test_text_is_utf_8(tmp_path: Path) -> None:
    write_whole(tmp_path / "file", "é\n")
    assert (tmp_path / "file").read_bytes() == b"\xc3\xa9\n"
