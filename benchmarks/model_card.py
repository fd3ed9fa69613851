"""Make the card of a finished run again, and copy it with everything that it is rendered from.

    python benchmarks/model_card.py out/omniglot model_cards/omniglot
    python benchmarks/model_card.py out/grocery model_cards/grocery
    python benchmarks/model_card.py out/grocery-units model_cards/grocery-units

The snippet on the card is run with the run's model. The copy holds neither weights nor paths of this machine. The same
card can be rendered from it, which a test does.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import yaml

from prunnet_hf.commands import CommandParser, run_command
from prunnet_hf.hub.card import write_card
from prunnet_hf.hub.figures import read_run
from prunnet_hf.runs.run_directory import write_text

COPIED = (
    "metrics.json",
    "usage.json",
    "compatibility.png",
    "curve.png",
    "examples.png",
    "compressibility.json",
    "compressibility.png",
)


def main() -> None:
    """Write the card of the run, then its copy, whose title is the name of the other folder."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished run directory")
    parser.add_argument("copy", type=Path, help="folder to copy to; its name is the title of the card")
    arguments = parser.parse_args()
    write_card(arguments.run)
    arguments.copy.mkdir(parents=True, exist_ok=True)
    for name in COPIED:
        (arguments.copy / name).unlink(missing_ok=True)
        if (arguments.run / name).is_file():  # a single network has no curve
            shutil.copyfile(arguments.run / name, arguments.copy / name)
    recipe = read_run(arguments.run).recipe
    write_text(arguments.copy / "config.yaml", yaml.safe_dump(recipe, sort_keys=False))
    print(write_card(arguments.copy, execute=False))


if __name__ == "__main__":
    sys.exit(run_command("benchmarks/model_card.py", main))
