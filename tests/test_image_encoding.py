"""`model.encode`: images of any kind to embeddings of unit length, with the image processor that the model owns."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image

from prunnet_hf import (
    Gallery,
    PrunNetForImageClassification,
    PrunNetImageProcessor,
    PrunNetModel,
    encode_folder,
    read_embeddings,
)
from prunnet_hf.retrieval.dataset_encoding import encode
from tests.tiny_models import tiny_config

NOISE = np.random.default_rng(0).integers(0, 256, (40, 48, 4), dtype=np.uint8)
RGB = Image.fromarray(NOISE[..., :3])


@pytest.fixture
def model() -> PrunNetModel:
    torch.manual_seed(0)
    model = PrunNetModel(tiny_config()).eval()
    model.renew_embedding_space()
    model.image_processor = PrunNetImageProcessor.for_image_size(32)
    return model


def expected_of(model: PrunNetModel, images: list[Image.Image]) -> np.ndarray:
    pixel_values = model.image_processor(images, return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        embeddings = model(pixel_values).pooler_output
    return torch.nn.functional.normalize(embeddings).numpy()


def test_paths_pictures_and_arrays_mixed_have_unit_length(model, tmp_path):
    RGB.save(tmp_path / "a.png")
    kinds = [RGB, tmp_path / "a.png", str(tmp_path / "a.png"), np.asarray(RGB), torch.from_numpy(np.array(RGB))]
    embeddings = model.encode(kinds, batch_size=2)
    assert embeddings.dtype == np.float32
    assert embeddings.shape == (5, model.config.embedding_dim)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(embeddings, np.repeat(expected_of(model, [RGB]), 5, axis=0), atol=1e-6)


def test_embeddings_come_raw_if_asked_for(model):
    raw = model.encode([RGB], normalize=False)
    with torch.inference_mode():
        expected = model(model.image_processor(RGB, return_tensors="pt")["pixel_values"]).pooler_output.numpy()
    np.testing.assert_allclose(raw, expected, rtol=1e-5)


@pytest.mark.parametrize("one", [RGB, np.asarray(RGB), NOISE[None, ..., :3], iter([RGB]), [RGB.copy()]])
def test_one_image_is_one_row(model, one):
    np.testing.assert_allclose(model.encode(one), expected_of(model, [RGB]), atol=1e-6)


def test_no_images_are_no_rows(model):
    assert model.encode([]).shape == (0, model.config.embedding_dim)


def test_the_mode_of_every_layer_stays_and_does_not_matter(model):
    expected = model.encode([RGB])
    model.train()
    model.projector.eval()
    np.testing.assert_array_equal(model.encode([RGB]), expected)
    assert model.backbone.training
    assert not model.projector.training


@pytest.mark.parametrize(
    ("images", "error", "words"),
    [
        ([RGB, "nowhere.png"], ValueError, r"nowhere\.png"),
        ([RGB, 3], TypeError, r"images\[1\].*int.*PIL image"),
        ([np.full((8, 8, 3), 255.0)], ValueError, r"images\[0\].*0 to 1.*255"),
        ({"image": RGB}, TypeError, r"images.*dict.*list"),
        (np.zeros(3), ValueError, r"images.*\(3,\).*list"),
        (5, TypeError, r"images.*int.*list"),
    ],
)
def test_what_is_no_image_is_named(model, images, error, words):
    with pytest.raises(error, match=words):
        model.encode(images)


@pytest.mark.parametrize("batch_size", [0, True, 2.0])
def test_a_batch_has_at_least_one_image(model, batch_size):
    with pytest.raises(ValueError, match=rf"batch_size.*at least 1.*{batch_size}"):
        model.encode([RGB], batch_size=batch_size)


@pytest.mark.parametrize("normalize", ["no", 0, None])
def test_whether_to_normalise_is_true_or_false(model, normalize):
    with pytest.raises(TypeError, match=rf"normalize must be True or False; got {normalize!r}"):
        model.encode([RGB], normalize=normalize)


def test_embeddings_that_overflow_are_refused(model):
    with torch.no_grad():
        model.projector[1].bias.fill_(float("inf"))
    with pytest.raises(ValueError, match=r"images\[0\].*finite"):
        model.encode([RGB])


def files_of_every_kind(folder: Path) -> list[Path]:
    """Transparent ones, one of 16 bits, one of 16 bits with a transparent level, a photo that lies on its side."""
    Image.fromarray(NOISE).save(folder / "alpha.png")
    levels = Image.fromarray(NOISE[..., 0].astype(np.uint16) * 200)
    levels.save(folder / "16.png")
    levels.save(folder / "key.png", transparency=int(NOISE[0, 0, 0]) * 200)
    levels.convert("I").save(folder / "16.tif")
    Image.fromarray(NOISE[..., 0] / np.float32(255)).save(folder / "float.tif")
    exif = Image.Exif()
    exif[0x0112] = 6
    RGB.save(folder / "turned.jpg", exif=exif)
    RGB.quantize(8).save(folder / "palette.gif", transparency=3)
    RGB.convert("CMYK").save(folder / "print.jpg")
    return sorted(folder.iterdir())


def test_one_file_has_one_embedding_whichever_way_reads_it(model, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    files = files_of_every_kind(folder)
    expected = model.encode(files, normalize=False)
    pictures = [Image.open(file) for file in files]
    np.testing.assert_allclose(model.encode(pictures, normalize=False), expected, rtol=1e-4, atol=1e-5)
    for images in ([Image.open(file) for file in files], [str(file) for file in files]):
        pixel_values = model.image_processor(images, return_tensors="pt")["pixel_values"]
        found = model(pixel_values).pooler_output.detach().numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    encode_folder(model, folder, tmp_path / "table.parquet", progress=False)
    table = read_embeddings(tmp_path / "table.parquet")
    assert table.paths == [file.name for file in files]
    np.testing.assert_allclose(table.embeddings, expected, rtol=1e-4, atol=1e-5)
    stored = Dataset.from_list([{"image": {"bytes": file.read_bytes(), "path": None}} for file in files])
    embeddings = encode({"model": model}, stored, progress=False)["model"]
    np.testing.assert_allclose(embeddings, expected, rtol=1e-4, atol=1e-5)


def test_saving_loading_and_pruning_keep_the_image_processor(model, tmp_path):
    model.image_processor = PrunNetImageProcessor(size={"shortest_edge": 50}, crop_size={"height": 40, "width": 40})
    expected = model.image_processor.to_dict()
    assert model.prune(0.2).image_processor.to_dict() == expected
    model.save_pretrained(tmp_path / "dense")
    model.prune(0.2).save_pretrained(tmp_path / "packed")
    model.save_pretrained(tmp_path / "bands", bands=[0.2, 0.6])
    assert PrunNetImageProcessor.from_pretrained(tmp_path / "dense").to_dict() == expected
    loaded = [PrunNetModel.from_pretrained(tmp_path / name) for name in ("dense", "packed", "bands")]
    loaded += [PrunNetModel.from_pretrained(tmp_path / name, capacity=0.2) for name in ("dense", "bands")]
    classifier = PrunNetForImageClassification.from_pretrained(tmp_path / "dense", num_labels=3)
    for each in (*loaded, classifier, classifier.prunnet):
        assert each.image_processor.to_dict() == expected
    np.testing.assert_allclose(classifier.encode([RGB]), loaded[0].encode([RGB]), atol=1e-6)


def test_a_model_without_an_image_processor_says_once_what_it_takes(tmp_path, caplog):
    model = PrunNetModel(tiny_config())
    with caplog.at_level(logging.WARNING):
        taken, again = model.image_processor, model.image_processor
    assert taken is again
    assert taken.to_dict() == PrunNetImageProcessor.for_image_size(model.config.image_size).to_dict()
    said = [record for record in caplog.records if "preprocessor_config.json" in record.message]
    assert len(said) == 1
    assert f"image_size={model.config.image_size}" in said[0].message


def test_saving_keeps_an_image_processor_that_was_saved_first(tmp_path):
    processor = PrunNetImageProcessor.for_image_size(48)
    processor.save_pretrained(tmp_path)
    PrunNetModel(tiny_config()).save_pretrained(tmp_path)
    assert PrunNetModel.from_pretrained(tmp_path).image_processor.to_dict() == processor.to_dict()


@pytest.mark.parametrize("content", ["{", "[]", '{"size": {"width": 3}}'])
def test_a_damaged_image_processor_is_named(model, tmp_path, content):
    model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(content)
    with pytest.raises(ValueError, match=r"preprocessor_config\.json is damaged.*again"):
        PrunNetModel.from_pretrained(tmp_path)


def test_only_an_image_processor_can_be_set(model):
    with pytest.raises(TypeError, match=r"image_processor must be.*PrunNetImageProcessor.*224"):
        model.image_processor = 224


def test_a_user_s_picture_is_not_changed(model):
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    RGB.save(file, "jpeg", exif=exif)
    picture = Image.open(file)
    model.encode([picture])
    assert picture.size == RGB.size
    assert picture.getexif()[0x0112] == 6


def test_a_damaged_picture_that_was_opened_before_is_named(model):
    file = io.BytesIO()
    RGB.save(file, "png")
    cut = Image.open(io.BytesIO(file.getvalue()[:-1000]))
    with pytest.raises(ValueError, match=r"images\[1\].*truncated"):
        model.encode([RGB, cut])


def test_a_long_picture_is_named_before_it_fills_the_memory(model):
    with pytest.raises(ValueError, match=r"images\[1\].*2000 x 2.*Crop"):
        model.encode([RGB, Image.new("RGB", (2000, 2))])


def test_similarities_are_cosines_of_every_pair(model):
    dim = model.config.embedding_dim
    a, b = np.zeros((1, dim)), np.zeros((2, dim))
    a[0, :2], b[0, :2], b[1, :2] = (3, 4), (6, 8), (4, 3)
    np.testing.assert_allclose(model.similarity(a, b), [[1.0, 0.96]], rtol=1e-6)  # 3 * 4 + 4 * 3 of 25
    np.testing.assert_allclose(model.similarity(b[1], -b[1]), [[-1.0]])
    embeddings = model.encode([RGB, RGB.rotate(90)])
    same = model.similarity(embeddings, embeddings)
    np.testing.assert_allclose(np.diag(same), 1.0, rtol=1e-6)
    assert same.max() <= 1.0


@pytest.mark.parametrize(
    ("b", "words"),
    [
        (np.ones((2, 3)), r"b must have the shape \(n, 8\), as model\.encode gives it; got \(2, 3\)"),
        (np.zeros((2, 8)), r"b row 0 has length 0\.0.*Embed it again"),
        (np.full((2, 8), np.nan), r"b row 0 has length nan"),
    ],
)
def test_what_has_no_similarity_is_refused(model, b, words):
    with pytest.raises(ValueError, match=words):
        model.similarity(np.ones((1, model.config.embedding_dim)), b)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("seconds", [0, 1000])
def test_a_bar_is_shown_if_asked_for_or_for_long_work_on_a_terminal(model, monkeypatch, tmp_path, terminal, seconds):
    RGB.save(tmp_path / "a.png")
    monkeypatch.setattr("prunnet_hf.image_encoding.BAR_DELAY", seconds)

    def shown(work):
        stream = Terminal() if terminal else io.StringIO()
        monkeypatch.setattr("sys.stderr", stream)
        work()
        return "image/s" in stream.getvalue()

    long_on_a_terminal = terminal and seconds == 0
    for progress, expected in ((None, long_on_a_terminal), (True, True), (False, False)):
        assert shown(lambda p=progress: model.encode([RGB], progress=p)) == expected
        assert shown(lambda p=progress: Gallery.from_folder(model, tmp_path, progress=p)) == expected
    gallery = Gallery.from_folder(model, tmp_path, progress=False)
    RGB.rotate(90).save(tmp_path / "b.png")
    assert shown(lambda: gallery.add(tmp_path)) == long_on_a_terminal


def test_progress_is_true_false_or_none(model):
    with pytest.raises(TypeError, match=r"progress must be True, False or None.*got 'bar'"):
        model.encode([RGB], progress="bar")
