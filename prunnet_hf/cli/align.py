"""`prunnet align`: a map by which queries of a new model search an old gallery, without embedding it again."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ..data.official_files import require_folder
from ..retrieval.alignment import align as fit
from ..retrieval.alignment import read_any
from ..storage.whole_file import write_whole

SUFFIX = ".safetensors"


def align(
    old: Annotated[Path, typer.Argument(help="Gallery, or table of embeddings, of the old model.")],
    new: Annotated[Path, typer.Argument(help="The same images, or some of them, embedded by the new model.")],
    output: Annotated[Path, typer.Option(help=f"{SUFFIX} file of the map; what it loses is written beside, as JSON.")],
    data_dir: Annotated[
        Path | None, typer.Option("--data_dir", help="The folder that the paths of a table start from.")
    ] = None,
) -> None:
    """Map a new space to an old gallery's."""
    report = output.with_suffix(".json")
    if output.suffix != SUFFIX:
        raise ValueError(f"output={str(output)!r} must be a file with the suffix {SUFFIX}.")
    if output.exists():
        raise FileExistsError(f"output={str(output)!r} exists. Remove it, or choose another name.")
    require_folder("the folder of output", output.parent, "Create it, or choose another name.")
    alignment, loss = fit(read_any(old, data_dir), read_any(new, data_dir))
    spaces = {"old_space": alignment.old_space, "new_space": alignment.new_space}
    text = json.dumps({**spaces, **asdict(loss)}, indent=2) + "\n"
    if report.exists() and _text_of(report) != text:  # the same text is of this command, killed before the map
        raise FileExistsError(f"output={str(report)!r} exists. Remove it, or choose another name.")
    write_whole(report, text)
    alignment.save(output)
    typer.echo(f"{output}: {alignment!r}")
    typer.echo(loss.describe())


def _text_of(file: Path) -> str | None:
    """What a file says, None if it isn't text."""
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
