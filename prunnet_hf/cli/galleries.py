"""`prunnet index`, `prunnet search` and `prunnet show`: galleries on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ..data.official_files import require_folder
from ..modeling_prunnet import PrunNetModel
from ..pruning.masking import format_capacity
from ..retrieval.alignment import Alignment
from ..retrieval.foreign_encoders import FOREIGN_NAMES, ForeignEncoder
from ..retrieval.gallery import Gallery
from ..retrieval.gallery_index import AUTO
from .claims import claimed
from .networks import load_encoder
from .shards import FromShards, index_from

_USUAL_K = 5
_BATCH_SIZE = 64

Model = Annotated[
    str, typer.Option(help=f"Directory (or a run's) or Hub repository of a model of its space; or {FOREIGN_NAMES}.")
]
Capacities = Annotated[
    list[float] | None,
    typer.Option("--capacity", help="Prune the model to this kept share first; may be given several times."),
]
SearchedGallery = Annotated[Path, typer.Argument(help="Folder of a gallery.")]
Queries = Annotated[list[str], typer.Argument(help="Images to search for.")]
Aligned = Annotated[Path | None, typer.Option(help="Map from prunnet align, from the model's space to the gallery's.")]
HowMany = Annotated[int | None, typer.Option("--k", "-k", help="How many images to find; 5 by default.")]


def index(
    output: Annotated[Path, typer.Option(help="Folder of the gallery. One that is there grows.")],
    model: Annotated[
        str | None,
        typer.Argument(help=f"Directory (or a run's) or Hub repository of a trained model; or {FOREIGN_NAMES}."),
    ] = None,
    folder: Annotated[Path | None, typer.Argument(help="Folder of images, or of one folder for each class.")] = None,
    factory: Annotated[
        str | None, typer.Option(help="faiss's factory string: Flat, HNSW32, IVF1024,PQ32, ...; auto by default.")
    ] = None,
    capacity: Annotated[float | None, typer.Option(help="Prune the model to this kept share first.")] = None,
    batch_size: Annotated[int, typer.Option("--batch_size", help="Images in a forward pass.")] = _BATCH_SIZE,
    num_workers: Annotated[int, typer.Option("--num_workers", help="Processes that read images.")] = 0,
    skip_corrupt_images: Annotated[
        bool, typer.Option("--skip_corrupt_images", help="Leave out images that can't be decoded.")
    ] = False,
    remove_missing: Annotated[
        bool, typer.Option("--remove_missing", help="Remove images whose files are gone from a gallery that grows.")
    ] = False,
    without_embeddings: Annotated[
        bool, typer.Option("--without_embeddings", help="Store only the index, from which some can't be removed.")
    ] = False,
    shards: Annotated[
        Path | None, typer.Option("--from", help="Index embeddings instead: the shards or file of prunnet embed.")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option("--data_dir", help="With --from: the folder that its paths start from.")
    ] = None,
    train_only: Annotated[
        bool, typer.Option("--train_only", help="With --from: train a gallery without images, for --trained.")
    ] = False,
    trained: Annotated[
        Path | None, typer.Option(help="With --from: fill this trained gallery, under the name of --output.")
    ] = None,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="With --trained: fill only part I of N, for prunnet merge.")
    ] = None,
    seed: Annotated[int, typer.Option(help="With --from: decides which images the index is trained on.")] = 0,
) -> None:
    """Embed a folder of images and index it, or index shards."""
    from_shards = FromShards(trained, train_only, shard, data_dir, seed)
    reading: dict[str, Any] = {
        "batch_size": batch_size,
        "num_workers": num_workers,
        "skip_corrupt_images": skip_corrupt_images,
    }
    if shards is not None:
        _refuse_images(shards, model, folder, {"capacity": capacity, "remove_missing": remove_missing, **reading})
        index_from(shards, output, factory, from_shards, with_embeddings=not without_embeddings)
        return
    if from_shards.given():
        raise ValueError(f"--from must say which shards {', '.join(from_shards.given())} is for; it isn't given.")
    if model is None or folder is None:
        raise ValueError("a model and a folder of images must be given, or --from with the embeddings of images.")
    require_folder("folder", folder, "It must hold images.")
    with claimed(output):
        grown = _stored(output, factory)
        network = load_encoder(model, capacity)
        if grown is None:
            gallery = Gallery.from_folder(network, folder, factory or AUTO, **reading)
        else:
            gallery = grown
            added = gallery.add(folder, model=network, **reading)
            typer.echo(f"{added.new} images are new, {added.changed} changed, {added.known} were there.")
            _say_missing(gallery, remove_missing)
        gallery.save(output, with_embeddings=not without_embeddings)
    typer.echo(f"{output}: {gallery!r}")


def _refuse_images(shards: Path, model: str | None, folder: Path | None, others: dict[str, Any]) -> None:
    """Refuse what says how to embed images, where they are embedded already."""
    usual = {"batch_size": _BATCH_SIZE, "num_workers": 0}
    given = [f"--{name}" for name, value in others.items() if value not in (None, False, usual.get(name))]
    given = [*[f"{name} {value}" for name, value in (("model", model), ("folder", folder)) if value], *given]
    if given:
        raise ValueError(f"--from {shards} has embeddings already: leave out {', '.join(given)}.")


def _stored(output: Path, factory: str | None) -> Gallery | None:
    """The gallery that is there, if there is one."""
    try:
        gallery = Gallery.load(output)
    except FileNotFoundError:
        return None
    if factory not in (None, AUTO, gallery.about.factory):
        raise ValueError(
            f"factory={factory!r} differs from {gallery.about.factory!r}, that of {output}, which grows. "
            "Leave it out, or choose another --output."
        )
    return gallery


def _say_missing(gallery: Gallery, remove: bool) -> None:
    missing = [path for path in gallery.paths if not Path(path).is_file()]
    if not missing:
        return
    names = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
    if remove:
        gallery.remove(missing)
        typer.echo(f"Missing files: {len(missing)} ({names}). Their images were removed.")
    else:
        typer.echo(f"Missing files: {len(missing)} ({names}). Their images stay; --remove_missing removes them.")


def search(
    gallery: SearchedGallery,
    queries: Queries,
    model: Model,
    capacity: Capacities = None,
    k: HowMany = None,
    aligned: Aligned = None,
    output: Annotated[Path | None, typer.Option(help="PNG file to draw what was found in.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find the images most similar to queries."""
    found_in = Gallery.load(gallery)
    if output is not None:
        _check_picture(output)
    k = _how_many(found_in, k)
    networks = _networks(model, capacity, aligned)
    for network in networks:
        found = found_in.search(queries, k, model=network)
        for place, query in enumerate(queries):
            hits = [
                {"path": path, "score": float(score), "label": label}
                for path, score, label in zip(
                    found.paths[place], found.scores[place], found.labels[place], strict=True
                )
                if path is not None  # an approximate index may find fewer
            ]
            if as_json:
                typer.echo(json.dumps({"query": query, "capacity": network.config.capacity, "found": hits}))
                continue
            typer.echo(f"{query}, capacity {format_capacity(network.config.capacity)}:")
            for hit in hits:
                typer.echo(f"  {hit['score']:.3f}  {hit['path']}")
    if output is not None:
        _draw(found_in, queries, networks, k, output, err=as_json)


def show(
    gallery: SearchedGallery,
    queries: Queries,
    model: Model,
    output: Annotated[Path, typer.Option(help="PNG file to draw in.")],
    capacity: Capacities = None,
    k: HowMany = None,
    aligned: Aligned = None,
) -> None:
    """Draw the images most similar to queries."""
    found_in = Gallery.load(gallery)
    _check_picture(output)
    k = _how_many(found_in, k)
    _draw(found_in, queries, _networks(model, capacity, aligned), k, output)


def _how_many(gallery: Gallery, k: int | None) -> int:
    return min(_USUAL_K, max(len(gallery), 1)) if k is None else k


def _networks(model: str, capacities: list[float] | None, aligned: Path | None) -> list[PrunNetModel | ForeignEncoder]:
    alignment = None if aligned is None else Alignment.load(aligned)
    loaded = [load_encoder(model, each) for each in capacities] if capacities else [load_encoder(model)]
    return [alignment.encoder(each) for each in loaded] if alignment else loaded


def _draw(
    gallery: Gallery,
    queries: list[str],
    networks: list[PrunNetModel | ForeignEncoder],
    k: int,
    output: Path,
    *,
    err: bool = False,
) -> None:
    gallery.show(queries, networks, k, output=output)
    typer.echo(f"picture: {output}", err=err)


def _check_picture(output: Path) -> None:
    """Refuse, before anything is searched, a path where no picture can be written."""
    if output.suffix.lower() != ".png":
        raise ValueError(f"output={str(output)!r} must be a PNG file, with the suffix .png.")
    require_folder("the folder of output", output.parent, "Create it, or choose another name.")
