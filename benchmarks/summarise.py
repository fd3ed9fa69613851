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
        print(f"| method | seeds | dense | {SMALL} self-test | cross-test {SMALL} to dense | minutes |")
        print("|---|---:|---:|---:|---:|---:|")
        for method, runs in sorted(methods.items()):
            minutes = statistics.mean(run["training_seconds"] / 60 for run in runs)
            cells = [spread(runs, query, gallery) for query, gallery in ((1.0, 1.0), (SMALL, SMALL), (SMALL, 1.0))]
            print(f"| {method} | {len(runs)} | {' | '.join(cells)} | {minutes:.1f} |")


def method_name(run: dict[str, Any]) -> str:
    """The method, and for a network trained alone its capacity."""
    if run["method"] != "independent":
        return str(run["method"])
    return f"independent, capacity {run['capacities'][0]['capacity']:g}"


def spread(runs: list[dict[str, Any]], query: float, gallery: float) -> str:
    """Mean and, of several runs, standard deviation (n - 1) of the mAP in percent; a dash where it wasn't measured."""
    values = [
        100 * entry["value"]
        for run in runs
        for entry in run["results"]
        if (entry["query_capacity"], entry["gallery_capacity"], entry["metric"]) == (query, gallery, "mAP")
    ]
    if not values:
        return "-"
    mean = f"{statistics.mean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


if __name__ == "__main__":
    main()
