"""What interpolated running statistics cost: the quality of subnetworks with and without statistics of their own.

    python benchmarks/interpolation.py out/omniglot --data_dir data/omniglot

Takes a finished run. One after another, the stored statistics of capacities 0.1, 0.3, 0.5 and 0.7 are left out, and
the subnetwork of that capacity is tested with a mixture of its neighbours' statistics instead.
"""

from __future__ import annotations

import argparse
import copy
import sys
from pathlib import Path

from prunnet_hf import PrunNetForImageClassification, PrunNetModel
from prunnet_hf.commands import CommandParser, run_command
from prunnet_hf.pruning.masking import format_capacity
from prunnet_hf.runs.arguments import parse_arguments
from prunnet_hf.runs.evaluation import self_test
from prunnet_hf.runs.run_data import load_run_data
from prunnet_hf.training.engine import create_accelerator
from prunnet_hf.training.networks import load_trained

LEFT_OUT_CAPACITIES = (0.1, 0.3, 0.5, 0.7)


def main(command_line: list[str] | None = None) -> None:
    """Print one row for each capacity."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished run directory")
    parser.add_argument("--data_dir", help="the folder of the run's data set, if it has one")
    options = parser.parse_args(command_line)
    flags = ["--config", str(options.run / "config.yaml"), "--output_dir", str(options.run), "--eval_only", "true"]
    arguments = parse_arguments([*flags, *(["--data_dir", options.data_dir] if options.data_dir else [])])
    model, processor = load_trained(arguments)
    networks = interpolated_subnetworks(model)
    scores = self_test(create_accelerator(arguments), networks, processor, load_run_data(arguments), arguments)
    (headline, *_), *_ = scores.values()
    print(f"{headline} (%), self-test\n\n| capacity | its own statistics | interpolated | difference |")
    print("|---:|---:|---:|---:|")
    for kind, capacity in networks:
        if kind == "stored":
            stored, interpolated = (100 * scores[of, capacity][headline] for of in ("stored", "interpolated"))
            print(
                f"| {format_capacity(capacity)} | {stored:.1f} | {interpolated:.1f} | {interpolated - stored:+.1f} |"
            )


def interpolated_subnetworks(model: PrunNetForImageClassification) -> dict[tuple[str, float], PrunNetModel]:
    """Two subnetworks for each of `LEFT_OUT_CAPACITIES` that the model stores statistics of.

    Returns:
        `"stored"` has its own statistics, `"interpolated"` a mixture of its neighbours'.

    Raises:
        ValueError: If there is no such capacity.
    """
    base, networks = model.prunnet, {}
    stored = base.config.stored_subnetworks if base.config.prunable else []
    for capacity in (c for c in LEFT_OUT_CAPACITIES if c in stored):
        poorer = copy.deepcopy(base)
        poorer.keep_statistics([c for c in stored if c != capacity])
        networks["stored", capacity] = base.prune(capacity)
        networks["interpolated", capacity] = poorer.prune(capacity)
    if not networks:
        raise ValueError(f"the run's model must be prunable and store statistics of one of {LEFT_OUT_CAPACITIES}.")
    return networks


if __name__ == "__main__":
    sys.exit(run_command("benchmarks/interpolation.py", main))
