"""Locks on files, which the kernel releases when the process that holds them ends, however it ends.

A lock is a file that is there while somebody holds it and says who. One that a killed process has left means nothing:
only the kernel's own lock on it counts. Windows has no such locks, and some network file systems have none either;
there, nobody is kept apart.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

if sys.platform != "win32":
    import fcntl

_held: set[int] = set()
"""The open files of the locks that this process holds."""


def _let_go_in_child() -> None:
    """A child, such as a data loader's worker, may outlive its parent and must not keep the parent's locks."""
    while _held:
        os.close(_held.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_in_child)


@contextmanager
def locked(path: Path, what: str, remedy: str = "", *, wait: bool = False) -> Iterator[None]:
    """Hold the lock `path` for the time of the block.

    Args:
        path: The lock file. Its directory must exist.
        what: What the lock protects, for the error: an argument with its value.
        remedy: What to do if another process holds it.
        wait: Whether to wait until the other process is done, instead of raising an error.

    Raises:
        BlockingIOError: If another process (or thread) holds the lock; the message names it.
        OSError: If the file can't be made.
    """
    file = _take(path, what, remedy, wait)
    owner = os.getpid()
    _held.add(file)
    try:
        yield
    finally:
        if os.getpid() == owner:
            # Removed while it is still locked: whoever has opened it meanwhile finds that it isn't at its path.
            path.unlink(missing_ok=True)
            _held.discard(file)
            os.close(file)


def try_lock(file: int) -> bool | None:
    """Lock an open file until it is closed; returns None if files can't be locked here, False if it is locked."""
    if sys.platform == "win32":
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return None
    return True


def is_at(file: int, path: Path) -> bool:
    """Whether an open file is still the one at this path."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file), path.stat())
    return False


def _take(path: Path, what: str, remedy: str, wait: bool) -> int:
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if try_lock(file) is False:
                if not wait:
                    raise BlockingIOError(f"{what} is being written by {_holder(file)}. {remedy}".rstrip())
                _wait(file)
            if is_at(file, path):
                os.ftruncate(file, 0)
                os.write(file, _this_process().encode())
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # of a holder who has just removed it


def _wait(file: int) -> None:
    if sys.platform != "win32":
        fcntl.flock(file, fcntl.LOCK_EX)


def _this_process() -> str:
    now = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    return f"process {os.getpid()} on {socket.gethostname()} since {now}"


def _holder(file: int) -> str:
    return os.read(file, 1000).decode(errors="replace") or "another process"
