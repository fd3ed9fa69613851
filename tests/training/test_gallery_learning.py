"""A gallery that is learned: whole, resumable with the same bytes, searched by subnetworks, refused by no mistake."""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import faiss
import numpy as np
import pytest
import torch

from prunnet_hf import Gallery, PrunNetModel, check_compatible
from prunnet_hf.configuration_prunnet import Granularity
from prunnet_hf.data.loading import load_splits
from prunnet_hf.retrieval.foreign_encoders import load_foreign_encoder
from prunnet_hf.retrieval.gallery_quantizing import quantize_gallery
from prunnet_hf.retrieval.product_quantizer import ProductQuantizer
from prunnet_hf.training import gallery_learning
from prunnet_hf.training.gallery_learning import Learning, learn_gallery
from prunnet_hf.training.gallery_teaching import exact_neighbours
from prunnet_hf.training.joint_quantization import Settings
from prunnet_hf.training.learned_gallery import WORK, Learned, refuse_work
from tests.foreign_models import save_timm
from tests.retrieval.sharded import random_embeddings
from tests.tiny_models import tiny, tiny_of_units
from tests.training.tiny_run import make_photos

SETTINGS = Settings(steps=6, batch_size=8, num_found=40, num_exact=20, learning_rate=0.01, query_learning_rate=0.01)
LEARNING = Learning(settings=SETTINGS, checkpoint_steps=2)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> dict[Granularity, tuple[Path, PrunNetModel]]:
    """For each granularity a model, and a gallery of its space: the photos, and random rows."""
    made: dict[Granularity, tuple[Path, PrunNetModel]] = {}
    for granularity in ("weight", "channel"):
        model = network(granularity)
        folder = tmp_path_factory.mktemp(granularity) / "gallery"
        gallery = Gallery.from_folder(model, photos, "Flat", progress=False)
        gallery.add(replace(random_embeddings(300), embedding_space=model.config.embedding_space, capacity=1.0))
        gallery.save(folder)
        made[granularity] = folder, model
    return made


def network(granularity: Granularity) -> PrunNetModel:
    model = (tiny if granularity == "weight" else tiny_of_units)().prunnet
    model.renew_embedding_space()
    return model.train(False)


def learn(
    source: tuple[Path, PrunNetModel], photos: Path, output: Path, learning: Learning = LEARNING, num_bytes: int = 4
) -> Learned:
    images = load_splits("image_folder", str(photos)).train
    return learn_gallery(source[0], output, num_bytes, source[1], images, learning, progress=False)


def codes_of(folder: Path) -> bytes:
    index = faiss.read_index(str(folder / "index.faiss"))
    return ProductQuantizer(index).codes.tobytes()


@pytest.mark.parametrize("granularity", ["weight", "channel"])
def test_centroids_learn_codes_stay_and_every_subnetwork_searches(
    granularity: Granularity,
    sources: dict[Granularity, tuple[Path, PrunNetModel]],
    photos: Path,
    tmp_path: Path,
) -> None:
    folder, model = sources[granularity]
    learned = learn((folder, model), photos, tmp_path / "learned")
    quantize_gallery(folder, tmp_path / "plain", 4, progress=False)
    assert codes_of(tmp_path / "learned") == codes_of(tmp_path / "plain")
    before, after = (
        ProductQuantizer(faiss.read_index(str(tmp_path / name / "index.faiss"))) for name in ("plain", "learned")
    )
    assert torch.equal(before.rotation, after.rotation)
    assert not torch.equal(before.centroids(), after.centroids())
    assert (learned.progress.step, learned.networks) == (6, {})
    gallery = Gallery.load(tmp_path / "learned")
    assert gallery.about == learned.about == Gallery.load(tmp_path / "plain").about
    query = str(next((photos / "test").rglob("*.png")))
    for capacity in (1.0, 0.2):
        found = gallery.search([query], 5, model=model.prune(capacity))
        plain = faiss.read_index(str(tmp_path / "learned/index.faiss"))
        np.testing.assert_array_equal(found.rows, plain.search(model.prune(capacity).encode([query]), 5)[1])
    assert sorted(path.name for path in (tmp_path / "learned").iterdir() if path.name[0] != ".") == [
        "images.parquet",
        "index.faiss",
        "index.json",
    ]
    assert not (tmp_path / "learned" / WORK).exists()


@pytest.mark.parametrize("query_side", [None, "projector", "backbone"])
def test_a_run_that_was_stopped_ends_with_the_same_bytes(
    query_side: gallery_learning.QuerySide | None,
    sources: dict[Granularity, tuple[Path, PrunNetModel]],
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    learning = replace(LEARNING, query_side=query_side, capacities=[0.2, 0.6])
    learn(sources["weight"], photos, tmp_path / "whole", learning)
    step = gallery_learning.JointStep.__call__

    def interrupted(self: gallery_learning.JointStep, number: int) -> float:
        if number == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(gallery_learning.JointStep, "__call__", interrupted)
        with pytest.raises(SystemExit):
            learn(sources["weight"], photos, tmp_path / "stopped", learning)
    assert "step 3 is saved; give the same command again" in capsys.readouterr().err
    assert not (tmp_path / "stopped/index.json").exists()
    other = replace(learning, settings=replace(SETTINGS, steps=7))
    with pytest.raises(ValueError, match=r"another steps \(6 then, 7 now\).*Give the same arguments again"):
        learn(sources["weight"], photos, tmp_path / "stopped", other)
    learned = learn(sources["weight"], photos, tmp_path / "stopped", learning)
    assert learned.progress.step == 6
    names = ["index.faiss", *[f"subnetworks/capacity-{c}/model.packed.safetensors" for c in ("0.20", "0.60")]]
    for name in names if query_side else names[:1]:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes()


def test_an_image_that_cannot_be_read_is_named_and_without_it_the_same_index_goes_on(
    sources: dict[Granularity, tuple[Path, PrunNetModel]],
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(photos, tmp_path / "photos")
    bad = sorted((tmp_path / "photos/train").rglob("*.png"))[3]
    bad.write_bytes(b"no image")
    with pytest.raises(ValueError, match=bad.name):
        learn(sources["weight"], tmp_path / "photos", tmp_path / "small")
    bad.unlink()
    with pytest.raises(ValueError, match=r"another bytes \(4 then, 2 now\)"):
        learn(sources["weight"], tmp_path / "photos", tmp_path / "small", num_bytes=2)
    monkeypatch.delattr("prunnet_hf.training.gallery_teaching.quantized_index")  # the index is there
    assert learn(sources["weight"], tmp_path / "photos", tmp_path / "small").progress.step == 6


def killed(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("place", "killing"),
    [("gallery_learning.keep_results", killed), ("learned_gallery.shutil", SimpleNamespace(rmtree=killed))],
)
def test_a_run_that_was_killed_as_it_tidied_up_loses_nothing(
    place: str,
    killing: object,
    sources: dict[Granularity, tuple[Path, PrunNetModel]],
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    learning = replace(LEARNING, query_side="projector", capacities=[0.2])
    output = tmp_path / "small"
    with monkeypatch.context() as patch:
        patch.setattr(f"prunnet_hf.training.{place}", killing)
        with pytest.raises(KeyboardInterrupt):
            learn(sources["weight"], photos, output, learning)
    index = (output / "index.faiss").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(gallery_learning.JointStep, "__call__", killed)  # nothing is learned again
        learned = learn(sources["weight"], photos, output, learning)
    assert learned.progress.step == 6
    assert (output / "index.faiss").read_bytes() == index
    assert not (output / WORK).exists()
    phone = PrunNetModel.from_pretrained(learned.networks[0.2])
    query = str(next((photos / "test").rglob("*.png")))
    assert Gallery.load(output).search([query], 3, model=phone).rows.shape == (1, 3)


def test_a_gallery_that_somebody_put_in_place_meanwhile_is_not_taken_for_the_learned_one(
    sources: dict[Granularity, tuple[Path, PrunNetModel]],
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = tmp_path / "small"
    with monkeypatch.context() as patch:
        patch.delattr(gallery_learning, "write_quantized")
        with pytest.raises(NameError):
            learn(sources["weight"], photos, output)
    with pytest.raises(FileExistsError, match=r"holds learning that isn't done.* with --learn, choose another name"):
        refuse_work(output)
    quantize_gallery(sources["weight"][0], output, 4, progress=False)
    before = (output / "index.faiss").read_bytes()
    with pytest.raises(FileExistsError, match="holds a gallery"):
        learn(sources["weight"], photos, output)
    assert (output / "index.faiss").read_bytes() == before
    assert (output / WORK).is_dir()


def test_what_is_refused_leaves_nothing_that_the_right_command_would_stumble_over(
    sources: dict[Granularity, tuple[Path, PrunNetModel]], photos: Path, tmp_path: Path
) -> None:
    model = sources["weight"][1]
    few = replace(random_embeddings(200), embedding_space=model.config.embedding_space, capacity=1.0)
    Gallery.from_embeddings(few, "Flat").save(tmp_path / "few")
    for folder, num_bytes, learning, reason in (
        (sources["weight"][0], 3, LEARNING, "bytes must divide"),
        (tmp_path / "few", 4, LEARNING, "needs at least 256 images"),
        (tmp_path / "few", 8, replace(LEARNING, labels=True), "needs at least 256 images"),
        (sources["weight"][0], 4, replace(LEARNING, report_to=["nobody"]), "nobody"),
    ):
        with pytest.raises(ValueError, match=reason):
            learn((folder, model), photos, tmp_path / "no", learning, num_bytes)
        assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("name", ["num_images", "checkpoint_steps", "log_every"])
def test_numbers_of_learning_are_at_least_1(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1; got 0"):
        replace(LEARNING, **{name: 0})


@pytest.mark.parametrize(("granularity", "query_side"), [("weight", "backbone"), ("channel", "projector")])
def test_a_network_whose_queries_learned_belongs_to_this_index_and_nothing_else(
    granularity: Granularity,
    query_side: gallery_learning.QuerySide,
    sources: dict[Granularity, tuple[Path, PrunNetModel]],
    photos: Path,
    tmp_path: Path,
) -> None:
    folder, model = sources[granularity]
    learning = replace(LEARNING, query_side=query_side, capacities=[0.2])
    learned = learn((folder, model), photos, tmp_path / "learned", learning)
    assert list(learned.networks) == [0.2]
    phone = PrunNetModel.from_pretrained(learned.networks[0.2])
    plain = model.prune(0.2)
    moved = {
        name.partition(".")[0]
        for name, parameter in plain.named_parameters()
        if not torch.equal(parameter, phone.get_parameter(name))
    }
    assert moved == ({"projector", "backbone"} if query_side == "backbone" else {"projector"})
    assert phone.config.capacity == 0.2
    own = Gallery.load(tmp_path / "learned")
    query = str(next((photos / "test").rglob("*.png")))
    assert len(own.search([query], 3, model=phone).paths[0]) == 3
    assert len(own.search([query], 3, model=plain).paths[0]) == 3
    assert own.embedding_space == model.config.embedding_space != phone.config.embedding_space
    quantize_gallery(folder, tmp_path / "plain", 4, progress=False)
    for other in (Gallery.load(folder), Gallery.load(tmp_path / "plain")):
        with pytest.raises(ValueError, match="can't be compared"):
            other.search([query], 3, model=phone)
    with pytest.raises(ValueError, match="can't be compared"):
        check_compatible(phone, model)
    with pytest.raises(ValueError, match="can't be compared"):
        own.add([query], model=phone)


def test_labels_teach_if_the_gallery_has_the_classes(
    sources: dict[Granularity, tuple[Path, PrunNetModel]], photos: Path, tmp_path: Path
) -> None:
    learning = replace(LEARNING, labels=True)
    learned = learn(sources["weight"], photos, tmp_path / "labels", learning)
    learn(sources["weight"], photos, tmp_path / "without")
    assert learned.progress.step == 6
    labels, without = ((tmp_path / name / "index.faiss").read_bytes() for name in ("labels", "without"))
    assert labels != without
    model = sources["weight"][1]
    other = replace(random_embeddings(300), embedding_space=model.config.embedding_space, capacity=1.0)
    Gallery.from_embeddings(other, "Flat").save(tmp_path / "other")
    with pytest.raises(ValueError, match=r"labels=True needs .*; 5 have none, such as 'train-0'. Learn"):
        learn((tmp_path / "other", model), photos, tmp_path / "no", learning)
    assert not (tmp_path / "no").exists()  # the same output serves to learn without labels


def test_what_cannot_learn_is_refused_with_what_to_do(
    sources: dict[Granularity, tuple[Path, PrunNetModel]], photos: Path, tmp_path: Path
) -> None:
    folder, model = sources["weight"]
    for source, learning, reason in (
        ((folder, network("channel")), LEARNING, "can't be compared"),
        (
            (folder, model.prune(0.2)),
            LEARNING,
            r"model must be the dense, .*capacity 0.20. Name the run",
        ),
        (
            (folder, model),
            replace(LEARNING, capacities=[0.2, 0.2]),
            r"capacities must be different.*\[0.2, 0.2\]",
        ),
        ((folder, model), replace(LEARNING, num_images=7), "batch_size=8 is more than the 7 training images: choose"),
        ((photos, model), LEARNING, "is no gallery"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=reason):
            learn(source, photos, tmp_path / "no", learning)


def test_exact_neighbours_are_found_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    queries, vectors = (rng.standard_normal((n, 4)).astype(np.float32) for n in (5, 103))
    expected = np.argsort(-queries @ vectors.T, axis=1)[:, :12]
    np.testing.assert_array_equal(exact_neighbours(queries, vectors, 12), expected)
    monkeypatch.setattr("prunnet_hf.training.gallery_teaching._ROWS_AT_A_TIME", 10)
    np.testing.assert_array_equal(exact_neighbours(queries, vectors, 12), expected)


def test_a_gallery_of_a_model_that_is_not_ours_learns_from_that_models_queries(photos: Path, tmp_path: Path) -> None:
    encoder = load_foreign_encoder(save_timm(tmp_path / "model"))
    gallery = Gallery.from_folder(encoder, photos, "Flat", progress=False)
    gallery.add(replace(random_embeddings(300), embedding_space=encoder.config.embedding_space, capacity=1.0))
    gallery.save(tmp_path / "gallery")
    images = load_splits("image_folder", str(photos)).train
    learned = learn_gallery(tmp_path / "gallery", tmp_path / "small", 4, encoder, images, LEARNING, progress=False)
    assert (learned.progress.step, learned.networks) == (6, {})
    small = Gallery.load(tmp_path / "small")
    assert small.about.embedding_space == encoder.config.embedding_space
    assert small.search(images["image"][:2], 3, model=encoder).rows.shape == (2, 3)
    quantize_gallery(tmp_path / "gallery", tmp_path / "plain", 4, progress=False)
    assert codes_of(tmp_path / "small") == codes_of(tmp_path / "plain")
    assert (tmp_path / "small/index.faiss").read_bytes() != (tmp_path / "plain/index.faiss").read_bytes()
    for learning in (replace(LEARNING, query_side="projector"), replace(LEARNING, capacities=[0.2])):
        with pytest.raises(ValueError, match=r"networks of this package.*leave them out"):
            learn_gallery(tmp_path / "gallery", tmp_path / "other", 4, encoder, images, learning, progress=False)
