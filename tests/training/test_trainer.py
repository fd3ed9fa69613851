"""The training loop: what it sends, what it logs, and being stopped, killed and resumed."""

from __future__ import annotations

import math
import os
import resource
import shutil
import signal
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from accelerate.utils import set_seed
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from prunnet_hf import PrunNetForImageClassification
from prunnet_hf.data.loading import load_splits
from prunnet_hf.data.transforms import TrainingCollator
from prunnet_hf.runs.arguments import RunArguments
from prunnet_hf.runs.run_data import load_run_data
from prunnet_hf.training.checkpoints import list_checkpoints
from prunnet_hf.training.engine import create_accelerator, train
from prunnet_hf.training.trainer import Trainer
from tests.accelerate_state import reset_accelerate
from tests.processes import run_processes, start_process, start_processes
from tests.training.tiny_run import TRAIN_IMAGES, arguments, make_photos, metrics, train_quietly, trainer, weights


def started(photos: Path, folder: Path) -> dict[str, Any]:
    """How a run starts on a process that has drawn weights and scores of its own, and what it sends in a step."""
    settings = arguments(photos, folder, batch_size=5)
    accelerator = create_accelerator(settings)
    torch.manual_seed(accelerator.process_index)
    prepare, drawn, sent = accelerator.prepare, {}, []

    def note_and_prepare(model: PrunNetForImageClassification, *others: object) -> object:
        drawn.update({name: tensor.detach().clone() for name, tensor in model.named_parameters()})
        return prepare(model, *others)

    def count(group: object, bucket):  # without a type, as DDP refuses one that is a string
        sent.append(bucket.buffer().numel())
        return allreduce_hook(group, bucket)

    accelerator.prepare = note_and_prepare
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*broadcast_buffers")  # deprecated in torch 2.13
        run = Trainer(settings, accelerator, load_splits(settings.data.dataset, settings.data.data_dir))
    found = {name: tensor.detach().clone() for name, tensor in run.model.named_parameters()}
    run.wrapped.register_comm_hook(torch.distributed.group.WORLD, count)
    run.step.backward(next(run.batches.epoch(0)).tensors, 0)
    return {
        "drawn": drawn,
        "started_with": found,
        "sent": sum(sent),
        "looks_for_unused_parameters": run.wrapped.find_unused_parameters,
        "sends_statistics": run.wrapped.will_sync_module_buffers(),
    }


def two_processes(photos: Path, folder: Path) -> dict[str, Any]:
    """How they start; then a run never stopped, one stopped in its second step, and one resumed from there."""
    found = started(photos, folder / "started")
    reset_accelerate()
    found["whole"] = trained_quietly(arguments(photos, folder / "whole", batch_size=5, checkpoint_every=1))
    reset_accelerate()
    found["status"] = stop_rank_1(arguments(photos, folder / "stopped", batch_size=5))
    reset_accelerate()
    resumed = arguments(photos, folder / "resumed", batch_size=5, resume=True)
    accelerator = create_accelerator(resumed)
    if accelerator.is_main_process:
        shutil.copytree(folder / "stopped", folder / "resumed")
    accelerator.wait_for_everyone()
    reset_accelerate()
    found["resumed"] = trained_quietly(resumed)
    return found


@pytest.fixture(scope="module")
def by_two(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The folder of the runs of two processes, and what each of these returned. No test may change the folder."""
    folder = tmp_path_factory.mktemp("by_two")
    return folder, run_processes(2, two_processes, photos, folder, folder=folder)


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def trained(run: RunArguments) -> dict[str, torch.Tensor]:
    """The tensors of the model that `train` would evaluate and save."""
    set_seed(run.train.seed)
    return trainer(run).run().model.state_dict()


def trained_quietly(run: RunArguments) -> dict[str, torch.Tensor]:
    torch.set_num_threads(1)
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        return trained(run)


def test_processes_start_alike_and_send_gradients_only_and_none_of_scores(
    by_two: tuple[Path, list[dict[str, Any]]],
) -> None:
    _, ranks = by_two
    for name, tensor in ranks[0]["drawn"].items():
        assert torch.equal(ranks[0]["started_with"][name], tensor), name
        assert torch.equal(ranks[1]["started_with"][name], tensor), name
    scores = [name for name in ranks[0]["drawn"] if name.endswith(".scores")]
    assert len(scores) > 8
    assert not any(torch.equal(ranks[0]["drawn"][name], ranks[1]["drawn"][name]) for name in scores)
    numbers = sum(tensor.numel() for name, tensor in ranks[0]["drawn"].items() if name not in scores)
    for rank in ranks:
        assert rank["sent"] == 4 * numbers  # the passes of capacity 1, the smallest, and two drawn
        assert not rank["looks_for_unused_parameters"]
        assert not rank["sends_statistics"]


def test_best_model_is_chosen_on_held_out_classes_and_kept(photos: Path, tmp_path: Path) -> None:
    run = trainer(arguments(photos, tmp_path, data={"validation_share": 0.4}, eval_every=1, batch_size=6))
    # 2 of 5 classes are held out.
    assert len(run.validation.query) == 2 * TRAIN_IMAGES
    assert run.model.config.num_labels == 3
    result = run.run()
    model = result.model
    assert 0 < run.progress.best_score <= 1
    assert result.facts.num_train_images == 3 * TRAIN_IMAGES
    (kept,) = (tmp_path / "best").iterdir()
    assert kept.name == f"step-{run.progress.best_step}"
    best = PrunNetForImageClassification.from_pretrained(kept)
    assert (kept / "preprocessor_config.json").is_file()
    assert torch.equal(best.classifier.weight, model.classifier.weight)
    assert best.config.embedding_space == model.config.embedding_space


def test_batches_left_over_at_the_end_of_an_epoch_are_dropped(photos: Path, tmp_path: Path) -> None:
    # 30 images make 7 batches of 4, which make 3 steps of 2 batches; one batch is left.
    run = trainer(arguments(photos, tmp_path, batch_size=4, gradient_accumulation_steps=2))
    run.run()
    assert run.progress.step == run.schedule_steps == 2 * 3
    assert all(not gradients for gradients in run.step._gradients)
    assert run.schedule.get_last_lr()[0] == pytest.approx(0.0)


@pytest.mark.parametrize("kind", ["data set", "stream"])
def test_run_resumed_within_an_epoch_ends_with_the_same_weights(
    photos: Path, finished: Path, streamed: Path, tmp_path: Path, kind: str
) -> None:
    whole, data = (finished, {}) if kind == "data set" else (streamed, {"streaming": True, "num_workers": 2})
    # Two epochs of three steps: the fifth is the second of the second epoch.
    shutil.copytree(whole / "checkpoints" / "step-5", tmp_path / "checkpoints" / "step-5")
    train_quietly(arguments(photos, tmp_path, data, checkpoint_steps=1, resume=True))
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-5", "step-6"]
    assert same(weights(tmp_path / "model"), weights(whole / "model"))
    assert metrics(tmp_path)["results"] == metrics(whole)["results"]


def test_resumed_run_of_units_ends_with_the_same_bits_and_the_best_model(photos: Path, tmp_path: Path) -> None:
    # 3 of 5 classes are left to train on: 18 images, three steps an epoch.
    options = {"granularity": "channel", "batch_size": 6, "eval_every": 1, "checkpoint_steps": 1, "optimizer": "adamw"}
    data = {"validation_share": 0.4}
    whole = trained(arguments(photos, tmp_path / "whole", data, learning_rate=0.01, keep_checkpoints=6, **options))
    shutil.copytree(tmp_path / "whole" / "checkpoints" / "step-2", tmp_path / "again" / "checkpoints" / "step-2")
    reset_accelerate()
    # The checkpoint's own settings of the optimiser give way to these, of both groups.
    again = trained(arguments(photos, tmp_path / "again", data, learning_rate=0.01, resume=True, **options))
    assert whole.keys() == again.keys()
    assert all(torch.equal(tensor, again[name]) for name, tensor in whole.items())
    scores = [tensor for name, tensor in whole.items() if name.endswith("units.scores")]
    assert len(scores) == 4
    assert all(tensor.abs().max() > 0.5 for tensor in scores)


def test_run_asked_to_stop_saves_first_and_goes_on_later(photos: Path, finished: Path, tmp_path: Path) -> None:
    set_seed(0)  # as `train` does
    run = trainer(arguments(photos, tmp_path))
    update = run.step.update

    def update_and_be_asked(step: int) -> None:
        update(step)
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    run.step.update = update_and_be_asked
    with pytest.raises(SystemExit) as stop:
        run.run()
    assert stop.value.code == 128 + 15
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-2"]
    reset_accelerate()
    assert same(trained(arguments(photos, tmp_path, resume=True)), weights(finished / "model"))


def test_two_processes_killed_at_any_moment_end_with_the_same_weights(photos: Path, tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    choosing = {"data": {"validation_share": 0.4}, "eval_every": 1, "batch_size": 3, "checkpoint_steps": 1}
    start = time.perf_counter()
    expected = run_processes(2, trained_quietly, arguments(photos, tmp_path / "whole", **choosing), folder=tmp_path)
    duration = time.perf_counter() - start
    delays = Random(1)
    for _ in range(6):
        resume = bool(list_checkpoints(killed))
        run = arguments(photos, killed, **choosing, resume=resume)
        processes = start_processes(2, trained_quietly, run, folder=tmp_path)
        processes[0].join(delays.uniform(0.2, 0.8) * duration)
        for process in processes:
            process.kill()
            process.join()
        if resume:  # killed once before and once after resuming
            break
    assert list_checkpoints(killed)
    found = run_processes(2, trained_quietly, arguments(photos, killed, **choosing, resume=True), folder=tmp_path)
    assert all(same(resumed, whole) for resumed, whole in zip(found, expected, strict=True))


def train_and_die_while_saving(run: RunArguments, fatal_file: str) -> None:
    """Train; in the second checkpoint the process is killed as soon as it has written this file."""
    torch_save = torch.save
    written: list[str] = []

    def save(state: object, path: str | os.PathLike[str], *rest: object, **options: object) -> None:
        torch_save(state, path, *rest, **options)
        written.append(Path(path).name)
        if written.count(fatal_file) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    torch.save = save
    train_quietly(run)


@pytest.mark.parametrize("fatal_file", ["optimizer.bin", "random_states_0.pkl"])
def test_killed_while_a_checkpoint_is_written_a_run_goes_on_from_the_one_before(
    photos: Path, finished: Path, tmp_path: Path, fatal_file: str
) -> None:
    process = start_process(train_and_die_while_saving, arguments(photos, tmp_path, checkpoint_steps=1), fatal_file)
    process.join(600)
    assert process.exitcode == -signal.SIGKILL
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-1", "step-2.partial"]
    found = trained(arguments(photos, tmp_path, checkpoint_steps=1, resume=True))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir() if path.suffix] == []
    assert same(found, weights(finished / "model"))


def test_a_disk_that_is_full_leaves_the_checkpoint_before(
    photos: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_seed(0)
    run = trainer(arguments(photos, tmp_path, checkpoint_steps=1))
    update, (soft, hard) = run.step.update, resource.getrlimit(resource.RLIMIT_FSIZE)

    def update_and_fill_the_disk(step: int) -> None:
        update(step)
        if step == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # longer files can't be written

    monkeypatch.setattr(run.step, "update", update_and_fill_the_disk)
    try:
        with pytest.raises(OSError, match=r"step-4 .*make room.*--resume"):
            run.run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-2", "step-3"]
    reset_accelerate()
    found = trained(arguments(photos, tmp_path, checkpoint_steps=1, resume=True))
    assert same(found, weights(finished / "model"))


def spoil(run: Trainer, step_to_spoil: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the images of one step infinite, so that losses are not finite."""
    backward = run.step.backward

    def spoilt(batch: dict[str, torch.Tensor], step: int, weight: float) -> torch.Tensor:
        if step == step_to_spoil:
            batch = {**batch, "pixel_values": batch["pixel_values"] * math.inf}
        return backward(batch, step, weight)

    monkeypatch.setattr(run.step, "backward", spoilt)


def test_diverged_run_stops_before_anything_bad_is_saved(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(arguments(photos, tmp_path, checkpoint_steps=1, log_every=100, capacity_sampling="fixed"))
    spoil(run, 2, monkeypatch)
    with pytest.raises(FloatingPointError, match=r"capacity 1\.00, 0\.20, 0\.50 .*step 2"):
        run.run()
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-1", "step-2"]


def test_nonfinite_steps_are_left_out_and_counted_if_asked_also_when_resumed(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(arguments(photos, tmp_path, skip_nonfinite_steps=True, checkpoint_every=1))
    spoil(run, 2, monkeypatch)
    result = run.run()
    assert result.facts.skipped_steps == 1
    assert all(tensor.isfinite().all() for tensor in result.model.state_dict().values())
    reset_accelerate()
    resumed = trainer(arguments(photos, tmp_path, skip_nonfinite_steps=True, checkpoint_every=1, resume=True))
    facts = resumed.run().facts  # no step is left to do
    assert facts.skipped_steps == 1
    assert facts.training_seconds > run.progress.seconds > 0
    assert resumed.batches.waiting_seconds == run.progress.waiting_seconds > 0


def test_resuming_with_other_arguments_gives_a_warning(
    photos: Path, finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(finished / "checkpoints" / "step-6", tmp_path / "checkpoints" / "step-6")
    trainer(arguments(photos, tmp_path, checkpoint_every=1, resume=True, learning_rate=0.02)).run()
    assert "learning_rate 0.0375 -> 0.02" in caplog.text


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_resuming_takes_over_the_settings_of_the_optimiser(
    photos: Path, finished: Path, tmp_path: Path, optimizer: str
) -> None:
    run = tmp_path / "run"
    if optimizer == "sgd":
        shutil.copytree(finished / "checkpoints/step-3", run / "checkpoints/step-3")
    else:
        trainer(arguments(photos, run, checkpoint_every=1, epochs=1, optimizer=optimizer, learning_rate=0.01)).run()
        reset_accelerate()
    changed = {"learning_rate": 0.02, "weight_decay": 0.3, "momentum": 0.5}
    resumed = trainer(arguments(photos, run, checkpoint_every=1, optimizer=optimizer, resume=True, **changed))
    used = []
    update = resumed.step.update

    def update_and_note(step: int) -> None:
        group = resumed.step.optimizer.param_groups[0]
        used.append((group["lr"], group["weight_decay"], group.get("momentum")))
        update(step)

    resumed.step.update = update_and_note
    resumed.run()
    # Half a cosine of 0.02 over two epochs of three steps, from its middle on.
    momentum = 0.5 if optimizer == "sgd" else None
    assert used == [(pytest.approx(0.01 * (1 + math.cos(math.pi * step / 6))), 0.3, momentum) for step in (3, 4, 5)]


def test_a_step_saved_twice_leaves_a_whole_checkpoint_at_any_moment(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # After the third step a checkpoint is due, and at the end of its epoch another.
    run = trainer(arguments(photos, tmp_path, checkpoint_steps=1, checkpoint_every=1, keep_checkpoints=1))
    rename, seen = Path.rename, []

    def rename_and_look(path: Path, target: Path) -> Path:
        moved = rename(path, target)
        seen.append([found.name for found in list_checkpoints(tmp_path)])
        return moved

    monkeypatch.setattr(Path, "rename", rename_and_look)
    run.run()
    assert ["step-3.replaced"] in seen  # what was there until the new one of the same step was
    assert all(seen[1:])
    assert list_checkpoints(tmp_path)[-1].name == "step-6"
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-6"]


def test_a_best_model_of_a_lost_future_is_not_taken(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choosing = {"data": {"validation_share": 0.4}, "eval_every": 1, "batch_size": 6, "checkpoint_every": 1}
    scores = iter([0.5, 0.9, 0.4])
    monkeypatch.setattr("prunnet_hf.training.trainer.quick_score", lambda *_, **__: {"mAP": next(scores)})
    run = trainer(arguments(photos, tmp_path, epochs=2, **choosing))
    run.run()  # 0.5 after step 3, 0.9 after step 6
    assert (run.progress.best_score, run.progress.best_step) == (0.9, 6)
    # As if it had been killed before the second checkpoint, and the epoch done again came out worse.
    shutil.rmtree(tmp_path / "checkpoints/step-6")
    if not (tmp_path / "best/step-3").exists():  # removed when the second checkpoint was in place
        shutil.copytree(tmp_path / "best/step-6", tmp_path / "best/step-3")
    again = trainer(arguments(photos, tmp_path, epochs=2, resume=True, **choosing))
    again.run()
    assert (again.progress.best_score, again.progress.best_step) == (0.5, 3)
    assert [path.name for path in (tmp_path / "best").iterdir()] == ["step-3"]


def test_run_asked_to_stop_at_the_end_of_its_last_epoch_saves_and_stops(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(arguments(photos, tmp_path, epochs=1, eval_every=1))

    def score_and_be_asked(*_: object, **__: object) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("the evaluation went on")

    with monkeypatch.context() as patched:
        patched.setattr("prunnet_hf.training.trainer.quick_score", score_and_be_asked)
        with pytest.raises(SystemExit):
            run.run()
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-3"]
    scored = []
    monkeypatch.setattr("prunnet_hf.training.trainer.quick_score", lambda *_, **__: scored.append(1) or {"mAP": 0.5})
    train(arguments(photos, tmp_path, epochs=1, eval_every=1, resume=True))
    assert (tmp_path / "metrics.json").is_file()
    assert scored == [1]


@pytest.mark.parametrize("place", ["trainer.measure_running_statistics", "engine.evaluate_run"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_stopped_in_calibration_or_evaluation_has_saved_its_training(
    photos: Path,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    place: str,
    number: int,
) -> None:
    run = arguments(photos, tmp_path, checkpoint_every=0)
    with monkeypatch.context() as patched:
        patched.setattr(f"prunnet_hf.training.{place}", lambda *_, **__: os.kill(os.getpid(), number))
        with pytest.raises(SystemExit) as stop:
            train(run)
    assert stop.value.code == 128 + number
    name = signal.Signals(number).name
    said = f"Stopped by {name}: step 6 is saved; continue with the same command and --resume."
    assert said in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoints", "config.yaml", "training.log"}
    assert said in (tmp_path / "training.log").read_text()
    reset_accelerate()
    train(arguments(photos, tmp_path, checkpoint_every=0, resume=True))
    assert same(weights(tmp_path / "model"), weights(finished / "model"))
    assert metrics(tmp_path)["results"] == metrics(finished)["results"]


def test_a_run_stopped_in_its_evaluation_can_be_evaluated_alone_and_keeps_what_is_known_of_its_training(
    photos: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("prunnet_hf.runs.evaluation.encode_splits", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(SystemExit):
            train(arguments(photos, tmp_path))
    assert not (tmp_path / "metrics.json").exists()
    reset_accelerate()
    train(arguments(photos, tmp_path, eval_only=True))
    found, expected = metrics(tmp_path), metrics(finished)
    assert found["results"] == expected["results"]
    for name in ("method", "seed", "num_train_classes", "num_train_images", "skipped_steps", "training_device"):
        assert found[name] == expected[name] is not None
    assert not (tmp_path / "training.json").exists()


def stop_rank_1(run: RunArguments) -> int | None:
    """Train; rank 1 alone gets SIGTERM, in its second step. Returns the status of leaving."""
    torch.set_num_threads(1)
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        set_seed(0)  # as `train` does
        begun = trainer(run)
        update = begun.step.update

        def update_and_be_asked(step: int) -> None:
            update(step)
            if step == 1 and begun.accelerator.process_index == 1:
                os.kill(os.getpid(), signal.SIGTERM)

        begun.step.update = update_and_be_asked
        try:
            begun.run()
        except SystemExit as stop:
            return int(stop.code)
    return None


def test_all_processes_save_and_stop_when_one_is_asked(by_two: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, ranks = by_two
    assert [rank["status"] for rank in ranks] == [143, 143]
    assert [path.name for path in list_checkpoints(folder / "stopped")] == ["step-2"]
    assert all(same(rank["resumed"], rank["whole"]) for rank in ranks)


def test_one_process_goes_on_within_an_epoch_of_two_with_the_same_images_and_no_others(
    photos: Path, by_two: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    shutil.copytree(by_two[0] / "stopped", tmp_path / "run")
    alone = trainer(arguments(photos, tmp_path / "run", batch_size=5, resume=True))
    with pytest.raises(ValueError, match="num_processes x batch_size=10 became 5"):
        alone.run()
    reset_accelerate()
    run = trainer(arguments(photos, tmp_path / "run", batch_size=10, resume=True))
    run.run()
    assert (run.progress.epoch, run.progress.step) == (2, 6)


def test_norms_are_not_synced_while_processes_calibrate(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(arguments(photos, tmp_path, eval_every=1, epochs=1))
    events = []

    class Norms:
        @contextmanager
        def undone(self) -> Iterator[None]:
            events.append("undone")
            yield
            events.append("synced")

        def undo(self) -> None:
            events.append("undone for good")

    run.norms = Norms()
    monkeypatch.setattr(
        "prunnet_hf.training.trainer.measure_running_statistics", lambda *_, **__: events.append("calibrated")
    )
    run.run()
    assert events == ["undone", "calibrated", "synced", "undone for good", "calibrated"]


def test_one_process_goes_on_where_two_stopped(
    photos: Path, by_two: tuple[Path, list[dict[str, Any]]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(by_two[0] / "whole/checkpoints/step-3", tmp_path / "run/checkpoints/step-3")
    same_batches = trainer(arguments(photos, tmp_path / "run", batch_size=10, checkpoint_every=1, resume=True))
    same_batches.run()
    assert "with 1 processes and had 2 before" in caplog.text
    assert "not be, bit for bit" in caplog.text
    assert (same_batches.progress.epoch, same_batches.progress.step) == (2, 6)
    assert same_batches.schedule.last_epoch == 6


def test_learning_rate_goes_on_from_the_same_epoch_when_steps_take_fewer_images(
    photos: Path, by_two: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    shutil.copytree(by_two[0] / "whole/checkpoints/step-3", tmp_path / "run/checkpoints/step-3")
    run = trainer(arguments(photos, tmp_path / "run", batch_size=5, checkpoint_every=1, resume=True))
    rates = []
    update = run.step.update

    def update_and_note_the_rate(step: int) -> None:
        rates.append(run.schedule.get_last_lr()[0])
        update(step)

    run.step.update = update_and_note_the_rate
    run.run()
    # The first epoch had 3 steps, the second has 6: half a cosine of 0.0375 over two epochs, from its middle on.
    expected = [0.01875 * (1 + math.cos(math.pi * (1 + part / 6) / 2)) for part in range(6)]
    assert rates == pytest.approx(expected)
    assert (run.progress.epoch, run.progress.step) == (2, 3 + 6)


@pytest.mark.parametrize("streaming", [False, True])
def test_waiting_for_data_is_part_of_the_time_and_told(
    streaming: bool, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trainer(arguments(photos, tmp_path, data={"streaming": streaming}))
    loader = run.batches.loader
    load = TrainingCollator.__call__

    def load_late(collate: TrainingCollator, rows: list[dict[str, object]]) -> object:
        time.sleep(0.1)
        return load(collate, rows)

    monkeypatch.setattr(TrainingCollator, "__call__", load_late)
    update = run.step.update

    def update_late(step: int) -> None:
        time.sleep(0.3)  # not waiting for data
        update(step)

    monkeypatch.setattr(run.step, "update", update_late)
    facts = run.run().facts
    assert run.batches.loader is loader
    assert 6 * 0.1 <= run.batches.waiting_seconds < 6 * 0.3  # 2 epochs of 3 steps
    assert run.progress.epoch_seconds >= 6 * 0.4
    assert 0 < facts.waiting_for_data < 1
    assert f"Waiting for data took {facts.waiting_for_data:.1%} of" in capsys.readouterr().out


def test_base_model_on_the_hub_is_known_although_the_run_makes_a_folder_of_its_name(
    photos: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = arguments(photos, Path("org/name"), source=Path("org/name"), epochs=1, checkpoint_every=1)
    model = PrunNetForImageClassification.from_pretrained(finished / "model")
    tuning = Trainer(run, create_accelerator(run), load_run_data(run), model=model)
    assert tuning.run().facts.base_model == "org/name"


def test_too_few_images_for_a_step(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"batch_size=31 .*30 training images"):
        trainer(arguments(photos, tmp_path, batch_size=31))


def test_corrupt_training_image_stops_or_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    photos = make_photos(tmp_path / "photos")
    broken = photos / "train/train-1/2.png"
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(ValueError, match=r"1 of 30 images .*2\.png.*--skip_corrupt_images"):
        trainer(arguments(photos, tmp_path / "run"))
    run = trainer(arguments(photos, tmp_path / "run", data={"skip_corrupt_images": True}, epochs=1))
    assert "1 of 30 images" in caplog.text
    assert run.run().facts.num_train_images == 29


def test_the_model_owns_the_image_processor_of_the_run(photos: Path, tmp_path: Path) -> None:
    run = trainer(arguments(photos, tmp_path / "run"))
    assert run.model.image_processor is run.processor
    assert run.model.prunnet.image_processor is run.processor
