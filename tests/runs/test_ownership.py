"""Run directories: what is a run, what may be removed, and one process at a time."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml

from prunnet_hf.runs.ownership import (
    claim_run,
    discard_conclusions,
    discard_run,
    earlier_work,
    is_run,
    phase_work,
)
from prunnet_hf.runs.run_directory import CARD_BEGINS, write_text
from prunnet_hf.training.checkpoints import check_output_dir

RECIPE = yaml.safe_dump({"dataset": "glyphs", "output_dir": "out", "backbone": "resnet18", "capacities": [0.2]})
RECORD = json.dumps({"format": 1, "dataset": "glyphs", "results": []})
OURS = {
    "config.yaml": RECIPE,
    "metrics.json": RECORD,
    "README.md": f"---\n---\n{CARD_BEGINS}\n# A card",
    **dict.fromkeys(("compatibility.png", "curve.png", "examples.png", "usage.json"), "old"),
    **dict.fromkeys(("compressibility.json", "compressibility.png", "trajectory.json", "trajectory.png"), "old"),
    "model/config.json": json.dumps({"model_type": "prunnet"}),
    "model/model.safetensors": "old",
    "model/preprocessor_config.json": "{}",
    "subnetworks/capacity-0.30/config.json": "{}",
    "subnetworks/capacity-0.30/model.packed.safetensors": "old",
    "best/step-9/model.safetensors": "old",
    "checkpoints/step-9/optimizer.bin": "old",
    "checkpoints/step-8.replaced/optimizer.bin": "old",
    "checkpoints/step-10.partial/optimizer.bin": "old",
    "initial/model.safetensors": "old",
    "rounds/01/round.json": "{}",
    "rounds/01/model/model.packed.safetensors": "old",
    "logs/prunnet/events.out.tfevents.1": "old",
    "dense/phase.json": "{}",
    "dense/model/model.safetensors": "old",
    "dense/checkpoints/step-9/optimizer.bin": "old",
    "dense/best/step-9/model.safetensors": "old",
    "dense/logs/prunnet/events.out.tfevents.1": "old",
}
THEIRS = [
    *(
        "notes.txt",
        "best/photo.png",
        "best/mine/model.safetensors",
        "subnetworks/mine.txt",
        "subnetworks/x/a.json",
    ),
    *("subnetworks/capacity-0.30/notes.txt", "model/notes.txt", "checkpoints/mine.pt", "checkpoints/step-final/a.bin"),
    *("rounds/notes.txt", "rounds/01/notes.txt", "logs/slurm.out", "initial/mine.bin", "dense/notes.txt"),
]


def fill(run: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        write_text(run / name, text)


def files_in(run: Path) -> set[str]:
    return {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}


def test_only_what_runs_write_is_removed(tmp_path: Path) -> None:
    fill(tmp_path, OURS)
    fill(tmp_path, dict.fromkeys(THEIRS, "mine"))
    assert earlier_work(tmp_path)
    discard_run(tmp_path)
    assert files_in(tmp_path) == set(THEIRS)
    assert earlier_work(tmp_path) == ["model", "initial", "rounds"]  # folders that theirs are in


@pytest.mark.parametrize(
    "theirs",
    [
        {"config.yaml": RECIPE, "checkpoints/step-9/optimizer.bin": "mine"},
        {"metrics.json": RECORD, "model/model.safetensors": "mine"},
        {"model/model.safetensors": "mine"},
    ],
)
def test_a_run_or_model_that_lies_where_the_first_phase_would_is_left_alone(
    tmp_path: Path, theirs: dict[str, str]
) -> None:
    fill(tmp_path, {"config.yaml": RECIPE})
    fill(tmp_path / "dense", theirs)
    assert phase_work(tmp_path) == []
    for options in ({"overwrite": True}, {"resume": True}, {"resume": False}):
        with pytest.raises(FileExistsError, match=r"output_dir=.* another run or model in dense/.*Choose another"):
            check_output_dir(tmp_path, has_dense_phase=True, **({"resume": False} | options))
    check_output_dir(tmp_path, resume=False, overwrite=True)  # a method with one phase isn't concerned
    discard_run(tmp_path)
    assert files_in(tmp_path) == {f"dense/{name}" for name in theirs}


def test_the_first_phase_is_work_of_the_run(tmp_path: Path) -> None:
    fill(tmp_path, {"config.yaml": RECIPE, "dense/checkpoints/step-9/optimizer.bin": "old"})
    assert earlier_work(tmp_path) == ["dense/checkpoints"]
    fill(tmp_path / "dense", {"phase.json": "{}", "model/model.safetensors": "old"})
    assert earlier_work(tmp_path) == ["dense/model", "dense/checkpoints"]
    with pytest.raises(FileExistsError, match=r"the newest dense/model, dense/checkpoints\..*--resume"):
        check_output_dir(tmp_path, resume=False, has_dense_phase=True)


def test_nothing_stays_of_a_run_alone(tmp_path: Path) -> None:
    fill(tmp_path, OURS)
    discard_run(tmp_path)
    assert list(tmp_path.iterdir()) == []
    discard_run(tmp_path)  # no error if nothing is there


def test_conclusions_of_an_earlier_run_go_and_all_else_stays(tmp_path: Path) -> None:
    fill(tmp_path, OURS)
    fill(tmp_path, {"README.md": "by hand"})
    discard_conclusions(tmp_path)
    gone = {"metrics.json", "compatibility.png", "curve.png", "examples.png", "usage.json", "compressibility.json"}
    gone |= {"compressibility.png", "subnetworks/capacity-0.30/config.json"}
    gone |= {"subnetworks/capacity-0.30/model.packed.safetensors"}
    assert files_in(tmp_path) == OURS.keys() - gone


@pytest.mark.parametrize(
    "name", ["config.yaml", "metrics.json", "model/config.json", "checkpoints/step-9/optimizer.bin"]
)
def test_each_of_these_shows_a_run(name: str, tmp_path: Path) -> None:
    fill(tmp_path, {name: OURS[name]})
    assert is_run(tmp_path)


@pytest.mark.parametrize(
    "theirs",
    [
        {"notes.txt": "mine"},
        {"best/model.pt": "mine"},
        {"subnetworks/capacity-0.20/config.json": "{}"},
        {"config.yaml": "lr: 0.1"},
        {"config.yaml": "- 1"},
        {"config.yaml": ": {"},
        {"metrics.json": "[]"},
        {"metrics.json": '{"accuracy": 1}'},
        {"model/config.json": '{"model_type": "bert"}'},
        {"checkpoints/last.ckpt": "mine"},
    ],
)
@pytest.mark.parametrize("mode", [{}, {"overwrite": True}, {"eval_only": True}])
def test_what_somebody_made_is_refused_and_stays(
    theirs: dict[str, str], mode: dict[str, bool], tmp_path: Path
) -> None:
    fill(tmp_path / "theirs", theirs)
    first = next(iter(theirs)).partition("/")[0]
    with pytest.raises(
        FileExistsError, match=rf"output_dir='.*theirs' must be empty.*holds {first}\..*another output"
    ):
        check_output_dir(tmp_path / "theirs", resume=False, **mode)
    assert files_in(tmp_path / "theirs") == set(theirs)


@pytest.mark.parametrize("mode", [{}, {"resume": True}, {"overwrite": True}, {"eval_only": True}])
def test_a_readme_by_hand_is_refused(mode: dict[str, bool], tmp_path: Path) -> None:
    fill(tmp_path, {**OURS, "README.md": "# My notes"})
    with pytest.raises(FileExistsError, match=r"output_dir=.*README\.md that no run wrote.*another output_dir"):
        check_output_dir(tmp_path, **{"resume": False, **mode})


def test_a_finished_run_is_replaced_only_if_asked(tmp_path: Path) -> None:
    fill(tmp_path, {name: OURS[name] for name in ("config.yaml", "metrics.json", "model/config.json")})
    with pytest.raises(FileExistsError, match=r"earlier run \(metrics\.json, model\).*--overwrite_output_dir"):
        check_output_dir(tmp_path, resume=False)
    check_output_dir(tmp_path, resume=False, overwrite=True)
    check_output_dir(tmp_path, resume=False, eval_only=True)


def test_a_run_that_came_to_nothing_is_no_obstacle(tmp_path: Path) -> None:
    fill(tmp_path, {"config.yaml": RECIPE, "logs/prunnet/events.out.tfevents.1": ""})
    check_output_dir(tmp_path, resume=False)
    fill(tmp_path, {"checkpoints/step-1.partial/model.safetensors": ""})  # killed in its first checkpoint
    check_output_dir(tmp_path, resume=False)
    fill(tmp_path, {"checkpoints/step-2/model.safetensors": ""})
    with pytest.raises(FileExistsError, match=r"output_dir.*checkpoints.*--overwrite_output_dir"):
        check_output_dir(tmp_path, resume=False)


def test_a_second_process_is_told_who_is_first(tmp_path: Path) -> None:
    run = tmp_path / "new" / "run"
    with claim_run(run):
        assert not run.exists()
        (tmp_path / "link").symlink_to(run)
        with pytest.raises(BlockingIOError, match=rf"output_dir=.*link' .*process {os.getpid()} on .*another"):
            claim_run(tmp_path / "link").__enter__()
    assert list((tmp_path / "new").iterdir()) == []


def test_a_replaced_pruning_loop_leaves_no_record_of_its_images_and_no_manifest(tmp_path: Path) -> None:
    (tmp_path / "initial").mkdir()
    for name in ("data.json", "initial/config.json", "initial/manifest.json"):
        (tmp_path / name).touch()
    discard_run(tmp_path)
    assert list(tmp_path.iterdir()) == []
