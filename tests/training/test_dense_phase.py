"""The dense network is trained alone first, teaches the second phase, and is taken over by it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from prunnet_hf import PrunNetForImageClassification
from prunnet_hf.runs.arguments import RunArguments
from prunnet_hf.training import engine
from prunnet_hf.training.checkpoints import list_checkpoints
from prunnet_hf.training.dense_phase import PHASE, arguments_of_phase, take_over
from prunnet_hf.training.distillation import DistillationObjective
from prunnet_hf.training.engine import train
from prunnet_hf.training.trainer import Trainer
from tests.accelerate_state import reset_accelerate
from tests.tiny_models import tiny_config
from tests.training.tiny_run import arguments, make_photos, metrics, weights


def distilled(photos: Path, run: Path, **options: object) -> RunArguments:
    settings = {"epochs": 1, "dense_epochs": 1, "checkpoint_steps": 1, "keep_checkpoints": 3}
    return arguments(photos, run, granularity="channel", method="distilled", **(settings | options))


@pytest.fixture(scope="module")
def distilled_run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of both phases with a checkpoint after each step. No test may change it."""
    run = tmp_path_factory.mktemp("runs") / "distilled"
    train(distilled(photos, run))
    reset_accelerate()
    return run


def same_model(first: Path, second: Path) -> bool:
    expected, found = weights(first), weights(second)
    return expected.keys() == found.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_phase_trains_one_network_as_the_run_does(photos: Path, tmp_path: Path) -> None:
    run = distilled(photos, tmp_path / "run", epochs=4, dense_epochs=3, learning_rate=0.03)
    phase = arguments_of_phase(run)
    assert (phase.train.method, phase.train.capacities, phase.train.epochs) == ("independent", [1.0], 3)
    assert phase.train.learning_rate == pytest.approx(0.08)  # 8/3 of 0.03
    assert phase.train.output_dir == str(tmp_path / "run" / "dense")
    assert (phase.model, phase.data) == (run.model, run.data)
    adamw = arguments_of_phase(distilled(photos, tmp_path / "run", learning_rate=0.03, optimizer="adamw"))
    assert adamw.train.learning_rate == 0.03


def test_the_first_phase_is_the_dense_network_trained_alone(photos: Path, distilled_run: Path, tmp_path: Path) -> None:
    alone = arguments_of_phase(distilled(photos, tmp_path / "run"))
    train(alone)
    assert same_model(tmp_path / "run" / "dense" / "model", distilled_run / "dense" / "model")


def test_what_is_left_of_the_first_phase_is_its_model(distilled_run: Path) -> None:
    assert {path.name for path in (distilled_run / "dense").iterdir()} == {"model", PHASE}
    seconds = json.loads((distilled_run / "dense" / PHASE).read_text())["seconds"]
    assert metrics(distilled_run)["training_seconds"] > seconds > 0
    assert metrics(distilled_run)["method"] == "distilled"
    recipe = yaml.safe_load((distilled_run / "config.yaml").read_text())
    assert (recipe["method"], recipe["dense_epochs"]) == ("distilled", 1)


def test_the_second_phase_goes_on_from_the_first_and_learns_from_it(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainers: list[Trainer] = []
    begun: list[DistillationObjective] = []
    ask, learn = DistillationObjective.loss, engine.learn_from_dense

    def learn_from_dense(run: Trainer) -> None:
        trainers.append(run)
        learn(run)

    def loss(self: DistillationObjective, outputs: object, inputs: dict, index: int, step: int) -> torch.Tensor:
        if not begun:
            begun.append(self)
            with torch.no_grad():
                teacher = PrunNetForImageClassification.from_pretrained(tmp_path / "run" / "dense" / "model").eval()
                expected = teacher(inputs["pixel_values"]).logits
                torch.testing.assert_close(self.teacher(inputs["pixel_values"]), expected)
                learnt = dict(teacher.named_parameters())
                assert all(
                    torch.equal(parameter, learnt[name])
                    for name, parameter in trainers[0].model.named_parameters()
                    if "scores" not in name
                )
        return ask(self, outputs, inputs, index, step)

    monkeypatch.setattr(DistillationObjective, "loss", loss)
    monkeypatch.setattr(engine, "learn_from_dense", learn_from_dense)
    train(distilled(photos, tmp_path / "run"))
    assert begun


class TestResume:
    """Wherever a run is stopped, it ends with the same weights, bit for bit."""

    def test_in_the_first_phase(self, photos: Path, distilled_run: Path, tmp_path: Path) -> None:
        run = tmp_path / "run"
        # The dense network's own training leaves the checkpoints that the whole run removes at the end of its phase.
        train(arguments_of_phase(distilled(photos, run)))
        reset_accelerate()
        for name in ("model", "metrics.json", "checkpoints/step-3"):
            path = run / "dense" / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copy(distilled_run / "config.yaml", run)
        train(distilled(photos, run, resume=True))
        assert same_model(run / "model", distilled_run / "model")

    def test_between_the_phases(self, photos: Path, distilled_run: Path, tmp_path: Path) -> None:
        run = tmp_path / "run"
        shutil.copytree(distilled_run / "dense", run / "dense")
        shutil.copy(distilled_run / "config.yaml", run)
        train(distilled(photos, run, resume=True))
        assert same_model(run / "model", distilled_run / "model")

    def test_in_the_second_phase(self, photos: Path, distilled_run: Path, tmp_path: Path) -> None:
        run = tmp_path / "run"
        shutil.copytree(distilled_run / "dense", run / "dense")
        shutil.copytree(distilled_run / "checkpoints" / "step-2", run / "checkpoints" / "step-2")
        train(distilled(photos, run, resume=True))
        assert same_model(run / "model", distilled_run / "model")
        dense = json.loads((run / "dense" / PHASE).read_text())["seconds"]
        assert metrics(run)["training_seconds"] < 2 * dense + metrics(distilled_run)["training_seconds"]

    def test_other_images_are_refused(self, distilled_run: Path, tmp_path: Path) -> None:
        run = tmp_path / "run"
        shutil.copytree(distilled_run / "dense", run / "dense")
        shutil.copy(distilled_run / "config.yaml", run)
        others = make_photos(tmp_path / "photos", train_classes=4)
        with pytest.raises(ValueError, match="trained on other images"):
            train(distilled(others, run, resume=True))

    def test_a_damaged_teacher_is_refused(self, photos: Path, distilled_run: Path, tmp_path: Path) -> None:
        run = tmp_path / "run"
        shutil.copytree(distilled_run / "dense", run / "dense")
        shutil.copy(distilled_run / "config.yaml", run)
        with (run / "dense" / "model" / "model.safetensors").open("ab") as file:
            file.write(b"x")
        with pytest.raises(ValueError, match=r"dense.model.* is damaged.*--overwrite_output_dir"):
            train(distilled(photos, run, resume=True))


def test_an_unfinished_first_phase_is_not_replaced_by_itself(
    photos: Path, distilled_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(distilled_run / "dense", run / "dense")
    shutil.copy(distilled_run / "config.yaml", run)
    with pytest.raises(FileExistsError, match=r"dense/model"):
        train(distilled(photos, run))
    train(distilled(photos, run, overwrite_output_dir=True, seed=1))
    assert not same_model(run / "dense" / "model", distilled_run / "dense" / "model")
    assert not list_checkpoints(run / "dense")


def test_without_a_phase_nothing_is_distilled(photos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(distilled(photos, run, dense_epochs=0))
    assert not (run / "dense").exists()


def test_scores_are_not_taken_over() -> None:
    config = tiny_config(granularity="weight")
    model, dense = PrunNetForImageClassification(config), PrunNetForImageClassification(config).prune(1.0)
    scores = {name: tensor.clone() for name, tensor in model.named_parameters() if name.endswith("scores")}
    assert scores
    take_over(model, dense)
    found, learnt = dict(model.named_parameters()), dict(dense.named_parameters())
    assert all(torch.equal(found[name], tensor) for name, tensor in scores.items())
    assert all(torch.equal(found[name], tensor) for name, tensor in learnt.items())
