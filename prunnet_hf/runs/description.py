"""The description of a run beyond its results: data, command, versions, machine, model, sizes and costs."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import timm
import torch
from accelerate import Accelerator

from ..commands import model_directory
from ..configuration_prunnet import PrunNetConfig
from ..data.splits import RetrievalSplits
from ..data.streams import num_images
from ..export.latency import describe_cpu, measure_latency
from ..export.multiply_adds import count_multiply_adds
from ..modeling_prunnet import PrunNetForImageClassification, PrunNetModel
from ..pruning.masking import kept_count
from ..pruning.subnetworks import dense_twin, unit_weights
from ..storage.forms import weights_bytes
from .arguments import ModelArguments, RunArguments
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
        split="validation" if splits.held_out else "test",
        protocol=splits.protocol,
        num_queries=num_images(splits.query),
        num_gallery=num_images(splits.gallery),
        num_shared_classes=splits.num_shared_classes,
        command=command_line(),
        recipe=without_local_paths(recipe_of(arguments)),
        commit=source_commit(),
        versions={"python": sys.version.split()[0], **{package: version(package) for package in PACKAGES}},
        device=describe_device(),
        latency_device=describe_cpu(threads=1),
        num_processes=accelerator.num_processes,
        mixed_precision=accelerator.mixed_precision,
    )


def describe_model(model: PrunNetForImageClassification) -> ModelRecord:
    """Describe the embedding network."""
    config = model.config
    return ModelRecord(
        backbone=config.backbone,
        backbone_kwargs=config.backbone_kwargs,
        image_size=config.image_size,
        embedding_dim=config.embedding_dim,
        embedding_space=config.embedding_space,
        capacities=list(config.capacities),
        prunable=config.prunable,
        granularity=config.granularity,
        parameters=_num_parameters(model.prunnet),
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


def describe_base(arguments: ModelArguments, *, is_subnetwork: bool) -> dict[str, Any]:
    """What training starts from: `base_model` and `base_subnetwork`, as `TrainingFacts` has them.

    Args:
        arguments: Name it.
        is_subnetwork: Whether it is one.
    """
    base: dict[str, Any] = {"base_model": base_model(arguments)}
    if is_subnetwork and arguments.model_name_or_path is not None:
        config = PrunNetConfig.from_pretrained(model_directory(arguments.model_name_or_path))
        base["base_subnetwork"] = {"capacity": config.capacity, "embedding_space": config.embedding_space}
    return base


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
    costs = _costs(subnetworks, model.config.image_size)
    shares = (_shares_of_units if model.config.granularity == "channel" else _shares_of_weights)(subnetworks)
    rows = []
    for capacity in subnetworks:
        directory = subnetwork_directory(run, capacity) if model.config.prunable and capacity < 1 else run / "model"
        figures = {"multiply_adds": costs[capacity]["executed_multiply_adds"], **costs[capacity], **shares[capacity]}
        rows.append(
            CapacityRecord(
                capacity=capacity,
                file_bytes=weights_bytes(directory) or None,
                trained=is_trained(capacity, model.config.capacities, sampling),
                **figures,
            )
        )
    return rows


def _shares_of_weights(networks: Mapping[float, PrunNetModel]) -> dict[float, dict[str, int]]:
    """What a capacity keeps of a network's single weights, by the fields of `CapacityRecord`."""
    network = next(iter(networks.values()))
    on_paper = count_multiply_adds(network, network.config.image_size)
    sizes = on_paper.sizes.values()
    return {
        capacity: {
            "kept_weights": sum(kept_count(capacity, size) for size in sizes),
            "prunable_weights": sum(sizes),
            "multiply_adds": on_paper.at(capacity),
        }
        for capacity in networks
    }


def _shares_of_units(networks: Mapping[float, PrunNetModel]) -> dict[float, dict[str, int]]:
    """The same of units, and of the weights that lie in them."""
    dense = dense_twin(next(iter(networks.values())))
    whole = {
        "prunable_weights": _weights_in_units(dense),
        "units": sum(dense.prunable_units().values()),
        "dense_parameters": _num_parameters(dense),
    }
    return {
        capacity: {
            "kept_weights": _weights_in_units(network),
            "kept_units": sum(network.prunable_units().values()),
            **whole,
        }
        for capacity, network in networks.items()
    }


def _weights_in_units(network: PrunNetModel) -> int:
    return sum(weight.numel() for weight in unit_weights(network).values())


def _num_parameters(network: PrunNetModel) -> int:
    """The number of parameters that embedding needs."""
    return sum(tensor.numel() for name, tensor in network.named_parameters() if not name.endswith(".scores"))


def _costs(networks: Mapping[float, PrunNetModel], image_size: int) -> dict[float, dict[str, Any]]:
    """What running each network costs, by the fields of `CapacityRecord`.

    Networks whose tensors have the same shapes do the same work, and only one of them is measured.
    """
    shapes = {key: tuple(tensor.shape for tensor in net.parameters()) for key, net in networks.items()}
    measured = {shapes[key]: net for key, net in networks.items()}
    latency = measure_latency(measured)
    costs = {
        shape: {
            "parameters": _num_parameters(net),
            "executed_multiply_adds": count_multiply_adds(net, image_size).dense,
            "latency_ms": latency.milliseconds[shape],
            "latency_runtime": latency.runtime,
        }
        for shape, net in measured.items()
    }
    return {key: costs[shape] for key, shape in shapes.items()}
