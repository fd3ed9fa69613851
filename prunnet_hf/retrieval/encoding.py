r"""The command that embeds a folder of images, or a data set, with one network: into a Parquet file, or many.

    python -m prunnet_hf.retrieval.encoding --model org/name --data_dir photos --output gallery.parquet
    python -m prunnet_hf.retrieval.encoding --model org/name --capacity 0.2 --data_dir queries --output queries.parquet
    python -m prunnet_hf.retrieval.encoding --model org/name --dataset veri776 --data_dir VeRi --output veri.parquet
    python -m prunnet_hf.retrieval.encoding --model timm:NAME --data_dir photos --output gallery.parquet
    accelerate launch -m prunnet_hf.retrieval.encoding --model org/name --data_dir photos --num_shards 9 --output parts
    python -m prunnet_hf.retrieval.encoding --model org/name --data_dir photos --shard 1/9 --output parts

Several processes, on one machine or many, share the images and write a folder of shards. Whatever is killed goes on
where it was when it is started again. See `prunnet_hf.retrieval.embedding_table` for the columns.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import torch
from accelerate.utils import get_int_from_env
from transformers.utils.logging import disable_progress_bar

from ..commands import CommandParser, model_directory, run_command
from ..data.loading import in_folders
from ..data.official_files import require_folder
from ..modeling_prunnet import PrunNetModel
from ..pruning.masking import format_capacity
from .embedding_parts import check_output
from .embedding_shards import Shard, check_folder, encode_shard
from .foreign_encoders import FOREIGN_NAMES, ForeignEncoder, is_foreign, load_foreign_encoder
from .image_sources import ImageSource, Split, folder_images, load_images
from .table_encoder import IMAGES_PER_PART, Encoding, TableEncoder

NAME = "python -m prunnet_hf.retrieval.encoding"
_USUAL_SPLIT: Split = "gallery"
_RANK = ["RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK"]
_NUM_PROCESSES = ["WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"]
_LOCAL_RANK = ["LOCAL_RANK", "MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_RANK"]
"""Variables by which launchers, accelerate's, torch's and MPI's, number processes."""


def main(arguments: Sequence[str] | None = None, name: str = NAME) -> int:
    """Run the command; an error is printed in one line, with status 1.

    Args:
        arguments: Those of the command line if not given.
        name: How the command was called.
    """
    chosen = _parser(name).parse_args(arguments)
    return run_command(name.removeprefix("python -m "), lambda: _encode(chosen), arguments)


def _encode(chosen: argparse.Namespace) -> None:
    shards = _own_shards(chosen)
    _check_places(chosen, is_folder=shards is not None)  # before a model is downloaded
    images = _images(chosen)
    encoder = _encoder(chosen)
    left_out = []
    if shards is None:
        left_out = encoder.write(images, range(len(images)), Path(chosen.output).absolute())
    for shard in shards or []:
        left_out += encode_shard(encoder, images, chosen.output, shard)
        print(f"{Path(chosen.output, shard.file)}: shard {shard} is whole", flush=True)
    config = encoder.model.config
    print(f"{chosen.output}: space {config.embedding_space}, capacity {format_capacity(config.capacity)}")
    for path in left_out:
        print(f"left out: {path}")


def _own_shards(chosen: argparse.Namespace) -> list[Shard] | None:
    """The shards that this process makes; None to make one file.

    Processes need nothing of each other but their number, so none waits for others, and no slow one is given up.
    """
    rank, num_processes = get_int_from_env(_RANK, 0), get_int_from_env(_NUM_PROCESSES, 1)
    if chosen.shard is not None:
        if num_processes > 1 or chosen.num_shards is not None:
            raise ValueError(
                f"--shard {chosen.shard} is for one process that makes one shard: leave it out, and give --num_shards "
                "N, to share N shards among the processes that accelerate launch starts."
            )
        return [Shard.parse(chosen.shard)]
    if chosen.num_shards is None and num_processes == 1:
        return None
    count = num_processes if chosen.num_shards is None else chosen.num_shards
    if count < 1:
        raise ValueError(f"num_shards must be at least 1, got {count}.")
    return [Shard(number, count) for number in range(rank + 1, count + 1, num_processes)]


def _check_places(chosen: argparse.Namespace, *, is_folder: bool) -> None:
    if chosen.dataset is None and chosen.data_dir is None:
        raise ValueError("--data_dir must be a folder of images, or --dataset the name of a data set; got neither.")
    if chosen.dataset is None and (chosen.split is not None or chosen.bounding_boxes):
        raise ValueError("--split and --bounding_boxes belong to --dataset; got them without it.")
    if chosen.data_dir is not None:
        require_folder("data_dir", chosen.data_dir, "It must hold images.")
    if is_folder:
        check_folder(Path(chosen.output).absolute())
    else:
        check_output(Path(chosen.output).absolute())


def _images(chosen: argparse.Namespace) -> ImageSource:
    if chosen.dataset is None:
        return folder_images(Path(chosen.data_dir))
    return load_images(
        chosen.dataset, chosen.split or _USUAL_SPLIT, chosen.data_dir, bounding_boxes=chosen.bounding_boxes
    )


def _encoder(chosen: argparse.Namespace) -> TableEncoder:
    number = get_int_from_env(_LOCAL_RANK, 0)
    num_devices = torch.cuda.device_count()
    model = _network(chosen, torch.device(f"cuda:{number % num_devices}" if num_devices else "cpu"))
    how = Encoding(
        chosen.batch_size,
        chosen.num_workers,
        chosen.skip_corrupt_images,
        chosen.images_per_part,
        progress=number == 0,
    )
    of_dataset = {
        "dataset": chosen.dataset,
        "split": chosen.split or _USUAL_SPLIT,
        "bounding_boxes": chosen.bounding_boxes,
    }
    return TableEncoder(model, how, source=of_dataset if chosen.dataset is not None else {})


def _network(chosen: argparse.Namespace, device: torch.device) -> PrunNetModel | ForeignEncoder:
    disable_progress_bar()  # transformers shows one for loading weights, before that of encoding
    dtype = getattr(torch, chosen.dtype)
    if is_foreign(chosen.model):
        if chosen.capacity is not None or chosen.subfolder:
            raise ValueError(f"--capacity and --subfolder are for models of this package; {chosen.model} is none.")
        return load_foreign_encoder(chosen.model, revision=chosen.revision, dtype=dtype).to(device)
    source = model_directory(chosen.model, chosen.subfolder)
    place = {"revision": chosen.revision, "subfolder": chosen.subfolder}
    model: PrunNetModel = PrunNetModel.from_pretrained(source, capacity=chosen.capacity, dtype=dtype, **place)
    torch.nn.Module.to(model, device)
    return model


def _parser(name: str) -> argparse.ArgumentParser:
    parser = CommandParser(
        name,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--model",
        required=True,
        help=f"directory (or a run's) or Hub repository of a trained model; or {FOREIGN_NAMES}",
    )
    parser.add_argument("--data_dir", help="folder of images, of one folder for each class, or of --dataset's files")
    parser.add_argument(
        "--dataset", help=f"embed a data set instead: as for training ({in_folders()}, ...), or a name on the Hub"
    )
    parser.add_argument("--split", choices=get_args(Split), help=f"images of --dataset (default: {_USUAL_SPLIT})")
    parser.add_argument("--bounding_boxes", action="store_true", help="crop the images of --dataset to their boxes")
    parser.add_argument(
        "--output", required=True, help="Parquet file, or folder of shards; what isn't whole yet grows in *.partial/"
    )
    parser.add_argument(
        "--num_shards",
        type=int,
        help="write a folder of so many shards, shared by all processes (default with several: one for each)",
    )
    parser.add_argument("--shard", metavar="I/N", help="make only shard I of N, from 1/N to N/N, in this one process")
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
