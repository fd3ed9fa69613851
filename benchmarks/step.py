"""What a PrunNet step costs, compared with N+1 plain steps of the same timm network.

    python benchmarks/step.py                       # the whole table
    python benchmarks/step.py --cases "resnet18 64" # one row
    python benchmarks/step.py --cases "resnet18 64" --num_subnetworks 1 2 4 8 # how it grows with N
    python benchmarks/step.py --granularity channel --cases "resnet18 224"    # passes that run thin

Plain and PrunNet steps take turns, on the same random images, with the same optimizer, precision and memory layout.
The ratio is the median over rounds of one PrunNet step to N+1 plain steps of the same round. On a CPU, seconds are
those in which the process computed, whatever else the machine does. On a GPU the table also counts how often the host
waits for the device within one PrunNet step.

With single weights each capacity costs the same, and N of them divide the range from 0 to 1. Of whole units a small
share costs less, so the capacities are those of default sampling: the dense network, the smallest, and N-1 drawn at
random; a PrunNet step is then the mean of several, whose draws differ.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import timm
import torch
from accelerate import Accelerator
from torch import nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from prunnet_hf import PrunNetConfig, PrunNetForImageClassification
from prunnet_hf.commands import CommandParser, run_command
from prunnet_hf.configuration_prunnet import Granularity
from prunnet_hf.pruning.layers import scored_modules
from prunnet_hf.runs.arguments import TrainArguments
from prunnet_hf.training.capacities import PassCapacities, pass_capacities
from prunnet_hf.training.methods import create_objective
from prunnet_hf.training.networks import lay_out
from prunnet_hf.training.step import TrainingStep

NUM_CLASSES = 1000
CAPACITIES = (0.2, 0.4, 0.6, 0.8)
Step = Callable[[], None]
MEASURED = "measured step"
NUM_SUBNETWORKS: dict[Granularity, int] = {"weight": len(CAPACITIES), "channel": 3}
"""By default. Three are what default sampling trains."""
NUM_DRAWS: dict[Granularity, int] = {"weight": 1, "channel": 4}
"""How many steps are one measurement."""


class Case(NamedTuple):
    """One row: a timm network, the side of its images, and whether its stem pools."""

    backbone: str
    image_size: int
    stem_pool: bool = True

    @property
    def name(self) -> str:
        """The name that `--cases` takes."""
        return f"{self.backbone} {self.image_size}{'' if self.stem_pool else ' without max-pool'}"


CASES = (
    Case("resnet18", 224),
    Case("resnet18", 64),
    Case("resnet18", 64, stem_pool=False),
    Case("resnet50", 224),
    Case("vit_small_patch16_224", 224),
)


class Row(NamedTuple):
    """The measurements with N subnetworks; times are medians, in seconds."""

    num_subnetworks: int
    plain: float
    prunnet: float
    ratio: float
    num_waits: int | None


def main() -> None:
    """Print a row for each case and number of subnetworks."""
    arguments = read_arguments()
    accelerator = Accelerator(mixed_precision=arguments.mixed_precision)
    place = torch.cuda.get_device_name() if accelerator.device.type == "cuda" else f"{os.cpu_count()} CPU cores"
    print(f"{place}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}, batch {arguments.batch_size}, ")
    print(f"granularity {arguments.granularity}, precision {arguments.mixed_precision}, ", end="")
    print(f"median of {arguments.rounds} rounds\n")
    print("| network, pixels | N | plain step (s) | PrunNet step (s) | over N+1 plain steps | in plain steps ", end="")
    print("| images/s | host waits |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    lines = []
    for case in CASES:
        if case.name in arguments.cases:
            rows = measure(case, accelerator, arguments)
            for row in rows:
                print(formatted(case, row, arguments.batch_size), flush=True)
            if len(rows) > 1:
                lines.append(f"{case.name}: {fitted_line(rows)}")
            accelerator.free_memory()  # it keeps references to networks
    print("", *lines, sep="\n")


def read_arguments() -> argparse.Namespace:
    """The command line."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [case.name for case in CASES]
    parser.add_argument("--cases", nargs="+", choices=names, default=names)
    parser.add_argument("--granularity", choices=tuple(NUM_SUBNETWORKS), default="weight")
    parser.add_argument("--num_subnetworks", type=int, nargs="+", help="values of N; default 4, of units 3")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mixed_precision", choices=("no", "bf16"), default="no")
    arguments = parser.parse_args()
    arguments.num_subnetworks = arguments.num_subnetworks or [NUM_SUBNETWORKS[arguments.granularity]]
    return arguments


def measure(case: Case, accelerator: Accelerator, arguments: argparse.Namespace) -> list[Row]:
    """Time all steps in turn."""
    batch = random_batch(case, accelerator, arguments.batch_size)
    plain, granularity = plain_step(case, accelerator, batch), arguments.granularity
    steps = {
        n: prunnet_step(case, accelerator, batch, passes_of(granularity, n), granularity=granularity)
        for n in arguments.num_subnetworks
    }
    seconds: list[tuple[float, dict[int, float]]] = []
    for _ in range(arguments.rounds + 1):
        baseline = clocked(plain, accelerator, max(steps) + 1)
        draws = NUM_DRAWS[granularity]
        seconds.append((baseline, {n: clocked(step, accelerator, draws) for n, step in steps.items()}))
    kept = seconds[1:]  # the first round allocates memory
    return [
        Row(
            num_subnetworks=n,
            plain=statistics.median(baseline for baseline, _ in kept),
            prunnet=statistics.median(ours[n] for _, ours in kept),
            ratio=statistics.median(ours[n] / (baseline * (n + 1)) for baseline, ours in kept),
            num_waits=count_host_waits(step) if accelerator.device.type == "cuda" else None,
        )
        for n, step in steps.items()
    ]


def formatted(case: Case, row: Row, batch_size: int) -> str:
    """A row of the table."""
    waits = "–" if row.num_waits is None else row.num_waits
    return (
        f"| {case.name} | {row.num_subnetworks} | {row.plain:.3f} | {row.prunnet:.3f} | {row.ratio:.3f} "
        f"| {row.ratio * (row.num_subnetworks + 1):.2f} | {batch_size / row.prunnet:.1f} | {waits} |"
    )


def fitted_line(rows: Sequence[Row]) -> str:
    """Describe the least-squares line of the seconds of a PrunNet step over its passes, N+1."""
    passes, seconds = [row.num_subnetworks + 1 for row in rows], [row.prunnet for row in rows]
    slope, intercept = statistics.linear_regression(passes, seconds)
    determination = statistics.correlation(passes, seconds) ** 2
    return (
        f"{slope / rows[0].plain:.3f} plain steps for each of the N+1 passes, plus {intercept:.3f} s; "
        f"R² = {determination:.4f}"
    )


def evenly_spaced(num_subnetworks: int) -> tuple[float, ...]:
    """Capacities that divide the range from 0 to 1 into equal parts; four of them are `CAPACITIES`."""
    return tuple(index / (num_subnetworks + 1) for index in range(1, num_subnetworks + 1))


def passes_of(granularity: Granularity, num_subnetworks: int) -> PassCapacities:
    """The capacities that are measured; see the head of this file."""
    if granularity == "weight":
        return pass_capacities("prunnet", evenly_spaced(num_subnetworks))
    trained = TrainArguments().capacities
    return pass_capacities("prunnet", trained, sampling="sandwich", num_draws=num_subnetworks - 1)


def count_host_waits(step: Step) -> int:
    """How often the host waits for the GPU within a step: calls of CUDA's `...Synchronize`."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler, record_function(MEASURED):
        step()
    calls = [event for event in profiler.events() if event.device_type == DeviceType.CPU]
    # The profiler itself waits once more, after the step.
    (measured,) = (call.time_range for call in calls if call.name == MEASURED)
    within = (call.name for call in calls if measured.start <= call.time_range.start < measured.end)
    return sum("Synchronize" in name for name in within)  # also called after copies that torch waits for


def clocked(step: Step, accelerator: Accelerator, times: int) -> float:
    """Mean seconds of a step; on a CPU those in which one of its threads computed."""
    is_on_gpu = accelerator.device.type == "cuda"
    synchronize = torch.cuda.synchronize if is_on_gpu else (lambda: None)
    clock = time.perf_counter if is_on_gpu else partial(cpu_seconds, torch.get_num_threads())
    synchronize()
    start = clock()
    for _ in range(times):
        step()
    synchronize()
    return (clock() - start) / times


def cpu_seconds(num_threads: int) -> float:
    """The seconds that this process has computed, by thread."""
    return time.process_time() / num_threads


def random_batch(
    case: Case,
    accelerator: Accelerator,
    batch_size: int,
    memory_format: torch.memory_format = torch.channels_last,
) -> dict[str, torch.Tensor]:
    """Random images and labels, the same in every call."""
    torch.manual_seed(0)
    images = torch.randn(batch_size, 3, case.image_size, case.image_size, device=accelerator.device)
    return {
        "pixel_values": images.contiguous(memory_format=memory_format),
        "labels": torch.randint(NUM_CLASSES, (batch_size,), device=accelerator.device),
    }


def plain_step(case: Case, accelerator: Accelerator, batch: dict[str, torch.Tensor]) -> Step:
    """An ordinary step of the timm network with its own classifier."""
    network = timm.create_model(case.backbone, num_classes=NUM_CLASSES)
    if not case.stem_pool:
        network.maxpool = nn.Identity()
    network = network.to(accelerator.device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

    def step() -> None:
        with accelerator.autocast():
            loss = nn.functional.cross_entropy(network(batch["pixel_values"]), batch["labels"])
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 100.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def prunnet_step(
    case: Case,
    accelerator: Accelerator,
    batch: dict[str, torch.Tensor],
    passes: PassCapacities | None = None,
    memory_format: torch.memory_format = torch.channels_last,
    granularity: Granularity = "weight",
) -> Step:
    """A training step, made as training makes it, by default with `CAPACITIES`."""
    config = PrunNetConfig(
        backbone=case.backbone,
        image_size=case.image_size,
        stem_pool=case.stem_pool,
        num_labels=NUM_CLASSES,
        granularity=granularity,
    )
    model = PrunNetForImageClassification(config)
    lay_out(model, memory_format)
    for module in scored_modules(model):
        module.scores.requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    wrapped, prepared = accelerator.prepare(model, optimizer)
    training = TrainingStep(
        model,
        wrapped,
        create_objective(model, TrainArguments(method="prunnet")),
        passes or pass_capacities("prunnet", CAPACITIES),
        prepared,
        accelerator,
        max_grad_norm=100.0,
        seed=0,
        memory_format=memory_format,
    )
    steps = iter(range(10**9))
    wrapped.train()

    def step() -> None:
        number = next(steps)
        training.backward(batch, number)
        training.update(number)

    return step


if __name__ == "__main__":
    sys.exit(run_command("benchmarks/step.py", main))
