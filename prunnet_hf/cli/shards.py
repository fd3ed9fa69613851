"""`prunnet index --from` and `prunnet merge`: galleries of shards that `prunnet embed` made, in parts, and merged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ..retrieval.embedding_shards import Shard
from ..retrieval.gallery_files import About, refuse_existing
from ..retrieval.gallery_index import AUTO
from ..retrieval.gallery_merging import merge_galleries
from ..retrieval.gallery_shards import WHOLE, index_shards, train_gallery
from .claims import claimed


@dataclass(frozen=True)
class FromShards:
    """The options of `prunnet index` that belong to `--from`.

    Attributes:
        trained: Folder of a gallery that was trained already.
        train_only: Whether to stop after training.
        shard: The share of the shards to fill it with, such as `2/4`.
        data_dir: What paths will begin with.
        seed: Decides which images are drawn for training.
    """

    trained: Path | None
    train_only: bool
    shard: str | None
    data_dir: Path | None
    seed: int

    def given(self) -> list[str]:
        """The flags of those that aren't as usual."""
        usual = FromShards(None, train_only=False, shard=None, data_dir=None, seed=0)
        return [f"--{name}" for name, value in vars(self).items() if value != vars(usual)[name]]


def index_from(shards: Path, output: Path, factory: str | None, options: FromShards, *, with_embeddings: bool) -> None:
    """Train a gallery, fill one, or both."""
    if options.train_only and (options.trained is not None or options.shard is not None):
        raise ValueError("--train_only makes what --trained and --shard fill later: leave these out.")
    shard = WHOLE if options.shard is None else Shard.parse(options.shard)
    refuse_existing(output)
    with claimed(output):
        if options.train_only:
            about = train_gallery(shards, output, factory or AUTO, seed=options.seed)
        else:
            about = index_shards(
                shards,
                output,
                factory or AUTO,
                trained=options.trained,
                shard=shard,
                seed=options.seed,
                data_dir=options.data_dir,
                with_embeddings=with_embeddings,
            )
    _say(output, about)


def merge(
    parts: Annotated[list[Path], typer.Argument(help="Folders of galleries that were filled from one trained one.")],
    output: Annotated[Path, typer.Option(help="Folder of the new gallery.")],
) -> None:
    """Merge galleries that several machines filled."""
    refuse_existing(output)
    with claimed(output):
        _say(output, merge_galleries(parts, output))


def _say(output: Path, about: About) -> None:
    typer.echo(f"{output}: {about.num_images:,} images, {about.factory}, space {about.embedding_space}")
