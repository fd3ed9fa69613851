"""`prunnet quantize`: a gallery whose index is many times smaller."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..retrieval.gallery_files import INDEX, refuse_existing
from ..retrieval.gallery_quantizing import quantize_gallery
from .claims import claimed


def quantize(
    gallery: Annotated[Path, typer.Argument(help="Folder of a gallery, saved with its embeddings.")],
    num_bytes: Annotated[int, typer.Option("--bytes", help="Bytes an image; they must divide the dimensions.")],
    output: Annotated[Path, typer.Option(help="Folder of the new gallery.")],
    without_embeddings: Annotated[
        bool, typer.Option("--without_embeddings", help="Store only the index, from which none can be made again.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Decides which images the index is trained on.")] = 0,
) -> None:
    """Make a gallery's index many times smaller."""
    refuse_existing(output)
    with claimed(output):
        about = quantize_gallery(gallery, output, num_bytes, seed=seed, with_embeddings=not without_embeddings)
    size, exact = (output / INDEX).stat().st_size, 4 * about.num_images * about.embedding_dim
    typer.echo(f"{output}: {about.num_images:,} images, {about.factory}, space {about.embedding_space}")
    typer.echo(f"The index has {size / 1e6:.2f} MB; the embeddings in float32 have {exact / 1e6:.2f} MB.")
