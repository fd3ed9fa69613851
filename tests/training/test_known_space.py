"""Runs into a space that exists: a teacher's, or that of a gallery whose vectors are the targets."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image

from prunnet_hf import PrunNetConfig, PrunNetForImageClassification, PrunNetModel
from prunnet_hf.configuration_prunnet import Granularity
from prunnet_hf.data.reading import stored_images
from prunnet_hf.data.splits import RetrievalSplits
from prunnet_hf.hub.card import write_card
from prunnet_hf.retrieval.dataset_encoding import Encoded
from prunnet_hf.retrieval.embedding_table import Embeddings, read_embeddings, write_embeddings
from prunnet_hf.retrieval.folder_encoding import encode_folder
from prunnet_hf.retrieval.gallery import Gallery
from prunnet_hf.retrieval.protocols import Side, leave_one_out
from prunnet_hf.retrieval.search import normalize
from prunnet_hf.runs.arguments import RunArguments
from prunnet_hf.runs.evaluation import against_own_gallery, cut_subnetworks, self_test
from prunnet_hf.runs.record import IntoRecord
from prunnet_hf.runs.run_data import load_run_data, set_apart
from prunnet_hf.training.checkpoints import Progress, save_whole
from prunnet_hf.training.engine import create_accelerator, train
from prunnet_hf.training.known_space import open_space
from tests.accelerate_state import reset_accelerate
from tests.processes import run_processes
from tests.training.tiny_run import arguments, make_photos, metrics, trainer, weights

LOSSES = ["regression", "csd:0.5", "classifier:0.1"]


@pytest.fixture(autouse=True)
def fresh_accelerate() -> None:
    reset_accelerate()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def dense(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The teacher, whose images are larger than those of the runs into its space."""
    reset_accelerate()
    run = tmp_path_factory.mktemp("dense")
    larger = {"image_size": 40, "resize": 40}
    once = trainer(arguments(photos, run, method="independent", capacities=[1.0], epochs=1, data=larger))
    save_whole(run / "model", once.run().model, once.processor)
    return run


@pytest.fixture(scope="module")
def teacher(dense: Path) -> PrunNetModel:
    return PrunNetModel.from_pretrained(dense / "model")


@pytest.fixture(scope="module")
def table(photos: Path, teacher: PrunNetModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the teacher says of all images, as a table names them: relative to the folder."""
    file = tmp_path_factory.mktemp("table") / "gallery.parquet"
    encode_folder(teacher, photos, file)
    return file


def into(photos: Path, run: Path, where: Path, **options: object) -> RunArguments:
    found = arguments(photos, run, **({"into": str(where), "into_loss": LOSSES} | options))
    found.model.embedding_dim = None
    return found


@pytest.mark.parametrize(("method", "granularity"), [("prunnet", "channel"), ("independent", "weight")])
def test_a_resumed_run_ends_with_the_same_weights(
    photos: Path, table: Path, tmp_path: Path, method: str, granularity: Granularity
) -> None:
    options = {"method": method, "granularity": granularity}
    options |= {"capacities": [0.5]} if method == "independent" else {}
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    expected = trainer(into(photos, whole, table, **options)).run().model.state_dict()
    shutil.copytree(whole / "checkpoints" / "step-3", resumed / "checkpoints" / "step-3")
    reset_accelerate()
    found = trainer(into(photos, resumed, table, **options, resume=True)).run().model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


@pytest.fixture(scope="module")
def finished(photos: Path, dense: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two phases, to its end."""
    reset_accelerate()
    run = tmp_path_factory.mktemp("finished")
    options = {"epochs": 1, "dense_epochs": 1, "capacities": [0.5], "eval_capacities": []}
    train(into(photos, run, dense, method="distilled", into_loss=["regression"], **options))
    return run


def test_the_teacher_embeds_each_image_once_for_both_phases(finished: Path, table: Path) -> None:
    kept = read_embeddings(finished / "targets/train/shard-00001-of-00001.parquet")
    known = read_embeddings(table)
    of_table = dict(zip(known.paths, known.embeddings, strict=True))
    np.testing.assert_allclose(kept.embeddings, [of_table[path] for path in kept.paths], rtol=1e-4, atol=1e-4)
    assert sorted(path.name for path in (finished / "targets").iterdir()) == ["query", "train"]
    assert not (finished / "dense/targets").exists()


def test_every_network_of_the_run_searches_the_teachers_gallery(
    photos: Path, teacher: PrunNetModel, finished: Path, table: Path
) -> None:
    gallery = Gallery.from_embeddings(table)
    networks = [
        PrunNetModel.from_pretrained(finished / folder)
        for folder in ("model", "subnetworks/capacity-0.50", "dense/model")
    ]
    for model in (*networks, PrunNetModel.from_pretrained(finished / "model", capacity=0.3)):
        assert model.config.embedding_space == teacher.config.embedding_space
        assert len(gallery.search([photos / "test/test-0/0.png"], 2, model=model).paths[0]) == 2
    with pytest.raises(ValueError, match="has no classifier"):
        PrunNetForImageClassification.from_pretrained(finished / "model")


def test_the_record_has_the_against_own_gallery_the_teachers_gallery(
    photos: Path, dense: Path, finished: Path, table: Path
) -> None:
    found = metrics(finished)["into"]
    known = read_embeddings(table)
    rows = [row for row, path in enumerate(known.paths) if path.startswith("test/")]
    side = Side(known.embeddings[rows], {"label": [known.labels[row] for row in rows]})
    assert found["itself"] == pytest.approx(leave_one_out(side, side))
    assert list(found["values"]) == ["0.50", "1.00"]
    model = PrunNetModel.from_pretrained(finished / "model", capacity=0.5)
    queries = Side(model.encode([photos / known.paths[row] for row in rows]), side.columns)
    assert found["values"]["0.50"] == pytest.approx(leave_one_out(queries, side))
    assert (found["teacher"], found["gallery"], found["losses"]) == (dense.name, None, ["regression"])


def test_configurations_tell_what_the_networks_were_trained_into_until_their_weights_change(
    dense: Path, finished: Path
) -> None:
    found = metrics(finished)["into"]
    for folder in ("model", "subnetworks/capacity-0.50"):
        noted = PrunNetConfig.from_pretrained(finished / folder).compatible_with
        assert noted["values"] == {capacity: values["mAP"] for capacity, values in found["values"].items()}
        assert (noted["space"], noted["teacher"]) == (found["embedding_space"], dense.name)
    model = PrunNetModel.from_pretrained(finished / "model")
    assert model.prune(0.25).config.compatible_with == model.config.compatible_with
    model.renew_embedding_space()
    assert model.config.compatible_with is None


def test_a_gallery_that_lacks_test_images_gives_no_reference(
    photos: Path, table: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    known = read_embeddings(table)
    rows = [row for row, path in enumerate(known.paths) if path.startswith("train/")]
    names = [str(photos / known.paths[row]) for row in rows]
    of_training = replace(known, embeddings=known.embeddings[rows], paths=names, labels=[])
    Gallery.from_embeddings(of_training).save(tmp_path / "gallery")
    run = into(photos, tmp_path / "run", tmp_path / "gallery")
    reference = trainer(run).space.reference(load_run_data(run))
    assert "has 0 of the 9 test images" in caplog.text
    record = against_own_gallery(
        reference, "leave_one_out", Encoded(np.arange(0), {}, {}), Encoded(np.arange(0), {}, {})
    )
    assert record == IntoRecord(embedding_space=known.embedding_space, gallery="gallery", losses=LOSSES)


def test_images_without_classes_serve_losses_that_need_none(photos: Path, dense: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    shutil.copytree(photos / "test", flat / "test")
    (flat / "train").mkdir()
    for image in (photos / "train").glob("*/*.png"):
        shutil.copy(image, flat / "train" / f"{image.parent.name}-{image.name}")
    facts = trainer(into(flat, tmp_path / "run", dense, into_loss=["regression"], epochs=1)).run().facts
    assert (facts.num_train_images, facts.num_train_classes) == (30, None)
    reset_accelerate()
    with pytest.raises(ValueError, match=r"train has no class folders"):
        trainer(into(flat, tmp_path / "other", dense, into_loss=["classifier"]))
    reset_accelerate()
    held_out = into(flat, tmp_path / "c", dense, into_loss=["csd"], eval_every=1, data={"validation_share": 0.4})
    with pytest.raises(ValueError, match=r"validation_share=0.4 .*Leave"):
        trainer(held_out)


def test_a_folder_of_images_alone_is_learnt_from_and_tested_on(
    photos: Path, teacher: PrunNetModel, tmp_path: Path
) -> None:
    flat, table = tmp_path / "flat", tmp_path / "gallery.parquet"
    flat.mkdir()
    for image in (photos / "train").glob("*/*.png"):
        shutil.copy(image, flat / f"{image.parent.name}-{image.name}")
    encode_folder(teacher, flat, table)
    run = into(flat, tmp_path / "run", table, epochs=1, into_loss=["regression"])
    splits, once = load_run_data(run), trainer(run)
    assert once.run().facts.num_train_images == 27
    reference = once.space.reference(splits)
    held_out = Encoded(np.arange(3), {"id": splits.query["id"][:]}, {1.0: reference.query})
    found = against_own_gallery(reference, splits.protocol, held_out, held_out)
    assert found.values == {"1.00": {"mAP": 1.0, "recall@1": 1.0}}  # its own queries find themselves
    known = read_embeddings(table)
    rows = [known.paths.index(name) for name in splits.query["id"]]
    np.testing.assert_allclose(reference.query, normalize(known.embeddings[rows]), atol=1e-6)


def test_a_card_says_that_images_without_classes_find_themselves(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    record = {**metrics(run), "protocol": "same_image", "split": "validation", "num_queries": 3, "num_gallery": 3}
    (run / "metrics.json").write_text(json.dumps(record))
    write_card(run, execute=False)
    text = (run / "README.md").read_text(encoding="utf-8")
    assert "among 3 images of" in text
    assert "have no classes and were held out of training: each is to find itself" in text


@pytest.mark.parametrize("has_validation_images", [True, False])
def test_the_best_model_is_that_whose_queries_find_most_in_the_known_gallery(
    photos: Path,
    dense: Path,
    table: Path,
    teacher: PrunNetModel,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    has_validation_images: bool,
) -> None:
    options = {"eval_every": 1, "data": {"validation_share": 0.4}, "batch_size": 6, "epochs": 1}
    run = into(photos, tmp_path / "run", dense, **options)
    if not has_validation_images:
        held_out = _files(set_apart(load_run_data(run), run)[1].query)
        known = read_embeddings(table)
        rows = [row for row, path in enumerate(known.paths) if photos / path not in held_out]
        kept = {"embeddings": known.embeddings[rows], "paths": [known.paths[row] for row in rows], "labels": []}
        write_embeddings(tmp_path / "lacking.parquet", replace(known, **kept))
        run = into(photos, tmp_path / "run", tmp_path / "lacking.parquet", **options)
    once = trainer(run)
    model = once.run().model
    assert model.config.embedding_space == PrunNetConfig.from_pretrained(dense / "model").embedding_space
    vectors = once.space.gallery_of(once.validation)
    if has_validation_images:
        found = teacher.encode(_files(once.validation.query), progress=False)
        np.testing.assert_allclose(vectors, found, rtol=1e-4, atol=1e-5)
        last = cut_subnetworks(model, [0.2, 0.5, 1.0])
        tests = self_test(once.accelerator, last, once.processor, once.validation, run, vectors)
        expected = np.mean([values["mAP"] for values in tests.values()])
        assert once.progress.best_score == pytest.approx(expected)
    else:
        assert vectors is None
        assert (
            "lacking.parquet has 0 of the 12 test images (validation), so the best model is chosen by" in caplog.text
        )


def test_the_frozen_classifier_is_the_teachers_if_it_knows_the_classes_and_else_their_mean_targets(
    photos: Path, dense: Path, table: Path, tmp_path: Path
) -> None:
    model = trainer(into(photos, tmp_path / "a", dense, into_loss=["classifier"], epochs=1)).run().model
    assert torch.equal(model.classifier.weight.cpu(), weights(dense / "model")["classifier.weight"])
    reset_accelerate()
    model = trainer(into(photos, tmp_path / "b", table, into_loss=["classifier"], epochs=1)).run().model
    known = read_embeddings(table)
    unit = known.embeddings / np.linalg.norm(known.embeddings, axis=1, keepdims=True)
    mean = unit[[path.startswith("train/train-1/") for path in known.paths]].mean(axis=0)
    np.testing.assert_allclose(model.classifier.weight[1].detach().cpu(), mean / np.linalg.norm(mean), atol=1e-5)


def test_a_resumed_run_refuses_targets_that_have_changed(
    photos: Path, dense: Path, table: Path, tmp_path: Path
) -> None:
    run, moved = tmp_path / "run", tmp_path / "moved.parquet"
    shutil.copy(table, moved)
    trainer(into(photos, run, moved, epochs=1)).run()
    known = read_embeddings(table)
    write_embeddings(moved, replace(known, embeddings=-known.embeddings))
    reset_accelerate()
    with pytest.raises(
        ValueError, match=rf"learnt the vectors of {moved}, which have changed .*--into .*--output_dir"
    ):
        trainer(into(photos, run, moved, resume=True)).run()
    reset_accelerate()
    with pytest.raises(ValueError, match=r"would go on with labels: .*Give --into"):
        trainer(arguments(photos, run, resume=True)).run()


def test_a_teacher_that_changed_between_two_sittings_is_refused(photos: Path, dense: Path, tmp_path: Path) -> None:
    run, moved = tmp_path / "run", tmp_path / "moved"
    shutil.copytree(dense / "model", moved)
    trainer(into(photos, run, moved, epochs=1)).run()
    model = PrunNetForImageClassification.from_pretrained(moved)
    model.prunnet.backbone.bn1.running_mean.add_(1)  # not a parameter: the id of the space stays
    model.save_pretrained(moved)
    reset_accelerate()
    with pytest.raises(ValueError, match=r"the targets by --teacher .*moved .*another weights .*targets/train"):
        trainer(into(photos, run, moved, epochs=2, resume=True)).run()


def test_a_checkpoint_of_another_kind_of_run_is_refused() -> None:
    progress = Progress(targets={"source": "gallery", "digest": "0123456789abcdef"})
    with pytest.raises(ValueError, match=r"learnt labels, and would go on with the vectors of gallery"):
        progress.load_state_dict({"epoch": 1, "step": 3, "skipped": 0})


def described(file: Path, known: Embeddings, **changes: object) -> Path:
    write_embeddings(file, replace(known, **changes))
    return file


def test_vectors_that_cannot_be_targets_are_refused_before_training(photos: Path, table: Path, tmp_path: Path) -> None:
    known = read_embeddings(table)
    row = known.paths.index("train/train-2/3.png")
    for value, name in ((np.nan, "nan"), (0.0, "zero")):
        bad = known.embeddings.copy()
        bad[row] = value
        wrong = described(tmp_path / f"{name}.parquet", known, embeddings=bad)
        reset_accelerate()
        with pytest.raises(ValueError, match=r"zero or not finite \(NaN\), of 1 .*train/train-2/3\.png.*Embed"):
            trainer(into(photos, tmp_path / name, wrong))
    others = [place for place in range(len(known)) if place != row]
    lacking = described(
        tmp_path / "lacking.parquet",
        known,
        embeddings=known.embeddings[others],
        paths=[known.paths[place] for place in others],
        labels=[],
    )
    reset_accelerate()
    with pytest.raises(ValueError, match=r"1 of 30 training images aren't in --into .*train-2/3\.png.*--teacher"):
        trainer(into(photos, tmp_path / "lacking", lacking))


def _files(images: Dataset) -> list[Path]:
    return [Path(image["path"]) for image in stored_images(images)["image"]]


def weights_of_a_run(photos: Path, run: Path, dense: Path) -> dict[str, torch.Tensor]:
    """What a run of one epoch ends with, whose images are shared by the processes."""
    once = trainer(into(photos, run, dense, method="joint", epochs=1, batch_size=5, gradient_accumulation_steps=1))
    return {name: tensor.clone() for name, tensor in once.run().model.state_dict().items()}


def test_two_processes_embed_together_and_end_with_the_same_weights(photos: Path, dense: Path, tmp_path: Path) -> None:
    first, second = run_processes(2, weights_of_a_run, photos, tmp_path / "run", dense, folder=tmp_path)
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert torch.equal(first["classifier.weight"], weights(dense / "model")["classifier.weight"])


def test_what_does_not_fit_the_space_is_refused(photos: Path, dense: Path, table: Path, tmp_path: Path) -> None:
    wider = into(photos, tmp_path / "a", table)
    wider.model.embedding_dim = 12
    with pytest.raises(ValueError, match=r"--embedding_dim must be .* 8, or left out; got 12"):
        trainer(wider)
    reset_accelerate()
    unfinished = tmp_path / "unfinished"
    shutil.copytree(dense / "model", unfinished)
    config = json.loads((unfinished / "config.json").read_text())
    (unfinished / "config.json").write_text(json.dumps({**config, "embedding_space": None, "weights_digest": None}))
    with pytest.raises(ValueError, match=r"teacher .*unfinished has no embedding space.*finished run"):
        trainer(into(photos, tmp_path / "b", unfinished))
    reset_accelerate()
    known = read_embeddings(table)
    foreign = described(tmp_path / "foreign.parquet", known, embedding_space="f" * 16)
    with pytest.raises(ValueError, match=rf"--teacher .* isn't the model that made --into {foreign}: .*'f{{16}}'"):
        trainer(into(photos, tmp_path / "c", foreign, teacher=str(dense)))
    reset_accelerate()
    with pytest.raises(ValueError, match=r"--into .* names a model, as --teacher .*Leave --teacher out"):
        trainer(into(photos, tmp_path / "d", dense, teacher=str(dense)))
    reset_accelerate()
    with pytest.raises(FileNotFoundError, match=r"there is no '.*nowhere\.parquet': give .*gallery"):
        trainer(into(photos, tmp_path / "e", tmp_path / "nowhere.parquet"))


def test_a_teacher_can_be_exchanged_when_a_run_is_replaced(
    photos: Path, dense: Path, teacher: PrunNetModel, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(dense / "model", other)
    model = PrunNetForImageClassification.from_pretrained(other)
    with torch.no_grad():
        next(model.prunnet.projector.parameters()).mul_(-1)
    model.renew_embedding_space()
    model.save_pretrained(other)
    options = {"method": "independent", "capacities": [0.5], "epochs": 1, "into_loss": ["regression"]}
    options |= {"eval_every": 1, "data": {"validation_share": 0.4}, "eval_capacities": []}
    train(into(photos, tmp_path / "run", dense, **options))
    reset_accelerate()
    train(into(photos, tmp_path / "run", other, **options, overwrite_output_dir=True))
    found = PrunNetConfig.from_pretrained(tmp_path / "run/model").embedding_space
    assert found == PrunNetConfig.from_pretrained(other).embedding_space != teacher.config.embedding_space


@pytest.mark.parametrize("name", ["into", "teacher"])
def test_a_run_does_not_replace_what_it_learns_from(photos: Path, dense: Path, tmp_path: Path, name: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(dense, run)
    before = sorted(run.rglob("*"))
    options = {"into": None, name: str(run / "model"), "overwrite_output_dir": True}
    with pytest.raises(ValueError, match=rf"--{name} .*model lies in output_dir='.*run'.*another output_dir"):
        train(into(photos, run, dense, **options))
    assert sorted(run.rglob("*")) == before


def test_a_model_of_another_space_is_not_evaluated_as_trained_into_one(
    photos: Path, finished: Path, tmp_path: Path
) -> None:
    plain = tmp_path / "plain"
    shutil.copytree(finished, plain)
    model = PrunNetForImageClassification.from_pretrained(plain / "model", num_labels=5)
    model.renew_embedding_space()
    model.prunnet.save_pretrained(plain / "model")
    again = {"capacities": [0.5], "eval_capacities": [], "eval_only": True}
    with pytest.raises(ValueError, match=r"--into and --teacher must be left out.*model to evaluate.*config\.yaml"):
        train(into(photos, plain, finished, **again, into_loss=["regression"]))


def test_what_was_found_in_the_known_gallery_outlives_an_evaluation_of_the_runs_own_networks(
    photos: Path, finished: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    options = {"method": "distilled", "capacities": [0.5], "eval_capacities": [0.3], "eval_only": True}
    train(arguments(photos, run, **options))
    assert [row["capacity"] for row in metrics(run)["capacities"]] == [0.3, 0.5, 1.0]
    assert metrics(run)["into"] == metrics(finished)["into"]
    assert PrunNetConfig.from_pretrained(run / "model").compatible_with["values"].keys() == {"0.50", "1.00"}


def test_images_without_files_are_known_by_their_places_only_among_just_these_images(
    photos: Path, table: Path, teacher: PrunNetModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = into(photos, tmp_path / "run", table, into_loss=["regression"])
    splits = load_run_data(run)
    inside = [image["image"] for image in splits.train]
    columns = {"image": [{"bytes": _png(image), "path": None} for image in inside], "label": splits.train["label"][:]}
    train_images = Dataset.from_dict(columns, features=splits.train.features)
    names = [f"row-{place}" for place in range(30)]
    known = Embeddings(teacher.encode(inside, progress=False), teacher.config.embedding_space, 1.0, names)
    write_embeddings(tmp_path / "rows.parquet", known)
    run = into(photos, tmp_path / "run", tmp_path / "rows.parquet", into_loss=["regression"])
    space = open_space(run, create_accelerator(run))
    targets = space.targets(train_images, with_neighbours=False).vectors.numpy()
    np.testing.assert_allclose(targets, normalize(known.embeddings), atol=1e-6)
    tested = train_images.select(range(9))  # other images, which are called row-0 and so on as well
    assert space.reference(RetrievalSplits(train_images, tested, tested, "leave_one_out")).query is None
    assert "has 0 of the 9 test images" in caplog.text
    with pytest.raises(ValueError, match=r"rows\.parquet has 30 rows, and there are 29 training images.*--teacher"):
        space.check(train_images.select(range(1, 30)))


def _png(image: Image.Image) -> bytes:
    with io.BytesIO() as file:
        image.save(file, "PNG")
        return file.getvalue()
