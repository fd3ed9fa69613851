"""Print the results of several runs side by side: mean and standard deviation over seeds.

    python benchmarks/summarise.py out/*/metrics.json
    python benchmarks/summarise.py benchmarks/results/sampling/*.json --capacities 0.05 0.1 0.2 0.3 0.6 1.0

Runs whose capacities are of whole units are named so. If there is one, the table without `--capacities` has what the
small network costs: methods are to be compared at equal multiply-adds or equal bytes.

With `--capacities` the self-test (queries and gallery by the same subnetwork) and the cross-test (gallery by the dense
network) at each of them; without, at one small capacity, with the distance to the dense network. Each file is the
`metrics.json` of a run of train_accelerate.py.
"""

import argparse
import math
import statistics
import sys
from collections import defaultdict
from pathlib import Path

from prunnet_hf.commands import CommandParser, run_command
from prunnet_hf.runs.record import RunRecord

SMALL = 0.2
USUAL = [0.2, 0.4, 0.6, 0.8]


def main() -> None:
    """Read the files and print one Markdown table a data set."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="metrics.json of the runs")
    parser.add_argument("--capacities", nargs="+", type=float, help="capacities to show")
    arguments = parser.parse_args()
    groups: dict[str, dict[str, list[RunRecord]]] = defaultdict(lambda: defaultdict(list))
    for file in arguments.files:
        run = RunRecord.read(file)
        groups[run.dataset][method_name(run)].append(run)
    for dataset, methods in sorted(groups.items()):
        print(f"\n{dataset}, mAP (%) on unseen classes\n")
        if arguments.capacities:
            print_tests(methods, arguments.capacities)
        else:
            print_distances(methods)


def print_distances(methods: dict[str, list[RunRecord]]) -> None:
    """A row a method: dense, and how far below it a small capacity is."""
    has_units = any(is_of_units(run) for runs in methods.values() for run in runs)
    costs = f" {SMALL} multiply-adds executed | {SMALL} MB |" if has_units else ""
    tests = f"{SMALL} self-test | below dense | {SMALL} cross-test | below dense"
    print(f"| method | seeds | dense | {tests} |{costs} minutes |")
    print(f"|---|---:|---:|---:|---:|---:|---:|{'---:|---:|' if has_units else ''}---:|")
    for method, runs in sorted(methods.items()):
        minutes = statistics.mean((run.training_seconds or math.nan) / 60 for run in runs)
        dense, own, cross = (values(runs, *pair) for pair in ((1.0, 1.0), (SMALL, SMALL), (SMALL, 1.0)))
        columns = (dense, own, difference(dense, own), cross, difference(dense, cross))
        figures = [*map(spread, columns), *(costs_of(runs[0]) if has_units else ()), f"{minutes:.1f}"]
        print(f"| {method} | {len(runs)} | {' | '.join(figures)} |")


def print_tests(methods: dict[str, list[RunRecord]], capacities: list[float]) -> None:
    """Two rows a method: self-test and cross-test at each capacity."""
    print(f"| method | seeds | test | {' | '.join(f'{capacity:g}' for capacity in capacities)} |")
    print(f"|---|---:|---|{'---:|' * len(capacities)}")
    for method, runs in sorted(methods.items()):
        own = [values(runs, capacity, capacity) for capacity in capacities]
        cross = [values(runs, capacity, 1.0) for capacity in capacities]
        print(f"| {method} | {len(runs)} | self | {' | '.join(map(spread, own))} |")
        print(f"| | | cross | {' | '.join(map(spread, cross))} |")


def is_of_units(run: RunRecord) -> bool:
    """Whether the run's capacities are of whole units. Records of early runs say so in the recipe only."""
    return "channel" in (run.recipe.get("granularity"), run.model.granularity if run.model else None)


def costs_of(run: RunRecord) -> tuple[str, str]:
    """Executed multiply-adds in millions and megabytes of the small network; a dash where nothing was recorded."""
    row = next((row for row in run.capacities if row.capacity == SMALL), None)
    work, size = (None, None) if row is None else (row.executed_multiply_adds, row.file_bytes)
    return (f"{work / 1e6:.1f} M" if work else "-", f"{size / 1e6:.2f}" if size else "-")


def method_name(run: RunRecord) -> str:
    """The method, and whether its capacities are of whole units, and in which order if it wasn't learned."""
    order = ", in their order" if run.recipe.get("channel_order") == "prefix" and run.method != "independent" else ""
    return trained_as(run) + (f", units{order}" if is_of_units(run) else "")


def trained_as(run: RunRecord) -> str:
    """The method; with what capacities it was trained where these aren't the usual ones."""
    recipe = run.recipe
    if run.method == "independent":
        return f"independent, capacity {run.capacities[0].capacity:g}"
    if recipe.get("capacity_sampling", "fixed") != "fixed":
        shrinking = ", shrinking" if recipe.get("shrink_share") else ""
        passes = f"{recipe['capacity_draws'] + 2} passes"
        return f"{run.method}, sandwich from {recipe['capacities'][0]:g}{shrinking}, {passes}"
    trained = recipe.get("capacities", USUAL)
    return str(run.method) + ("" if trained == USUAL else f", fixed {' '.join(f'{c:g}' for c in trained)}")


def values(runs: list[RunRecord], query: float, gallery: float) -> list[float]:
    """The mAP of each run in percent; nothing where the pair wasn't measured."""
    return [
        100 * result.value
        for run in runs
        for result in run.results
        if (result.query_capacity, result.gallery_capacity, result.metric) == (query, gallery, "mAP")
    ]


def difference(dense: list[float], small: list[float]) -> list[float]:
    """By how much each run's small subnetwork is below its own dense network."""
    return [high - low for high, low in zip(dense, small, strict=True)] if dense and small else []


def spread(figures: list[float]) -> str:
    """Mean and, of several seeds, standard deviation (n - 1); a dash where nothing was measured."""
    if not figures:
        return "-"
    mean = f"{statistics.mean(figures):.1f}"
    return f"{mean} ± {statistics.stdev(figures):.1f}" if len(figures) > 1 else mean


if __name__ == "__main__":
    sys.exit(run_command("benchmarks/summarise.py", main))
