"""Latency of networks on this machine's CPU, by which they can be compared even if the machine has other work.

Every network embeds one image by one thread, the caller's, and the time is that thread's CPU time: other processes
don't count. The networks take turns, so that what slows the machine down for a while slows down all of them.
"""

from __future__ import annotations

import logging
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Generic, TypeVar

import torch

from ..prunable_model import PrunNetPreTrainedModel
from .executorch import PROGRAM, open_program
from .onnx import INPUT, Embedder, export_copy, has_onnx, open_session, to_onnx

logger = logging.getLogger(__name__)

Key = TypeVar("Key")
ONNX_RUNTIME, TORCH, EXECUTORCH = "onnxruntime", "torch", "executorch"
_NAMES = {ONNX_RUNTIME: "ONNX Runtime", TORCH: "eager torch", EXECUTORCH: "ExecuTorch"}
ROUNDS = 15


@dataclass(frozen=True)
class Latency(Generic[Key]):
    """What embedding one image took.

    Attributes:
        milliseconds: The median for each network.
        ratios: The median of the ratios to the last network's time in the same round.
        runtime: What ran the networks, with its version; two if it was two.
        device: The CPU, and the number of threads.
    """

    milliseconds: dict[Key, float]
    ratios: dict[Key, float]
    runtime: str
    device: str


def measure_latency(
    networks: Mapping[Key, PrunNetPreTrainedModel], *, runtime: str | None = None, rounds: int = ROUNDS
) -> Latency[Key]:
    """Measure how long each of several networks takes to embed one image, as a device that sends queries does.

    Args:
        networks: The last one is what the others are compared with.
        runtime: `"onnxruntime"` or `"torch"`; by default ONNX Runtime if the extra `onnx` is installed and the
            networks can be exported.
        rounds: In each, every network has a turn: one run to warm up, one that counts.

    Raises:
        ImportError: If ONNX Runtime is asked for and isn't installed.
        RuntimeError: If ONNX Runtime is asked for and a network can't be exported.
        ValueError: If `runtime` is another.
    """
    if runtime is not None and runtime not in _PREPARE:
        raise ValueError(f"runtime must be one of {', '.join(map(repr, _PREPARE))}; got {runtime!r}.")
    runtime, runs = _prepare({key: export_copy(network) for key, network in networks.items()}, runtime)
    return _take_turns(runs, [runtime], rounds)


def time_files(files: Mapping[Key, Path], image_size: int, *, rounds: int = ROUNDS) -> Latency[Key]:
    """Measure how long exported files take to embed one image, as `measure_latency` does for networks.

    Args:
        files: They take `pixel_values`; those that end in `.pte` are run by ExecuTorch, others by ONNX Runtime. The
            last one is what the others are compared with.
        image_size: Side of the image in pixels.
        rounds: As in `measure_latency`.
    """
    image = torch.zeros(1, 3, image_size, image_size)
    runs: dict[Key, Callable[[], object]] = {
        key: partial(open_program(path), image)
        if path.suffix == PROGRAM
        else partial(open_session(path).run, None, {INPUT: image.numpy()})
        for key, path in files.items()
    }
    runtimes = dict.fromkeys(EXECUTORCH if path.suffix == PROGRAM else ONNX_RUNTIME for path in files.values())
    return _take_turns(runs, list(runtimes), rounds)


def _take_turns(runs: dict[Key, Callable[[], object]], runtimes: list[str], rounds: int) -> Latency[Key]:
    with _one_thread():
        times = [{key: _turn(run) for key, run in runs.items()} for _ in range(rounds + 1)][1:]
    last = next(reversed(runs))
    return Latency(
        {key: 1e3 * statistics.median(row[key] for row in times) for key in runs},
        {key: statistics.median(row[key] / row[last] for row in times) for key in runs},
        " and ".join(f"{_NAMES[runtime]} {version(runtime)}" for runtime in runtimes),
        describe_cpu(threads=1),
    )


def describe_cpu(threads: int | None = None) -> str:
    """The CPU's name (or, if not on Linux, its architecture) and a number of threads, by default torch's."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text(encoding="utf-8").splitlines() if information.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    threads = threads or torch.get_num_threads()
    return f"CPU ({names[0] if names else platform.machine()}, {threads} thread{'s' if threads != 1 else ''})"


def _turn(run: Callable[[], object]) -> float:
    run()  # the others have emptied the caches
    start = time.thread_time()
    run()
    return time.thread_time() - start


def _prepare(networks: Mapping[Key, Embedder], runtime: str | None) -> tuple[str, dict[Key, Callable[[], object]]]:
    """The runtime to use, and for each network what embeds an image."""
    if runtime is None and has_onnx():
        try:
            return _prepare(networks, ONNX_RUNTIME)
        except RuntimeError as error:
            logger.warning("Latency is measured in eager torch, because there is no other way: %s", error)
    runtime = runtime or TORCH
    return runtime, {key: _PREPARE[runtime](network) for key, network in networks.items()}


def _in_onnx_runtime(network: Embedder) -> Callable[[], object]:
    session, image = open_session(to_onnx(network)), network.images(1).numpy()
    return partial(session.run, None, {INPUT: image})


def _in_torch(network: Embedder) -> Callable[[], object]:
    return partial(torch.inference_mode()(network), network.images(1))


_PREPARE = {ONNX_RUNTIME: _in_onnx_runtime, TORCH: _in_torch}


@contextmanager
def _one_thread() -> Iterator[None]:
    """Torch works in the calling thread alone; then as before."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
