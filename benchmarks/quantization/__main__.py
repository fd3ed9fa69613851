"""Measure quantised galleries: exact search, PQ, OPQ, learned centroids, learned queries, by bytes an image.

    python -m benchmarks.quantization --set omniglot --data_dir DATA/omniglot --runs OUT --work_dir WORK --jobs 2
    python -m benchmarks.quantization --report

`OUT/<set>/main/default-<units|weights>-seed<n>` are runs of `benchmarks.compare`; those that aren't there are named.
Classes are unseen: of each test class every other image lies in the gallery, the others are the queries, so no query
has been seen by anything that learned. Augmented training images are added to the gallery up to --images. What learns
uses the training images and the gallery's embeddings, and no label.

Each row is written to --results as it is done, and one that is there isn't made again. `--report` writes what all rows
say into docs/results.md, with pictures. Latency is the median CPU time of single queries, in turns with exact search.
"""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before faiss and torch are imported

from prunnet_hf.commands import CommandParser, run_command
from prunnet_hf.training.joint_quantization import Settings

from .report import write_report
from .trials import METHODS, Case, perform

RESULTS = Path(__file__).parents[1] / "results" / "quantization"
RATIOS = (16, 32, 64, 128)
IMAGES = 100_000


def main() -> None:
    """Make the rows that are missing, or write what all say."""
    arguments = parse()
    if arguments.report:
        print(*write_report(arguments.results), sep="\n")
        return
    root = arguments.runs / arguments.set / "main"
    kinds = [(kind, seed) for seed in arguments.seeds for kind in arguments.kinds]
    named = {f"{arguments.set}-{kind}-seed{seed}": root / f"default-{kind}-seed{seed}" for kind, seed in kinds}
    cases = [Case(name, run, arguments) for name, run in named.items() if (run / "model").is_dir()]
    for absent in sorted(set(named) - {case.name for case in cases}):
        print(f"{absent}: there is no run {named[absent]}", flush=True)
    waiting = [case for case in cases if case.missing()]
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
        for line in pool.map(perform, waiting):
            print(line, flush=True)


def parse(command_line: list[str] | None = None) -> argparse.Namespace:
    """The arguments."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", choices=("omniglot", "grocery"), help="name of the recipe")
    parser.add_argument("--data_dir")
    parser.add_argument("--runs", type=Path, help="the --work_dir of benchmarks.compare")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--work_dir", type=Path)
    parser.add_argument("--kinds", nargs="+", default=["units", "weights"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--ratios", nargs="+", type=int, default=RATIOS)
    parser.add_argument("--images", type=int, default=IMAGES, help="size of the gallery")
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--jobs", type=int, default=1, choices=[1, 2])
    parser.add_argument("--report", action="store_true", help="write the tables and pictures of all rows, and end")
    arguments = parser.parse_args(command_line)
    absent = [name for name in ("set", "data_dir", "runs", "work_dir") if getattr(arguments, name) is None]
    if absent and not arguments.report:
        raise ValueError(
            f"{', '.join(f'--{name}' for name in absent)} must be given; only --report needs none of them."
        )
    is_short = (arguments.images, arguments.steps) != (IMAGES, Settings.steps)
    if is_short and arguments.results.resolve() == RESULTS.resolve():
        raise ValueError(
            f"--images {arguments.images} and --steps {arguments.steps} must be {IMAGES} and {Settings.steps} for "
            "rows of the report: give a trial --results and --work_dir of its own."
        )
    return arguments


if __name__ == "__main__":
    sys.exit(run_command("benchmarks.quantization", main))
