r"""Publish a finished run on the Hub, so that each device downloads what its capacity needs.

    # list every file with its size and place, without uploading; needs neither token nor network
    {command} out/photos --repo_id org/photos --dry_run

    # the dense progressive model with the card, and a branch for each trained capacity
    hf auth login
    {command} out/photos --repo_id org/photos

    # other capacities that the run evaluated, in repositories of their own, in a collection
    {command} out/photos --repo_id org/photos --capacities 0.2 0.5 --layout repos --collection Photos

    # for machines without prunnet_hf: upload its code too, which runs there if trust_remote_code=True is given
    {command} out/photos --repo_id org/photos --with_code

    # a page that prunnet page has made, as a static Space that names the model
    {command} site --space org/photos-search --repo_id org/photos

    # each network as ONNX, too, for devices and browsers; int8 is made with the images of a folder
    {command} out/photos --repo_id org/photos --onnx --data_dir photos/train

Publishing again uploads what has changed, and keeps what was written by hand in the README on the Hub.
All arguments: {command} --help
"""

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from ..commands import CommandParser, run_command
from ..export.distances import Precision
from ..export.precisions import SUFFIXES
from ..hub.publish import PublishedRun, check_repo_id, publish_run
from ..hub.space import publish_page, staged_page
from ..hub.staging import LAYOUTS, Publication, stage_run

NAME = "push_to_hub.py"


def parse_arguments(words: Sequence[str] | None = None, name: str = NAME) -> argparse.Namespace:
    """Read the command line, or the words given instead of it; `name` is how the command was called."""
    parser = CommandParser(
        name, description=__doc__.format(command=name), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "run_dir",
        type=Path,
        help="The --output_dir of a finished run of train_accelerate.py; with --space the --output of prunnet page.",
    )
    parser.add_argument("--repo_id", help="Repository for the dense model and the card: org/name.")
    parser.add_argument(
        "--space", help="Publish a page as this static Space instead: org/name. --repo_id is its model."
    )
    parser.add_argument(
        "--capacities",
        type=float,
        nargs="+",
        help="Capacities of the ready subnetworks, among those that the run evaluated; by default the trained ones.",
    )
    parser.add_argument(
        "--layout",
        choices=LAYOUTS,
        default="branches",
        help="Where ready subnetworks go: branches capacity-0.20, subfolders capacity-0.20/, or repositories "
        "org/name-capacity-0.20.",
    )
    parser.add_argument("--collection", help="Collection to put it in: a title, created if needed, or a slug.")
    parser.add_argument("--private", action="store_true", help="Let only you and your organisation see it.")
    parser.add_argument("--license", help="License of the weights, as the Hub abbreviates it: apache-2.0.")
    parser.add_argument(
        "--eval_task",
        help="Task of the Hub data set that the run is on; its leaderboard then lists the model.",
    )
    parser.add_argument("--with_code", action="store_true", help="Also upload the code for trust_remote_code.")
    parser.add_argument(
        "--with_examples",
        action="store_true",
        help="Also upload examples.png, if its test images may be published: who is on them, and under which licence?",
    )
    parser.add_argument(
        "--onnx",
        nargs="*",
        choices=list(SUFFIXES),
        help="Also upload each network as ONNX, at these precisions; without one fp32 and fp16, with --data_dir int8, "
        "too. transformers.js loads the first.",
    )
    parser.add_argument("--data_dir", type=Path, help="Folder of images, best of training, for the int8 of --onnx.")
    parser.add_argument(
        "--with_onnx_test",
        action="store_true",
        help="Also search the run's test gallery with each ONNX file; the card then says what it finds.",
    )
    parser.add_argument("--dry_run", action="store_true", help="Only lay the files out locally and list them.")
    arguments = parser.parse_args(words)
    if arguments.repo_id is None and arguments.space is None:
        parser.error("the following arguments are required: --repo_id, or --space for a page")
    return arguments


def push(arguments: argparse.Namespace) -> str:
    """Publish as the arguments say, or with `--dry_run` only lay the files out; returns what to print."""
    if arguments.space is not None:
        return _push_page(arguments)
    publication = Publication(
        arguments.repo_id,
        arguments.capacities,
        layout=arguments.layout,
        with_code=arguments.with_code,
        license=arguments.license,
        with_examples=arguments.with_examples,
        eval_task=arguments.eval_task,
        onnx=chosen_precisions(arguments),
        data_dir=arguments.data_dir,
        with_onnx_test=arguments.with_onnx_test,
    )
    if not arguments.dry_run:
        published = publish_run(
            arguments.run_dir,
            publication,
            collection=arguments.collection,
            private=arguments.private,
        )
        return published.describe()
    check_repo_id(arguments.repo_id)
    directory = Path(tempfile.mkdtemp(prefix="prunnet-dry-run-"))
    try:
        staged = stage_run(arguments.run_dir, publication, directory)
    except BaseException:  # don't leave a full disk behind
        shutil.rmtree(directory, ignore_errors=True)
        raise
    return (
        f"{staged.describe()}\nNothing was uploaded. The files are in {staged.directory}; what people wrote in a "
        "README on the Hub would be kept."
    )


def chosen_precisions(arguments: argparse.Namespace) -> list[Precision]:
    """The precisions of ONNX files that the arguments ask for."""
    if arguments.onnx is None:
        return []
    usual: list[Precision] = ["fp32", "fp16"]
    return arguments.onnx or (usual if arguments.data_dir is None else [*usual, "int8"])


def _push_page(arguments: argparse.Namespace) -> str:
    """Publish a page as a Space, or with `--dry_run` only list its files; returns what to print."""
    with_ = ("with_code", "with_examples", "with_onnx_test")
    of_a_run = ("capacities", "collection", "license", "eval_task", *with_, "data_dir")
    given = [f"--{name}" for name in of_a_run if getattr(arguments, name)]
    given += ["--onnx"] if arguments.onnx is not None else []
    given += ["--layout"] if arguments.layout != LAYOUTS[0] else []
    if given:
        raise ValueError(
            f"--space {arguments.space} publishes a page: leave out {', '.join(given)}, which is for runs."
        )
    if not arguments.dry_run:
        done = publish_page(arguments.run_dir, arguments.space, model_id=arguments.repo_id, private=arguments.private)
        return PublishedRun((done,), None, ()).describe()
    with staged_page(arguments.run_dir, arguments.space, model_id=arguments.repo_id) as staged:
        lines = [f"{file.stat().st_size:>13,}  {name}" for name, file in staged.files().items()]
    return "\n".join([f"{arguments.space}, a static Space:", *lines, "Nothing was uploaded."])


def main(words: Sequence[str] | None = None, name: str = NAME) -> int:
    """Print what was published where and return 0; or print in one line why it failed and return 1."""
    arguments = parse_arguments(words, name)
    disable_progress_bar()  # transformers shows one for every model that is saved; the Hub's client has its own
    return run_command(name, lambda: print(push(arguments)), words)
