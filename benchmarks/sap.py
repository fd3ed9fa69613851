"""Compare pruning schedules: quality and PQ Index over capacity, from finished runs of the pruning loop.

    python -m prunnet_hf.compression.sap --config recipes/grocery.yaml ... --output_dir out/sap
    python -m prunnet_hf.compression.sap ... --schedule lottery_ticket --output_dir out/lottery_ticket
    python -m prunnet_hf.compression.sap ... --schedule one_shot --kept_shares 0.5 0.2 --output_dir out/one_shot
    python benchmarks/sap.py out/sap out/lottery_ticket out/one_shot --output sap.png

Prints Markdown tables. Each RUN is a run directory, or its trajectory.json.
"""

from __future__ import annotations

import argparse
import sys

from prunnet_hf.commands import CommandParser, run_command
from prunnet_hf.compression.comparison import compare
from prunnet_hf.compression.plots import plot_trajectories
from prunnet_hf.compression.trajectory import read_trajectory


def main() -> None:
    """Print the tables and draw the picture."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run directories, or their trajectory.json")
    parser.add_argument("--output", required=True, metavar="FILE.png", help="picture to write")
    parser.add_argument("--title", default="Pruning schedules", help="title of the picture")
    arguments = parser.parse_args()
    trajectories = [read_trajectory(run) for run in arguments.runs]
    print(compare(trajectories))
    print(f"\n{plot_trajectories(trajectories, arguments.output, title=arguments.title)}")


if __name__ == "__main__":
    sys.exit(run_command("benchmarks/sap.py", main))
