"""Print the results of several runs side by side: mean and standard deviation over seeds.

    python benchmarks/summarise.py benchmarks/results/*.json

Each file is the `metrics.json` of a run of train_accelerate.py.
"""

import argparse
import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

SMALL = 0.2


def main() -> None:
    """Read the files and print one Markdown table a data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="metrics.json of the runs")
    groups: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for file in parser.parse_args().files:
        run = json.loads(file.read_text(encoding="utf-8"))
        groups[run["dataset"]][method_name(run)].append(run)
    for dataset, methods in sorted(groups.items()):
        print(f"\n{dataset}, mAP (%) on unseen classes\n")
        tests = f"{SMALL} self-test | below dense | {SMALL} cross-test | below dense"
        print(f"| method | seeds | dense | {tests} | minutes |")
        print("|---|---:|---:|---:|---:|---:|---:|---:|")
        for method, runs in sorted(methods.items()):
            minutes = statistics.mean(run["training_seconds"] / 60 for run in runs)
            dense, own, cross = (values(runs, *pair) for pair in ((1.0, 1.0), (SMALL, SMALL), (SMALL, 1.0)))
            columns = (dense, own, difference(dense, own), cross, difference(dense, cross))
            print(f"| {method} | {len(runs)} | {' | '.join(map(spread, columns))} | {minutes:.1f} |")


def method_name(run: dict[str, Any]) -> str:
    """The method, and for a network trained alone its capacity."""
    if run["method"] != "independent":
        return str(run["method"])
    return f"independent, capacity {run['capacities'][0]['capacity']:g}"


def values(runs: list[dict[str, Any]], query: float, gallery: float) -> list[float]:
    """The mAP of each run in percent; nothing where the pair wasn't measured."""
    return [
        100 * entry["value"]
        for run in runs
        for entry in run["results"]
        if (entry["query_capacity"], entry["gallery_capacity"], entry["metric"]) == (query, gallery, "mAP")
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
    main()
