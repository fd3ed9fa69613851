"""Sizes of the forms of a saved model against the plain dense file, `prune(1.0)` saved, of the same type.

    python benchmarks/file_sizes.py
    python benchmarks/file_sizes.py --dtype bfloat16 --capacity 0.2 --backbones resnet18
    python benchmarks/file_sizes.py --granularity channel

The weights are random: sizes depend on their number alone. All is in megabytes (10^6 bytes) and as a share of the
dense file, with the projector and, if the form has them, the running statistics of ten subnetworks:

- packed (`--granularity weight`) or thin (`channel`): the subnetwork of `--capacity`;
- full: the prunable model in one file, with scores of the weights' type, or of units;
- bands: the files of all bands (edges at the trained capacities) and the index; bands + ranks: their ranks, too, which
  bands of units don't have;
- without statistics: the same without running statistics of capacities between edges;
- first band: what `from_pretrained(..., capacity)` downloads for the smallest edge, index included.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from prunnet_hf import PrunNetConfig, PrunNetModel
from prunnet_hf.commands import CommandParser, run_command
from prunnet_hf.pruning.calibration import MEAN, VARIANCE

BACKBONES = (
    "resnet18",
    "resnet50",
    "resnext50_32x4d",
    "mobilenetv2_100",
    "vit_small_patch16_224",
    "swin_tiny_patch4_window7_224",
    "convnext_tiny",
)
COLUMNS = {
    "weight": ("packed", "full", "bands", "bands + ranks", "without statistics", "first band"),
    "channel": ("thin", "full", "bands", "without statistics", "first band"),
}


def main() -> None:
    """Print one Markdown row a backbone."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capacity", type=float, default=0.2)
    parser.add_argument("--dtype", default="float32", choices=["float32", "float16", "bfloat16"])
    parser.add_argument("--backbones", nargs="+", default=BACKBONES)
    parser.add_argument("--granularity", default="weight", choices=list(COLUMNS))
    arguments = parser.parse_args()
    columns = COLUMNS[arguments.granularity]
    print(f"capacity {arguments.capacity:g}, {arguments.dtype}, granularity {arguments.granularity}\n")
    print(f"| backbone | dense (MB) | {' | '.join(columns)} |\n|---|---:|{'---:|' * len(columns)}")
    for backbone in arguments.backbones:
        config = PrunNetConfig(backbone=backbone, granularity=arguments.granularity)
        print(measure(config, arguments.capacity, getattr(torch, arguments.dtype)), flush=True)


def measure(config: PrunNetConfig, capacity: float, dtype: torch.dtype) -> str:
    """Save a random model in every form."""
    model = PrunNetModel(config).to(dtype)
    dense = sum(saved(model.prune(1.0)).values())
    statistics = sum(
        buffer.numel() * buffer.itemsize
        for name, buffer in model.named_buffers()
        if name.endswith((f".{MEAN}", f".{VARIANCE}"))
    )
    files = saved(model, bands=model.config.capacities)
    inside = len(set(model.config.stored_subnetworks) - set(model.config.capacities))
    ranks = sum(size for name, size in files.items() if ".ranks." in name)
    first = files["bands.index.json"] + min((name, size) for name, size in files.items() if ".ranks." not in name)[1]
    sizes = {
        "packed": sum(saved(model.prune(capacity)).values()),
        "full": sum(saved(model).values()),
        "bands": sum(files.values()) - ranks,
        "bands + ranks": sum(files.values()),
        "without statistics": sum(files.values()) - statistics * inside // len(model.config.stored_subnetworks),
        "first band": first,
    }
    sizes["thin"] = sizes["packed"]
    cells = (f"{sizes[name] / 1e6:.1f} ({sizes[name] / dense:.3f})" for name in COLUMNS[config.granularity])
    return f"| {config.backbone} | {dense / 1e6:.1f} | {' | '.join(cells)} |"


def saved(model: PrunNetModel, **form: Any) -> dict[str, int]:
    """Bytes of each file of weights that `save_pretrained` writes."""
    with tempfile.TemporaryDirectory() as directory:
        model.save_pretrained(directory, **form)
        files = [file for file in Path(directory).iterdir() if file.name != "config.json"]
        return {file.name: file.stat().st_size for file in files}


if __name__ == "__main__":
    sys.exit(run_command("benchmarks/file_sizes.py", main))
