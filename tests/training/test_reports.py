"""What a training says while it runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from prunnet_hf.runs.arguments import DataArguments, ModelArguments, RunArguments, TrainArguments
from prunnet_hf.training.engine import train
from prunnet_hf.training.reports import TrainingReport, long_training
from tests.training.tiny_run import arguments, metrics


def test_the_seconds_of_an_epoch_are_counted_from_where_the_training_begins(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr("prunnet_hf.training.reports.time.perf_counter", lambda: now[0])
    run = RunArguments(ModelArguments(), DataArguments(), TrainArguments(epochs=2))
    report = TrainingReport(Accelerator(cpu=True), run, ["capacity-1.00"], 3, "dense network")
    now[0] = 700.0  # another phase took these 600 s
    report.begin()
    for ended in (705.0, 712.0):
        now[0] = ended
        report.step(torch.tensor([1.5]), 3)
        report.epoch(0.1, 3, 1)
    lines = capsys.readouterr().out.splitlines()
    assert [line.rpartition("; ")[2] for line in lines] == ["5 s", "7 s"]
    assert lines[0] == "dense network, epoch 1 of 2: loss capacity-1.00 1.500; learning rate 0.1; 5 s"


def scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a run: steps and values by name."""
    found: dict[str, list[tuple[int, float]]] = {}
    for file in (run / "logs").glob("**/events*"):
        events = EventAccumulator(str(file.parent)).Reload()
        found |= {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}
    return found


def test_a_run_of_six_steps_has_its_rate_its_epochs_and_its_results(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(arguments(photos, tmp_path, log_every=10, report_to=["tensorboard"], lr_schedule="cosine"))
    found = scalars(tmp_path)
    assert [step for step, _ in found["learning_rate"]] == [3, 6]  # an entry an epoch of three steps
    # The cosine from 0.0375 is at half its height after half the steps, and ends at 0.
    assert [rate for _, rate in found["learning_rate"]] == pytest.approx([0.01875, 0.0], abs=1e-6)
    assert found["epoch"] == [(3, 1.0), (6, 2.0)]
    dense = found["epoch_loss/capacity-1.00"]
    assert [step for step, _ in dense] == [3, 6]
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    assert [line.partition(":")[0] for line in lines] == ["epoch 1 of 2", "epoch 2 of 2"]
    assert f"capacity-1.00 {dense[1][1]:.3f}" in lines[1]
    for result in metrics(tmp_path)["results"]:
        query, gallery = result["query_capacity"], result["gallery_capacity"]
        for kind in [kind for kind, other in (("self", query), ("cross", 1.0)) if gallery == other]:
            name = f"test/{result['metric']}/{kind}/capacity-{query:.2f}"
            assert found[name] == [(6, pytest.approx(result["value"]))]


def test_evaluating_again_is_tracked_too(photos: Path, finished: Path, tmp_path: Path) -> None:
    train(arguments(photos, tmp_path, source=finished / "model", eval_only=True, report_to=["tensorboard"]))
    assert "test/mAP/cross/capacity-0.20" in scalars(tmp_path)


def run_of(epochs: int, **model: str) -> RunArguments:
    return RunArguments(ModelArguments(**model), DataArguments(), TrainArguments(epochs=epochs))


def test_hours_are_foretold_with_what_makes_them_minutes() -> None:
    # 100 steps an epoch of 4 s each: 30 epochs take 12,000 s, and 4 epochs 1,600 s.
    line = long_training(4.0, 3000, 100, run_of(30), "cpu")
    assert line is not None
    assert "At 4 s a step, the 3,000 steps that are left take about 3.3 hours on this CPU" in line
    for advice in ("a GPU", "--image_size 64", "--backbone resnet10t", "--epochs 4"):
        assert advice in line
    assert "resnet10t" not in str(long_training(4.0, 3000, 100, run_of(30, model_name_or_path="org/name"), "cpu"))
    assert "--epochs" not in str(long_training(20.0, 3000, 100, run_of(30), "cpu"))  # one takes longer than that
    assert long_training(4.0, 899, 100, run_of(30), "cpu") is None  # less than an hour
