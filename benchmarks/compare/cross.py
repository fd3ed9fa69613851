"""Let one run's network search the gallery of another's, on the test images of the first.

    python -m benchmarks.compare.cross RUN TEACHER --data_dir DIR --output FILE

RUN and TEACHER are run directories of networks that serve one capacity each. FILE gets `{"mAP": value}`, with the
metric that the runs report first.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from prunnet_hf.commands import CommandParser, run_command
from prunnet_hf.data.streams import num_images
from prunnet_hf.image_processing_prunnet import PrunNetImageProcessor
from prunnet_hf.modeling_prunnet import PrunNetModel
from prunnet_hf.retrieval.dataset_encoding import encode_share
from prunnet_hf.retrieval.protocols import resolve_protocol
from prunnet_hf.runs.arguments import parse_arguments
from prunnet_hf.runs.run_data import load_run_data


def main() -> None:
    """Embed the queries by one network and the gallery by the other, and write the figure."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="directory of the run whose network embeds the queries")
    parser.add_argument("teacher", type=Path, help="directory of the run whose network embeds the gallery")
    parser.add_argument("--data_dir", required=True, help="the images of the run")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    given = parser.parse_args()
    given.output.write_text(json.dumps(cross_test(given.run, given.teacher, given.data_dir)), encoding="utf-8")


def cross_test(run: Path, teacher: Path, data_dir: str) -> dict[str, float]:
    """What the run's network finds in the teacher's gallery, by every metric of the protocol."""
    arguments = parse_arguments(["--config", str(run / "config.yaml"), "--data_dir", data_dir])
    splits = load_run_data(arguments)
    processor = PrunNetImageProcessor.from_pretrained(run / "model")
    query, gallery = (
        encode_share({directory: PrunNetModel.from_pretrained(directory / "model")}, images, processor, progress=False)
        .in_order(num_images(images))
        .side(directory)
        for directory, images in ((run, splits.query), (teacher, splits.gallery))
    )
    return resolve_protocol(splits.protocol)(query, gallery)


if __name__ == "__main__":
    sys.exit(run_command("benchmarks.compare.cross", main))
