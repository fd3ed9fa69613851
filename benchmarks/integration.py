"""Time of conflict-aware gradient integration on the weights and scores of a timm backbone.

    python benchmarks/integration.py
    python benchmarks/integration.py --backbone resnet50 --num_subnetworks 1 4 --threads 1

For each N it prints the median times of the fast code and of the readable reference, and their ratio. All take turns
in one run.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import timm
import torch
from torch import Tensor, nn

from prunnet_hf.commands import CommandParser, run_command
from prunnet_hf.training.gradients import integrate_weight_and_scores, projection_orders
from prunnet_hf.training.gradients_reference import integrate_weight_and_scores_reference

Integration = Callable[..., tuple[Tensor, Tensor]]


def prunable_shapes(backbone: str) -> list[torch.Size]:
    """Shapes of the Conv2d and Linear weights of a timm backbone without its classifier."""
    model = timm.create_model(backbone, pretrained=False, num_classes=0)
    layers = [module for module in model.modules() if type(module) in (nn.Conv2d, nn.Linear)]
    return [torch.Size(layer.get_parameter("weight").shape) for layer in layers]


def seconds(integration: Integration, shapes: list[torch.Size], num_gradients: int) -> float:
    """Time to integrate the gradients of every shape once. It includes drawing the orders, not making the inputs."""
    generator = torch.Generator().manual_seed(0)
    total = 0.0
    for shape in shapes:
        gradients = torch.randn(num_gradients, *shape, generator=generator)
        weight, scores = torch.randn(2, *shape, generator=generator)
        per_row = len(shape) == 4
        start = time.perf_counter()
        orders = [projection_orders(num_gradients, per_row=per_row, generator=generator) for _ in range(2)]
        integration(gradients, weight, scores, *orders, per_row=per_row)
        total += time.perf_counter() - start
    return total


def main() -> None:
    """Measure, and print a line for each N."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet18", help="timm name (default: resnet18)")
    parser.add_argument("--num_subnetworks", type=int, nargs="+", default=[1, 2, 4, 8], help="values of N")
    parser.add_argument(
        "--repeats", type=int, default=3, help="number of measurements that the median is taken of (default: 3)"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    shapes = prunable_shapes(arguments.backbone)
    fast: dict[int, list[float]] = {n: [] for n in arguments.num_subnetworks}
    reference: dict[int, list[float]] = {n: [] for n in arguments.num_subnetworks}
    for _ in range(arguments.repeats):
        for n in arguments.num_subnetworks:
            fast[n].append(seconds(integrate_weight_and_scores, shapes, n + 1))
            reference[n].append(seconds(integrate_weight_and_scores_reference, shapes, n + 1))

    parameters = sum(shape.numel() for shape in shapes)
    print(f"{arguments.backbone}: {parameters / 1e6:.1f} M prunable weights, {arguments.threads} threads")
    print("  N   fast (s)   fast / (N+1) (s)   reference (s)   reference / fast")
    for n in arguments.num_subnetworks:
        quick, slow = statistics.median(fast[n]), statistics.median(reference[n])
        print(f"{n:3d} {quick:10.3f} {quick / (n + 1):18.3f} {slow:15.3f} {slow / quick:18.1f}")


if __name__ == "__main__":
    sys.exit(run_command("benchmarks/integration.py", main))
