"""Images of folders and of every kind of data set: their names, labels and boxes, and what tells when they change."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image

from prunnet_hf import PrunNetModel
from prunnet_hf.data.reading import BOX, read_image
from prunnet_hf.retrieval.embedding_table import read_embeddings
from prunnet_hf.retrieval.image_sources import DatasetImages, ImageSource, Split, folder_images, label_of, load_images
from prunnet_hf.retrieval.table_encoder import Encoding, TableEncoder
from tests.miniatures.gldv2 import make_gldv2
from tests.miniatures.in_shop import make_in_shop
from tests.miniatures.revisited import make_revisited
from tests.miniatures.veri776 import make_veri776
from tests.retrieval.conftest import SIZE


def noise(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8))


def make_folder(root: Path) -> Path:
    for split in ("train", "test"):
        for seed, name in enumerate(("a/1.png", "a/2.png", "b/3.png", "b/4.png")):
            (root / split / name).parent.mkdir(parents=True, exist_ok=True)
            noise(seed).save(root / split / name)
    return root


@pytest.mark.parametrize(
    ("dataset", "make", "split", "first", "count"),
    [
        ("image_folder", make_folder, "train", ("train/a/1.png", "a"), 4),
        ("veri776", make_veri776, "gallery", ("image_test/0002_c001_00000000_0.jpg", "0002"), 16),
        ("in_shop", make_in_shop, "query", ("img/WOMEN/Dresses/id_00005000/01_query.jpg", "id_00005000"), 8),
        (
            "roxford5k",
            lambda root: make_revisited(root, "roxford5k"),
            "gallery",
            ("jpg/all_souls_000000.jpg", None),
            12,
        ),
        ("gldv2", lambda root: make_gldv2(root, layout="extracted"), "gallery", None, 23),
    ],
)
def test_images_of_a_data_set_are_called_by_their_files(
    dataset: str,
    make: Callable[[Path], object],
    split: Split,
    first: tuple[str, str | None] | None,
    count: int,
    tmp_path: Path,
) -> None:
    make(tmp_path / "set")
    images = load_images(dataset, split, str(tmp_path / "set"))
    assert len(images) == count == len(set(images.names))
    for place, name in enumerate(images.names):
        assert images.state(place)[0] == (tmp_path / "set" / name).stat().st_size
        read_image(images[place])
    if first is not None:
        assert (images.names[0], images.label(0)) == first


def test_boxes_crop_the_images(tmp_path: Path) -> None:
    make_in_shop(tmp_path)
    whole = load_images("in_shop", "gallery", str(tmp_path))
    cropped = load_images("in_shop", "gallery", str(tmp_path), bounding_boxes=True)
    assert BOX not in whole[0]
    assert read_image(whole[0]).size == (48, 48)
    assert read_image(cropped[0]).size == (40, 44)  # from (4, 2) to (44, 46)


def test_a_data_set_is_embedded_with_its_names_and_classes(model: PrunNetModel, tmp_path: Path) -> None:
    make_folder(tmp_path / "set")
    images = load_images("image_folder", "gallery", str(tmp_path / "set"))
    encoder = TableEncoder(model, Encoding(batch_size=2, num_workers=2, progress=False))
    encoder.write(images, range(1, 4), tmp_path / "out.parquet")
    found = read_embeddings(tmp_path / "out.parquet")
    assert (found.paths, found.labels) == (["test/a/2.png", "test/b/3.png", "test/b/4.png"], ["a", "b", "b"])
    expected = model.encode([tmp_path / "set" / path for path in found.paths], normalize=False)
    np.testing.assert_allclose(found.embeddings, expected, rtol=1e-4, atol=1e-5)


def test_images_inside_a_data_set_are_called_by_their_rows() -> None:
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=["x", "y"])})
    rows = Dataset.from_dict({"image": [noise(0), noise(1)], "label": [1, 0]}, features=features)
    images = DatasetImages(rows)
    assert images.names == ["row-0", "row-1"]
    assert [images.label(0), images.label(1)] == ["y", "x"]
    assert read_image(images[1]).tobytes() == noise(1).tobytes()
    other = DatasetImages(rows.select([1, 0]))
    assert images.state(0)[0] == images.state(1)[0]  # noise of one size
    assert other.digest(range(2)) != images.digest(range(2)) == DatasetImages(rows).digest(range(2))


def test_a_change_of_a_file_changes_the_digest_of_its_span_alone(tmp_path: Path) -> None:
    images = folder_images(make_folder(tmp_path / "set"))
    before = [images.digest(range(4)), images.digest(range(4, 8)), images.names_digest()]
    os.utime(tmp_path / "set" / images.names[5], ns=(0, 0))
    after = [images.digest(range(4)), images.digest(range(4, 8)), images.names_digest()]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True]
    (tmp_path / "set" / images.names[5]).unlink()
    assert images.state(5) == (-1, -1)
    assert folder_images(tmp_path / "set").names_digest() != images.names_digest()


def test_sources_can_be_sent_to_workers(tmp_path: Path) -> None:
    make_folder(tmp_path / "set")
    for images in (folder_images(tmp_path / "set"), load_images("image_folder", "query", str(tmp_path / "set"))):
        sent: ImageSource = pickle.loads(pickle.dumps(images))
        assert sent.names == images.names
        assert sent[3] == images[3]


def test_a_split_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="split must be one of train, query, gallery; got 'test'"):
        load_images("glyphs", "test", None)  # type: ignore[arg-type]
    make_revisited(tmp_path, "roxford5k")
    with pytest.raises(ValueError, match=r"split='train': dataset='roxford5k' has no images to train on.*gallery"):
        load_images("roxford5k", "train", str(tmp_path))


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("1.png", None),
        ("a/1.png", "a"),
        ("a/b/1.png", "a"),
        ("train/a/1.png", "a"),
        ("test/a/b/1.png", "a"),
        ("train/train/1.png", "train"),
        ("train/1.png", "train"),
        ("a/train/1.png", "a"),
    ],
)
def test_label_is_the_class_folder_not_that_of_the_training_or_test_images(path: str, label: str | None) -> None:
    assert label_of(path) == label
