"""Pieces of the evaluation that test_engine.py does not see through a whole run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage

from prunnet_hf import PrunNetConfig, PrunNetForImageClassification, PrunNetImageProcessor
from prunnet_hf.data.splits import RetrievalSplits
from prunnet_hf.data.streams import as_stream
from prunnet_hf.runs.arguments import DataArguments, ModelArguments, RunArguments, TrainArguments
from prunnet_hf.runs.evaluation import (
    calibration_batches,
    cut_subnetworks,
    encode_splits,
    measure_running_statistics,
    quick_score,
)
from tests.accelerate_state import reset_accelerate
from tests.processes import run_processes

SIZE = 32


def tiny_model() -> PrunNetForImageClassification:
    torch.manual_seed(0)
    config = PrunNetConfig(
        backbone="resnet10t",
        backbone_kwargs={"channels": [4, 4, 8, 8], "stem_width": 4},
        image_size=SIZE,
        embedding_dim=6,
        num_labels=3,
        capacities=[0.2],
        statistics_capacities=[0.2, 0.3, 0.5],
    )
    return PrunNetForImageClassification(config)


def tiny_processor() -> PrunNetImageProcessor:
    return PrunNetImageProcessor(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})


def patterns_of_three_classes() -> Dataset:
    """Three classes of three images, each class a pattern under noise."""
    rng = np.random.default_rng(0)
    patterns = np.kron(rng.integers(0, 200, (3, 4, 4, 3)), np.ones((1, 8, 8, 1)))
    noisy = [patterns[label] + rng.integers(0, 55, patterns[label].shape) for label in range(3) for _ in range(3)]
    features = Features({"image": Image(), "label": ClassLabel(names=["a", "b", "c"])})
    pictures = [PILImage.fromarray(picture.astype(np.uint8)) for picture in noisy]
    return Dataset.from_dict({"image": pictures, "label": np.repeat(range(3), 3)}, features=features)


@pytest.fixture
def model() -> PrunNetForImageClassification:
    return tiny_model()


@pytest.fixture
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


@pytest.fixture(scope="module")
def processor() -> PrunNetImageProcessor:
    return tiny_processor()


@pytest.fixture(scope="module")
def images() -> Dataset:
    return patterns_of_three_classes()


@pytest.fixture(scope="module")
def train_images() -> Dataset:
    features = Features({"image": Image(), "label": ClassLabel(names=["seen", "known"])})
    return Dataset.from_dict({"image": [PILImage.new("RGB", (SIZE, SIZE))] * 2, "label": [0, 1]}, features=features)


@pytest.fixture(scope="module")
def splits(train_images: Dataset, images: Dataset) -> RetrievalSplits:
    return RetrievalSplits(train_images, images, images, "leave_one_out")


def arguments(**options: object) -> RunArguments:
    return RunArguments(ModelArguments(), DataArguments(num_workers=0), TrainArguments(batch_size=4, **options))


def buffers(model: PrunNetForImageClassification) -> dict[str, torch.Tensor]:
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


def test_statistics_depend_on_the_seed_alone(
    accelerator: Accelerator, model: PrunNetForImageClassification, processor: PrunNetImageProcessor, images: Dataset
) -> None:
    measured = []
    for seed in (0, 0, 1):
        measure_running_statistics(accelerator, model, processor, images, arguments(seed=seed, calibration_images=4))
        measured.append(buffers(model))
    assert all(torch.equal(buffer, measured[1][name]) for name, buffer in measured[0].items())
    assert not all(torch.equal(buffer, measured[2][name]) for name, buffer in measured[0].items())


def calibrated() -> list[dict[str, torch.Tensor]]:
    """Statistics measured on a data set in batches of 4, 4 and 1, and on a stream in batches of 2."""
    accelerator, processor = Accelerator(cpu=True), tiny_processor()
    images = patterns_of_three_classes()
    sources = ((images, arguments()), (as_stream(images, 3), arguments(calibration_images=8)))
    found = []
    for source, run in sources:
        model = tiny_model()
        measure_running_statistics(accelerator, model, processor, source, run)
        found.append(buffers(model))
    return found


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_share_the_calibration_and_end_as_one_does(world_size: int, tmp_path: Path) -> None:
    first, *others = run_processes(world_size, calibrated, folder=tmp_path)
    expected = calibrated()
    reset_accelerate()
    for source, alone in enumerate(expected):
        assert any(name.endswith("statistics_mean") and values.all() for name, values in alone.items())
        for name, values in alone.items():
            assert all(torch.equal(first[source][name], other[source][name]) for other in others), name
            torch.testing.assert_close(first[source][name], values, rtol=1e-6, atol=1e-7, msg=name)


def test_each_process_reads_its_own_batches_only(processor: PrunNetImageProcessor, images: Dataset) -> None:
    run = arguments(calibration_images=8)
    whole = list(calibration_batches(images, processor, run, 0, 1))
    first, second = (list(calibration_batches(images, processor, run, rank, 2)) for rank in range(2))
    assert [len(batches) for batches in (whole, first, second)] == [2, 1, 1]
    assert torch.equal(first[0], whole[0])
    assert torch.equal(second[0], whole[1])


def test_a_last_batch_of_one_image_is_left_out(
    accelerator: Accelerator, model: PrunNetForImageClassification, processor: PrunNetImageProcessor, images: Dataset
) -> None:
    # 5 images in batches of 4: batch norms of 1 x 1 features can't take the fifth alone.
    measured = []
    for calibration_images in (5, 4):
        measure_running_statistics(
            accelerator, model, processor, images, arguments(calibration_images=calibration_images)
        )
        measured.append(buffers(model))
    assert all(torch.equal(buffer, measured[1][name]) for name, buffer in measured[0].items())


def test_prunable_model_is_cut_once_for_each_capacity_ascending(model: PrunNetForImageClassification) -> None:
    subnetworks = cut_subnetworks(model, [1.0, 0.2, 0.5, 0.2])
    assert list(subnetworks) == [0.2, 0.5, 1.0]
    assert [subnetwork.config.capacity for subnetwork in subnetworks.values()] == [0.2, 0.5, 1.0]


def test_pruned_model_is_the_one_it_is(model: PrunNetForImageClassification) -> None:
    pruned = model.prune(0.5)
    assert cut_subnetworks(pruned, [0.2, 1.0]) == {0.5: pruned.prunnet}


def test_quick_score_is_of_the_headline_and_the_capacities_asked_for(
    accelerator: Accelerator,
    model: PrunNetForImageClassification,
    processor: PrunNetImageProcessor,
    splits: RetrievalSplits,
) -> None:
    scores = quick_score(accelerator, model, processor, splits, arguments(capacities=[0.2]))
    assert list(scores) == ["mAP/capacity-0.20", "mAP/capacity-1.00"]
    assert all(0 < score <= 1 for score in scores.values())
    apart = RetrievalSplits(None, splits.query, splits.gallery, "in_shop")
    scores = quick_score(accelerator, model, processor, apart, arguments(capacities=[0.2]))
    assert list(scores) == ["recall@1/capacity-0.20", "recall@1/capacity-1.00"]


def test_quick_score_in_a_known_gallery_is_that_of_queries_which_search_it(
    accelerator: Accelerator,
    model: PrunNetForImageClassification,
    processor: PrunNetImageProcessor,
    splits: RetrievalSplits,
) -> None:
    run = arguments(capacities=[0.2])
    dense = encode_splits(accelerator, cut_subnetworks(model, [1.0]), processor, splits, run)[0].embeddings[1.0]
    own = quick_score(accelerator, model, processor, splits, run)
    scores = quick_score(accelerator, model, processor, splits, run, dense)
    assert list(scores) == ["mAP/into/capacity-0.20", "mAP/into/capacity-1.00"]
    assert scores["mAP/into/capacity-1.00"] == pytest.approx(own["mAP/capacity-1.00"])  # the dense network's gallery
    farthest_first = quick_score(accelerator, model, processor, splits, run, -dense)
    assert farthest_first["mAP/into/capacity-1.00"] < scores["mAP/into/capacity-1.00"]


def test_gallery_that_is_the_queries_is_embedded_once(
    accelerator: Accelerator, model: PrunNetForImageClassification, processor: PrunNetImageProcessor, images: Dataset
) -> None:
    subnetworks = cut_subnetworks(model, [1.0])
    together = RetrievalSplits(None, images, images, "leave_one_out")
    query, gallery = encode_splits(accelerator, subnetworks, processor, together, arguments())
    assert query is gallery
    apart = RetrievalSplits(None, images, images.select(range(4)), "in_shop")
    query, gallery = encode_splits(accelerator, subnetworks, processor, apart, arguments())
    assert (query.embeddings[1.0].shape, gallery.embeddings[1.0].shape) == ((9, 6), (4, 6))
    assert (query.columns["label"], gallery.columns["label"]) == ([0, 0, 0, 1, 1, 1, 2, 2, 2], [0, 0, 0, 1])


def test_statistics_of_a_stream_are_of_its_shuffled_beginning(
    accelerator: Accelerator, model: PrunNetForImageClassification, processor: PrunNetImageProcessor, images: Dataset
) -> None:
    measured = []
    for workers in (0, 2):
        run = RunArguments(
            ModelArguments(), DataArguments(num_workers=workers), TrainArguments(batch_size=3, calibration_images=6)
        )
        measure_running_statistics(accelerator, model, processor, as_stream(images, 3), run)
        measured.append(buffers(model))
    assert all(torch.equal(buffer, measured[1][name]) for name, buffer in measured[0].items())
    measure_running_statistics(accelerator, model, processor, images, arguments(calibration_images=4))
    assert not all(torch.equal(buffer, measured[0][name]) for name, buffer in buffers(model).items())
