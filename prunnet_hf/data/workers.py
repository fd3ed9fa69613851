"""Loaders whose workers outlive the signals that stop a run: the process that started them saves first."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from multiprocessing import util
from multiprocessing.process import BaseProcess
from typing import Any

from torch.utils.data import DataLoader

STOPPING = (signal.SIGINT, signal.SIGTERM)
"""Schedulers and terminals send these to all processes of a run at once."""
_ENDING_FIRST = 100
_workers: dict[int, set[BaseProcess]] = {}
"""The workers of each process, because a forked process inherits this module."""


def ignore_stopping(worker: int = 0) -> None:
    """Let a loader's worker go on after `STOPPING`; a `worker_init_fn`. It still ends when its parent does."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)


def batches_of(loader: DataLoader[Any]) -> Iterator[Any]:
    """Start the workers of a loader that has `ignore_stopping`, so that no signal reaches one before that has run."""
    if not loader.num_workers:
        return iter(loader)
    if os.getpid() not in _workers:
        _workers[os.getpid()] = set()
        util.Finalize(None, _end_workers, exitpriority=_ENDING_FIRST)
    others = set(multiprocessing.active_children())
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        return iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        alive = set(multiprocessing.active_children())
        _workers[os.getpid()] = (alive - others) | (alive & _workers[os.getpid()])


def _end_workers() -> None:
    """End the workers that are left when a process exits: `multiprocessing` would send SIGTERM and wait for ever."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would raise: a worker was killed
    left = _workers[os.getpid()] & set(multiprocessing.active_children())
    for worker in left:
        worker.kill()
    for worker in left:
        worker.join()
