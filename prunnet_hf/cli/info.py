"""`prunnet info`: what a checkpoint, a run or a gallery is."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ..commands import model_directory
from ..configuration_prunnet import PrunNetConfig
from ..retrieval.gallery_files import ABOUT, GALLERY_FILES, read_about
from ..runs.record import RECORD, RunRecord
from ..storage.forms import weights_bytes


def info(
    place: Annotated[str, typer.Argument(help="A run, a model's directory or Hub repository, or a gallery.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what a checkpoint, run or gallery is, and how large."""
    facts = describe(place)
    if as_json:
        typer.echo(json.dumps(facts, indent=1))
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        typer.echo(f"{name:{width}}  {value}")


def describe(place: str) -> dict[str, Any]:
    """What there is to say about it.

    Raises:
        OSError: If there is nothing, or no model.
        ValueError: If it is damaged.
    """
    folder = Path(place)
    if not place or folder.is_file():
        raise ValueError(f"place={place!r} must be a folder, or a repository of the Hub (org/name); a file isn't.")
    if (folder / ABOUT).is_file():
        about, _ = read_about(folder)
        size = sum((folder / name).stat().st_size for name in GALLERY_FILES.files)
        return {"kind": "gallery", **asdict(about), "bytes": size}
    facts: dict[str, Any] = {"kind": "model"}
    if (folder / RECORD).is_file():
        record = RunRecord.read(folder / RECORD)
        dense = max(record.evaluated_capacities)
        facts = {"kind": "run", "dataset": record.dataset, "method": record.method}
        facts[f"{record.headline} of the dense network"] = round(record.value(record.headline, dense, dense), 4)
    source = model_directory(place)
    config = PrunNetConfig.from_pretrained(source)
    names = ("backbone", "image_size", "embedding_dim", "embedding_space", "granularity", "prunable", "capacity")
    facts |= {name: getattr(config, name) for name in names} | {"capacities": list(config.capacities)}
    return facts | ({"bytes": weights_bytes(Path(source))} if Path(source).is_dir() else {})
