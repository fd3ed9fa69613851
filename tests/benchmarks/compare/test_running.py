"""How runs are handed out, and what a process leaves."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from benchmarks.compare.methods import find_entry
from benchmarks.compare.plan import Run, choose, compared_runs
from benchmarks.compare.running import Place, Queue, RunFailed, perform_all, run_process, training_command

from .test_plan import write_row


@pytest.fixture
def place(tmp_path: Path) -> Place:
    classes = [*(f"train/{name}" for name in ("Greek-1", "Korean-1", "Korean-2")), "test/Latin-1"]
    for name in classes:
        (tmp_path / "images" / name).mkdir(parents=True)
    return Place(tmp_path / "images", tmp_path / "work", tmp_path / "results")


def runs_of_seed_0(place: Place, *names: str) -> list[Run]:
    runs = compared_runs("omniglot", "main", choose(place.results))
    return [run for run in runs if run.entry.name in names and run.seed == 0]


def write_model(run: Run, place: Place) -> None:
    folder = place.directory(run) / "model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")


def test_runs_with_a_row_are_not_handed_out(place: Place) -> None:
    first, second = runs_of_seed_0(place, "alone 0.2", "paper")
    write_row(first, place.results, {"0.2": 0.5})
    queue = Queue([first, second], place)
    assert queue.take() == second
    queue.finish(second)
    assert queue.take() is None


def test_a_run_waits_for_its_teacher(place: Place) -> None:
    teacher, other, student = runs_of_seed_0(place, "alone, dense", "alone 0.1", "regression 0.2")[:3]
    student, other = sorted((student, other), key=lambda run: run.teacher is None)
    queue = Queue([teacher, student, other], place)
    assert queue.take() == teacher
    assert queue.take() == other  # the student's teacher has no row yet
    taken: list[Run | None] = []
    waiting = threading.Thread(target=lambda: taken.append(queue.take()), daemon=True)
    waiting.start()
    write_row(teacher, place.results, {"1": 0.5})
    write_model(teacher, place)
    queue.finish(teacher)
    waiting.join(timeout=30)
    assert taken == [student]


def test_a_run_whose_teacher_failed_never_begins(place: Place) -> None:
    teacher, student = runs_of_seed_0(place, "alone, dense", "bct 0.1")
    queue = Queue([teacher, student], place)
    queue.finish(queue.take())
    assert queue.take() is None
    assert queue.waiting == [student]


@pytest.mark.parametrize("lacking", ["the model", "a row of the same flags"])
def test_a_run_never_begins_without_the_model_of_its_teacher(place: Place, lacking: str) -> None:
    teacher, student = runs_of_seed_0(place, "alone, dense", "bct 0.1")
    if lacking == "the model":
        write_row(teacher, place.results, {"1": 0.5})
    else:
        write_model(teacher, place)
        write_row(teacher, place.results, {"1": 0.5}, {**teacher.flags, "margin": 0.9})
    queue = Queue([student], place)
    assert queue.take() is None
    expected = (
        "needs the model of alone-dense-seed0, whose row" if lacking == "the model" else "needs alone-dense-seed0"
    )
    assert expected in perform_all([student], place, 1)[0]


def test_validation_holds_classes_out_of_the_training_folder(place: Place) -> None:
    for _ in range(2):  # the second time everything is there
        folder = place.validation_folder()
    assert sorted(link.name for link in (folder / "train").iterdir()) == ["Greek-1"]
    assert sorted(link.name for link in (folder / "test").iterdir()) == ["Korean-1", "Korean-2"]
    assert (folder / "test" / "Korean-1").samefile(place.data_dir / "train" / "Korean-1")


def test_a_student_is_trained_with_its_teacher(place: Place) -> None:
    (student,) = runs_of_seed_0(place, "bct 0.1")
    words = training_command(student, place)
    assert words[words.index("--teacher") + 1] == str(place.work_dir / "omniglot" / "main" / "alone-dense-seed0")
    assert words[words.index("--seed") + 1] == "0"
    (alone,) = runs_of_seed_0(place, "alone 0.1")
    assert "--teacher" not in training_command(alone, place)
    trial = Run(find_entry("paper"), "omniglot", "validation", 0, {}, 1)
    assert str(place.validation_folder()) in training_command(trial, place)


def test_a_process_writes_its_log_and_its_time_is_counted(place: Place, tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    work = "import os, time\nprint(os.environ['OMP_NUM_THREADS'])\nwhile time.process_time() < 0.2: pass"
    assert 0.2 <= run_process([sys.executable, "-c", work], log, place) < 5
    assert log.read_text() == "1\n"
    assert not place.running


def test_a_process_that_fails_is_reported_with_its_last_line(place: Place, tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"run\.log ends with: no such flag"):
        run_process([sys.executable, "-c", "raise SystemExit('no such flag')"], tmp_path / "run.log", place)


def test_runs_of_two_capacities_have_logs_of_their_own(place: Place) -> None:
    logs = {place.log(run).name for run in runs_of_seed_0(place, "alone 0.1", "alone 0.2")}
    assert logs == {"alone-0.1-seed0.log", "alone-0.2-seed0.log"}
