"""Runs functions in other processes: several that accelerate joins by gloo, as a launcher would, or one alone."""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch
from torch.distributed import TCPStore

from tests import accelerate_state

_MEETINGS = 6
"""How often the processes can begin anew, by `reset_accelerate`."""
_stores: list[TCPStore] = []


def run_processes(world_size: int, function: Callable[..., Any], *arguments: Any, folder: Path) -> list[Any]:
    """What `function(*arguments)` returns in each process, by rank.

    Args:
        world_size: Number of processes.
        function: Of a module's top level.
        *arguments: Picklable.
        folder: Where results are handed over.
    """
    processes = start_processes(world_size, function, *arguments, folder=folder)
    for process in processes:
        process.join(timeout=600)
    hanging = [rank for rank, process in enumerate(processes) if process.is_alive()]
    for process in processes:
        process.kill()
    assert not hanging, f"ranks {hanging} hang"
    assert [process.exitcode for process in processes] == [0] * world_size
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=False) for rank in range(world_size)]


def start_processes(
    world_size: int, function: Callable[..., Any], *arguments: Any, folder: Path
) -> list[ForkServerProcess]:
    """Start what `run_processes` runs, without waiting for it."""
    # They meet at servers of this process: a port that was only looked for could be taken before they listen.
    stores = [TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) for _ in range(_MEETINGS)]
    _stores.extend(stores)
    places = [(rank, world_size, [store.port for store in stores]) for rank in range(world_size)]
    return [start_process(_join, *place, function, arguments, folder) for place in places]


def start_process(function: Callable[..., Any], *arguments: Any) -> ForkServerProcess:
    """Start a single process, which accelerate knows nothing of."""
    # Imports take longer than most of these tests: done once, in a process that has no threads yet and can be forked.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.training.tiny_run", "torch._dynamo", function.__module__])
    process = context.Process(target=function, args=arguments)
    process.start()
    return process


def die_at_rename(count: int, work: Any) -> None:
    """Do `work` in a child process that dies on the spot when it is about to rename its file number `count`."""
    child = os.fork()
    if child == 0:
        renames = iter(range(count))

        def hook(event: str, _: Any) -> None:
            if event == "os.rename" and next(renames, None) is None:
                os._exit(1)

        sys.addaudithook(hook)
        work()
        os._exit(0)
    os.waitpid(child, 0)


def _join(
    rank: int, world_size: int, ports: list[int], function: Callable[..., Any], arguments: Any, folder: Path
) -> None:
    torch.set_num_threads(1)
    gc.freeze()  # see `small_heap` in conftest.py
    # A data loader's workers are forked, as in a launcher's processes; a forkserver's would import all once more.
    multiprocessing.set_start_method("fork", force=True)
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
    os.environ.update({name: str(value) for name, value in places.items()})
    first, *accelerate_state.MEETING_PLACES[:] = ports
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(first), "ACCELERATE_USE_CPU": "true"})
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"  # rank 0 joins the server, and starts none
    torch.save(function(*arguments), folder / f"rank-{rank}.pt")
