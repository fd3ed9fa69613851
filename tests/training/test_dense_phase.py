"""The dense network is trained alone first, teaches the second phase, and is taken over by it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import weakref
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.utils import set_seed

from prunnet_hf import PrunNetForImageClassification
from prunnet_hf.runs.arguments import RunArguments
from prunnet_hf.runs.manifest import MANIFEST, write_manifest
from prunnet_hf.runs.run_data import load_run_data
from prunnet_hf.training.checkpoints import check_output_dir, list_checkpoints
from prunnet_hf.training.dense_phase import SAVED, DensePhase, arguments_of_phase, has_dense_phase, take_over
from prunnet_hf.training.engine import create_accelerator, train
from prunnet_hf.training.step import TrainingStep
from prunnet_hf.training.teachers import Teacher
from prunnet_hf.training.trainer import Trainer
from tests.accelerate_state import reset_accelerate
from tests.processes import run_processes
from tests.tiny_models import tiny_config
from tests.training.tiny_run import arguments, make_photos, trainer, weights

Tensors = dict[str, torch.Tensor]
EVALUATION = "prunnet_hf.training.engine.evaluate_run"
"""It would take most of the time of these tests; tests/test_train_accelerate.py evaluates such a run."""


def distilled(photos: Path, run: Path, **options: object) -> RunArguments:
    """Two phases of three steps, with a checkpoint after each step."""
    settings = {"epochs": 1, "dense_epochs": 1, "checkpoint_steps": 1, "keep_checkpoints": 3}
    settings |= {"granularity": "channel", "capacities": [0.5], "eval_capacities": []}
    return arguments(photos, run, method="distilled", **(settings | options))


def both_phases(run: RunArguments) -> tuple[Trainer, DensePhase]:
    set_seed(run.train.seed)
    second, alone = trainer(run), create_accelerator(arguments_of_phase(run))
    return second, DensePhase(second, load_run_data(run), alone, lambda line: None)


def trained(run: RunArguments) -> Tensors:
    """What both phases end with; a whole run would evaluate it, too."""
    second, phase = both_phases(run)
    phase.run(second.interruption)
    return second.run().model.state_dict()


def are_same(found: Tensors, expected: Tensors) -> bool:
    return all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.fixture(scope="module")
def finished(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with TensorBoard, of which only the model is kept in the place of an evaluation. No test may change it."""
    run = tmp_path_factory.mktemp("runs") / "distilled"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EVALUATION, lambda accelerator, model, *_: model.save_pretrained(run / "model"))
        train(distilled(photos, run, report_to=["tensorboard"]))
    reset_accelerate()
    return run


def after_the_first_phase(finished: Path, run: Path) -> Path:
    """A run that was stopped between its phases."""
    shutil.copytree(finished / "dense", run / "dense")
    shutil.copy(finished / "config.yaml", run)
    return run


def test_the_phase_trains_one_network_as_the_run_does(photos: Path, tmp_path: Path) -> None:
    run = distilled(photos, tmp_path / "run", epochs=4, dense_epochs=3, learning_rate=0.03)
    phase = arguments_of_phase(run)
    assert (phase.train.method, phase.train.capacities, phase.train.epochs) == ("independent", [1.0], 3)
    assert phase.train.learning_rate == pytest.approx(0.12)  # 4 times 0.03, as four passes add up
    assert phase.train.output_dir == str(tmp_path / "run" / "dense")
    assert (phase.model, phase.data) == (run.model, run.data)


def test_the_phase_leaves_out_what_only_the_second_uses(photos: Path, tmp_path: Path) -> None:
    chosen = {"distillation_weight": 0.0, "distillation_temperature": 0.5, "capacity_draws": 1, "shrink_share": 0.25}
    run = distilled(photos, tmp_path / "run", **chosen)
    assert {name: getattr(run.train, name) for name in chosen} == chosen
    alone = arguments(photos, tmp_path / "alone", method="independent", capacities=[1.0]).train
    phase = arguments_of_phase(run).train
    assert {name: getattr(phase, name) for name in chosen} == {name: getattr(alone, name) for name in chosen}


def test_only_distillation_with_epochs_for_it_has_the_phase(photos: Path, tmp_path: Path) -> None:
    assert has_dense_phase(distilled(photos, tmp_path).train)
    assert not has_dense_phase(distilled(photos, tmp_path, dense_epochs=0).train)
    assert not has_dense_phase(arguments(photos, tmp_path, method="joint").train)


def test_what_is_left_of_the_first_phase_is_its_model_and_what_is_known_of_it(finished: Path) -> None:
    assert {path.name for path in (finished / "dense").iterdir()} == {"model", "phase.json", "logs"}
    assert json.loads((finished / "dense" / "phase.json").read_text())["skipped"] == 0
    recipe = yaml.safe_load((finished / "config.yaml").read_text())
    assert (recipe["method"], recipe["dense_epochs"]) == ("distilled", 1)
    assert "Dense network: Epoch 1 of 1 is done." in (finished / "training.log").read_text()
    for phase in (finished, finished / "dense"):  # a tracker's run each
        assert list((phase / "logs" / "prunnet").glob("events.*"))


def test_the_first_phase_is_the_dense_network_trained_alone(photos: Path, finished: Path, tmp_path: Path) -> None:
    set_seed(0)
    alone = trainer(arguments_of_phase(distilled(photos, tmp_path / "run"))).run().model.prune(1.0)
    assert are_same(alone.state_dict(), weights(finished / "dense" / "model"))


def test_the_second_phase_goes_on_from_the_first_and_learns_from_it(photos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    second, phase = both_phases(distilled(photos, run))
    phase._trainer.step.skipped = 2
    first = weakref.ref(phase._trainer.model)
    phase.run(second.interruption)
    assert first() is None  # its memory is free for the second phase
    assert second.interruption.advice == SAVED
    seconds = json.loads((run / "dense" / "phase.json").read_text())["seconds"]
    assert (second.progress.seconds, second.step.skipped) == (seconds, 2)
    assert seconds > 0
    teacher = PrunNetForImageClassification.from_pretrained(run / "dense" / "model").eval()
    learnt = dict(teacher.named_parameters())
    kept = {name: tensor for name, tensor in second.model.named_parameters() if not name.endswith("scores")}
    assert are_same(kept, learnt)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(second.step.objective.teacher(images), teacher(images).logits)


def test_the_teacher_is_the_best_of_its_phase(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensors] = []

    def falling_score(accelerator: object, model: PrunNetForImageClassification, *_: object) -> dict[str, float]:
        seen.append({name: tensor.detach().clone() for name, tensor in model.prune(1.0).named_parameters()})
        return {"mAP": 1 / len(seen)}

    monkeypatch.setattr("prunnet_hf.training.trainer.quick_score", falling_score)
    choosing = {"data": {"validation_share": 0.4}, "eval_every": 1, "batch_size": 6, "dense_epochs": 2}
    second, phase = both_phases(distilled(photos, tmp_path, **choosing))
    phase.run(second.interruption)
    found = weights(tmp_path / "dense" / "model")
    assert len(seen) == 2
    assert are_same(found, seen[0])
    assert not are_same(found, seen[1])


class TestResume:
    """Wherever a run is stopped, it ends with the same weights, bit for bit."""

    @pytest.mark.parametrize(("steps", "stopped_in"), [(2, "dense"), (4, "")])
    def test_within_a_phase(
        self,
        photos: Path,
        finished: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        steps: int,
        stopped_in: str,
    ) -> None:
        update, done = TrainingStep.update, []

        def update_and_stop(step: TrainingStep, number: int) -> None:
            update(step, number)
            done.append(number)
            if len(done) == steps:
                os.kill(os.getpid(), signal.SIGTERM)

        monkeypatch.setattr(TrainingStep, "update", update_and_stop)
        run = tmp_path / "run"
        with pytest.raises(SystemExit):
            train(distilled(photos, run))
        newest = list_checkpoints(run / stopped_in)[-1].name
        assert f"{newest.replace('-', ' ')} is saved; continue with the same command and --resume" in (
            capsys.readouterr().err
        )
        reset_accelerate()
        assert are_same(trained(distilled(photos, run, resume=True)), weights(finished / "model"))
        assert not list_checkpoints(run / "dense")

    def test_between_the_phases(
        self, photos: Path, finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        run = after_the_first_phase(finished, tmp_path / "run")
        (run / "dense" / "checkpoints" / "step-3").mkdir(parents=True)  # a kill left it
        again = distilled(photos, run, resume=True, dense_epochs=5)
        assert are_same(trained(again), weights(finished / "model"))
        assert re.search("dense was trained with other arguments and stays as it is: .*epochs 1 -> 5", caplog.text)
        assert not list_checkpoints(run / "dense")

    def test_other_images_are_refused(self, finished: Path, tmp_path: Path) -> None:
        others = make_photos(tmp_path / "photos", train_classes=4)
        second, phase = both_phases(distilled(others, after_the_first_phase(finished, tmp_path / "run"), resume=True))
        with pytest.raises(ValueError, match="trained on other images"):
            phase.run(second.interruption)

    def test_a_damaged_teacher_is_refused(self, photos: Path, finished: Path, tmp_path: Path) -> None:
        run = after_the_first_phase(finished, tmp_path / "run")
        with (run / "dense" / "model" / "model.safetensors").open("ab") as file:
            file.write(b"x")
        second, phase = both_phases(distilled(photos, run, resume=True))
        with pytest.raises(ValueError, match=r"dense.model.* is damaged.*--overwrite_output_dir"):
            phase.run(second.interruption)

    def test_another_teacher_is_refused(self, photos: Path, finished: Path, tmp_path: Path) -> None:
        run = after_the_first_phase(finished, tmp_path / "run")
        shutil.copytree(finished / "checkpoints", run / "checkpoints")
        model = PrunNetForImageClassification.from_pretrained(run / "dense" / "model")
        model.classifier.weight.data.mul_(2)
        model.save_pretrained(run / "dense" / "model")
        (run / "dense" / "model" / MANIFEST).unlink()
        write_manifest(run / "dense" / "model")
        second, phase = both_phases(distilled(photos, run, resume=True))
        phase.run(second.interruption)
        with pytest.raises(ValueError, match=r"another teacher: .*dense.model .*back"):
            second.run()

    def test_another_network_is_refused(self, photos: Path, finished: Path, tmp_path: Path) -> None:
        again = distilled(photos, after_the_first_phase(finished, tmp_path / "run"), resume=True)
        again.model.classifier = "softmax"
        second, phase = both_phases(again)
        with pytest.raises(ValueError, match=r"another network: classifier\.bias is missing there and \(5,\) here"):
            phase.run(second.interruption)

    def test_a_run_that_never_had_the_phase_is_refused(self, photos: Path, finished: Path, tmp_path: Path) -> None:
        shutil.copytree(finished / "checkpoints", tmp_path / "checkpoints")
        with pytest.raises(ValueError, match=r"--resume found .*checkpoints, but not .*dense/model.*--method"):
            both_phases(distilled(photos, tmp_path, resume=True))

    def test_another_method_has_nothing_to_resume(self, finished: Path, tmp_path: Path) -> None:
        run = after_the_first_phase(finished, tmp_path / "run")
        check_output_dir(run, resume=True, has_dense_phase=True)
        with pytest.raises(FileNotFoundError, match="--resume found no checkpoint"):
            check_output_dir(run, resume=True)


def test_an_unfinished_run_is_not_replaced_by_itself(finished: Path, tmp_path: Path) -> None:
    run = after_the_first_phase(finished, tmp_path / "run")
    with pytest.raises(FileExistsError, match=r"the newest dense/model\. Continue from it with --resume"):
        check_output_dir(run, resume=False, has_dense_phase=True)


def test_a_run_is_fine_tuned_in_its_own_place(
    photos: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EVALUATION, lambda *_: None)
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    still = {"learning_rate": 0.0, "dense_learning_rate": 0.0, "score_learning_rate": 0.0}
    train(distilled(photos, run, source=run, granularity=None, overwrite_output_dir=True, seed=1, **still))
    assert yaml.safe_load((run / "config.yaml").read_text())["seed"] == 1
    before, teacher = (
        dict(PrunNetForImageClassification.from_pretrained(model).named_parameters())
        for model in (finished / "model", run / "dense" / "model")
    )
    assert are_same(weights(run / "checkpoints" / "step-3"), before)
    assert are_same(before, teacher)
    assert {path.name for path in run.iterdir()} == {"config.yaml", "training.log", "checkpoints", "dense"}
    assert {path.name for path in (run / "dense").iterdir()} == {"model", "phase.json"}


def test_scores_are_not_taken_over() -> None:
    config = tiny_config(granularity="weight")
    model, dense = PrunNetForImageClassification(config), PrunNetForImageClassification(config).prune(1.0)
    scores = {name: tensor.clone() for name, tensor in model.named_parameters() if name.endswith("scores")}
    assert scores
    take_over(model, dense)
    found = dict(model.named_parameters())
    assert are_same(found, scores)
    assert are_same(found, dict(dense.named_parameters()))


def shared_training(photos: Path, run: Path) -> tuple[Tensors, int]:
    """The weights that a process ends with, and how often it asked the teacher."""
    asked, logits = [], Teacher.logits

    def count_and_ask(teacher: Teacher, pixel_values: torch.Tensor) -> torch.Tensor:
        asked.append(len(pixel_values))
        return logits(teacher, pixel_values)

    Teacher.logits = count_and_ask
    return trained(distilled(photos, run, batch_size=5)), len(asked)


def test_two_processes_share_both_phases(photos: Path, tmp_path: Path) -> None:
    (first, asked), (second, asked_too) = run_processes(2, shared_training, photos, tmp_path / "run", folder=tmp_path)
    assert (asked, asked_too) == (3, 3)  # once a step
    assert are_same(first, second)
    assert json.loads((tmp_path / "run" / "dense" / "phase.json").read_text())["seconds"] > 0
