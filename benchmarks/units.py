"""Which backbones can leave out whole units (`granularity="channel"`), and what is left of them without most units.

    python benchmarks/units.py
    python benchmarks/units.py --backbones resnet18 vit_small_patch16_224 --capacity 0.4

Random weights, exact counts of the whole embedding network. Creating a model compares it with masked and with left out
units; a backbone that doesn't pass, or has too few units, gets the error in its row.
"""

from __future__ import annotations

import argparse
import sys

import torch

from prunnet_hf import PrunNetConfig, PrunNetModel
from prunnet_hf.commands import CommandParser, run_command
from prunnet_hf.export.multiply_adds import count_multiply_adds
from prunnet_hf.pruning.channel_guard import share_in_units
from prunnet_hf.pruning.channel_rules import find_units

WORKING = (
    *("resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2", "mobilenetv2_100", "efficientnet_b0"),
    *("convnext_tiny", "vit_small_patch16_224", "deit_tiny_patch16_224", "swin_tiny_patch4_window7_224"),
)
REFUSED = ("regnety_004", "resnetv2_50", "vgg11_bn", "densenet121", "mobilenetv4_conv_small")


def main() -> None:
    """Print a row for each backbone."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=[*WORKING, *REFUSED], help="timm names")
    parser.add_argument("--capacity", type=float, default=0.2)
    parser.add_argument("--image_size", type=int, default=224)
    arguments = parser.parse_args()
    print(f"at capacity {arguments.capacity:g}, of the dense network:\n")
    print("| backbone | groups | units | units kept | parameters in units | parameters left | multiply-adds left |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for backbone in arguments.backbones:
        print(measure(backbone, arguments.capacity, arguments.image_size), flush=True)


def measure(backbone: str, capacity: float, image_size: int) -> str:
    """The row of one backbone."""
    torch.manual_seed(0)
    config = PrunNetConfig(backbone=backbone, image_size=image_size, granularity="channel", capacities=[capacity])
    try:
        dense = PrunNetModel(config).eval()
    except ValueError as error:
        return f"| {backbone} | {' '.join(str(error).split('.')[0].split())} |"
    thin = dense.prune(capacity)
    units, kept = dense.prunable_units(), thin.prunable_units()
    share = share_in_units(dense.backbone, find_units(dense.backbone))
    left = num_parameters(thin) / num_parameters(dense)
    work = count_multiply_adds(thin, image_size).dense / count_multiply_adds(dense, image_size).dense
    counts = f"{len(units)} | {sum(units.values()):,} | {sum(kept.values()) / sum(units.values()):.3f}"
    return f"| {backbone} | {counts} | {share:.2f} | {left:.3f} | {work:.3f} |"


def num_parameters(model: PrunNetModel) -> int:
    """All but scores."""
    return sum(tensor.numel() for name, tensor in model.named_parameters() if not name.endswith(".scores"))


if __name__ == "__main__":
    sys.exit(run_command("benchmarks/units.py", main))
