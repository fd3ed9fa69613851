"""Runs, one after another or several at a time, each in processes of its own with one thread.

A run that is killed leaves no row, so it starts again the next time. Of a finished run's directory only the model
stays, for those that are compared with it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prunnet_hf.runs.record import RECORD
from prunnet_hf.runs.run_directory import write_json

from .methods import VALIDATION, words_of
from .plan import Run, training_flags
from .queues import WaitingQueue, empty
from .rows import row_of

ROOT = Path(__file__).parents[2]
HELD_OUT = "Korean"
"""The training classes whose names begin so are those of the validation."""
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1"}
CUT_OFF = ("checkpoints", "subnetworks")
"""Folders of a finished run that nothing needs any more."""


class RunFailed(RuntimeError):  # noqa: N818  # "RunFailed: ... ended with status 1" reads better
    """A process of a run ended with an error."""


@dataclass
class Place:
    """Where runs read and write.

    Attributes:
        data_dir: The images.
        work_dir: Run directories and logs, which can be deleted when all rows are there.
        results: The rows.
    """

    data_dir: Path
    work_dir: Path
    results: Path
    running: set[subprocess.Popen[bytes]] = field(default_factory=set)

    def directory(self, run: Run) -> Path:
        """The run directory of a run."""
        return self.work_dir / run.recipe / run.phase / run.name

    def has_model(self, run: Run) -> bool:
        """Whether its network is still there."""
        return (self.directory(run) / "model" / "config.json").is_file()

    def log(self, run: Run) -> Path:
        """Where its processes print to."""
        directory = self.directory(run)
        return directory.with_name(f"{directory.name}.log")  # with_suffix would cut "0.2-seed0" off

    def images(self, run: Run) -> Path:
        """The folder with its images."""
        return self.validation_folder() if run.phase == VALIDATION else self.data_dir.resolve()

    def validation_folder(self) -> Path:
        """A folder of links to the training classes, those of `HELD_OUT` under `test/`; made if necessary."""
        folder = self.work_dir.resolve() / f"{self.data_dir.resolve().name}-{HELD_OUT}"
        for source in sorted((self.data_dir.resolve() / "train").iterdir()):
            link = folder / ("test" if source.name.startswith(HELD_OUT) else "train") / source.name
            link.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):  # another job makes them too
                link.symlink_to(source, target_is_directory=True)
        return folder

    def stop(self) -> None:
        """End the processes that are running."""
        for process in list(self.running):
            process.terminate()


def training_command(run: Run, place: Place) -> list[str]:
    """The command that trains, or prunes what its teacher's run trained."""
    folders = ["--data_dir", str(place.images(run)), "--output_dir", str(place.directory(run))]
    if run.entry.post_hoc and run.teacher is not None:
        program = [sys.executable, "-m", "benchmarks.compare.post_hoc", str(place.directory(run.teacher))]
        return [*program, *folders, *words_of(run.flags)]
    words = [sys.executable, str(ROOT / "train_accelerate.py"), *training_flags(run), *folders]
    if run.teacher is not None:
        words += ["--teacher", str(place.directory(run.teacher))]
    return words


def perform(run: Run, place: Place) -> dict[str, Any]:
    """Do a run, and write its row.

    Raises:
        RunFailed: If one of its processes ends with an error.
    """
    directory, log = place.directory(run), place.log(run)
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    seconds = run_process(training_command(run, place), log, place)
    in_teacher = None
    if run.entry.has_teacher and run.teacher is not None:
        file = directory / "cross.json"
        words = [sys.executable, "-m", "benchmarks.compare.cross", str(directory)]
        words += [str(place.directory(run.teacher)), "--data_dir", str(place.images(run)), "--output", str(file)]
        run_process(words, log, place)
        in_teacher = next(iter(json.loads(file.read_text(encoding="utf-8")).values()))
    record = json.loads((directory / RECORD).read_text(encoding="utf-8"))
    row = row_of(run, record, seconds, in_teacher)
    write_json(run.row(place.results), row)
    for name in CUT_OFF:
        shutil.rmtree(directory / name, ignore_errors=True)
    return row


def run_process(words: Sequence[str], log: Path, place: Place) -> float:
    """Run a process with one thread, its output in `log`; returns the CPU seconds of it and its children.

    Raises:
        RunFailed: If it ends with an error.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(words, stdout=output, stderr=output, cwd=ROOT, env={**os.environ, **ONE_THREAD})
        place.running.add(process)
        try:
            _, status, usage = os.wait4(process.pid, 0)  # Popen.wait doesn't say what the process used
        finally:
            place.running.discard(process)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RunFailed(f"{log} ends with: {last_line(log)}")
    return usage.ru_utime + usage.ru_stime


def last_line(log: Path) -> str:
    """The last line of a log that isn't empty."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "nothing"


class Queue(WaitingQueue[Run]):
    """Hands out runs in their order; one whose teacher isn't there yet waits.

    Args:
        runs: In the order of their importance.
        place: Where the rows are, which aren't made again, and the models of teachers.
    """

    def __init__(self, runs: Sequence[Run], place: Place) -> None:
        super().__init__(run for run in runs if not run.is_done(place.results))
        self.place = place

    def can_begin(self, run: Run) -> bool:
        """Whether the model of its teacher is there."""
        teacher = run.teacher
        return teacher is None or (teacher.is_done(self.place.results) and self.place.has_model(teacher))


def perform_all(runs: Sequence[Run], place: Place, jobs: int) -> list[str]:
    """Do all runs without a row, `jobs` at a time.

    Returns:
        What went wrong, a line for each run that failed or could not begin.
    """
    queue = Queue(runs, place)
    failures: list[str] = []
    print(f"{len(queue.waiting)} of {len(runs)} runs have no row yet", flush=True)

    def do(run: Run) -> None:
        began = time.monotonic()
        try:
            row = perform(run, place)
            taken = f"{time.monotonic() - began:.0f} s"
            print(f"{run.recipe} {run.phase} {run.name}: {figures(row)}, {taken}", flush=True)
        except (RunFailed, OSError, ValueError, KeyError) as error:
            failures.append(f"{run.recipe} {run.phase} {run.name} failed: {error}")
            print(failures[-1], flush=True)

    empty(queue, do, jobs, place.stop)
    return failures + [
        f"{run.name} needs the model of {run.teacher.name}, whose row must be removed to train it again"
        if run.teacher.is_done(place.results)
        else f"{run.name} needs {run.teacher.name}"
        for run in queue.waiting
        if run.teacher
    ]


def figures(row: dict[str, Any]) -> str:
    """The cross-tests of a row in percent."""
    return " ".join(f"{name}: {100 * value:.1f}" for name, value in row["cross"].items())
