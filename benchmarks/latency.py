"""Latency of subnetworks against the dense network's: what unstructured pruning does not save.

    python benchmarks/latency.py

Medians of interleaved runs on one image; the weights are random, which does not change the latency.
"""

import argparse
import sys

import torch

from prunnet_hf import PrunNetConfig, PrunNetModel
from prunnet_hf.commands import CommandParser, run_command
from prunnet_hf.runs.description import measure_latency


def main() -> None:
    """Print, for each capacity, the latency and its ratio to the dense network's."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--capacities", type=float, nargs="+", default=[0.2, 0.5, 1.0])
    parser.add_argument("--repeats", type=int, default=21)
    arguments = parser.parse_args()
    model = PrunNetModel(PrunNetConfig(backbone=arguments.backbone, image_size=arguments.image_size)).eval()
    models = {capacity: model.prune(capacity) for capacity in sorted({*arguments.capacities, 1.0})}
    latencies = measure_latency(models, arguments.image_size, arguments.repeats)
    print(f"{arguments.backbone}, {arguments.image_size} px, 1 image, {torch.get_num_threads()} threads")
    for capacity in models:
        print(
            f"capacity {capacity:<5g} {latencies[capacity]:7.1f} ms   ratio {latencies[capacity] / latencies[1.0]:.2f}"
        )


if __name__ == "__main__":
    sys.exit(run_command("benchmarks/latency.py", main))
