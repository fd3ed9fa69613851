"""How long it takes to find the kept weights of a layer: the library's masks against other exact selections.

    python benchmarks/selection.py

Medians of interleaved runs, as ratios to one `kthvalue` a capacity; the layer is ResNet-18's largest.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch

from prunnet_hf.commands import CommandParser, run_command
from prunnet_hf.pruning.masking import kept_count, kept_masks

CAPACITIES = (0.2, 0.4, 0.6, 0.8)


def main() -> None:
    """Time each way of finding four nested masks."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_weights", type=int, default=512 * 512 * 9)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    scores = torch.randn(arguments.num_weights, generator=torch.Generator().manual_seed(0))
    ways: dict[str, Callable[[], object]] = {
        "kthvalue, one a capacity": lambda: by_kthvalue(scores),
        "torch.sort, stable": lambda: scores.abs().sort(stable=True, descending=True),
        "prunnet_hf.pruning.masking.kept_masks": lambda: kept_masks(scores, CAPACITIES),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(arguments.repeats):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in times.items()}
    baseline = medians["kthvalue, one a capacity"]
    for name, median in medians.items():
        print(f"{name:<32} {1e3 * median:8.1f} ms   ratio {median / baseline:.2f}")


def by_kthvalue(scores: torch.Tensor) -> list[torch.Tensor]:
    """Masks from one selection a capacity; keeps more than its count where scores tie."""
    magnitudes = scores.abs()
    size = len(magnitudes)
    thresholds = [magnitudes.kthvalue(size - kept_count(capacity, size) + 1).values for capacity in CAPACITIES]
    return [magnitudes >= threshold for threshold in thresholds]


if __name__ == "__main__":
    sys.exit(run_command("benchmarks/selection.py", main))
