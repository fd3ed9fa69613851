"""What cutting a subnetwork costs beyond its floor: one copy of the model and one selection a layer.

    python benchmarks/pruning.py
    python benchmarks/pruning.py --backbones resnet50 vit_small_patch16_224 --capacity 0.2
    python benchmarks/pruning.py --allocation pq_index

The floor is `copy.deepcopy` of the prunable model and one `torch.kthvalue` of the magnitudes of each layer's scores.
Both run on the CPU and take turns; the ratio is the median over rounds of one to the other of the same round.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import sys
import time
from collections.abc import Callable

import torch

from prunnet_hf import PrunNetConfig, PrunNetModel
from prunnet_hf.commands import CommandParser, run_command
from prunnet_hf.pruning.allocation import ALLOCATIONS, UNIFORM
from prunnet_hf.pruning.masking import kept_count


def main() -> None:
    """Print one row a backbone."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=["resnet50"], help="timm names (default: resnet50)")
    parser.add_argument("--capacity", type=float, default=0.2)
    parser.add_argument("--allocation", default=UNIFORM, choices=ALLOCATIONS)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}, ")
    print(f"capacity {arguments.capacity:g}, allocation {arguments.allocation}, median of {arguments.rounds} rounds\n")
    print("| backbone | prunable weights (M) | floor (s) | prune (s) | prune / floor |\n|---|---:|---:|---:|---:|")
    for backbone in arguments.backbones:
        print(measure(backbone, arguments.capacity, arguments.allocation, arguments.rounds), flush=True)


def measure(backbone: str, capacity: float, allocation: str, rounds: int) -> str:
    """Time both in turns."""
    torch.manual_seed(0)
    model = PrunNetModel(PrunNetConfig(backbone=backbone))
    pairs: list[tuple[float, float]] = []
    for _ in range(rounds + 1):
        least = clocked(lambda: floor(model, capacity))
        pairs.append((least, clocked(lambda: model.prune(capacity, allocation=allocation))))
    kept = pairs[1:]  # the first round is slower
    ratio = statistics.median(ours / least for least, ours in kept)
    least, ours = (statistics.median(column) for column in zip(*kept, strict=True))
    num_weights = sum(layer.weight.numel() for layer in model.prunable_layers().values())
    return f"| {backbone} | {num_weights / 1e6:.1f} | {least:.3f} | {ours:.3f} | {ratio:.2f} |"


@torch.no_grad()
def floor(model: PrunNetModel, capacity: float) -> object:
    """The least that pruning has to do: a model to return, and the threshold of each layer."""
    copied = copy.deepcopy(model)
    thresholds = [threshold(layer.scores, capacity) for layer in model.prunable_layers().values()]
    return copied, thresholds


def threshold(scores: torch.Tensor, capacity: float) -> torch.Tensor:
    """The smallest magnitude that is kept."""
    rank = scores.numel() - kept_count(capacity, scores.numel()) + 1
    return scores.abs().flatten().kthvalue(rank).values


def clocked(action: Callable[[], object]) -> float:
    """Seconds that `action` takes."""
    start = time.perf_counter()
    result = action()
    seconds = time.perf_counter() - start
    del result  # releasing it is not counted
    return seconds


if __name__ == "__main__":
    sys.exit(run_command("benchmarks/pruning.py", main))
