"""Compare our training with other methods, by runs that differ in nothing else.

    python -m benchmarks.compare --recipe omniglot --data_dir DIR --jobs 2    # everything that has no row yet
    python -m benchmarks.compare --recipe grocery --data_dir DIR --jobs 2
    python -m benchmarks.compare --recipe omniglot --list
    python -m benchmarks.compare --recipe omniglot --report                   # tables and pictures of both recipes

Three phases follow one another. `validation` tries settings on training classes of Omniglot that are held out, and
`choose` writes into `benchmarks/results/compare/chosen.json` which were best by the mean over capacities of the
cross-test. `main`, `side` and `wide` take them from there; the test classes are read once. A run's row is written into
`benchmarks/results/compare/RECIPE/PHASE/` as soon as it ends, and a run with a row is not done again.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from types import FrameType

from prunnet_hf.commands import CommandParser, run_command
from prunnet_hf.runs.run_directory import write_json

from .methods import MAIN, SIDE, VALIDATION, WIDE, words_of
from .plan import CHOSEN, RESULTS, VALIDATED, Run, choose, compared_runs, read_chosen, selected, validation_runs
from .report import write_report
from .running import Place, perform_all

CHOOSE = "choose"
PHASES = (VALIDATION, CHOOSE, MAIN, SIDE, WIDE)


def main() -> None:
    """Do the phases that were asked for, or list their runs."""
    given = create_parser().parse_args()
    if given.report:
        print("\n".join(map(str, write_report(given.results))))
        return
    signal.signal(signal.SIGTERM, _stop)
    phases = given.phase or [phase for phase in PHASES if phase != CHOOSE or given.recipe == VALIDATED]
    failures: list[str] = []
    for phase in phases:
        if phase == CHOOSE:
            if not given.list:
                write_choice(given.results, asked=given.phase is not None)
            continue
        runs = selected(runs_of(given.recipe, phase, given.results), given.only, given.seeds)
        if given.list:
            print_list(runs, given.results)
            continue
        if given.data_dir is None:
            raise ValueError("--data_dir must name the folder of the images, unless --list only lists the runs.")
        failures += perform_all(runs, Place(given.data_dir, given.work_dir, given.results), given.jobs)
    if failures:
        raise ValueError(f"{len(failures)} runs have no row: {'; '.join(failures)}")


def create_parser() -> CommandParser:
    """The flags."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", required=True, choices=["omniglot", "grocery"], help="which recipe")
    parser.add_argument("--data_dir", type=Path, help="the folder of its images, with train/ and test/")
    parser.add_argument("--phase", nargs="+", choices=PHASES, help="which phases; all if left out")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these methods, named as --list does")
    parser.add_argument("--seeds", nargs="+", type=int, help="only these seeds")
    parser.add_argument("--jobs", type=int, default=1, help="how many runs at a time, each with one thread")
    parser.add_argument("--work_dir", type=Path, default=Path("out/compare"), help="run directories and logs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where rows and the choice are written")
    parser.add_argument("--list", action="store_true", help="only list the runs, and which have a row")
    parser.add_argument("--report", action="store_true", help="only write tables and pictures of the rows so far")
    return parser


def runs_of(recipe: str, phase: str, results: Path) -> list[Run]:
    """The runs of a phase, in their order."""
    return validation_runs(recipe) if phase == VALIDATION else compared_runs(recipe, phase, read_chosen(results))


def write_choice(results: Path, *, asked: bool) -> None:
    """Write what was best on the validation classes.

    Args:
        results: Where the rows are.
        asked: Whether the choice may be made though trials are missing.

    Raises:
        ValueError: If trials are missing, and it may not.
    """
    missing = [run.name for run in validation_runs(VALIDATED) if not run.is_done(results)]
    if missing and not asked:
        raise ValueError(
            f"{len(missing)} trials have no row: {', '.join(missing)}. Run --phase {VALIDATION}, or choose among "
            f"those that have one by --phase {CHOOSE}, and then run --phase {MAIN}."
        )
    write_json(results / CHOSEN, choose(results))
    print(f"{results / CHOSEN} written", flush=True)


def print_list(runs: list[Run], results: Path) -> None:
    """A line a run."""
    for run in runs:
        state = "done" if run.is_done(results) else "    "
        print(f"{state} {run.phase:<10} seed {run.seed}  {run.entry.name!r:<22} {' '.join(words_of(run.flags))}")


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(run_command("benchmarks.compare", main))
