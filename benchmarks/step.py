"""What a PrunNet step costs beyond its floor, N+1 plain steps of the same timm network.

    python benchmarks/step.py                       # the whole table
    python benchmarks/step.py --cases "resnet18 64" # one row

Plain and PrunNet steps take turns, on the same random images, with the same optimiser, precision and memory layout;
the ratio is the median over rounds of one PrunNet step to N+1 plain steps of the same round.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import timm
import torch
from accelerate import Accelerator
from torch import nn

from prunnet_hf import PrunNetConfig
from prunnet_hf import PrunNetForImageClassification
from prunnet_hf.training.capacities import pass_capacities
from prunnet_hf.training.objectives import create_objective
from prunnet_hf.training.step import TrainingStep

NUM_CLASSES = 1000
CAPACITIES = (0.2, 0.4, 0.6, 0.8)


class Case(NamedTuple):
    """One row: a timm network, the side of its images, and whether its stem pools."""

    backbone: str
    image_size: int
    stem_pool: bool = True

    @property
    def name(self) -> str:
        """As `--cases` takes it."""
        return f"{self.backbone} {self.image_size}{'' if self.stem_pool else ' without max-pool'}"


CASES = (
    Case("resnet18", 224),
    Case("resnet18", 64),
    Case("resnet18", 64, stem_pool=False),
    Case("resnet50", 224),
    Case("vit_small_patch16_224", 224),
)


def main() -> None:
    """Print one row a case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [case.name for case in CASES]
    parser.add_argument("--cases", nargs="+", choices=names, default=names)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mixed_precision", choices=("no", "bf16"), default="no")
    arguments = parser.parse_args()
    accelerator = Accelerator(mixed_precision=arguments.mixed_precision)
    place = torch.cuda.get_device_name() if accelerator.device.type == "cuda" else f"{os.cpu_count()} CPU cores"
    print(f"{place}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}, batch {arguments.batch_size}, ")
    print(f"precision {arguments.mixed_precision}, N = {len(CAPACITIES)}, median of {arguments.rounds} rounds\n")
    print("| network, pixels | plain step (s) | PrunNet step (s) | over N+1 plain steps |\n|---|---:|---:|---:|")
    for case in CASES:
        if case.name in arguments.cases:
            print(measure(case, accelerator, arguments.batch_size, arguments.rounds), flush=True)


def measure(case: Case, accelerator: Accelerator, batch_size: int, rounds: int) -> str:
    """Time both steps in turns."""
    batch = random_batch(case, accelerator, batch_size)
    plain, prunnet = plain_step(case, accelerator, batch), prunnet_step(case, accelerator, batch)
    seconds: list[tuple[float, float]] = []
    for _ in range(rounds + 1):
        seconds.append((clocked(plain, accelerator, len(CAPACITIES) + 1), clocked(prunnet, accelerator, 1)))
    kept = seconds[1:]  # the first round allocates
    ratio = statistics.median(ours / (floor * (len(CAPACITIES) + 1)) for floor, ours in kept)
    floor, ours = (statistics.median(column) for column in zip(*kept, strict=True))
    return f"| {case.name} | {floor:.3f} | {ours:.3f} | {ratio:.3f} |"


def clocked(step: Callable[[], None], accelerator: Accelerator, times: int) -> float:
    """Mean seconds of a step."""
    synchronize = torch.cuda.synchronize if accelerator.device.type == "cuda" else (lambda: None)
    synchronize()
    start = time.perf_counter()
    for _ in range(times):
        step()
    synchronize()
    return (time.perf_counter() - start) / times


def random_batch(case: Case, accelerator: Accelerator, batch_size: int) -> dict[str, torch.Tensor]:
    """Images and labels drawn at random, always the same ones."""
    torch.manual_seed(0)
    images = torch.randn(batch_size, 3, case.image_size, case.image_size, device=accelerator.device)
    return {
        "pixel_values": images.contiguous(memory_format=torch.channels_last),
        "labels": torch.randint(NUM_CLASSES, (batch_size,), device=accelerator.device),
    }


def plain_step(case: Case, accelerator: Accelerator, batch: dict[str, torch.Tensor]) -> Callable[[], None]:
    """An ordinary step of timm's network with its own classifier."""
    network = timm.create_model(case.backbone, num_classes=NUM_CLASSES)
    if not case.stem_pool:
        network.maxpool = nn.Identity()
    network = network.to(accelerator.device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

    def step() -> None:
        with accelerator.autocast():
            loss = nn.functional.cross_entropy(network(batch["pixel_values"]), batch["labels"])
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 100.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def prunnet_step(case: Case, accelerator: Accelerator, batch: dict[str, torch.Tensor]) -> Callable[[], None]:
    """A step of training as the engine takes it."""
    config = PrunNetConfig(
        backbone=case.backbone, image_size=case.image_size, stem_pool=case.stem_pool, num_labels=NUM_CLASSES
    )
    model = PrunNetForImageClassification(config).to(memory_format=torch.channels_last)
    for layer in model.prunable_layers().values():
        layer.scores.requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    wrapped, prepared = accelerator.prepare(model, optimizer)
    objective, passes = create_objective("prunnet", model), pass_capacities("prunnet", CAPACITIES)
    training = TrainingStep(model, wrapped, objective, passes, prepared, accelerator, max_grad_norm=100.0, seed=0)
    steps = iter(range(10**9))
    wrapped.train()

    def step() -> None:
        number = next(steps)
        training.backward(batch, number)
        training.update(number)

    return step


if __name__ == "__main__":
    main()
