"""From a trained model to a finished run directory: statistics, subnetworks, compatibility matrix, figures."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import yaml
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from datasets import IterableDataset
from torch import Tensor

from ..data.splits import RetrievalSplits
from ..data.stream_loader import SHUFFLE_BUFFER
from ..data.streams import ImageDataset
from ..image_processing_prunnet import PrunNetImageProcessor
from ..modeling_prunnet import PrunNetForImageClassification, PrunNetModel
from ..pruning.masking import format_capacity
from ..retrieval.compatibility import (
    SHOWN_METRICS,
    compatibility_matrix,
    format_matrix,
    format_tests,
)
from ..retrieval.dataset_encoding import Encoded, Key, pixel_batches
from ..retrieval.metrics import chance_mean_average_precision
from ..retrieval.plots import plot_curve, plot_matrix
from ..retrieval.protocols import leave_one_out, resolve_protocol
from .arguments import RunArguments
from .description import describe_model, describe_run, describe_subnetworks, recipe_of
from .gathering import encode_together
from .record import RECORD, RunRecord, TrainingFacts
from .run_directory import discard_conclusions, subnetwork_directory, write_text

NetworkKey = float | tuple[str, float]
"""A capacity; or one of `interpolated_subnetworks`."""
LEFT_OUT_CAPACITIES = (0.1, 0.3, 0.5, 0.7)


def measure_running_statistics(
    accelerator: Accelerator,
    model: PrunNetForImageClassification,
    processor: PrunNetImageProcessor,
    images: ImageDataset,
    arguments: RunArguments,
    *,
    progress: bool = False,
) -> None:
    """Calibrate `model` on a seeded sample of the training images, processed as for inference.

    Called by all processes, which share the batches of the sample; all end with the same statistics, to rounding those
    of one process with batches of the same size.
    """
    batches = calibration_batches(images, processor, arguments, accelerator.process_index, accelerator.num_processes)
    model.calibrate(
        (batch for batch in batches if len(batch) > 1),
        progress=progress and accelerator.is_main_process,
        add_up=accelerator.reduce if accelerator.num_processes > 1 else None,
    )


def calibration_batches(
    images: ImageDataset, processor: PrunNetImageProcessor, arguments: RunArguments, rank: int, world_size: int
) -> Iterator[Tensor]:
    """The batches of one process: every `world_size`-th of the sample's."""
    count, seed, size = arguments.train.calibration_images, arguments.train.seed, arguments.train.batch_size
    if isinstance(images, IterableDataset):
        sample = images.shuffle(seed=seed, buffer_size=SHUFFLE_BUFFER).take(count)
        # Read in one piece: a stream's sample must depend neither on processes nor on workers.
        return islice(pixel_batches(sample, processor, batch_size=size), rank, None, world_size)
    order = np.random.default_rng(seed).permutation(len(images))[:count]
    own = order[np.arange(len(order)) // size % world_size == rank]
    return pixel_batches(images.select(own), processor, batch_size=size, num_workers=arguments.data.num_workers)


def quick_score(
    accelerator: Accelerator,
    model: PrunNetForImageClassification,
    processor: PrunNetImageProcessor,
    splits: RetrievalSplits,
    arguments: RunArguments,
) -> dict[str, float]:
    """Self-test of the trained subnetworks and the dense network by the headline metric of the protocol.

    Called by all processes; all get the main one's figures.
    """
    subnetworks = cut_subnetworks(model, [*arguments.train.capacities, 1.0])
    scores = {}
    for capacity, values in self_test(accelerator, subnetworks, processor, splits, arguments).items():
        metric = next(iter(values))
        scores[f"{metric}/capacity-{format_capacity(capacity)}"] = values[metric]
    return scores


def self_test(
    accelerator: Accelerator,
    networks: Mapping[Key, PrunNetModel],
    processor: PrunNetImageProcessor,
    splits: RetrievalSplits,
    arguments: RunArguments,
) -> dict[Key, dict[str, float]]:
    """All metrics of the protocol for each network, which embeds queries and gallery alike.

    Called by all processes; all get the main one's figures.
    """
    sides = encode_splits(accelerator, networks, processor, splits, arguments, progress=False)
    scores: list[dict[Key, dict[str, float]]] = [{}]
    if sides is not None:
        query, gallery = sides
        protocol = resolve_protocol(splits.protocol)
        scores[0] = {key: protocol(query.side(key), gallery.side(key)) for key in networks}
    broadcast_object_list(scores)
    return scores[0]


def cut_subnetworks(model: PrunNetForImageClassification, capacities: list[float]) -> dict[float, PrunNetModel]:
    """The embedding networks of a model by capacity, ascending; of a pruned model the one it is."""
    if not model.config.prunable:
        return {model.config.capacity: model.prunnet}
    return {capacity: model.prunnet.prune(capacity) for capacity in sorted(set(capacities))}


def evaluate_run(
    accelerator: Accelerator,
    model: PrunNetForImageClassification,
    processor: PrunNetImageProcessor,
    splits: RetrievalSplits,
    arguments: RunArguments,
    training: TrainingFacts,
) -> RunRecord | None:
    """Evaluate a trained model, print its figures, and write the run directory; called by all processes.

    A run that is only evaluated again keeps its model, its recipe and what is recorded of its training.

    Args:
        accelerator: Knows the processes, which share the images.
        model: Calibrated, with an embedding space; the same on all processes.
        processor: Saved beside every model.
        splits: Unseen classes to retrieve among.
        arguments: Recorded as `config.yaml`; `output_dir` is where to write.
        training: What is known of the training.

    Returns:
        The run's record, which `metrics.json` holds, on the main process; None on all others.
    """
    options, run = arguments.train, Path(arguments.train.output_dir)
    if options.method == "independent" and model.config.prunable:
        model = model.prune(options.capacities[0])
    subnetworks = cut_subnetworks(model, [*options.capacities, *options.eval_capacities, 1.0])
    if accelerator.is_main_process and not is_evaluated_again(arguments):
        discard_conclusions(run)
        save_models(run, model, subnetworks, processor, options.capacities)
        write_text(run / "config.yaml", yaml.safe_dump(recipe_of(arguments), sort_keys=False))
    accelerator.wait_for_everyone()
    sides = encode_splits(accelerator, subnetworks, processor, splits, arguments)
    if sides is None:
        return None
    query, gallery = sides
    results = compatibility_matrix(
        resolve_protocol(splits.protocol),
        {capacity: query.side(capacity) for capacity in subnetworks},
        {capacity: gallery.side(capacity) for capacity in subnetworks},
        progress=True,
    )
    record = RunRecord(
        **vars(describe_run(accelerator, arguments, splits)),
        **vars(training),
        model=describe_model(model),
        results=tuple(results),
        capacities=tuple(describe_subnetworks(run, model, subnetworks, options.capacity_sampling)),
        chance=chance_level(query.columns["label"]) if splits.protocol == "leave_one_out" else None,
    )
    record.write(run / RECORD)
    show_results(record, run)
    return record


def chance_level(labels: Sequence[int]) -> dict[str, float]:
    """What a random order scores if each image searches all the others."""
    return {"mAP": chance_mean_average_precision(labels, labels, exclude=np.arange(len(labels)))}


def show_results(record: RunRecord, run: Path) -> None:
    """Draw matrix and curve into `run`; print the headline's matrix, and self-test and cross-test by all metrics."""
    title = ", ".join(filter(None, (record.dataset, f"split {record.split}", record.method)))
    plot_matrix(record.results, run / "compatibility.png", metrics=record.metric_names[:SHOWN_METRICS], title=title)
    if len(record.evaluated_capacities) > 1:
        trained = [row.capacity for row in record.capacities if row.trained]
        plot_curve(record.results, run / "curve.png", metric=record.headline, trained=trained, title=title)
    print(f"\n{format_matrix(record.results, record.headline)}")
    print(f"\n{format_tests(record.results)}")


def is_evaluated_again(arguments: RunArguments) -> bool:
    """Whether the model to evaluate is the one that a run left in its own directory."""
    return arguments.train.eval_only and (Path(arguments.train.output_dir) / "model").is_dir()


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
    accelerator: Accelerator,
    networks: Mapping[Key, PrunNetModel],
    processor: PrunNetImageProcessor,
    splits: RetrievalSplits,
    arguments: RunArguments,
    *,
    progress: bool = True,
) -> tuple[Encoded[Key], Encoded[Key]] | None:
    """Queries and gallery by every network, once where they are the same images; None but on the main process."""

    def encode(images: ImageDataset) -> Encoded[Key] | None:
        return encode_together(
            accelerator,
            networks,
            images,
            processor,
            batch_size=arguments.train.eval_batch_size,
            num_workers=arguments.data.num_workers,
            progress=progress,
        )

    query = encode(splits.query)
    gallery = query if splits.gallery is splits.query else encode(splits.gallery)
    return None if query is None or gallery is None else (query, gallery)


def interpolated_subnetworks(model: PrunNetForImageClassification) -> dict[tuple[str, float], PrunNetModel]:
    """Subnetworks to show what interpolated running statistics cost.

    Returns:
        For each of 0.1, 0.3, 0.5 and 0.7 that the model stores statistics of: one network with its own (`"stored"`),
        and one with the mixture of its neighbours' (`"interpolated"`).
    """
    if not model.config.prunable:
        return {}
    base, networks = model.prunnet, {}
    for capacity in (c for c in LEFT_OUT_CAPACITIES if c in base.config.stored_subnetworks):
        poorer = copy.deepcopy(base)
        poorer.keep_statistics([c for c in base.config.stored_subnetworks if c != capacity])
        networks["stored", capacity] = base.prune(capacity)
        networks["interpolated", capacity] = poorer.prune(capacity)
    return networks


def describe_interpolation(images: Encoded[NetworkKey], keys: list[tuple[str, float]]) -> list[dict[str, float]]:
    """Self-test mAP with a subnetwork's own running statistics and with interpolated ones: a row a capacity."""
    maps = {key: leave_one_out(images.side(key), images.side(key))["mAP"] for key in keys}
    capacities = [capacity for kind, capacity in keys if kind == "stored"]
    return [{"capacity": c, "stored": maps["stored", c], "interpolated": maps["interpolated", c]} for c in capacities]
