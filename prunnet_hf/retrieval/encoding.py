r"""The command that embeds a folder of images with one network into a Parquet file.

    python -m prunnet_hf.retrieval.encoding --model org/name --data_dir photos --output gallery.parquet
    python -m prunnet_hf.retrieval.encoding --model org/name --capacity 0.2 --data_dir queries --output queries.parquet

If it is killed and started again, it goes on where it was. See `prunnet_hf.retrieval.embedding_table` for the columns.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import torch
from transformers.utils.logging import disable_progress_bar

from ..commands import CommandParser, model_directory, run_command
from ..modeling_prunnet import PrunNetModel
from ..pruning.masking import format_capacity
from .folder_encoding import IMAGES_PER_PART, check_places, encode_folder

NAME = "python -m prunnet_hf.retrieval.encoding"


def main(arguments: Sequence[str] | None = None, name: str = NAME) -> int:
    """Run the command; an error is printed in one line, with status 1.

    Args:
        arguments: Those of the command line if not given.
        name: How the command was called.
    """
    chosen = _parser(name).parse_args(arguments)
    return run_command(name.removeprefix("python -m "), lambda: _encode_folder(chosen), arguments)


def _encode_folder(chosen: argparse.Namespace) -> None:
    check_places(chosen.data_dir, chosen.output)  # before a model is downloaded
    disable_progress_bar()  # transformers shows one for loading weights, before that of encoding
    place = {"revision": chosen.revision, "subfolder": chosen.subfolder}
    source = model_directory(chosen.model, chosen.subfolder)
    dtype = getattr(torch, chosen.dtype)
    model = PrunNetModel.from_pretrained(source, capacity=chosen.capacity, dtype=dtype, **place)
    left_out = encode_folder(
        model.to("cuda" if torch.cuda.is_available() else "cpu"),
        chosen.data_dir,
        chosen.output,
        batch_size=chosen.batch_size,
        num_workers=chosen.num_workers,
        skip_corrupt_images=chosen.skip_corrupt_images,
        images_per_part=chosen.images_per_part,
    )
    print(f"{chosen.output}: space {model.config.embedding_space}, capacity {format_capacity(model.config.capacity)}")
    for path in left_out:
        print(f"left out: {path}")


def _parser(name: str) -> argparse.ArgumentParser:
    parser = CommandParser(
        name,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", required=True, help="directory (or a run's) or Hub repository of a trained model")
    parser.add_argument("--data_dir", required=True, help="folder of images, or of one folder for each class")
    parser.add_argument(
        "--output", required=True, help="Parquet file to write; until it is whole, OUTPUT.partial/ grows"
    )
    parser.add_argument("--capacity", type=float, help="prune the dense model to this kept share, in (0, 1], first")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--num_workers", type=int, default=0, help="processes that read images (default: 0)")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="precision of the network"
    )
    parser.add_argument("--revision", default="main", help="branch, tag or commit of the Hub repository")
    parser.add_argument("--subfolder", default="", help="folder in the directory or repository")
    parser.add_argument(
        "--skip_corrupt_images", action="store_true", help="list images that can't be decoded and go on"
    )
    parser.add_argument(
        "--images_per_part",
        type=int,
        default=IMAGES_PER_PART,
        help="images saved at a time; so many are lost at most",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
