"""Locks: one holder, who is named to others, and nothing of a holder who has died."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from prunnet_hf.storage.lock import locked


def test_the_second_is_refused_and_told_who_is_first(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with locked(lock, "output='x'", "Wait for it."):
        with pytest.raises(BlockingIOError) as refused, locked(lock, "output='x'", "Wait for it."):
            pass
        first = rf"process {os.getpid()} on {re.escape(socket.gethostname())} since 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d\S*"
        assert re.fullmatch(rf"output='x' is being written by {first}\. Wait for it\.", str(refused.value))
    with locked(lock, "output='x'"):
        assert lock.exists()
    assert not lock.exists()


def test_an_error_releases_it(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), locked(tmp_path / "lock", "x"):
        raise KeyboardInterrupt
    with locked(tmp_path / "lock", "x"):
        pass


def test_one_that_a_killed_process_held_is_free(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        with locked(tmp_path / "lock", "x"):
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert str(child) in (tmp_path / "lock").read_text()
    with locked(tmp_path / "lock", "x"):
        assert str(os.getpid()) in (tmp_path / "lock").read_text()
        assert str(child) not in (tmp_path / "lock").read_text()


def test_a_child_that_outlives_its_parent_does_not_keep_it(tmp_path: Path) -> None:
    done, go_on = os.pipe()
    with locked(tmp_path / "lock", "x"):
        child = os.fork()
        if child == 0:
            os.close(go_on)
            os.read(done, 1)
            os._exit(0)
    os.close(done)
    with locked(tmp_path / "lock", "x"):  # the child still lives
        pass
    os.close(go_on)
    os.waitpid(child, 0)


def test_those_who_wait_come_one_after_another(tmp_path: Path) -> None:
    inside: list[int] = []

    def work(number: int) -> int:
        with locked(tmp_path / "lock", "x", wait=True):
            inside.append(number)
            time.sleep(0.001)
            together = len(inside)
            inside.remove(number)
        return together

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(work, range(64))) == {1}
    assert os.listdir(tmp_path) == []
