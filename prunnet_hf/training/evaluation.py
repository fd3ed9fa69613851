"""From a trained model to a finished run directory: statistics, subnetworks, compatibility matrix, figures."""

from __future__ import annotations

import copy
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor

from ..data.splits import RetrievalSplits
from ..image_processing_prunnet import PrunNetImageProcessor
from ..masking import kept_count
from ..modeling_prunnet import PrunNetForImageClassification
from ..modeling_prunnet import PrunNetModel
from ..retrieval.compatibility import compatibility_matrix
from ..retrieval.compatibility import format_matrix
from ..retrieval.compatibility import plot_matrix
from ..retrieval.encoding import encode
from ..retrieval.encoding import pixel_batches
from ..retrieval.metrics import chance_mean_average_precision
from ..retrieval.protocols import leave_one_out
from ..retrieval.protocols import read_columns
from ..retrieval.protocols import resolve_protocol
from .arguments import RunArguments
from .run_directory import TRAINING_FACTS
from .run_directory import discard_conclusions
from .run_directory import subnetwork_directory
from .run_directory import write_json
from .run_directory import write_text

METRICS_FORMAT = 1
LEFT_OUT_CAPACITIES = (0.1, 0.3, 0.5, 0.7)
PER_INVOCATION = ("resume", "eval_only")
"""Flags that say how a run is called, not what it is."""
PACKAGES = ("torch", "torchvision", "transformers", "timm", "accelerate", "datasets", "faiss-cpu")


def measure_running_statistics(
    model: PrunNetForImageClassification, processor: PrunNetImageProcessor, images: Dataset, arguments: RunArguments
) -> None:
    """Calibrate `model` on a seeded sample of the training images, processed as for inference.

    All processes measure the same sample, so all end with the same statistics.
    """
    sample = np.random.default_rng(arguments.train.seed).permutation(len(images))[: arguments.train.calibration_images]
    batches = pixel_batches(
        images.select(sample), processor, batch_size=arguments.train.batch_size, num_workers=arguments.data.num_workers
    )
    model.calibrate(batch for batch in batches if len(batch) > 1)


def quick_score(
    model: PrunNetForImageClassification, processor: PrunNetImageProcessor, images: Dataset, capacities: list[float]
) -> dict[str, float]:
    """Self-test mAP of the subnetworks of `capacities` (1.0: the dense network), each image against all others."""
    models = cut_subnetworks(model, capacities)
    embeddings = encode(models, images, processor, progress=False)
    columns = read_columns(images)
    return {f"mAP/capacity-{c:.2f}": leave_one_out(e, e, columns, columns)["mAP"] for c, e in embeddings.items()}


def cut_subnetworks(model: PrunNetForImageClassification, capacities: list[float]) -> dict[float, PrunNetModel]:
    """The embedding networks of a model by capacity, ascending; of a pruned model the one it is."""
    if not model.config.prunable:
        return {model.config.capacity: model.prunnet}
    return {capacity: model.prunnet.prune(capacity) for capacity in sorted(set(capacities))}


def evaluate_run(
    run: Path,
    model: PrunNetForImageClassification,
    processor: PrunNetImageProcessor,
    splits: RetrievalSplits,
    arguments: RunArguments,
    training: Mapping[str, Any],
) -> dict[str, Any]:
    """Evaluate a trained model, print the matrix, and write the run directory.

    A run that is only evaluated again keeps its model, its recipe and what is recorded of its training.

    Args:
        run: Where to write.
        model: Calibrated, with an embedding space.
        processor: Saved beside every model.
        splits: Unseen classes to retrieve among.
        arguments: Recorded as `config.yaml`.
        training: `TRAINING_FACTS` by name; what is left out is recorded as unknown (None).

    Returns:
        What `metrics.json` holds.
    """
    options = arguments.train
    if options.method == "independent" and model.config.prunable:
        model = model.prune(options.capacities[0])
    subnetworks = cut_subnetworks(model, [*options.capacities, *options.eval_capacities, 1.0])
    if not is_evaluated_again(arguments):
        discard_conclusions(run)
        save_models(run, model, subnetworks, processor, options.capacities)
        write_text(run / "config.yaml", yaml.safe_dump(recipe_of(arguments), sort_keys=False))
    embeddings = encode_splits(subnetworks, processor, splits, arguments.data.num_workers)
    columns = read_columns(splits.query), read_columns(splits.gallery)
    protocol = resolve_protocol(splits.protocol)
    results = compatibility_matrix(protocol, *embeddings, *columns)
    metrics = {
        **describe_run(arguments, splits),
        **{fact: training.get(fact) for fact in TRAINING_FACTS},
        "results": [asdict(result) for result in results],
        "capacities": describe_subnetworks(run, model, subnetworks),
        "interpolation": measure_interpolation(model, processor, splits),
    }
    if splits.protocol == "leave_one_out":
        labels = columns[0]["label"]
        metrics["chance"] = {"mAP": chance_mean_average_precision(labels, labels, exclude=np.arange(len(labels)))}
    write_json(run / "metrics.json", metrics)
    shown = list(dict.fromkeys(result.metric for result in results))
    title = ", ".join(filter(None, (metrics["dataset"], metrics["method"])))
    plot_matrix(results, run / "compatibility.png", metrics=shown, title=title)
    for metric in shown:
        print(f"\n{format_matrix(results, metric)}")
    return metrics


def is_evaluated_again(arguments: RunArguments) -> bool:
    """Whether the model to evaluate is the one that a run left in its own directory."""
    return arguments.train.eval_only and (Path(arguments.train.output_dir) / "model").is_dir()


def recipe_of(arguments: RunArguments) -> dict[str, Any]:
    """The arguments with which to do the same run again."""
    return {name: value for name, value in arguments.as_dict().items() if name not in PER_INVOCATION}


def save_models(
    run: Path,
    model: PrunNetForImageClassification,
    subnetworks: Mapping[float, PrunNetModel],
    processor: PrunNetImageProcessor,
    capacities: list[float],
) -> None:
    """Write `model/` and, of a prunable model, `subnetworks/capacity-0.20/` and so on for the trained capacities."""
    model.save_pretrained(run / "model")
    processor.save_pretrained(run / "model")
    if not model.config.prunable:
        return
    for capacity in capacities:
        directory = subnetwork_directory(run, capacity)
        subnetworks[capacity].save_pretrained(directory)
        processor.save_pretrained(directory)


def encode_splits(
    subnetworks: Mapping[float, PrunNetModel],
    processor: PrunNetImageProcessor,
    splits: RetrievalSplits,
    num_workers: int,
) -> tuple[dict[float, NDArray[np.float32]], dict[float, NDArray[np.float32]]]:
    """Embed queries and gallery by every subnetwork; once where they are the same images."""
    query = encode(subnetworks, splits.query, processor, num_workers=num_workers)
    if splits.gallery is splits.query:
        return query, query
    return query, encode(subnetworks, splits.gallery, processor, num_workers=num_workers)


def measure_interpolation(
    model: PrunNetForImageClassification,
    processor: PrunNetImageProcessor,
    splits: RetrievalSplits,
) -> list[dict[str, float]]:
    """What interpolated running statistics cost: each capacity once with its own, once with its neighbours' mixture.

    Returns:
        For each of 0.1, 0.3, 0.5 and 0.7 that the model stores: `{"capacity", "stored", "interpolated"}`, the latter
        two self-test mAP.
    """
    if splits.protocol != "leave_one_out" or not model.config.prunable:
        return []
    base, rows = model.prunnet, []
    columns = read_columns(splits.query)
    for capacity in (c for c in LEFT_OUT_CAPACITIES if c in base.config.stored_subnetworks):
        poorer = copy.deepcopy(base)
        poorer.keep_statistics([c for c in base.config.stored_subnetworks if c != capacity])
        stored, interpolated = (
            leave_one_out(embeddings, embeddings, columns, columns)["mAP"]
            for network in (base, poorer)
            for embeddings in encode(
                {capacity: network.prune(capacity)}, splits.query, processor, progress=False
            ).values()
        )
        rows.append({"capacity": capacity, "stored": stored, "interpolated": interpolated})
    return rows


def describe_run(arguments: RunArguments, splits: RetrievalSplits) -> dict[str, Any]:
    """What a reader needs to do the evaluation again: data, command, commit, versions, device."""
    return {
        "format": METRICS_FORMAT,
        "dataset": dataset_name(arguments),
        "split": "test",
        "protocol": splits.protocol,
        "num_queries": len(splits.query),
        "num_gallery": len(splits.gallery),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "commit": source_commit(),
        "versions": {"python": sys.version.split()[0], **{package: version(package) for package in PACKAGES}},
        "device": describe_device(),
    }


def dataset_name(arguments: RunArguments) -> str:
    """Name of the data set: that of its folder where it is one."""
    data = arguments.data
    return Path(data.data_dir).resolve().name if data.data_dir else data.dataset


def describe_device() -> str:
    """The machine in a few words: the GPU's name, or the CPU's architecture and the threads torch uses."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)"


def source_commit() -> str | None:
    """Commit of the checkout this package runs from, `-dirty` with uncommitted changes; None outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        result = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return result.stdout.strip() or None


def describe_subnetworks(
    run: Path, model: PrunNetForImageClassification, subnetworks: Mapping[float, PrunNetModel]
) -> list[dict[str, Any]]:
    """Per capacity: kept and prunable weights, bytes of the saved file where there is one, latency of one image."""
    latencies = measure_latency(subnetworks, model.config.image_size)
    pruned = next(iter(subnetworks.values()))
    sizes = [pruned.get_parameter(name).numel() for name in pruned.packable_weights()]
    rows = []
    for capacity in subnetworks:
        directory = subnetwork_directory(run, capacity) if model.config.prunable and capacity < 1 else run / "model"
        files = list(directory.glob("*.safetensors"))
        rows.append(
            {
                "capacity": capacity,
                "kept_weights": sum(kept_count(capacity, size) for size in sizes),
                "prunable_weights": sum(sizes),
                "file_bytes": files[0].stat().st_size if files else None,
                "latency_ms": latencies[capacity],
            }
        )
    return rows


@torch.inference_mode()
def measure_latency(models: Mapping[float, PrunNetModel], image_size: int, repeats: int = 15) -> dict[float, float]:
    """Median milliseconds to embed one image, the models taking turns."""
    device = next(iter(models.values())).device
    image = torch.zeros(1, 3, image_size, image_size, device=device)
    times: dict[float, list[float]] = {capacity: [] for capacity in models}
    for _ in range(repeats + 1):
        for capacity, model in models.items():
            start = time.perf_counter()
            embedding: Tensor = model(image).pooler_output
            embedding.sum().item()  # waits for the device
            times[capacity].append(1e3 * (time.perf_counter() - start))
    return {capacity: statistics.median(values[1:]) for capacity, values in times.items()}
