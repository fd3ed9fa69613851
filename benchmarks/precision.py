"""How precision, memory layout and compilation change the time of a PrunNet step.

    python benchmarks/precision.py
    python benchmarks/precision.py --backbone resnet50 --image_size 224 --batch_size 128

Each setting runs in its own process, because accelerate has one precision per process. The processes take turns, one
step each. Figures are medians over rounds; how many times as fast is relative to the first setting of the same round.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
from multiprocessing.connection import Connection
from typing import NamedTuple

import torch
from accelerate import Accelerator

from prunnet_hf.commands import CommandParser, run_command
from step import CAPACITIES, Case, clocked, prunnet_step, random_batch


class Setting(NamedTuple):
    """How the passes of a step run."""

    name: str
    memory_format: torch.memory_format = torch.channels_last
    mixed_precision: str = "no"
    dynamo_backend: str = "no"


SETTINGS = (
    Setting("fp32, contiguous (`--channels_last false`)", torch.contiguous_format),
    Setting("fp32, channels_last (default)"),
    Setting("fp32, channels_last, compiled", dynamo_backend="inductor"),
    Setting("bf16, channels_last", mixed_precision="bf16"),
    Setting("bf16, channels_last, compiled", mixed_precision="bf16", dynamo_backend="inductor"),
)


def main() -> None:
    """Print a row for each setting."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    names = [setting.name for setting in SETTINGS]
    parser.add_argument(
        "--settings", nargs="+", type=int, default=range(len(names)), help=f"positions, from 0, in {names}"
    )
    arguments = parser.parse_args()
    settings = [SETTINGS[place] for place in arguments.settings]
    case = Case(arguments.backbone, arguments.image_size)
    workers = [start(setting, case, arguments.batch_size) for setting in settings]
    place = workers[0].recv()
    for worker in workers[1:]:
        worker.recv()  # it is ready and has compiled
    rounds = [[seconds_of(worker) for worker in workers] for _ in range(arguments.rounds)]
    for worker in workers:
        worker.send(False)
    print(
        f"{place}, load {os.getloadavg()[0]:.1f}; {case.name} px, batch {arguments.batch_size}, N = {len(CAPACITIES)}"
    )
    print("\n| passes | step (s) | times as fast |\n|---|---:|---:|")
    for index, setting in enumerate(settings):
        seconds = statistics.median(times[index] for times in rounds)
        gain = statistics.median(times[0] / times[index] for times in rounds)
        print(f"| {setting.name} | {seconds:.3f} | {gain:.2f} |")


def start(setting: Setting, case: Case, batch_size: int) -> Connection:
    """Start a process that takes a step whenever it is asked to."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    context.Process(target=work, args=(setting, case, batch_size, theirs), daemon=True).start()
    return ours


def seconds_of(worker: Connection) -> float:
    """Let one process take a step while the others wait."""
    worker.send(True)
    return float(worker.recv())


def work(setting: Setting, case: Case, batch_size: int, requests: Connection) -> None:
    """Send a description of the machine, then the seconds of a step for each request."""
    accelerator = Accelerator(mixed_precision=setting.mixed_precision, dynamo_backend=setting.dynamo_backend)
    batch = random_batch(case, accelerator, batch_size, setting.memory_format)
    step = prunnet_step(case, accelerator, batch, memory_format=setting.memory_format)
    for _ in range(2):  # allocates memory and compiles
        step()
    is_gpu = accelerator.device.type == "cuda"
    requests.send(torch.cuda.get_device_name() if is_gpu else f"{torch.get_num_threads()} CPU threads")
    while requests.recv():
        requests.send(clocked(step, accelerator, 1))


if __name__ == "__main__":
    sys.exit(run_command("benchmarks/precision.py", main))
