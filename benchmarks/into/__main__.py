"""Measure training into a space that exists: a foreign teacher's gallery, shifted queries, and an upgrade.

    python -m benchmarks.into --set omniglot --data_dir DIR --usual out/compare --jobs 2
    python -m benchmarks.into --set omniglot --list
    python -m benchmarks.into --report

A teacher twice as wide embeds a gallery of unseen classes; networks of all capacities are trained to search it,
beside one network for each capacity, and an orthogonal map of the usual training's queries. A subnetwork of capacity
0.2 is trained further on shifted images, and searches its parent's gallery, which stays. A network of 30 % of the
classes is trained further on all of them, and searches the old gallery.

All trainings are by the package's own command line. A row is written to --results as soon as a step ends, and a step
with a row is not done again. --usual is the --work_dir of `benchmarks.compare`, whose runs `default-weights-seed0` and
so on are the usual training; those that aren't there are made. --report writes tables and pictures of all rows into
docs/into-a-space.md.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from types import FrameType

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

from prunnet_hf.commands import CommandParser, run_command

from ..compare.running import Place
from .plan import SEEDS, SETS, Step, quick
from .report import write_report
from .running import Site, perform_all

RESULTS = Path(__file__).parents[1] / "results" / "into"


def main() -> None:
    """Do the steps that are missing, list all, or write what their rows say."""
    given = parse()
    if given.report:
        print(*write_report(given.results), sep="\n")
        return
    place = Place(given.data_dir or Path(), given.work_dir, given.results)
    site = Site(given.set, place, given.usual)
    every = site.steps(given.seeds)
    steps = [quick(step) if given.quick else step for step in selected(every, given.only)]
    if given.list:
        for step in steps:
            print("done" if site.is_done(step) else "    ", step.measure.ljust(10), step.name)
        return
    signal.signal(signal.SIGTERM, _stop)
    failures = perform_all(steps, site, given.jobs)
    if failures:
        raise ValueError(f"{len(failures)} steps have no row: {'; '.join(failures)}")


def parse() -> argparse.Namespace:
    """The arguments."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", choices=list(SETS), help="name of the recipe")
    parser.add_argument("--data_dir", type=Path, help="the folder of its images, with train/ and test/")
    parser.add_argument("--usual", type=Path, help="the --work_dir of benchmarks.compare, if its runs are there")
    parser.add_argument("--work_dir", type=Path, default=Path("out/into"), help="run directories and logs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where rows are written")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these steps, named as --list does")
    parser.add_argument("--quick", action="store_true", help="trainings of one epoch, to see that everything runs")
    parser.add_argument("--jobs", type=int, default=1, help="how many steps at a time, each with one thread")
    parser.add_argument("--list", action="store_true", help="only list the steps, and which have a row")
    parser.add_argument("--report", action="store_true", help="write the tables and pictures of all rows, and end")
    given = parser.parse_args()
    needed = [] if given.report else ["set"] if given.list else ["set", "data_dir"]
    if absent := [f"--{name}" for name in needed if getattr(given, name) is None]:
        raise ValueError(f"{' and '.join(absent)} must be given; only --report needs neither.")
    return given


def selected(steps: list[Step], only: list[str] | None) -> list[Step]:
    """The steps of these names.

    Raises:
        ValueError: If there is none of a name.
    """
    unknown = sorted({*(only or ())} - {step.name for step in steps})
    if unknown:
        raise ValueError(f"--only must be among the steps that --list names; got {', '.join(unknown)}.")
    return [step for step in steps if only is None or step.name in only]


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(run_command("benchmarks.into", main))
