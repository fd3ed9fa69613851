"""Checkpoints: whole or absent, the newest few kept, and everything back after loading."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from prunnet_hf import PrunNetConfig, PrunNetForImageClassification, PrunNetImageProcessor
from prunnet_hf.training.checkpoints import (
    Progress,
    best_directory,
    check_output_dir,
    check_output_dir_is_shared,
    forget_others,
    keep_best,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from tests.processes import run_processes


@pytest.fixture
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


def names(run: Path) -> list[str]:
    return [path.name for path in list_checkpoints(run)]


def test_newest_checkpoints_are_kept_in_the_order_of_their_numbers(accelerator: Accelerator, tmp_path: Path) -> None:
    accelerator.prepare(nn.Linear(2, 2))
    for step in (9, 10, 100):
        save_checkpoint(accelerator, tmp_path, step, keep=2)
    assert names(tmp_path) == ["step-10", "step-100"]


def test_interrupted_checkpoint_is_none_and_is_cleared_away_by_the_next(
    accelerator: Accelerator, tmp_path: Path
) -> None:
    accelerator.prepare(nn.Linear(2, 2))
    (tmp_path / "checkpoints" / "step-5.partial").mkdir(parents=True)
    assert names(tmp_path) == []
    saved = save_checkpoint(accelerator, tmp_path, 5, keep=1)
    assert [path.name for path in saved.parent.iterdir()] == ["step-5"]


def test_model_optimiser_progress_and_random_state_come_back(accelerator: Accelerator, tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    progress = Progress(epoch=3, step=12, best_score=0.5)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    save_checkpoint(accelerator, tmp_path, 12, keep=1, states={"progress": progress})
    weight, momentum, drawn = model.weight.clone(), momentum_of(optimizer, model), torch.rand(3)

    optimizer.step()
    progress.epoch, progress.step, progress.best_score = 4, 16, 0.75
    load_checkpoint(accelerator, tmp_path, {"progress": progress})
    assert torch.equal(model.weight, weight)
    assert torch.equal(momentum_of(optimizer, model), momentum)
    assert progress == Progress(epoch=3, step=12, best_score=0.5)
    assert torch.equal(torch.rand(3), drawn)


def momentum_of(optimizer: torch.optim.Optimizer, model: nn.Linear) -> torch.Tensor:
    return optimizer.state[model.weight]["momentum_buffer"].clone()


def test_fresh_run_needs_a_place_without_checkpoints(tmp_path: Path) -> None:
    check_output_dir(tmp_path / "new", resume=False)
    (tmp_path / "checkpoints" / "step-7").mkdir(parents=True)
    check_output_dir(tmp_path, resume=True)
    with pytest.raises(FileExistsError, match=r"output_dir=.*step-7.*--resume"):
        check_output_dir(tmp_path, resume=False)


def test_resuming_needs_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"--resume .*--checkpoint_every"):
        check_output_dir(tmp_path, resume=True)


def test_output_dir_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match=r"output_dir.*file"):
        check_output_dir(tmp_path / "file", resume=False)


def look_for_shared_directories(folder: Path) -> list[str]:
    """The errors of a process that looks at the same directory as the others, and then at one of its own."""
    found = []
    for directory in (folder / "one", folder / "two" / os.environ["RANK"]):
        try:
            check_output_dir_is_shared(Accelerator(cpu=True), directory)
            found.append("")
        except ValueError as error:
            found.append(str(error))
    return found


def test_processes_that_see_another_directory_are_named(tmp_path: Path) -> None:
    for shared, own in run_processes(2, look_for_shared_directories, tmp_path, folder=tmp_path):
        assert shared == ""
        assert "output_dir=" in own
        assert "processes [1] don't see" in own
    left = [path.name for run in ("one", "two") for path in (tmp_path / run).rglob("*")]
    assert sorted(left) == ["0", "1"]


@pytest.fixture(scope="module")
def model() -> PrunNetForImageClassification:
    backbone_kwargs = {"channels": [4, 4, 8, 8], "stem_width": 4}
    config = PrunNetConfig(backbone="resnet10t", backbone_kwargs=backbone_kwargs, embedding_dim=6, num_labels=3)
    return PrunNetForImageClassification(config)


def best_names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "best").iterdir())


def test_each_is_kept_by_its_step_with_a_space_until_others_are_forgotten(
    model: PrunNetForImageClassification, tmp_path: Path
) -> None:
    for step in (3, 6):
        keep_best(tmp_path, step, model, PrunNetImageProcessor())
    assert best_names(tmp_path) == ["step-3", "step-6"]
    loaded = PrunNetForImageClassification.from_pretrained(best_directory(tmp_path, 6))
    assert loaded.config.embedding_space
    assert (best_directory(tmp_path, 6) / "preprocessor_config.json").is_file()
    forget_others(tmp_path, 3)
    assert best_names(tmp_path) == ["step-3"]


def test_one_cut_short_is_none_and_does_not_stand_in_the_way(
    model: PrunNetForImageClassification, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(PrunNetImageProcessor, "save_pretrained", fail)
        with pytest.raises(OSError, match="no space left"):
            keep_best(tmp_path, 3, model, PrunNetImageProcessor())
    assert not best_directory(tmp_path, 3).exists()
    keep_best(tmp_path, 3, model, PrunNetImageProcessor())
    assert best_names(tmp_path) == ["step-3"]


def test_nothing_to_forget_is_no_error(tmp_path: Path) -> None:
    forget_others(tmp_path, 3)
