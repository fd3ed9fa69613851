"""The description of a run beyond its results: data, command, versions, machine, model, sizes and costs."""

from __future__ import annotations

import copy
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import timm
import torch
from accelerate import Accelerator

from ..data.splits import RetrievalSplits
from ..data.streams import num_images
from ..modeling_prunnet import PrunNetForImageClassification, PrunNetModel
from ..pruning.masking import kept_count
from ..storage.forms import weights_bytes
from .arguments import ModelArguments, RunArguments
from .multiply_adds import count_multiply_adds
from .record import CapacityRecord, ModelRecord, RunDescription
from .run_directory import OF_THIS_MACHINE, subnetwork_directory, without_local_paths

PACKAGES = ("torch", "torchvision", "transformers", "timm", "accelerate", "datasets", "faiss-cpu")
PER_INVOCATION = ("resume", "eval_only", "overwrite_output_dir")
"""Flags that change how a run is started, not what it is."""


def recipe_of(arguments: RunArguments) -> dict[str, Any]:
    """The arguments that repeat the run, also with another version of timm, which may have weights for other names."""
    pretrained = {"pretrained_backbone": arguments.model.takes_pretrained_weights}
    every = arguments.as_dict() | pretrained
    return {name: value for name, value in every.items() if name not in PER_INVOCATION}


def describe_run(accelerator: Accelerator, arguments: RunArguments, splits: RetrievalSplits) -> RunDescription:
    """Describe the data, the command, the recipe, the versions, the processes and the machine of this run."""
    return RunDescription(
        dataset=dataset_name(arguments),
        split="test",
        protocol=splits.protocol,
        num_queries=num_images(splits.query),
        num_gallery=num_images(splits.gallery),
        num_shared_classes=splits.num_shared_classes,
        command=command_line(),
        recipe=without_local_paths(recipe_of(arguments)),
        commit=source_commit(),
        versions={"python": sys.version.split()[0], **{package: version(package) for package in PACKAGES}},
        device=describe_device(),
        latency_device=describe_cpu(),
        num_processes=accelerator.num_processes,
        mixed_precision=accelerator.mixed_precision,
    )


def describe_model(model: PrunNetForImageClassification) -> ModelRecord:
    """Describe the embedding network."""
    config, names = model.config, dict(model.prunnet.named_parameters())
    return ModelRecord(
        backbone=config.backbone,
        backbone_kwargs=config.backbone_kwargs,
        image_size=config.image_size,
        embedding_dim=config.embedding_dim,
        embedding_space=config.embedding_space,
        capacities=list(config.capacities),
        prunable=config.prunable,
        parameters=sum(tensor.numel() for name, tensor in names.items() if not name.endswith(".scores")),
    )


def is_trained(capacity: float, capacities: Sequence[float], sampling: str) -> bool:
    """Whether training optimised a capacity: one of a fixed list, or one in the range that capacities were drawn from.

    Args:
        capacity: In (0, 1].
        capacities: Those that the run was given, each in (0, 1].
        sampling: `"fixed"` or `"sandwich"`.
    """
    if capacity in capacities or capacity == 1.0:
        return True
    return sampling == "sandwich" and bool(capacities) and capacity > min(capacities)


def base_model(arguments: ModelArguments) -> str | None:
    """The Hub repository of the weights that training starts from; None for random weights or a local checkpoint."""
    source = arguments.model_name_or_path
    if source is not None:
        return None if Path(source).exists() else source
    if not arguments.takes_pretrained_weights:
        return None
    pretrained = timm.get_pretrained_cfg(arguments.backbone)
    return pretrained.hf_hub_id if pretrained is not None else None


def command_line() -> str:
    """The command that started this process, without folders that mean nothing on another machine.

    It is what follows `python` or `accelerate launch`: the name of a script, or `-m` and the name of a module.
    """
    words = [*_program(), *(Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:])]
    for place, word in enumerate(words):
        flag, sign, _ = word.partition("=")
        if flag.removeprefix("--") in OF_THIS_MACHINE:
            if sign:
                words[place] = f"{flag}=DIR"
            elif place + 1 < len(words):
                words[place + 1] = "DIR"
    return shlex.join(words)


def _program() -> list[str]:
    # What runs by `python -m` knows the module's name; its path alone could not be run.
    spec = sys.modules["__main__"].__spec__
    if spec is not None and spec.origin == sys.argv[0]:
        return ["-m", spec.name.removesuffix(".__main__")]
    return [Path(sys.argv[0]).name]


def dataset_name(arguments: RunArguments) -> str:
    """The name of the data set; for an image folder, the folder's name."""
    data = arguments.data
    return Path(data.data_dir or "").resolve().name if data.dataset == "image_folder" else data.dataset


def describe_device() -> str:
    """The machine in a few words: the GPU's name, or see `describe_cpu`."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return describe_cpu()


def describe_cpu() -> str:
    """The CPU's name (or, if not on Linux, its architecture) and the number of threads that torch uses."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text(encoding="utf-8").splitlines() if information.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    threads = torch.get_num_threads()
    return f"CPU ({names[0] if names else platform.machine()}, {threads} thread{'s' if threads != 1 else ''})"


def source_commit() -> str | None:
    """The commit of this package's checkout, with `-dirty` if it has changes; None outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        result = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return result.stdout.strip() or None


def describe_subnetworks(
    run: Path, model: PrunNetForImageClassification, subnetworks: Mapping[float, PrunNetModel], sampling: str
) -> list[CapacityRecord]:
    """Measure what the network of each capacity costs.

    Args:
        run: The run directory, in which models are saved.
        model: The trained model.
        subnetworks: Its networks by capacity.
        sampling: How training chose capacities; see `is_trained`.
    """
    latencies = measure_latency(subnetworks, model.config.image_size)
    pruned = next(iter(subnetworks.values()))
    sizes = [pruned.get_parameter(name).numel() for name in pruned.packable_weights()]
    multiply_adds = count_multiply_adds(pruned, model.config.image_size)
    rows = []
    for capacity in subnetworks:
        directory = subnetwork_directory(run, capacity) if model.config.prunable and capacity < 1 else run / "model"
        rows.append(
            CapacityRecord(
                capacity=capacity,
                kept_weights=sum(kept_count(capacity, size) for size in sizes),
                prunable_weights=sum(sizes),
                file_bytes=weights_bytes(directory) or None,
                multiply_adds=multiply_adds.at(capacity),
                latency_ms=latencies[capacity],
                trained=is_trained(capacity, model.config.capacities, sampling),
            )
        )
    return rows


@torch.inference_mode()
def measure_latency(models: Mapping[float, PrunNetModel], image_size: int, repeats: int = 15) -> dict[float, float]:
    """Median milliseconds to embed one image on the CPU, as a device that sends queries does. Models take turns."""
    models = {
        capacity: model if model.device.type == "cpu" else copy.deepcopy(model).cpu()
        for capacity, model in models.items()
    }
    image = torch.zeros(1, 3, image_size, image_size)
    times: dict[float, list[float]] = {capacity: [] for capacity in models}
    for _ in range(repeats + 1):
        for capacity, model in models.items():
            start = time.perf_counter()
            model(image)
            times[capacity].append(1e3 * (time.perf_counter() - start))
    return {capacity: statistics.median(values[1:]) for capacity, values in times.items()}
