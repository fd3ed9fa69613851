"""The `prunnet` command. Its verbs do what the scripts and the Python names do, with the same flags."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated

import typer
from typer.exceptions import TyperException

from ..commands import DEBUG, print_error, run_command
from ..retrieval.encoding import main as embed_main
from . import push as push_verb
from . import train as train_verb
from .align import align
from .export import export
from .export_gallery import export_gallery
from .galleries import index, search, show
from .info import info
from .page import page
from .prune import prune
from .quantize import quantize
from .shards import merge

NAME = "prunnet"
USAGE_ERROR = 2

app = typer.Typer(
    name=NAME,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _say_version(asked: bool) -> None:
    if asked:
        typer.echo(f"{NAME} {version('prunnet_hf')}")
        raise typer.Exit


@app.callback()
def every_verb(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """One retrieval network, a subnetwork for every device, one gallery for all."""


HANDED_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Settings of verbs whose flags are declared where the scripts declare them, and only there."""
HANDING_ON = ("demo", "train", "evaluate", "embed", "push")
"""These verbs."""


@app.command(context_settings=HANDED_ON, add_help_option=False)
def demo(context: typer.Context) -> None:
    """Train on rendered characters, into out/demo, in minutes."""
    _leave(train_verb.main(["--config", "demo", *context.args], f"{NAME} demo"))


@app.command(context_settings=HANDED_ON, add_help_option=False)
def train(context: typer.Context) -> None:
    """Train on one device; flags as for train_accelerate.py."""
    train_verb.say_how_to_use_more()
    _leave(train_verb.main(context.args, f"{NAME} train"))


@app.command(context_settings=HANDED_ON, add_help_option=False)
def evaluate(context: typer.Context) -> None:
    """Evaluate again; flags as for train_accelerate.py."""
    _leave(train_verb.main(["--eval_only", *context.args], f"{NAME} evaluate"))


@app.command(context_settings=HANDED_ON, add_help_option=False)
def embed(context: typer.Context) -> None:
    """Embed images into Parquet files, resumable."""
    _leave(embed_main(context.args, f"{NAME} embed"))


@app.command(context_settings=HANDED_ON, add_help_option=False)
def push(context: typer.Context) -> None:
    """Publish a finished run; flags as for push_to_hub.py."""
    _leave(push_verb.main(context.args, f"{NAME} push"))


for verb in (prune, export, index, merge, quantize, align, search, show, page, info):
    app.command()(verb)
app.command("export-gallery")(export_gallery)


def main(words: Sequence[str] | None = None) -> int:
    """Run the command and return its status; an error is printed in one line.

    Args:
        words: Those of the command line if not given.
    """
    given = list(sys.argv[1:] if words is None else words) or ["--help"]
    handed = given if given[0] in HANDING_ON else [word for word in given if word != DEBUG]
    status: list[int] = []

    def work() -> None:
        status.append(int(app(handed, prog_name=NAME, standalone_mode=False) or 0))

    try:
        failed = run_command(f"{NAME} {given[0]}", work, given)
    except TyperException as error:
        print_error(f"{NAME} {given[0]}", error.format_message())
        return USAGE_ERROR
    except typer.Exit as leaving:
        return leaving.exit_code
    return failed or status[0]


def _leave(status: int) -> None:
    raise typer.Exit(status)


if __name__ == "__main__":
    sys.exit(main())
