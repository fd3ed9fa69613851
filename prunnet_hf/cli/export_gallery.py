"""`prunnet export-gallery`: a gallery in another search engine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ..retrieval.milvus_export import export_to_milvus


def export_gallery(
    gallery: Annotated[Path, typer.Argument(help="Folder of a gallery.")],
    to: Annotated[Literal["milvus"], typer.Option(help="The engine.")],
    uri: Annotated[
        str, typer.Option("--uri", help="Of a server, http://localhost:19530, or a local file, gallery.db.")
    ],
    collection: Annotated[
        str, typer.Option(help="Created if necessary; one that is there must be of the same space.")
    ],
    token: Annotated[
        str, typer.Option(envvar="MILVUS_TOKEN", help="API key, or user:password, if the server asks for it.")
    ] = "",
    index_type: Annotated[
        str | None,
        typer.Option("--index_type", help="Of Milvus, for a new collection: FLAT is exact; AUTOINDEX by default."),
    ] = None,
    remove_others: Annotated[
        bool, typer.Option("--remove_others", help="Remove the rows of images that aren't in the gallery.")
    ] = False,
) -> None:
    """Write a gallery into Milvus."""
    done = export_to_milvus(gallery, uri, collection, token=token, index_type=index_type, remove_others=remove_others)
    typer.echo(f"{uri}: all {done.images} images of {gallery} are in the collection {collection!r}.")
    if done.others:
        typer.echo(f"It has {done.others} rows of other images; --remove_others removes them.")
