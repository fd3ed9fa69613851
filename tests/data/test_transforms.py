from __future__ import annotations

import pickle
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from torch.utils.data import DataLoader

from prunnet_hf.data.reading import stored_images
from prunnet_hf.data.streams import NumberedRows
from prunnet_hf.data.transforms import TrainingCollator, train_transform
from prunnet_hf.image_colours import to_rgb
from prunnet_hf.image_processing_prunnet import PrunNetImageProcessor

MEAN, STD = [0.5, 0.25, 0.0], [0.5, 0.25, 1.0]
AUGMENTATIONS = ("crop_flip", "crop", "affine")


def transform_of(augmentation: str, image_size: int = 8, resize: int = 8):
    return train_transform(image_size, resize=resize, mean=MEAN, std=STD, augmentation=augmentation)


def left_to_right(width: int = 8) -> PILImage.Image:
    """Column `i` has the grey value `10 i`."""
    return PILImage.fromarray(np.tile(np.arange(width, dtype=np.uint8) * 10, (8, 1)))


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
@pytest.mark.parametrize("size", [(40, 20), (20, 40), (9, 9), (1, 1), (2, 300)])
def test_result_is_a_float_square(augmentation, size):
    tensor = transform_of(augmentation, image_size=12, resize=16)(PILImage.new("RGB", size))
    assert tensor.shape == (3, 12, 12)
    assert tensor.dtype == torch.float32


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_plain_colour_is_normalised_by_channel_whatever_the_augmentation(augmentation):
    tensor = transform_of(augmentation)(PILImage.new("RGB", (8, 8), (255, 51, 102)))
    expected = torch.tensor([(1.0 - 0.5) / 0.5, (0.2 - 0.25) / 0.25, 0.4])  # 255, 51 and 102 are 1, 0.2 and 0.4
    torch.testing.assert_close(tensor, expected.view(3, 1, 1).expand(3, 8, 8))


def test_crop_flip_mirrors_about_half_of_the_images_and_crop_none():
    image = left_to_right()
    torch.manual_seed(0)
    mirrored = {
        name: sum(bool(row[0] > row[-1]) for row in (transform_of(name)(image)[0, 0] for _ in range(100)))
        for name in ("crop_flip", "crop")
    }
    assert 30 < mirrored["crop_flip"] < 70
    assert mirrored["crop"] == 0


def test_crops_come_from_everywhere():
    torch.manual_seed(0)
    transform = transform_of("crop", image_size=8, resize=8)
    firsts = {round(float(transform(left_to_right(width=10))[2, 0, 0] * 25.5)) for _ in range(50)}
    assert firsts == {0, 1, 2}  # the first column shown, of 10 that are 8 wide


def test_affine_moves_but_never_mirrors_and_fills_with_the_border_colour():
    image = PILImage.new("L", (32, 32), 200)
    image.paste(0, (8, 12, 12, 20))
    torch.manual_seed(0)
    transform = transform_of("affine", image_size=32, resize=32)
    views = [transform(image)[2] for _ in range(50)]
    assert len({tuple(view.flatten().tolist()) for view in views}) == 50
    for view in views:
        dark_columns = (view < 0.4).any(dim=0).nonzero()
        assert dark_columns.float().mean() < 16
        torch.testing.assert_close(view[:, -4:], torch.full((32, 4), 200 / 255))


def test_same_seed_augments_alike():
    image = left_to_right()
    for augmentation in AUGMENTATIONS:
        views = []
        for _ in range(2):
            torch.manual_seed(5)
            views.append(transform_of(augmentation, image_size=6)(image))
        torch.testing.assert_close(views[0], views[1], rtol=0, atol=0)


def test_transparent_pixels_are_white_and_half_transparent_ones_mixed():
    image = PILImage.new("RGBA", (3, 1))
    image.putdata([(200, 0, 0, 0), (200, 0, 0, 255), (0, 0, 0, 51)])
    assert np.asarray(to_rgb(image)).tolist() == [[[255, 255, 255], [200, 0, 0], [204, 204, 204]]]


def test_colour_declared_transparent_is_white():
    image = PILImage.new("RGB", (2, 1), (9, 9, 9))
    image.putpixel((1, 0), (7, 7, 7))
    image.info["transparency"] = (7, 7, 7)
    assert np.asarray(to_rgb(image)).tolist() == [[[9, 9, 9], [255, 255, 255]]]


def test_sixteen_bits_become_eight():
    image = PILImage.fromarray(np.array([[0, 257, 32896, 65535]], dtype=np.uint16))
    assert image.mode == "I;16"
    assert np.asarray(to_rgb(image))[0, :, 1].tolist() == [0, 1, 128, 255]
    assert np.asarray(to_rgb(image.convert("I")))[0, :, 1].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_training_sees_the_colours_that_the_image_processor_shows(mode):
    colours = PILImage.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 4), dtype=np.uint8))
    image = (colours if mode in ("LA", "RGBA") else colours.convert("RGB")).convert(mode)
    processor = PrunNetImageProcessor(
        size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8}, image_mean=MEAN, image_std=STD
    )
    processed = processor(image, return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(transform_of("crop")(image), processed, rtol=0, atol=1e-5)


def grey_rows(size: int = 10) -> NumberedRows:
    """Five plain images, each a fifth brighter than the one before, labelled 0, 1, 2, 1, 0."""
    images = [PILImage.new("L", (size, size), 51 * value) for value in range(5)]
    features = Features({"image": Image(), "label": ClassLabel(names=["a", "b", "c"])})
    dataset = Dataset.from_dict({"image": images, "label": [0, 1, 2, 1, 0]}, features=features)
    return NumberedRows(stored_images(dataset))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_collator_makes_batches_of_tensors(num_workers):
    collate = TrainingCollator(transform_of("crop"), seed=0)
    loader = DataLoader(grey_rows(), batch_size=3, num_workers=num_workers, collate_fn=collate)
    batches = list(loader)
    assert [set(batch) for batch in batches] == [{"pixel_values", "labels", "row"}] * 2
    assert [batch["labels"].tolist() for batch in batches] == [[0, 1, 2], [1, 0]]
    assert [batch["row"].tolist() for batch in batches] == [[0, 1, 2], [3, 4]]
    assert batches[0]["labels"].dtype == torch.int64
    assert batches[0]["pixel_values"].shape == (3, 3, 8, 8)
    torch.testing.assert_close(batches[1]["pixel_values"][:, 2, 0, 0], torch.tensor([0.6, 0.8]))


def noisy_row(row: int) -> dict[str, object]:
    """One and the same picture of noise under another number: any 8 x 8 crop of it is like no other."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return {"image": Image().encode_example(PILImage.fromarray(pixels)), "label": 0, "row": row}


def crop_of(collate: TrainingCollator, row: int) -> bytes:
    return collate([noisy_row(row)])["pixel_values"].numpy().tobytes()


def test_a_started_worker_gets_the_collator_and_sees_the_epoch_change():
    collate = TrainingCollator(transform_of("crop", resize=64), seed=0)
    # As multiprocessing sends it to a worker that was not forked.
    sent = pickle.loads(ForkingPickler.dumps(collate))
    assert crop_of(sent, 3) == crop_of(collate, 3)
    before = crop_of(sent, 3)
    collate.set_epoch(1)
    assert crop_of(sent, 3) == crop_of(collate, 3) != before


def test_chance_is_decided_by_seed_epoch_and_row_and_by_nothing_else():
    transform = transform_of("crop", resize=64)
    collate = TrainingCollator(transform, seed=0)
    first = crop_of(collate, 0)
    torch.rand(7)  # nobody else's draws matter
    assert crop_of(collate, 0) == first
    alone, together = crop_of(collate, 3), collate([noisy_row(5), noisy_row(3)])["pixel_values"][1:]
    assert together.numpy().tobytes() == alone
    # 57 x 57 places for a crop: that two of so many draws agree would be bad luck, and bad mixing of the seeds.
    assert len({crop_of(collate, row) for row in range(10)}) == 10
    assert crop_of(TrainingCollator(transform, seed=1), 0) != first
    collate.set_epoch(1)
    assert crop_of(collate, 0) != first


def test_generators_of_accelerators_are_left_alone(monkeypatch):
    def fail(seed):
        raise AssertionError("reseeded")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", fail)
    monkeypatch.setattr(torch.cuda, "manual_seed", fail)
    crop_of(TrainingCollator(transform_of("crop", resize=64), seed=0), 0)


def test_other_draws_go_on_as_if_nothing_had_been_augmented():
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    drawn = [torch.rand(1)]
    crop_of(TrainingCollator(transform_of("crop", resize=64), seed=0), 0)
    drawn.append(torch.rand(1))
    assert torch.equal(torch.cat(drawn), expected)


def test_new_epochs_reach_workers_that_live_on():
    collate = TrainingCollator(transform_of("crop", resize=16), seed=0)
    loader = DataLoader(
        [noisy_row(row) for row in range(4)], num_workers=1, collate_fn=collate, persistent_workers=True
    )
    epochs = []
    for epoch in (0, 1, 0):
        collate.set_epoch(epoch)
        epochs.append(torch.cat([batch["pixel_values"] for batch in loader]))
    assert torch.equal(epochs[0], epochs[2])
    assert not torch.equal(epochs[0], epochs[1])


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_transform_can_be_sent_to_a_worker(augmentation):
    transform = transform_of(augmentation, image_size=6)
    sent = pickle.loads(pickle.dumps(transform))
    views = []
    for each in (transform, sent):
        torch.manual_seed(1)
        views.append(each(left_to_right()))
    torch.testing.assert_close(views[0], views[1], rtol=0, atol=0)


@pytest.mark.parametrize("bits", [0, 1])
def test_one_bit_is_black_or_white(bits):
    image = PILImage.new("1", (2, 2), bits)
    assert np.asarray(to_rgb(image)).tolist() == [[[255 * bits] * 3] * 2] * 2


def test_unknown_augmentation_is_shown_with_the_choices():
    with pytest.raises(ValueError, match=r"augmentation.*crop_flip, crop, affine.*'mirror'"):
        transform_of("mirror")


def test_resize_below_image_size_is_refused():
    with pytest.raises(ValueError, match=r"resize.*image_size \(12\).*got 8"):
        transform_of("crop", image_size=12, resize=8)
