"""Steps, one after another or several at a time, each in processes of its own with one thread.

A step that is killed leaves no row, so it starts again the next time.
"""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunnet_hf.runs.run_directory import write_json

from ..compare.queues import WaitingQueue, empty
from ..compare.running import ROOT, Place, RunFailed, run_process
from .images import make_part, make_shifted, make_validation, write_targets
from .measures import figures_of
from .plan import EVERY, MOVED, TARGETS, Command, Step, steps_of

ROW_FORMAT = 1
PROGRAMS = {"train": [str(ROOT / "train_accelerate.py")]}
"""Every other command is a verb of `prunnet`."""
FOLDERS = {MOVED: make_shifted, "{part}": make_part, "{validation}": make_validation}
_MAKING = threading.Lock()
"""Of folders of images: two jobs may need the same one."""
CUT_OFF = ("checkpoints", "subnetworks", "dense")
"""Folders of a finished run that nothing needs any more."""


@dataclass
class Site:
    """Where the steps of a data set read and write.

    Attributes:
        name: Of the data set.
        place: Its images, the folder of all runs, and that of all rows.
        usual: The runs of `benchmarks.compare`, if they are there already.
    """

    name: str
    place: Place
    usual: Path | None = None

    @property
    def work(self) -> Path:
        """The folder of its runs."""
        return self.place.work_dir.resolve() / self.name

    def directory(self, step: Step) -> Path:
        """Where a step's output lies."""
        return self.work / step.name

    def row(self, step: Step) -> Path:
        """The file of a step's row."""
        return self.place.results / self.name / f"{step.name}.json"

    def steps(self, seeds: Sequence[int]) -> list[Step]:
        """All steps, in their order."""
        return steps_of(self.name, seeds, has_usual=[seed for seed in seeds if self._known_usual(seed).is_dir()])

    def usual_run(self, seed: int) -> Path:
        """The usual run of a seed, in its own space."""
        known = self._known_usual(seed)
        return known if known.is_dir() else self.work / f"usual-seed{seed}"

    def _known_usual(self, seed: int) -> Path:
        root = Path("nowhere") if self.usual is None else self.usual.resolve() / self.name
        return root / "main" / f"default-weights-seed{seed}"

    def words(self, command: Command, seed: int) -> list[str]:
        """A command with its folders, which are made if need be."""
        places = {"{work}": self.work, "{data}": self.place.data_dir.resolve()}
        places[f"{{usual}}-seed{seed}"] = self.usual_run(seed)
        places |= {place: self.images(place) for place in FOLDERS if place in command}
        verb, *words = command
        for place, folder in places.items():
            words = [word.replace(place, str(folder)) for word in words]
        return [sys.executable, *PROGRAMS.get(verb, ["-m", "prunnet_hf.cli.main", verb]), *words]

    def images(self, place: str) -> Path:
        """One of the folders of images that `FOLDERS` make; made if need be."""
        folder = self.work / place.strip("{}")
        with _MAKING:
            FOLDERS[place](self.place.data_dir.resolve(), folder)
        return folder

    def is_done(self, step: Step) -> bool:
        """Whether there is a row, made by the same commands."""
        file = self.row(step)
        if not file.is_file():
            return False
        commands = json.loads(file.read_text(encoding="utf-8"))["commands"]
        return bool(commands == [list(command) for command in step.commands])


def perform(step: Step, site: Site) -> dict[str, Any]:
    """Do a step, and write its row.

    Raises:
        RunFailed: If one of its processes ends with an error.
    """
    directory = site.directory(step)
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    log = directory.with_name(f"{directory.name}.log")
    log.unlink(missing_ok=True)
    seconds = sum(run_process(site.words(command, step.seed), log, site.place) for command in step.commands)
    if (directory / EVERY).is_file():
        write_targets(directory / EVERY, directory / TARGETS)
    phone = next((site.work / need for need in step.needs if (site.work / need / EVERY).is_file()), directory)
    row = {
        "format": ROW_FORMAT,
        "set": site.name,
        "step": step.name,
        "measure": step.measure,
        "label": step.label,
        "seed": step.seed,
        "commands": [list(command) for command in step.commands],
        "cpu_seconds": round(seconds, 1),
        **figures_of(step, site, phone),
    }
    write_json(site.row(step), row)
    for name in CUT_OFF:
        shutil.rmtree(directory / name, ignore_errors=True)
    return row


class Queue(WaitingQueue[Step]):
    """Hands out steps in their order; one waits until those that it needs are done.

    Args:
        steps: In the order of their importance.
        site: Where the rows are, which aren't made again, and the folders that steps need.
    """

    def __init__(self, steps: Sequence[Step], site: Site) -> None:
        super().__init__(step for step in steps if not site.is_done(step))
        self.site = site

    def can_begin(self, step: Step) -> bool:
        """Whether the folders that it needs are there, and nobody is about to make them."""
        begun = {other.name for other in (*self.waiting, *self.active)}
        return not begun & set(step.needs) and all((self.site.work / need).is_dir() for need in step.needs)


def perform_all(steps: Sequence[Step], site: Site, jobs: int) -> list[str]:
    """Do all steps without a row, `jobs` at a time.

    Returns:
        What went wrong, a line for each step that failed or could not begin.
    """
    queue = Queue(steps, site)
    failures: list[str] = []
    print(f"{len(queue.waiting)} of {len(steps)} steps have no row yet", flush=True)

    def do(step: Step) -> None:
        began = time.monotonic()
        try:
            row = perform(step, site)
            print(f"{site.name} {step.name}: {shown(row)}, {time.monotonic() - began:.0f} s", flush=True)
        except (RunFailed, OSError, ValueError, KeyError) as error:
            failures.append(f"{step.name} failed: {error}")
            shutil.rmtree(site.directory(step), ignore_errors=True)  # nothing may begin from it
            print(failures[-1], flush=True)

    empty(queue, do, jobs, site.place.stop)
    return failures + [f"{step.name} needs the folders of {', '.join(step.needs)}" for step in queue.waiting]


def shown(row: dict[str, Any]) -> str:
    """The figures of a row in percent."""
    return " ".join(f"{name}: {100 * value:.1f}" for name, value in row["values"].items())
