"""`prunnet prune`: cut a subnetwork and save it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..pruning.masking import format_capacity
from ..storage.forms import weights_bytes
from ..storage.replacing import is_free
from .networks import load_network


def prune(
    model: Annotated[str, typer.Argument(help="Directory (or a run's) or Hub repository of a prunable model.")],
    capacity: Annotated[float, typer.Option(help="The kept share, in (0, 1].")],
    output: Annotated[Path, typer.Option(help="Directory to save the subnetwork in.")],
) -> None:
    """Cut the subnetwork of a capacity and save it."""
    if not is_free(output):
        raise FileExistsError(f"output={str(output)!r} exists and isn't an empty folder. Choose another name.")
    network = load_network(model, capacity).cpu()
    network.save_pretrained(output)
    typer.echo(f"{output}: capacity {format_capacity(capacity)}, {weights_bytes(output) / 1e6:.2f} MB of weights")
