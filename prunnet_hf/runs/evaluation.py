"""From a trained model to a finished run directory: statistics, subnetworks, compatibility matrix, pictures."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import cast

import numpy as np
import yaml
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from datasets import IterableDataset
from numpy.typing import NDArray
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
    percent,
)
from ..retrieval.dataset_encoding import Encoded, Key, pixel_batches
from ..retrieval.metrics import chance_mean_average_precision
from ..retrieval.plots import plot_curve, plot_matrix
from ..retrieval.protocols import Side, resolve_protocol
from ..storage.weights_digest import digest_weights, set_space
from .arguments import RunArguments
from .criterion import format_criterion, judged, name_space, networks_before
from .description import dataset_name, describe_model, describe_run, describe_subnetworks, recipe_of
from .examples import write_examples
from .gathering import encode_together
from .measured import note_measured
from .methods import find_method
from .ownership import discard_conclusions
from .record import RECORD, UNEVALUATED, IntoRecord, RunRecord, TrainingFacts, recorded_into
from .reference import Reference
from .run_directory import subnetwork_directory, without_local_paths, write_json, write_text


def measure_running_statistics(
    accelerator: Accelerator,
    model: PrunNetForImageClassification,
    processor: PrunNetImageProcessor,
    images: ImageDataset,
    arguments: RunArguments,
    *,
    progress: bool = False,
) -> None:
    """Calibrate `model` on a random sample of the training images, processed as for inference.

    All processes must call this. They share the batches of the sample and end with the same statistics, which up to
    rounding are those of one process with batches of the same size.
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
    """The batches of one process: every `world_size`-th batch of the sample."""
    count, seed, size = arguments.train.calibration_images, arguments.train.seed, arguments.train.batch_size
    if isinstance(images, IterableDataset):
        sample = images.shuffle(seed=seed, buffer_size=SHUFFLE_BUFFER).take(count)
        # Read by one worker: the sample of a stream must not depend on the number of processes or workers.
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
    known_gallery: NDArray[np.float32] | None = None,
) -> dict[str, float]:
    """Test the trained subnetworks and the dense network by the headline metric of the protocol.

    All processes must call this, and get the main one's figures.

    Args:
        accelerator: The accelerator of the run.
        model: The network in training.
        processor: Turns images into pixel values.
        splits: The images to search.
        arguments: Of the run.
        known_gallery: What the queries search, `(num_gallery, embedding_dim)`, of a space that exists; None if each
            network is to search what it embeds itself.

    Returns:
        By `METRIC/capacity-0.20` and so on; with a known gallery by `METRIC/into/capacity-0.20`.
    """
    subnetworks = cut_subnetworks(model, [*arguments.train.capacities, 1.0])
    scores, kind = {}, "capacity" if known_gallery is None else "into/capacity"
    tests = self_test(accelerator, subnetworks, processor, splits, arguments, known_gallery)
    for capacity, values in tests.items():
        metric = next(iter(values))
        scores[f"{metric}/{kind}-{format_capacity(capacity)}"] = values[metric]
    return scores


def self_test(
    accelerator: Accelerator,
    networks: Mapping[Key, PrunNetModel],
    processor: PrunNetImageProcessor,
    splits: RetrievalSplits,
    arguments: RunArguments,
    known_gallery: NDArray[np.float32] | None = None,
) -> dict[Key, dict[str, float]]:
    """All metrics of the protocol for each network, which embeds both queries and gallery, unless that is known.

    All processes must call this, and get the main one's figures.
    """
    sides = encode_splits(accelerator, networks, processor, splits, arguments, progress=False)
    scores: list[dict[Key, dict[str, float]]] = [{}]
    if sides is not None:
        query, gallery = sides
        protocol = resolve_protocol(splits.protocol)
        known = None if known_gallery is None else Side(known_gallery, gallery.columns)
        scores[0] = {key: protocol(query.side(key), known or gallery.side(key)) for key in networks}
    broadcast_object_list(scores)
    return scores[0]


def cut_subnetworks(model: PrunNetForImageClassification, capacities: list[float]) -> dict[float, PrunNetModel]:
    """The embedding networks of a model by capacity, ascending. A pruned model has only its own."""
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
    reference: Reference | None = None,
) -> RunRecord | None:
    """Evaluate a trained model, print its figures, and write the run directory. All processes must call this.

    A run that is only evaluated again keeps its model, its recipe and what is recorded about its training, and without
    a reference what was found in the gallery of the space into which it was trained. In both cases the configurations
    of its models then have what was `measured`.

    Args:
        accelerator: The accelerator of the run, whose processes share the images.
        model: Calibrated, with an embedding space, and the same on all processes.
        processor: Saved with every model.
        splits: The images to search.
        arguments: Recorded in `config.yaml`; `output_dir` is the run directory.
        training: What is known about the training.
        reference: The space that exists into which the run has trained, if it has.

    Returns:
        The run's record, which `metrics.json` holds, on the main process; None on all others.
    """
    options, run = arguments.train, Path(arguments.train.output_dir)
    if model.config.prunable and not find_method(options.method).has_subnetworks:
        trained, model = model, model.prune(options.capacities[0])
        model.is_classifier_new = trained.is_classifier_new
    subnetworks = cut_subnetworks(model, [*options.capacities, *options.eval_capacities, 1.0])
    if accelerator.is_main_process and not is_evaluated_again(arguments):
        discard_conclusions(run)
        save_models(run, model, subnetworks, processor, options.capacities)
        write_text(run / "config.yaml", yaml.safe_dump(recipe_of(arguments), sort_keys=False))
        write_json(run / UNEVALUATED, {"dataset": dataset_name(arguments), **vars(training)})
    accelerator.wait_for_everyone()
    sides = encode_splits(accelerator, subnetworks, processor, splits, arguments)
    before = None if reference is None else encode_before(accelerator, reference, splits, arguments, subnetworks)
    if sides is None:
        return None
    query, gallery = sides
    description = describe_run(accelerator, arguments, splits)
    if reference is None:
        into = recorded_into(run, description) if is_evaluated_again(arguments) else None
    else:
        into = against_own_gallery(reference, splits.protocol, query, gallery)
        if before is not None:
            vectors = reference.gallery_vectors
            into = judged(into, before, splits.protocol, None if vectors is None else Side(vectors, gallery.columns))
            settle_judged(run, model, subnetworks, into)
    results = compatibility_matrix(
        resolve_protocol(splits.protocol),
        {capacity: query.side(capacity) for capacity in subnetworks},
        {capacity: gallery.side(capacity) for capacity in subnetworks},
        progress=True,
    )
    record = RunRecord(
        **vars(description),
        **vars(training),
        model=describe_model(model),
        results=tuple(results),
        capacities=tuple(describe_subnetworks(run, model, subnetworks, options.capacity_sampling)),
        chance=chance_level(query.columns["label"]) if splits.protocol == "leave_one_out" else None,
        into=into,
    )
    record.write(run / RECORD)
    note_measured(run, record)
    (run / UNEVALUATED).unlink(missing_ok=True)
    show_results(record, run)
    write_examples(run, record, subnetworks, splits, query, gallery, seed=options.seed, reference=reference)
    return record


def encode_before(
    accelerator: Accelerator,
    reference: Reference,
    splits: RetrievalSplits,
    arguments: RunArguments,
    evaluated: Collection[float],
) -> Encoded[float] | None:
    """The queries by the network as it was before the run, at each capacity that must hold in its space.

    All processes must call this. None on all but the main one, and if there was no such network.
    """
    if reference.before is None:
        return None
    stored = {*arguments.train.capacities, 1.0}.intersection(evaluated)  # a lone network has only its own
    networks = networks_before(reference.before.to(accelerator.device), stored)
    return encode_together(
        accelerator,
        networks,
        splits.query,
        cast("PrunNetImageProcessor", reference.before.image_processor),
        batch_size=arguments.train.eval_batch_size,
        num_workers=arguments.data.num_workers,
    )


def settle_judged(
    run: Path, model: PrunNetForImageClassification, subnetworks: Mapping[float, PrunNetModel], into: IntoRecord
) -> None:
    """Let a network that was trained further stay in its old space, or not: the one in memory, and those in the run.

    It was saved in a space of its own, so that nobody believes it before it has been measured.
    """
    own = model.config.embedding_space
    if not into.kept and own == into.embedding_space:  # an earlier evaluation had kept it
        own = digest_weights(model)
    space = into.embedding_space if into.kept else own
    for network in (model, *subnetworks.values()):
        set_space(network, str(space))
    name_space(run, str(space), subnetworks)


def against_own_gallery(
    reference: Reference, protocol: str, query: Encoded[float], gallery: Encoded[float]
) -> IntoRecord:
    """How well queries of each capacity find images in the gallery of the space into which they were trained.

    Args:
        reference: The space, and its own vectors of the test images.
        protocol: Name of the rule.
        query: The queries, embedded by every capacity.
        gallery: The gallery's images, embedded likewise.
    """
    record = IntoRecord(
        embedding_space=reference.embedding_space,
        teacher=reference.teacher and without_local_paths(reference.teacher),
        gallery=reference.gallery and without_local_paths(reference.gallery),
        losses=reference.losses,
    )
    if reference.query is None or reference.gallery_vectors is None:
        return record
    measure, there = resolve_protocol(protocol), Side(reference.gallery_vectors, gallery.columns)
    values = {format_capacity(capacity): measure(query.side(capacity), there) for capacity in query.embeddings}
    return replace(record, values=values, itself=measure(Side(reference.query, query.columns), there))


def final_scores(record: RunRecord) -> dict[str, float]:
    """The self-test and the cross-test of each capacity by every metric, under names for trackers."""
    largest = record.evaluated_capacities[-1]
    return {
        f"test/{metric}/{name}/capacity-{format_capacity(capacity)}": record.value(metric, capacity, gallery)
        for metric in record.metric_names
        for capacity in record.evaluated_capacities
        for name, gallery in (("self", capacity), ("cross", largest))
    }


def chance_level(labels: Sequence[int]) -> dict[str, float]:
    """What a random order scores if each image searches all the others."""
    return {"mAP": chance_mean_average_precision(labels, labels, exclude=np.arange(len(labels)))}


def show_results(record: RunRecord, run: Path) -> None:
    """Draw matrix and curve into `run`, and print the headline's matrix, self-tests and cross-tests."""
    title = ", ".join(filter(None, (record.dataset, f"split {record.split}", record.method)))
    plot_matrix(record.results, run / "compatibility.png", metrics=record.metric_names[:SHOWN_METRICS], title=title)
    if len(record.evaluated_capacities) > 1:
        trained = [row.capacity for row in record.capacities if row.trained]
        plot_curve(record.results, run / "curve.png", metric=record.headline, trained=trained, title=title)
    print(f"\n{format_matrix(record.results, record.headline)}")
    print(f"\n{format_tests(record.results)}")
    if record.into is not None and record.into.values:
        print(f"\n{format_against(record.into, record.headline)}")
    if record.into is not None and record.into.kept is not None:
        print(f"\n{format_criterion(record.into, record.headline)}")


def format_against(into: IntoRecord, metric: str) -> str:
    """One metric of the test against the space's own gallery as lines for a terminal, in percent."""
    rows = {capacity: values[metric] for capacity, values in into.values.items()}
    if into.itself is not None:
        rows["its own"] = into.itself[metric]
    lines = [f"{metric} (%)".ljust(16) + f"gallery of {into.teacher or into.gallery}", "query"]
    return "\n".join([*lines, *(f"{name:>14}  {percent(value):>7}" for name, value in rows.items())])


def is_evaluated_again(arguments: RunArguments) -> bool:
    """Whether the model to evaluate is that of the run in `output_dir`."""
    return arguments.train.eval_only and (Path(arguments.train.output_dir) / "model").is_dir()


def save_models(
    run: Path,
    model: PrunNetForImageClassification,
    subnetworks: Mapping[float, PrunNetModel],
    processor: PrunNetImageProcessor,
    capacities: list[float],
) -> None:
    """Write `model/`, and for a prunable model `subnetworks/capacity-0.20/` and so on for the trained capacities.

    A random classifier, of a model that was loaded without one to be evaluated, is left out.
    """
    (model.prunnet if model.is_classifier_new else model).save_pretrained(run / "model")
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
    """Embed queries and gallery by every network (once if they are the same); None except on the main process."""

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
