"""`prunnet page`: a web page that searches a gallery in the visitor's browser."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from ..export.page.server import DEFAULT_PORT, address, serving
from ..export.page.site import MOST_IMAGES, Matrix, Page, build_page
from ..modeling_prunnet import PrunNetModel
from ..retrieval.compatibility import as_grid
from ..runs.record import RECORD, RunRecord
from .networks import load_network

_DRAWN = ("glyphs", "omniglot")
"""Data sets of characters, which visitors can draw."""


def page(
    output: Annotated[Path, typer.Option(help="Folder of the page. One that is there is replaced.")],
    model: Annotated[
        str | None, typer.Argument(help="Run, or directory or Hub repository of its dense network.")
    ] = None,
    gallery: Annotated[Path | None, typer.Option(help="Folder of a gallery, embedded by it.")] = None,
    capacities: Annotated[
        list[float] | None,
        typer.Option("--capacity", help="To choose from; several times. By default those of the run."),
    ] = None,
    examples: Annotated[
        Path | None, typer.Option(help="Folder of images to search with; by default some of the gallery.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="Headline of the page.")] = None,
    images: Annotated[int, typer.Option(help="How many images of the gallery to show at most.")] = MOST_IMAGES,
    draw: Annotated[
        bool | None,
        typer.Option("--draw/--no-draw", help="Let visitors draw; by default if the run is of characters."),
    ] = None,
    runtime: Annotated[
        Path | None, typer.Option(help="npm's onnxruntime-web, to copy; by default from its CDN, pinned.")
    ] = None,
    serve: Annotated[bool, typer.Option("--serve", help="Then serve it here; alone, one that is there.")] = False,
    port: Annotated[
        int, typer.Option(min=0, max=65_535, help="With --serve: of this machine; 0 takes any free one.")
    ] = DEFAULT_PORT,
) -> None:
    """Make a web page that searches a gallery in the browser."""
    if (model is None) != (gallery is None) or (model is None and not serve):
        raise ValueError(
            "a model and --gallery must be given, of which the page is made; or --serve alone with the --output of "
            f"a page that is there. Got model={model!r}, gallery={gallery and str(gallery)!r}."
        )
    if model is not None and gallery is not None:
        record = _record(model)
        network = load_network(model)
        wanted = Page(
            title=title or f"Search {gallery.resolve().name}",
            capacities=capacities or known_capacities(network, record),
            examples=examples,
            most_images=images,
            drawing=(record is not None and record.dataset in _DRAWN) if draw is None else draw,
            matrix=matrix_of(record),
        )
        _say(build_page(network, gallery, output, wanted, runtime=runtime), output)
        if not serve:
            typer.echo(f"Any static host can serve it; here: prunnet page --output {output} --serve")
    if serve:
        with serving(output, port) as server:
            typer.echo(f"{address(server)} shows {output}; Ctrl-C ends it.")
            server.serve_forever()


def _record(model: str) -> RunRecord | None:
    """What is known of a run; None if the model isn't that of one."""
    path = Path(model) / RECORD
    return RunRecord.read(path) if path.is_file() else None


def known_capacities(network: PrunNetModel, record: RunRecord | None) -> list[float]:
    """Those that were evaluated, or else trained, without the dense network."""
    known = network.config.capacities if record is None else record.evaluated_capacities
    return [capacity for capacity in known if capacity < 1]


def matrix_of(record: RunRecord | None) -> Matrix | None:
    """The compatibility matrix of a run, by its headline metric; None without a run."""
    if record is None:
        return None
    queries, galleries, values = as_grid(record.results, record.headline)
    cells = [[None if math.isnan(value) else float(value) for value in row] for row in values]
    return Matrix(record.headline, queries, galleries, cells)


def _say(made: dict[str, Any], output: Path) -> None:
    """Print what was made, and what was left out."""
    shown, of = len(made["gallery"]["names"]), made["gallery"]["of"]
    part = "" if shown == of else f" of {of:,}, taken at even distances (--images {of} shows all)"
    size = made["gallery"]["vectors"]["bytes"] + made["gallery"]["thumbnails"]["bytes"]
    typer.echo(f"{output}: {shown:,} images{part}, {size / 1e6:.2f} MB; {len(made['examples'])} examples")
    for network in made["networks"]:
        typer.echo(f"  capacity {network['capacity']:<5g} {network['bytes'] / 1e6:7.2f} MB")
    runtime = made["runtime"]
    where = runtime["script"]["url"].rpartition("/")[0]
    size = runtime["script"]["bytes"] + runtime["wasm"]["bytes"]
    typer.echo(f"  onnxruntime-web {runtime['version']}, {size / 1e6:.1f} MB, from {where}")
