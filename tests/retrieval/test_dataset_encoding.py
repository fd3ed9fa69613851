"""Data sets: one pass over the images, in order, through as many networks as are wanted."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from PIL import Image as PILImage

from prunnet_hf import PrunNetImageProcessor, PrunNetModel
from prunnet_hf.data.streams import as_stream
from prunnet_hf.retrieval.dataset_encoding import Encoded, embed, encode, encode_share, pixel_batches
from tests.retrieval.conftest import SIZE


@pytest.fixture(scope="module")
def images() -> Dataset:
    """Seven images, grey and colour, of several shapes."""
    rng = np.random.default_rng(0)
    shapes = [(32, 32, 3), (40, 36, 3), (50, 33), (32, 48, 3), (32, 32), (64, 64, 3), (33, 41, 3)]
    pictures = [PILImage.fromarray(rng.integers(0, 256, shape).astype(np.uint8)) for shape in shapes]
    features = Features({"image": Image(), "label": ClassLabel(names=["a", "b"])})
    return Dataset.from_dict({"image": pictures, "label": [0, 1, 0, 1, 0, 1, 0]}, features=features)


def test_embeddings_are_the_models_in_the_order_of_the_images(
    model: PrunNetModel, processor: PrunNetImageProcessor, images: Dataset
) -> None:
    embeddings = encode({1.0: model}, images, processor, batch_size=3, progress=False)[1.0]
    assert embeddings.shape == (7, 6)
    assert embeddings.dtype == np.float32
    for index, image in enumerate(images["image"]):
        with torch.no_grad():
            alone = model.eval()(**processor([image], return_tensors="pt")).pooler_output[0]
        np.testing.assert_allclose(embeddings[index], alone.numpy(), rtol=1e-4, atol=1e-5)


def test_batch_size_does_not_matter(model: PrunNetModel, processor: PrunNetImageProcessor, images: Dataset) -> None:
    one, all_at_once = (
        encode({1.0: model}, images, processor, batch_size=size, progress=False)[1.0] for size in (1, 100)
    )
    np.testing.assert_allclose(one, all_at_once, rtol=1e-4, atol=1e-5)


def test_several_capacities_in_one_pass(
    model: PrunNetModel, processor: PrunNetImageProcessor, images: Dataset
) -> None:
    subnetworks = {capacity: model.prune(capacity) for capacity in (0.2, 1.0)}
    together = encode(subnetworks, images, processor, progress=False)
    assert list(together) == [0.2, 1.0]
    for capacity, subnetwork in subnetworks.items():
        np.testing.assert_array_equal(
            together[capacity], encode({capacity: subnetwork}, images, processor, progress=False)[capacity]
        )
    assert not np.allclose(together[0.2], together[1.0])


def test_model_in_train_mode_embeds_as_in_eval_mode_and_learns_nothing(
    model: PrunNetModel, processor: PrunNetImageProcessor, images: Dataset
) -> None:
    expected = encode({1.0: model.eval()}, images, processor, progress=False)[1.0]
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    np.testing.assert_array_equal(encode({1.0: model.train()}, images, processor, progress=False)[1.0], expected)
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())


def test_half_precision_models_give_float32(
    model: PrunNetModel, processor: PrunNetImageProcessor, images: Dataset
) -> None:
    embeddings = encode({0.5: model.prune(0.5).bfloat16()}, images, processor, progress=False)[0.5]
    assert embeddings.dtype == np.float32
    assert np.isfinite(embeddings).all()


def test_pixel_batches_are_in_order_with_a_last_short_one(processor: PrunNetImageProcessor, images: Dataset) -> None:
    batches = list(pixel_batches(images, processor, batch_size=3))
    assert [tuple(batch.shape) for batch in batches] == [(3, 3, SIZE, SIZE), (3, 3, SIZE, SIZE), (1, 3, SIZE, SIZE)]
    first = processor([images[0]["image"]], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(batches[0][:1], first)


def test_stream_gives_the_embeddings_of_the_data_set_it_is_of(
    model: PrunNetModel, processor: PrunNetImageProcessor, images: Dataset
) -> None:
    expected = encode({1.0: model}, images, processor, batch_size=7, progress=False)[1.0]
    for num_shards, num_workers in ((1, 0), (3, 0), (3, 2)):
        stream = as_stream(images, num_shards)
        found = encode({1.0: model}, stream, processor, batch_size=2, num_workers=num_workers, progress=False)[1.0]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["data set", "stream of 2 shards", "stream of 5 shards"])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_shares_of_all_processes_are_the_data_set(
    kind: str, world_size: int, model: PrunNetModel, processor: PrunNetImageProcessor, images: Dataset
) -> None:
    source = images if kind == "data set" else as_stream(images, int(kind.split()[2]))
    shares = [
        encode_share({1.0: model}, source, processor, rank=rank, world_size=world_size, batch_size=2, progress=False)
        for rank in range(world_size)
    ]
    assert sorted(row for share in shares for row in share.rows) == list(range(7))
    by_row = {row: label for share in shares for row, label in zip(share.rows, share.columns["label"], strict=True)}
    assert [by_row[row] for row in range(7)] == [0, 1, 0, 1, 0, 1, 0]
    assert all(list(share.columns) == ["label"] for share in shares)
    assert sum(len(share.embeddings[1.0]) for share in shares) == 7


def test_process_without_images_has_an_empty_share(
    model: PrunNetModel, processor: PrunNetImageProcessor, images: Dataset
) -> None:
    share = encode_share({1.0: model}, images.select([0]), processor, rank=0, world_size=2, progress=False)
    assert share.embeddings[1.0].shape == (0, 6)  # the one image goes to the last process
    assert share.columns == {"label": []}


def test_rows_are_put_in_order() -> None:
    shuffled = Encoded(np.array([2, 0, 1]), {"name": ["c", "a", "b"]}, {"x": np.array([[2.0], [0.0], [1.0]])})
    found = shuffled.in_order(3)
    assert (found.rows.tolist(), found.columns) == ([0, 1, 2], {"name": ["a", "b", "c"]})
    assert found.embeddings["x"].tolist() == [[0.0], [1.0], [2.0]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([0, 2], r"3 images 1.*read.*0.*row 1"),
        ([0, 1, 2, 2], r"0.*read.*1.*row 2"),
        ([0, 0, 1], r"1.*read.*1.*row 0"),
        ([0, 1], r"1.*read.*first: row 2"),
    ],
)
def test_lost_and_repeated_images_are_refused(rows: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Encoded(np.array(rows), {}, {}).in_order(3)


def test_models_of_two_spaces_are_refused(
    model: PrunNetModel, processor: PrunNetImageProcessor, images: Dataset
) -> None:
    other = copy.deepcopy(model)
    other.config.embedding_space = "0" * 16
    with pytest.raises(ValueError, match=r"models.*2 embedding spaces"):
        encode({"a": model, "b": other}, images, processor)


def test_boxes_are_cut_out_before_the_network_sees_anything(
    model: PrunNetModel, processor: PrunNetImageProcessor
) -> None:
    rng = np.random.default_rng(0)
    picture = PILImage.fromarray(rng.integers(0, 256, (50, 60, 3)).astype(np.uint8))
    features = Features({"image": Image(), "bbox": List(Value("int32"), length=4)})
    boxed = Dataset.from_dict({"image": [picture], "bbox": [[10, 5, 50, 45]]}, features=features)
    cropped = Dataset.from_dict({"image": [picture.crop((10, 5, 50, 45))]}, features=Features({"image": Image()}))
    found, expected = (encode({1.0: model}, part, processor, progress=False)[1.0] for part in (boxed, cropped))
    np.testing.assert_array_equal(found, expected)


def test_unreadable_image_is_named(model: PrunNetModel, processor: PrunNetImageProcessor, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    images = Dataset.from_dict({"image": [str(tmp_path / "broken.jpg")]}, features=Features({"image": Image()}))
    with pytest.raises(ValueError, match=r"image.*broken\.jpg.*decoded"):
        encode({1.0: model}, images, processor, progress=False)


def test_nothing_to_encode(model: PrunNetModel, processor: PrunNetImageProcessor, images: Dataset) -> None:
    with pytest.raises(ValueError, match=r"1 models.*0 images"):
        encode({1.0: model}, images.select([]), processor)
    with pytest.raises(ValueError, match=r"0 models.*7 images"):
        encode({}, images, processor)


def test_a_batch_is_embedded_in_eval_mode_and_comes_back_as_float32(model: PrunNetModel) -> None:
    model, images = copy.deepcopy(model).train(), torch.rand(3, 3, SIZE, SIZE)
    found = embed(model, images)
    assert found.dtype == np.float32
    with torch.no_grad():
        np.testing.assert_array_equal(found, model.eval()(images).pooler_output.numpy())
    half = embed(model.bfloat16(), images)
    assert half.dtype == np.float32
    np.testing.assert_allclose(half, found, atol=0.1 * np.abs(found).max())
