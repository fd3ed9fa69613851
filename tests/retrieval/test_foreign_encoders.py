"""Encoders that this package didn't make: their vectors are those of their libraries, and their spaces have ids."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from transformers import AutoModel, CLIPModel, ViTForImageClassification, ViTImageProcessor, ViTModel

from prunnet_hf import Gallery, encode_folder, read_embeddings
from prunnet_hf.retrieval.encoding import main as embed
from prunnet_hf.retrieval.foreign_encoders import foreign_encoder, load_foreign_encoder
from tests.foreign_models import save_timm, save_transformers
from tests.tiny_models import tiny


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for number in range(5):
        (folder / "ab"[number % 2]).mkdir(exist_ok=True)
        picture = Image.fromarray(generator.integers(0, 256, (40, 36, 3)).astype(np.uint8))
        picture.save(folder / "ab"[number % 2] / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The names of models by their kind."""
    folder = tmp_path_factory.mktemp("models")
    kinds = ("vit", "classifier", "clip")
    return {"timm": save_timm(folder / "timm"), **{kind: save_transformers(folder / kind, kind) for kind in kinds}}


def mean_colours(images: list[Image.Image]) -> Any:
    return [np.asarray(image, dtype=np.float64).mean(axis=(0, 1)) for image in images]


def expected_vector(kind: str, name: str, image: Image.Image) -> torch.Tensor:
    """What the library itself gives."""
    place = name.removeprefix("timm:").removeprefix("transformers:")
    if kind == "timm":
        model = timm.create_model(place, pretrained=True, num_classes=0).eval()
        transform = create_transform(**resolve_data_config({}, model=model))
        return model(transform(image)[None])[0]
    pixels = ViTImageProcessor.from_pretrained(place)(image, return_tensors="pt")["pixel_values"]
    if kind == "vit":
        return ViTModel.from_pretrained(place).eval()(pixels).pooler_output[0]
    if kind == "classifier":
        return ViTForImageClassification.from_pretrained(place).eval().vit(pixels).last_hidden_state[0, 0]
    clip = CLIPModel.from_pretrained(place).eval()
    return clip.visual_projection(clip.vision_model(pixels).pooler_output)[0]


@pytest.mark.parametrize("kind", ["timm", "vit", "classifier", "clip"])
def test_vectors_are_those_of_the_library_and_the_id_is_always_the_same(
    kind: str, saved: dict[str, str], pictures: Path
) -> None:
    encoder, again = load_foreign_encoder(saved[kind]), load_foreign_encoder(saved[kind])
    path = pictures / "a/0.png"
    with torch.inference_mode():
        expected = expected_vector(kind, saved[kind], Image.open(path))
    np.testing.assert_allclose(encoder.encode([path, path], normalize=False), [expected.numpy()] * 2, atol=1e-5)
    assert re.fullmatch("[0-9a-f]{16}", encoder.config.embedding_space)
    assert encoder.config == again.config
    assert encoder.config.embedding_dim == (6 if kind == "clip" else 8)
    assert str(Path(saved[kind].rpartition(":")[2]).parent) not in encoder.config.name_or_path  # of this machine only
    np.testing.assert_array_equal(encoder.encode(path), again.encode(path))


def test_ids_are_of_weights_whatever_precision_they_are_used_in(saved: dict[str, str], tmp_path: Path) -> None:
    spaces = {load_foreign_encoder(name).config.embedding_space for name in saved.values()}
    spaces.add(load_foreign_encoder(save_timm(tmp_path / "other", seed=1)).config.embedding_space)
    assert len(spaces) == 5
    half = load_foreign_encoder(saved["timm"], dtype=torch.bfloat16)
    assert half.config.embedding_space in spaces
    assert half.encode(Image.new("RGB", (8, 8))).dtype == np.float32


def test_a_function_embeds_and_its_id_is_of_name_and_revision(pictures: Path) -> None:
    encoder = foreign_encoder(mean_colours, name="colours", revision="1")
    path = pictures / "b/1.png"
    expected = np.asarray(Image.open(path), dtype=np.float64).mean(axis=(0, 1))
    np.testing.assert_allclose(encoder.encode(path, normalize=False)[0], expected, rtol=1e-6)
    others = [("colours", "2"), ("colour", "s1"), ("colours", "1")]
    spaces = [foreign_encoder(mean_colours, name=name, revision=each).config.embedding_space for name, each in others]
    assert [space == encoder.config.embedding_space for space in spaces] == [False, False, True]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_gallery_is_made_searched_and_drawn_by_a_function(pictures: Path, num_workers: int) -> None:
    encoder = foreign_encoder(mean_colours, name="colours", revision="1")
    gallery = Gallery.from_folder(encoder, pictures, num_workers=num_workers, progress=False)
    assert gallery.embedding_space == encoder.config.embedding_space
    assert gallery.about.embedding_dim == 3
    own = [path for path in gallery.paths if path.endswith("3.png")]
    assert gallery.search(own, 1, model=encoder).paths == [own]
    assert gallery.add([Image.new("RGB", (9, 9), "red")], progress=False).new == 1
    assert gallery.show(own, [encoder], 2).size[0] > 0
    stranger = tiny()
    stranger.renew_embedding_space()
    with pytest.raises(ValueError, match=r"space.*can't be compared"):
        gallery.search(own, 1, model=stranger)


@pytest.mark.parametrize("kind", ["timm", "clip"])
def test_the_command_writes_the_usual_table(
    kind: str, saved: dict[str, str], pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "gallery.parquet"
    assert embed(["--model", saved[kind], "--data_dir", str(pictures), "--output", str(table)]) == 0
    encoder = load_foreign_encoder(saved[kind])
    assert f"space {encoder.config.embedding_space}, capacity 1.00" in capsys.readouterr().out
    found = read_embeddings(table)
    assert (found.embedding_space, found.labels) == (encoder.config.embedding_space, ["a", "a", "a", "b", "b"])
    assert found.model == encoder.config.name_or_path
    expected = encoder.encode([pictures / path for path in found.paths], normalize=False)
    np.testing.assert_allclose(found.embeddings, expected, atol=1e-5)
    assert len(Gallery.from_embeddings(table)) == 5


def test_a_model_that_changed_between_two_sittings_is_refused(pictures: Path, tmp_path: Path) -> None:
    broken = tmp_path / "pictures"
    shutil.copytree(pictures, broken)
    (broken / "b/9.png").write_bytes(b"no image")
    save_timm(tmp_path / "model")
    name = f"timm:local-dir:{tmp_path / 'model'}"
    with pytest.raises(ValueError, match=r"9\.png"):  # the first four parts are kept
        encode_folder(load_foreign_encoder(name), broken, tmp_path / "out.parquet", images_per_part=1, progress=False)
    (broken / "b/9.png").unlink()
    save_timm(tmp_path / "model", seed=1)
    with pytest.raises(ValueError, match=r"begun with another.*embedding_space.*To start again"):
        encode_folder(load_foreign_encoder(name), broken, tmp_path / "out.parquet", images_per_part=1, progress=False)


def test_what_can_not_be_a_foreign_encoder_is_refused(
    saved: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], pictures: Path
) -> None:
    for name, message in (
        ("timm:nowhere", r"model 'timm:nowhere': timm.*nowhere.*list_pretrained"),
        ("clip", "source must begin with timm: or transformers:; got 'clip'"),
    ):
        with pytest.raises(ValueError, match=message):
            load_foreign_encoder(name)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        load_foreign_encoder(f"transformers:{tmp_path / 'nowhere'}")
    with pytest.raises(ValueError, match=r"revision='v2'.*timm:hf-hub:ORG/NAME@v2"):
        load_foreign_encoder("timm:resnet18", revision="v2")
    tiny().prunnet.save_pretrained(tmp_path / "ours")
    with pytest.raises(ValueError, match="one of this package: give it without transformers:"):
        load_foreign_encoder(f"transformers:{tmp_path / 'ours'}")
    words = ["--model", saved["timm"], "--capacity", "0.2", "--data_dir", str(pictures)]
    assert embed([*words, "--output", str(tmp_path / "out.parquet")]) == 1
    assert "--capacity and --subfolder are for models of this package" in capsys.readouterr().err


def test_a_checkpoint_that_lacks_weights_is_refused(saved: dict[str, str], tmp_path: Path) -> None:
    model = AutoModel.from_pretrained(saved["vit"].removeprefix("transformers:"))
    state = {name: tensor for name, tensor in model.state_dict().items() if "patch_embeddings" not in name}
    model.save_pretrained(tmp_path / "part", state_dict=state)
    with pytest.raises(ValueError, match=r"lacks weights, such as 'embeddings\.patch_embeddings.*whole checkpoint"):
        load_foreign_encoder(f"transformers:{tmp_path / 'part'}")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda images: np.ones(len(images)), r"vectors \(batch, dim\); for one image it gives \(1,\)"),
        (lambda images: images[0].no_such_name, "can't embed an image alone"),
    ],
)
def test_a_function_that_gives_no_vectors_is_refused(function: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        foreign_encoder(function, name="odd", revision="1")


def test_a_function_that_gives_too_few_vectors_or_nan_is_refused() -> None:
    grey = Image.new("RGB", (4, 4))
    few = foreign_encoder(lambda images: np.ones((1, 2)), name="few", revision="1")
    with pytest.raises(ValueError, match=r"'few' must give vectors of the shape \(2, 2\); got \(1, 2\)"):
        few.encode([grey, grey])
    nan = foreign_encoder(lambda images: np.full((len(images), 2), np.nan), name="nan", revision="1")
    with pytest.raises(ValueError, match=r"images\[0\] must be finite"):
        nan.encode(grey)


@pytest.mark.parametrize(("name", "revision", "wrong"), [("", "1", "name"), ("clip", " ", "revision")])
def test_a_function_without_name_or_revision_is_refused(name: str, revision: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=f"{wrong} must say which model"):
        foreign_encoder(mean_colours, name=name, revision=revision)
