"""What processes that train together send each other in a step, and how long it takes.

    python benchmarks/communication.py                     # two processes on this machine, joined by gloo
    python benchmarks/communication.py --image_size 224    # more arithmetic for the same bytes

Data parallelism averages the gradients of each pass: N+1 all-reduces of all parameters except scores. The bytes are
those that DistributedDataParallel hands to all-reduce; each of k processes in a ring sends 2 (k-1)/k of them. Steps
with and without communication take turns, and a step takes as long as on the slowest process.
"""

import argparse
import os
import socket
import statistics
import sys
import time
from collections.abc import Callable, Iterable

import torch
from accelerate import Accelerator
from torch import Tensor, distributed
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from prunnet_hf import PrunNetConfig, PrunNetForImageClassification
from prunnet_hf.commands import CommandParser, run_command
from prunnet_hf.runs.arguments import TrainArguments
from prunnet_hf.training.capacities import pass_capacities
from prunnet_hf.training.methods import create_objective
from prunnet_hf.training.networks import lay_out
from prunnet_hf.training.objectives import dense_pass_parameters
from prunnet_hf.training.step import TrainingStep

NUM_CLASSES = 1000
CAPACITIES = (0.2, 0.4, 0.6, 0.8)
NUM_PASSES = len(CAPACITIES) + 1
ONE_BUCKET = 1_000_000
"""A bucket size in MiB that holds all gradients of any network, so nothing is sent before the last one exists."""
MEGABYTE = 1e6


def main() -> None:
    """Start the processes. The first one prints the tables."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_processes", type=int, default=2)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--image_size", type=int, default=64)
    parser.add_argument("--batch_size", type=int, default=32, help="images in a step, for each process")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(measure, (port, arguments), nprocs=arguments.num_processes)


def measure(rank: int, port: int, arguments: argparse.Namespace) -> None:
    """Run one of the processes, from joining the others to printing."""
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": arguments.num_processes}
    os.environ.update({name: str(value) for name, value in places.items()})
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"})
    threads = max(1, (os.cpu_count() or 1) // arguments.num_processes)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # otherwise accelerate chooses
    torch.set_num_threads(threads)
    accelerator = Accelerator(cpu=True)
    batch = random_batch(arguments, seed=rank)
    buckets = sent_in_a_step(training_step(arguments, accelerator, bucket_cap_mb=None), batch)
    model = create_model(arguments)
    check_formula(buckets, model)
    seconds = clock(arguments, accelerator, batch, sum(buckets) // NUM_PASSES)
    if accelerator.is_main_process:
        print(f"{arguments.backbone}, {arguments.image_size} pixels, {arguments.batch_size} images a process,")
        print(f"{arguments.num_processes} processes x {torch.get_num_threads()} threads, {os.cpu_count()} CPU cores,")
        print(f"load {os.getloadavg()[0]:.1f}, gloo, N = {len(CAPACITIES)}, median of {arguments.rounds} rounds\n")
        print(table_of_bytes(buckets, model))
        print(table_of_seconds(seconds))
    accelerator.end_training()


def random_batch(arguments: argparse.Namespace, seed: int) -> dict[str, Tensor]:
    """Images of noise, different ones in each process."""
    generator = torch.Generator().manual_seed(seed)
    size, side = arguments.batch_size, arguments.image_size
    return {
        "pixel_values": torch.randn(size, 3, side, side, generator=generator),
        "labels": torch.randint(NUM_CLASSES, (size,), generator=generator),
    }


def create_model(arguments: argparse.Namespace) -> PrunNetForImageClassification:
    """The network, prepared as for training."""
    torch.manual_seed(0)
    config = PrunNetConfig(backbone=arguments.backbone, image_size=arguments.image_size, num_labels=NUM_CLASSES)
    model = PrunNetForImageClassification(config)
    lay_out(model, torch.channels_last)
    for layer in model.prunable_layers().values():
        layer.scores.requires_grad_(False)
    return model


def training_step(
    arguments: argparse.Namespace, accelerator: Accelerator, *, bucket_cap_mb: int | None
) -> TrainingStep:
    """A step of a new network that sends gradients in buckets of this size (None: as DDP chooses)."""
    model = create_model(arguments)
    wrapped = DistributedDataParallel(model, bucket_cap_mb=bucket_cap_mb)
    wrapped.broadcast_buffers = False  # as in training
    wrapped.train()
    optimizer = accelerator.prepare(torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4))
    objective = create_objective(model, TrainArguments(method="prunnet"))
    passes = pass_capacities("prunnet", CAPACITIES)
    return TrainingStep(model, wrapped, objective, passes, optimizer, accelerator, max_grad_norm=100.0, seed=0)


def sent_in_a_step(step: TrainingStep, batch: dict[str, Tensor]) -> list[int]:
    """Bytes of each bucket that DDP hands to all-reduce."""
    buckets: list[int] = []

    def hook(group: distributed.ProcessGroup, bucket: distributed.GradBucket) -> Future[Tensor]:
        buckets.append(bucket.buffer().nbytes)
        return allreduce_hook(group, bucket)

    step.wrapped.register_comm_hook(distributed.group.WORLD, hook)
    step.backward(batch, 0)  # DDP arranges its buckets again after this one
    step.update(0)
    buckets.clear()
    step.backward(batch, 1)
    return buckets


def check_formula(buckets: list[int], model: PrunNetForImageClassification) -> None:
    """Compare with N+1 times all parameters except scores.

    Raises:
        RuntimeError: If anything else was sent.
    """
    scores = {layer.scores for layer in model.prunable_layers().values()}
    expected = NUM_PASSES * bytes_of(parameter for parameter in model.parameters() if parameter not in scores)
    if sum(buckets) != expected:
        raise RuntimeError(f"{sum(buckets)} bytes were sent in a step, not the {expected} expected.")


def table_of_bytes(buckets: list[int], model: PrunNetForImageClassification) -> str:
    """What is sent, and which part of it the method prunnet uses."""
    weights = bytes_of(layer.weight for layer in model.prunable_layers().values())
    dense_only = bytes_of(dense_pass_parameters(model))
    a_pass = sum(buckets) // NUM_PASSES
    others = a_pass - weights - dense_only
    needed = weights * (1 + sum(CAPACITIES)) + dense_only + others * NUM_PASSES
    rows = [
        ("scores, never sent", 0),
        ("prunable weights, a pass", weights),
        ("classifier, projector, norms, a pass", dense_only),
        ("biases and others, a pass", others),
        (f"a pass, in {len(buckets) // NUM_PASSES} buckets", a_pass),
        (f"a step of {NUM_PASSES} passes", sum(buckets)),
        ("part of it that method prunnet neither masks nor ignores", needed),
    ]
    lines = [f"| {name} | {size / MEGABYTE:.2f} |" for name, size in rows]
    return "\n".join(["| handed to all-reduce | MB |\n|---|---:|", *lines, ""])


def clock(
    arguments: argparse.Namespace, accelerator: Accelerator, batch: dict[str, Tensor], a_pass: int
) -> dict[str, list[float]]:
    """Seconds of each round, by what was timed."""
    gradients = torch.zeros(a_pass // 4)

    def all_reduces() -> None:
        for _ in range(NUM_PASSES):
            distributed.all_reduce(gradients)

    buckets = training_step(arguments, accelerator, bucket_cap_mb=None)
    whole = training_step(arguments, accelerator, bucket_cap_mb=ONE_BUCKET)
    clocked: dict[str, Callable[[], None]] = {
        "a step without communication": lambda: take(buckets, batch, is_alone=True),
        "a step, buckets as DDP chooses": lambda: take(buckets, batch),
        "a step, one bucket a pass": lambda: take(whole, batch),
        f"{NUM_PASSES} all-reduces of as many bytes, and nothing else": all_reduces,
    }
    seconds: dict[str, list[float]] = {name: [] for name in clocked}
    for round_number in range(arguments.rounds + 1):
        for name, work in clocked.items():
            slowest = on_the_slowest(work, accelerator)
            if round_number:  # the first one allocates memory
                seconds[name].append(slowest)
    return seconds


def take(step: TrainingStep, batch: dict[str, Tensor], *, is_alone: bool = False) -> None:
    """Take one step. If it is alone, this process doesn't send its gradients."""
    if is_alone:
        with step.accelerator.no_sync(step.wrapped):
            step.backward(batch, 0)
    else:
        step.backward(batch, 0)
    step.update(0)


def on_the_slowest(work: Callable[[], None], accelerator: Accelerator) -> float:
    """Seconds until the last process has finished; all start together."""
    accelerator.wait_for_everyone()
    start = time.perf_counter()
    work()
    return float(accelerator.gather(torch.tensor([time.perf_counter() - start])).max())


def table_of_seconds(seconds: dict[str, list[float]]) -> str:
    """Medians, and how many times as long as a step without communication in the same round."""
    alone, *_ = seconds.values()
    rows = []
    for name, column in seconds.items():
        over = statistics.median(own / baseline for own, baseline in zip(column, alone, strict=True))
        rows.append(f"| {name} | {statistics.median(column):.3f} | {over:.3f} |")
    return "\n".join(["| timed | s | times a step without communication |\n|---|---:|---:|", *rows])


def bytes_of(parameters: Iterable[Tensor]) -> int:
    """Size of all parameters together."""
    return sum(parameter.nbytes for parameter in parameters)


if __name__ == "__main__":
    sys.exit(run_command("benchmarks/communication.py", main))
