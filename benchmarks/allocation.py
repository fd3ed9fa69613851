"""Measure ways to share a capacity out among layers.

    python benchmarks/allocation.py out/omniglot --data_dir DIR --output benchmarks/results/allocation/omniglot-0.json
    python benchmarks/allocation.py --summarise benchmarks/results/allocation/*.json

Every subnetwork is calibrated on the same training images of the run's data set and evaluated on its test images:
`self` searches its own gallery, `cross` that of the dense network. `stored` is the self-test with the running
statistics of the checkpoint instead, which are those of uniform subnetworks.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from prunnet_hf import PrunNetForImageClassification, PrunNetImageProcessor, PrunNetModel
from prunnet_hf.commands import CommandParser
from prunnet_hf.export.multiply_adds import count_multiply_adds
from prunnet_hf.pruning.allocation import ALLOCATIONS, UNIFORM
from prunnet_hf.retrieval.dataset_encoding import encode_share
from prunnet_hf.retrieval.protocols import leave_one_out
from prunnet_hf.runs.arguments import RunArguments, parse_arguments
from prunnet_hf.runs.description import dataset_name
from prunnet_hf.runs.evaluation import calibration_batches
from prunnet_hf.runs.run_data import load_run_data, set_apart
from prunnet_hf.runs.run_directory import write_json

CAPACITIES = [0.05, 0.1, 0.2, 0.3, 0.4, 0.6]
Key = tuple[str, float, str]
"""Allocation, capacity, and where running statistics come from."""
Row = dict[str, Any]


def main() -> None:
    """Measure one run, or print tables of what was measured."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path, help="a run directory; with --summarise JSON files")
    parser.add_argument("--data_dir", help="the run's images")
    parser.add_argument("--capacities", nargs="+", type=float, default=CAPACITIES, help="in addition to 1.0")
    parser.add_argument("--output", type=Path, help="where to write what was measured")
    parser.add_argument("--summarise", action="store_true", help="print tables of JSON files")
    arguments = parser.parse_args()
    if arguments.summarise:
        measured = [json.loads(file.read_text(encoding="utf-8")) for file in arguments.paths]
    else:
        run = arguments.paths[0]
        if len(arguments.paths) > 1:
            parser.error("measure one run directory at a time; --summarise takes several JSON files")
        flags = ["--config", str(run / "config.yaml"), "--output_dir", str(run)]
        flags += ["--data_dir", arguments.data_dir] if arguments.data_dir else []
        measured = [measure(run, parse_arguments(flags), arguments.capacities)]
        if arguments.output:
            write_json(arguments.output, measured[0])
    summarise(measured)


def measure(run: Path, options: RunArguments, capacities: list[float]) -> Row:
    """Evaluate all allocations of one run's model at these capacities."""
    model = PrunNetForImageClassification.from_pretrained(run / "model").prunnet
    processor = PrunNetImageProcessor.from_pretrained(run / "model")
    splits = load_run_data(options)
    train, _ = set_apart(splits, options)
    images = [batch for batch in calibration_batches(train, processor, options, 0, 1) if len(batch) > 1]
    networks: dict[Key, PrunNetModel] = {(UNIFORM, 1.0, "calibrated"): model.prune(1.0, images)}
    for capacity in sorted(set(capacities)):
        for allocation in ALLOCATIONS:
            networks[allocation, capacity, "calibrated"] = model.prune(capacity, images, allocation=allocation)
            networks[allocation, capacity, "stored"] = model.prune(capacity, allocation=allocation)
    encoded = encode_share(networks, splits.query, processor)
    dense = UNIFORM, 1.0, "calibrated"

    def score(query: Key, gallery: Key) -> float:
        return leave_one_out(encoded.side(query), encoded.side(gallery))["mAP"]

    rows = []
    for (allocation, capacity, source), network in networks.items():
        if source == "stored":
            continue
        own, stored = (allocation, capacity, source), (allocation, capacity, "stored")
        rows.append(
            {
                "allocation": allocation,
                "capacity": capacity,
                "self": score(own, own),
                "cross": score(own, dense),
                "stored": score(stored, stored) if stored in networks else None,
                **costs(network, model.config.image_size),
            }
        )
    return {
        "dataset": dataset_name(options),
        "capacity_sampling": options.train.capacity_sampling,
        "seed": options.train.seed,
        "capacities": capacities,
        "rows": rows,
    }


def costs(network: PrunNetModel, image_size: int) -> Row:
    """Kept weights of a pruned network and multiply-adds of one image."""
    kept = {name: int(network.get_parameter(name).count_nonzero()) for name in network.packable_weights()}
    return {"kept": sum(kept.values()), "multiply_adds": count_multiply_adds(network, image_size).keeping(kept)}


def summarise(measured: list[Row]) -> None:
    """Print, for each data set, mAP and its difference to uniform over all runs.

    Files of earlier versions also hold a proposed capacity, which is ignored.
    """
    by_dataset: dict[str, list[Row]] = defaultdict(list)
    for run in measured:
        by_dataset[run["dataset"]].append(run)
    for dataset, runs in sorted(by_dataset.items()):
        capacities = sorted({capacity for run in runs for capacity in [*run["capacities"], 1.0]})
        print(f"\n{dataset}, {len(runs)} runs: mAP (%), mean ± standard deviation; others as differences to uniform\n")
        print(f"| allocation | figure | {' | '.join(f'{capacity:g}' for capacity in capacities)} |")
        print(f"|---|---|{'---:|' * len(capacities)}")
        for figure in ("self", "cross", "stored"):
            for allocation in ALLOCATIONS:
                cells = [_cell(runs, allocation, capacity, figure) for capacity in capacities]
                print(f"| {allocation} | {figure} | {' | '.join(cells)} |")
        for allocation in ALLOCATIONS[1:]:
            cells = [_relative_cost(runs, allocation, capacity) for capacity in capacities]
            print(f"| {allocation} | multiply-adds | {' | '.join(cells)} |")


def _find(run: Row, allocation: str, capacity: float) -> Row | None:
    wanted = UNIFORM if capacity == 1.0 else allocation
    rows = (row for row in run["rows"] if (row["allocation"], row["capacity"]) == (wanted, capacity))
    return next(rows, None)


def _pairs(runs: list[Row], allocation: str, capacity: float) -> Iterable[tuple[Row, Row]]:
    for run in runs:
        row, uniform = _find(run, allocation, capacity), _find(run, UNIFORM, capacity)
        if row is not None and uniform is not None:
            yield row, uniform


def _cell(runs: list[Row], allocation: str, capacity: float, figure: str) -> str:
    pairs = [(row[figure], uniform[figure]) for row, uniform in _pairs(runs, allocation, capacity)]
    if not pairs or None in pairs[0]:
        return "-"
    values = [100 * (value if allocation == UNIFORM else value - uniform) for value, uniform in pairs]
    sign = "" if allocation == UNIFORM else "+"
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{sign}.1f}{spread}"


def _relative_cost(runs: list[Row], allocation: str, capacity: float) -> str:
    pairs = list(_pairs(runs, allocation, capacity))
    return f"x {statistics.mean(row['multiply_adds'] / uniform['multiply_adds'] for row, uniform in pairs):.3f}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
