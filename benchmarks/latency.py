"""Latency of subnetworks against the dense network's: one image, one thread, random weights.

    python benchmarks/latency.py                               # whole units, in ONNX Runtime
    python benchmarks/latency.py --runtime torch               # eager torch
    python benchmarks/latency.py --granularity weight          # single weights, which save no time

For each backbone, in turn: the dense network, the subnetwork of 0.2, and (of whole units) that of the largest capacity
whose multiply-adds are at most 0.4 of the dense network's. A row has the median CPU time of the thread, and the median
of its ratios to the dense network's in the same round, so that other work of the machine doesn't count. But it empties
caches, which costs small networks more: run this with priority (nice -n -15, as root) on a machine that isn't idle.
"""

import argparse
import sys

from prunnet_hf import PrunNetConfig, PrunNetModel, capacity_for
from prunnet_hf.commands import CommandParser, run_command
from prunnet_hf.export.latency import measure_latency
from prunnet_hf.export.multiply_adds import count_multiply_adds

BACKBONES = ("resnet18", "resnet50", "vit_small_patch16_224", "convnext_tiny", "mobilenetv2_100")
UNITS = 0.2
MACS = 0.4


def main() -> None:
    """Print a Markdown table with a row for each network."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=BACKBONES)
    parser.add_argument("--granularity", default="channel", choices=["channel", "weight"])
    parser.add_argument("--runtime", default="onnxruntime", choices=["onnxruntime", "torch"])
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=31)
    arguments = parser.parse_args()
    print("| backbone | capacity | parameters (M) | multiply-adds (M) | of dense | ms | of dense |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for backbone in arguments.backbones:
        where = report(backbone, arguments)
    print(f"\n{arguments.image_size} px, batch 1, {where}, {arguments.rounds} rounds")


def report(backbone: str, arguments: argparse.Namespace) -> str:
    """Print the rows of one backbone; returns the runtime and the machine."""
    size, granularity = arguments.image_size, arguments.granularity
    config = PrunNetConfig(backbone=backbone, image_size=size, granularity=granularity, statistics_capacities=[UNITS])
    model = PrunNetModel(config).eval()
    dense = count_multiply_adds(model, size).dense
    capacities = [UNITS, float(capacity_for(model, max_macs=MACS * dense))] if granularity == "channel" else [UNITS]
    networks = {capacity: model.prune(capacity) for capacity in [*capacities, 1.0]}
    found = measure_latency(networks, runtime=arguments.runtime, rounds=arguments.rounds)
    for capacity, network in networks.items():
        macs = count_multiply_adds(network, size).dense
        parameters = sum(parameter.numel() for parameter in network.parameters())
        print(
            f"| {backbone} | {capacity:g} | {parameters / 1e6:.2f} | {macs / 1e6:.0f} | {macs / dense:.3f} | "
            f"{found.milliseconds[capacity]:.1f} | {found.ratios[capacity]:.2f} |",
            flush=True,
        )
    return f"{found.runtime}, {found.device}"


if __name__ == "__main__":
    sys.exit(run_command("benchmarks/latency.py", main))
