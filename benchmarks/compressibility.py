"""How long `compressibility` takes: the PQ Index of every layer and of the whole network at ten capacities.

    python benchmarks/compressibility.py
    python benchmarks/compressibility.py --backbones resnet50 vit_small_patch16_224

Random weights, on the CPU. Prints the median over rounds after a first one that isn't counted.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time

import torch

from prunnet_hf import PrunNetConfig, PrunNetModel
from prunnet_hf.commands import CommandParser, run_command
from prunnet_hf.compression.report import compressibility


def main() -> None:
    """Print a row for each backbone."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=["resnet50"], help="timm names (default: resnet50)")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} threads, load {load:.1f}, ", end="")
    print(f"median of {arguments.rounds} rounds\n")
    print("| backbone | prunable weights (M) | capacities | seconds (ResNet-50: at most 3) |\n|---|---:|---:|---:|")
    for backbone in arguments.backbones:
        print(measure(backbone, arguments.rounds), flush=True)


def measure(backbone: str, rounds: int) -> str:
    """Time one backbone and return its row."""
    torch.manual_seed(0)
    model = PrunNetModel(PrunNetConfig(backbone=backbone))
    seconds = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        result = compressibility(model)
        seconds.append(time.perf_counter() - start)
    whole = result.of(None)
    return f"| {backbone} | {whole[0].num_weights / 1e6:.1f} | {len(whole)} | {statistics.median(seconds[1:]):.2f} |"


if __name__ == "__main__":
    sys.exit(run_command("benchmarks/compressibility.py", main))
