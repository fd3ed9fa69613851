"""Size of a packed subnetwork's file against the dense network's plain file, both fp32, projector in, scores out.

    python benchmarks/file_sizes.py --capacity 0.2

The weights are random: the size depends on their number alone.
"""

import argparse
import tempfile
from pathlib import Path

from prunnet_hf import PrunNetConfig
from prunnet_hf import PrunNetModel

BACKBONES = (
    "resnet18",
    "resnet50",
    "resnext50_32x4d",
    "mobilenetv2_100",
    "vit_small_patch16_224",
    "swin_tiny_patch4_window7_224",
    "convnext_tiny",
)


def main() -> None:
    """Print one Markdown row a backbone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capacity", type=float, default=0.2)
    parser.add_argument("--backbones", nargs="+", default=BACKBONES)
    arguments = parser.parse_args()
    print(f"| backbone | dense (MB) | capacity {arguments.capacity:g} (MB) | share |\n|---|---:|---:|---:|")
    for backbone in arguments.backbones:
        model = PrunNetModel(PrunNetConfig(backbone=backbone))
        dense, packed = (saved_bytes(model.prune(capacity)) for capacity in (1.0, arguments.capacity))
        print(f"| {backbone} | {dense / 1e6:.1f} | {packed / 1e6:.1f} | {100 * packed / dense:.1f} % |")


def saved_bytes(model: PrunNetModel) -> int:
    """Bytes of the weight file that `save_pretrained` writes."""
    with tempfile.TemporaryDirectory() as directory:
        model.save_pretrained(directory)
        return sum(file.stat().st_size for file in Path(directory).glob("*.safetensors"))


if __name__ == "__main__":
    main()
