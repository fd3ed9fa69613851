"""How long the recipes' networks take for an image at each capacity: all of a recipe in turns, in one process.

    python -m benchmarks.compare.latency

The rows of runs have latencies, too, but of one run each: how many others a network takes turns with, and what else
the machine does, differs. Weights are random, since time depends on shapes alone; a thin network that was trained
alone has the shapes of the subnetwork of units.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from prunnet_hf import PrunNetConfig, PrunNetModel
from prunnet_hf.commands import CommandParser, run_command
from prunnet_hf.export.latency import measure_latency
from prunnet_hf.runs.arguments import parse_arguments
from prunnet_hf.runs.run_directory import write_json

from .methods import CAPACITIES
from .plan import RECIPES, RESULTS

LATENCY = "latency.json"
ROUNDS = 101


def main() -> None:
    """Measure the networks of all recipes, and write the times beside the rows."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="how many turns every network has")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the times are written")
    given = parser.parse_args()
    write_json(given.results / LATENCY, {recipe: measure(recipe, given.rounds) for recipe in RECIPES})
    print(given.results / LATENCY)


def measure(recipe: str, rounds: int) -> dict[str, Any]:
    """Milliseconds by granularity and capacity, with the runtime and the device."""
    given = parse_arguments(["--config", recipe, "--data_dir", "any"])
    networks = {}
    for granularity in ("weight", "channel"):
        config = PrunNetConfig(
            backbone=given.model.backbone,
            backbone_kwargs=json.loads(given.model.backbone_kwargs),
            embedding_dim=given.model.embedding_dim,
            image_size=given.data.image_size,
            granularity=granularity,
        )
        model = PrunNetModel(config).eval()
        networks |= {(granularity, f"{capacity:g}"): model.prune(capacity) for capacity in CAPACITIES}
    found = measure_latency(networks, rounds=rounds)
    times: dict[str, dict[str, float]] = {"weight": {}, "channel": {}}
    for (granularity, capacity), milliseconds in found.milliseconds.items():
        times[granularity][capacity] = round(milliseconds, 4)
    return {**times, "runtime": found.runtime, "device": found.device}


def read_latencies(results: Path, recipe: str) -> dict[str, dict[str, float]]:
    """Milliseconds by granularity and capacity; nothing if they weren't measured."""
    file = results / LATENCY
    if not file.is_file():
        return {}
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")).get(recipe, {})
    return {granularity: content[granularity] for granularity in ("weight", "channel") if granularity in content}


if __name__ == "__main__":
    sys.exit(run_command("benchmarks.compare.latency", main))
