"""Runs towards a teacher: it stays as it is, must fit, and resuming goes on with it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from prunnet_hf import PrunNetConfig, PrunNetForImageClassification, PrunNetModel
from prunnet_hf.configuration_prunnet import Granularity
from prunnet_hf.runs.arguments import RunArguments
from prunnet_hf.training.checkpoints import Progress
from prunnet_hf.training.engine import train
from prunnet_hf.training.networks import create_processor
from prunnet_hf.training.teachers import load_teacher
from tests.accelerate_state import reset_accelerate
from tests.training.tiny_run import arguments, make_photos, metrics, trainer, weights


@pytest.fixture(autouse=True)
def fresh_accelerate() -> None:
    reset_accelerate()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def dense(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of the teacher."""
    reset_accelerate()
    run = tmp_path_factory.mktemp("dense")
    train(arguments(photos, run, method="independent", capacities=[1.0], epochs=1))
    return run


def towards(photos: Path, run: Path, dense: Path, method: str, **options: object) -> RunArguments:
    return arguments(photos, run, method=method, teacher=str(dense), capacities=[0.5], eval_capacities=[], **options)


@pytest.mark.parametrize(("method", "granularity"), [("bct", "weight"), ("regression", "channel")])
def test_a_resumed_run_ends_with_the_same_weights_and_the_teacher_as_it_was(
    photos: Path, dense: Path, tmp_path: Path, method: str, granularity: Granularity
) -> None:
    before = weights(dense / "model")
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    expected = trainer(towards(photos, whole, dense, method, granularity=granularity)).run().model.state_dict()
    shutil.copytree(whole / "checkpoints" / "step-3", resumed / "checkpoints" / "step-3")
    reset_accelerate()
    again = towards(photos, resumed, dense, method, granularity=granularity, resume=True)
    found = trainer(again).run().model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(dense / "model").items())


def changed(teacher: Path, name: str) -> None:
    model = PrunNetForImageClassification.from_pretrained(teacher)
    model.state_dict()[name].flatten()[0].add_(1)  # in place
    model.save_pretrained(teacher)


@pytest.mark.parametrize(
    ("method", "unused", "used"),
    [
        ("bct", None, "classifier.weight"),
        ("regression", "classifier.weight", "prunnet.backbone.bn1.running_mean"),
    ],
)
def test_a_resumed_run_refuses_a_teacher_that_changed_in_what_it_learns_from(
    photos: Path, dense: Path, tmp_path: Path, method: str, unused: str | None, used: str
) -> None:
    trainer(towards(photos, tmp_path / "run", dense, method, epochs=1)).run()
    teacher = tmp_path / "moved"
    shutil.copytree(dense / "model", teacher)
    if unused:
        changed(teacher, unused)
    reset_accelerate()
    resumed = trainer(towards(photos, tmp_path / "run", teacher, method, resume=True))
    assert resumed.run().step == 6
    assert json.loads((tmp_path / "run/checkpoints/step-6/progress.json").read_text())["teacher"] == {
        "source": str(teacher),
        "digest": resumed.progress.teacher["digest"],
    }
    changed(teacher, used)
    reset_accelerate()
    with pytest.raises(ValueError, match=rf"another teacher: .*{teacher} .*Put .*back.*--output_dir"):
        trainer(towards(photos, tmp_path / "run", teacher, method, epochs=3, resume=True)).run()


def test_a_checkpoint_of_a_version_that_did_not_record_the_teacher_goes_on() -> None:
    now = {"source": "out/dense", "digest": "0123456789abcdef"}
    progress = Progress(teacher=now)
    progress.load_state_dict({"epoch": 1, "step": 3, "skipped": 0})
    assert (progress.step, progress.teacher) == (3, now)
    with pytest.raises(ValueError, match=r"weights of out/dense aren't those that out/other had"):
        progress.load_state_dict({"teacher": {"source": "out/other", "digest": "f" * 16}})


def test_a_run_towards_a_teacher_does_not_go_on_without_one() -> None:
    with pytest.raises(
        ValueError, match=r"towards the teacher out/dense, and this one has none\. Give .*--output_dir"
    ):
        Progress().load_state_dict({"step": 3, "teacher": {"source": "out/dense", "digest": "f" * 16}})


def test_regression_trains_no_classifier(photos: Path, dense: Path, tmp_path: Path) -> None:
    run = towards(photos, tmp_path / "run", dense, "regression", epochs=1, gradient_accumulation_steps=2)
    trained = trainer(run)
    before = {name: tensor.clone() for name, tensor in trained.model.state_dict().items()}
    model = trained.run().model
    for name, tensor in model.state_dict().items():
        if name.startswith("classifier."):
            assert torch.equal(tensor, before[name]), name
    assert model.is_classifier_new
    stem = "prunnet.backbone.conv1.0.weight"
    assert not torch.equal(model.state_dict()[stem], before[stem])


def test_a_finished_run_is_one_network_with_a_space_of_its_own_and_no_classifier(
    photos: Path, dense: Path, tmp_path: Path
) -> None:
    train(towards(photos, tmp_path, dense, "regression", epochs=1))
    assert metrics(tmp_path)["method"] == "regression"
    config = PrunNetConfig.from_pretrained(tmp_path / "model")
    assert (config.capacity, config.prunable) == (0.5, False)
    assert config.embedding_space not in (None, PrunNetConfig.from_pretrained(dense / "model").embedding_space)
    with pytest.raises(ValueError, match="has no classifier"):
        PrunNetForImageClassification.from_pretrained(tmp_path / "model")


def test_a_teacher_is_frozen_and_embeds_as_its_checkpoint_does(photos: Path, dense: Path, tmp_path: Path) -> None:
    run = arguments(photos, tmp_path)
    config = PrunNetConfig.from_pretrained(dense / "model")
    teacher = load_teacher(str(dense), config, create_processor(run.data), Accelerator(cpu=True))
    images = torch.randn(2, 3, 32, 32)
    expected = PrunNetModel.from_pretrained(dense / "model")(images).pooler_output
    found = teacher.embed(images)
    torch.testing.assert_close(found, expected.detach())
    assert not found.requires_grad
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())


def test_what_does_not_fit_its_teacher_is_refused(photos: Path, dense: Path, tmp_path: Path) -> None:
    other_size = arguments(
        photos, tmp_path / "a", data={"resize": 40}, method="regression", teacher=str(dense), capacities=[0.5]
    )
    with pytest.raises(ValueError, match=r"the teacher .*size=.*32.*got .*40.*--resize"):
        trainer(other_size)
    reset_accelerate()
    wider = towards(photos, tmp_path / "b", dense, "regression")
    wider.model.embedding_dim = 12
    with pytest.raises(ValueError, match=r"--embedding_dim must be .*the teacher .* 8; got 12"):
        trainer(wider)
    reset_accelerate()
    fewer = make_photos(tmp_path / "fewer", train_classes=4)
    with pytest.raises(ValueError, match=r"bct needs a --teacher of the same classes.* 5, this run 4.*regression"):
        trainer(towards(fewer, tmp_path / "c", dense, "bct"))
    reset_accelerate()
    headless = tmp_path / "headless"
    PrunNetModel.from_pretrained(dense / "model").save_pretrained(headless)
    run = towards(photos, tmp_path / "d", headless, "bct")
    create_processor(run.data).save_pretrained(headless)
    with pytest.raises(ValueError, match=r"bct needs the classifier of --teacher, and .*headless has none"):
        trainer(run)
