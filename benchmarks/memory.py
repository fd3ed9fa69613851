"""Peak memory of a PrunNet step, compared with a budget.

    python benchmarks/memory.py                                  # the whole table
    python benchmarks/memory.py --cases "vit_small_patch16_224 224"
    python benchmarks/memory.py --granularity channel            # whole units, with default sampling: N = 3

The budget is the peak of a plain step of the same timm network (weights, gradients, momentum and activations; same
batch, precision, optimizer and memory layout), and in addition for the prunable weights N+1 gradients, scores and
their momentum, one set of masked weights, and one 32-bit order for each weight. Whole units have the same budget,
although they need less: few scores, and thin passes. Their N is that of `benchmarks/step.py`.

The peak is the most that torch's allocator held at any moment while network and optimizer were created and took their
first steps; momentum exists from the second step on. On a GPU that is `torch.cuda.max_memory_allocated`. On a CPU it
is the largest sum of the allocations and releases that `torch.profiler` records. It doesn't contain memory that torch
doesn't allocate itself: what libraries such as oneDNN and OpenBLAS get from the system, and the copy of one layer's
scores in which NumPy looks for thresholds.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from pathlib import Path

import timm
import torch
from accelerate import Accelerator
from torch.profiler import ProfilerActivity, profile

from prunnet_hf.commands import CommandParser, run_command
from prunnet_hf.configuration_prunnet import Granularity
from prunnet_hf.pruning.layers import is_prunable_type
from step import CASES, NUM_SUBNETWORKS, Case, Step, passes_of, plain_step, prunnet_step, random_batch

NUM_STEPS = 2
MIB = 2**20
BYTES_PER_NUMBER = 4


def main() -> None:
    """Print a row for each case."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [case.name for case in CASES]
    parser.add_argument("--cases", nargs="+", choices=names, default=names)
    parser.add_argument("--granularity", choices=tuple(NUM_SUBNETWORKS), default="weight")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--mixed_precision", choices=("no", "bf16"), default="no")
    arguments = parser.parse_args()
    device = Accelerator(mixed_precision=arguments.mixed_precision).device
    place = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(f"{place}, {torch.get_num_threads()} threads, torch {torch.__version__}, batch {arguments.batch_size}, ")
    print(f"granularity {arguments.granularity}, precision {arguments.mixed_precision}, ", end="")
    print(f"N = {NUM_SUBNETWORKS[arguments.granularity]}, peak of {NUM_STEPS} steps\n")
    print("| network, pixels | plain peak (MiB) | budget (MiB) | PrunNet peak (MiB) | peak / budget |")
    print("|---|---:|---:|---:|---:|")
    for case in CASES:
        if case.name in arguments.cases:
            print(measure(case, arguments.batch_size, arguments.mixed_precision, arguments.granularity), flush=True)


def measure(case: Case, batch_size: int, mixed_precision: str, granularity: Granularity) -> str:
    """Measure both steps, one after the other, and return the row of a case."""
    num_subnetworks = NUM_SUBNETWORKS[granularity]
    ours = partial(prunnet_step, passes=passes_of(granularity, num_subnetworks), granularity=granularity)
    plain, prunnet = (
        peak_memory(partial(take_steps, create, case, batch_size, mixed_precision)) for create in (plain_step, ours)
    )
    budget = plain + additional_budget(case, num_subnetworks)
    return f"| {case.name} | {plain / MIB:.0f} | {budget / MIB:.0f} | {prunnet / MIB:.0f} | {prunnet / budget:.3f} |"


def additional_budget(case: Case, num_subnetworks: int) -> int:
    """Bytes that a PrunNet step may use in addition to a plain one."""
    with torch.device("meta"):
        network = timm.create_model(case.backbone, num_classes=0)
    num_weights = sum(
        module.get_parameter("weight").numel() for module in network.modules() if is_prunable_type(module)
    )
    gradients, scores, momentum, masked_weights, order = num_subnetworks + 1, 1, 1, 1, 1
    return (gradients + scores + momentum + masked_weights + order) * num_weights * BYTES_PER_NUMBER


def take_steps(create: Callable[..., Step], case: Case, batch_size: int, mixed_precision: str) -> None:
    """Create network and optimizer, and take some steps."""
    accelerator = Accelerator(mixed_precision=mixed_precision)  # a new one, because it keeps references to networks
    step = create(case, accelerator, random_batch(case, accelerator, batch_size))
    for _ in range(NUM_STEPS):
        step()


def peak_memory(run: Callable[[], None]) -> int:
    """The most bytes that torch held at any moment of `run`."""
    gc.collect()  # otherwise garbage of an earlier run could be released during this one
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    with tempfile.TemporaryDirectory() as directory:
        trace = Path(directory) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    changes = sorted((event for event in events if event.get("name") == "[memory]"), key=lambda event: event["ts"])
    sizes: list[int] = [change["args"]["Bytes"] for change in changes]
    return max(accumulate(sizes))


if __name__ == "__main__":
    sys.exit(run_command("benchmarks/memory.py", main))
