"""`prunnet index`, `prunnet search` and `prunnet show`: galleries on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ..pruning.masking import format_capacity
from ..retrieval.gallery import Gallery
from ..retrieval.gallery_files import ABOUT, refuse_other_folder
from .networks import load_network

Model = Annotated[str, typer.Option(help="Directory (or a run's) or Hub repository of a model of the same space.")]
Capacities = Annotated[
    list[float] | None,
    typer.Option("--capacity", help="Prune the model to this kept share first; may be given several times."),
]
Output = Annotated[Path | None, typer.Option(help="PNG file to draw what was found in.")]


def index(
    model: Annotated[str, typer.Argument(help="Directory (or a run's) or Hub repository of a trained model.")],
    folder: Annotated[Path, typer.Argument(help="Folder of images, or of one folder for each class.")],
    output: Annotated[Path, typer.Option(help="Folder of the gallery. One that is there grows.")],
    factory: Annotated[str, typer.Option(help="faiss's factory string: Flat, HNSW32, IVF1024,PQ32, ...")] = "auto",
    capacity: Annotated[float | None, typer.Option(help="Prune the model to this kept share first.")] = None,
    batch_size: Annotated[int, typer.Option("--batch_size", help="Images in a forward pass.")] = 64,
    num_workers: Annotated[int, typer.Option("--num_workers", help="Processes that read images.")] = 0,
    skip_corrupt_images: Annotated[
        bool, typer.Option("--skip_corrupt_images", help="Leave out images that can't be decoded.")
    ] = False,
    without_embeddings: Annotated[
        bool, typer.Option("--without_embeddings", help="Store only the index, from which some can't be removed.")
    ] = False,
) -> None:
    """Embed a folder of images and index it."""
    refuse_other_folder(output)
    network = load_network(model, capacity)
    if (output / ABOUT).exists():
        gallery = Gallery.load(output)
        added = gallery.add(folder, model=network, batch_size=batch_size)
        typer.echo(f"{added.new} images are new, {added.changed} changed, {added.known} were there.")
    else:
        gallery = Gallery.from_folder(
            network,
            folder,
            factory,
            batch_size=batch_size,
            num_workers=num_workers,
            skip_corrupt_images=skip_corrupt_images,
        )
    gallery.save(output, with_embeddings=not without_embeddings)
    typer.echo(f"{output}: {gallery!r}")


def search(
    gallery: Annotated[Path, typer.Argument(help="Folder of a gallery.")],
    queries: Annotated[list[str], typer.Argument(help="Images to search for.")],
    model: Model,
    capacity: Capacities = None,
    k: Annotated[int, typer.Option("--k", "-k", help="How many images to find.")] = 5,
    output: Output = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find the most similar images of a gallery, and draw them with --output."""
    found_in = Gallery.load(gallery)
    networks = [load_network(model, each) for each in capacity] if capacity else [load_network(model)]
    for network in networks:
        found = found_in.search(queries, k, model=network)
        for place, query in enumerate(queries):
            hits = [
                {"path": path, "score": float(score), "label": label}
                for path, score, label in zip(
                    found.paths[place], found.scores[place], found.labels[place], strict=True
                )
            ]
            if as_json:
                typer.echo(json.dumps({"query": query, "capacity": network.config.capacity, "found": hits}))
                continue
            typer.echo(f"{query}, capacity {format_capacity(network.config.capacity)}:")
            for hit in hits:
                typer.echo(f"  {hit['score']:.3f}  {hit['path']}")
    if output is not None:
        found_in.show(queries, networks, k, output=output)
        typer.echo(f"picture: {output}", err=as_json)
