"""Galleries that were filled in parts, merged into one: ids and scores are as if one machine had filled it.

Only one part is in memory at a time, besides the index that they are merged into.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from .distinct_paths import DistinctPaths
from .embedding_shards import Shard
from .embedding_table import EMBEDDING, PATH
from .gallery_files import (
    About,
    read_about,
    read_gallery,
    refuse_existing,
    write_rows,
)
from .gallery_shards import Place
from .gallery_table import IMAGES, PART, PART_OF, image_batches, images_schema
from .index_merging import check_mergeable, merge_index, training_digest


def merge_galleries(parts: Sequence[Place], output: Place, *, progress: bool = True) -> About:
    """Merge galleries that were filled from one trained one; ids and scores are as if one machine had filled it.

    Args:
        parts: Their folders. Parts of the same shards are put in order; others follow as they are given.
        output: The folder of the new gallery.
        progress: Whether to show a bar.

    Returns:
        What the gallery is.

    Raises:
        FileExistsError: If there is something at `output`.
        FileNotFoundError: If a part is missing, or not a gallery.
        ValueError: If one is damaged, they are of several spaces or were trained otherwise, faiss can't merge such
            indices, some lack embeddings, or a path comes twice.
    """
    refuse_existing(Path(output))
    if not parts:
        raise ValueError("parts must be the folders of at least one gallery; there are none.")
    folders = _in_order([Path(part) for part in parts])
    abouts = [read_about(folder)[0] for folder in folders]
    for folder, about in zip(folders, abouts, strict=True):
        _check_alike(folder, about, folders[0], abouts[0])
    schema = images_schema(abouts[0].embedding_space, abouts[0].embedding_dim, with_vectors=_have_vectors(folders))
    about = replace(abouts[0], num_images=sum(each.num_images for each in abouts))
    base = read_gallery(folders[0], mmap=False).index
    base.reset()
    trained = training_digest(base)
    check_mergeable(base, about.factory)

    def rows() -> Iterator[pa.Table]:
        paths = DistinctPaths()
        for folder in tqdm(folders, desc="merge", unit="gallery", disable=not progress):
            index = read_gallery(folder, mmap=False).index
            _merge_part(base, index, trained, folder, folders[0])
            for batch in image_batches(folder / IMAGES, schema.names):
                paths.add(batch.column(PATH).to_pylist(), folder / IMAGES)
                yield pa.Table.from_batches([batch]).cast(schema)
        paths.check()

    write_rows(Path(output), about, base, schema, rows())
    return about


def _check_alike(folder: Path, about: About, first: Path, wanted: About) -> None:
    for what, own, other in (
        ("the embedding space", about.embedding_space, wanted.embedding_space),
        ("the factory", about.factory, wanted.factory),
        ("dimension", about.embedding_dim, wanted.embedding_dim),
    ):
        if own != other:
            raise ValueError(
                f"parts: {folder} is of {what} {own!r}, and {first} of {other!r}: all must be filled from one trained "
                "gallery."
            )


def _have_vectors(folders: Sequence[Path]) -> bool:
    having = [EMBEDDING in pq.read_schema(folder / IMAGES).names for folder in folders]
    if len(set(having)) > 1:
        raise ValueError(
            f"parts: {folders[having.index(True)]} has its embeddings and {folders[having.index(False)]} hasn't: fill "
            "all with them, or all without."
        )
    return having[0]


def _merge_part(base: Any, index: Any, trained: str, folder: Path, first: Path) -> None:
    try:
        merge_index(base, index)
        agrees = training_digest(index) == trained
    except ValueError:
        agrees = False
    if not agrees:
        raise ValueError(
            f"parts: the index of {folder} was trained otherwise than that of {first}, so their codes mean different "
            "things: fill both from one trained gallery (--trained)."
        )


def _in_order(folders: Sequence[Path]) -> list[Path]:
    """Folders with the parts of the same shards in their order, after checking that none of these is missing."""
    groups: dict[tuple[str, int], dict[int, Path]] = {}
    for folder in folders:
        read_about(folder)  # which says it best if this isn't a gallery
        facts = pq.read_schema(folder / IMAGES).metadata or {}
        part = Shard.parse(facts.get(PART.encode(), b"1/1").decode(), f"part of {folder}")
        of = str(folder.resolve()) if part.count == 1 else facts.get(PART_OF.encode(), b"").decode()
        group = groups.setdefault((of, part.count), {})
        if part.number in group:
            raise ValueError(f"parts: {group[part.number]} and {folder} are the same part, {part}. Give each once.")
        group[part.number] = folder
    for (_, count), group in groups.items():
        missing = [f"{number}/{count}" for number in range(1, count + 1) if number not in group]
        if missing:
            raise FileNotFoundError(
                f"parts: {next(iter(group.values()))} is one of {count} parts, of which {', '.join(missing)} "
                f"{'is' if len(missing) == 1 else 'are'} missing. Fill what is missing (--shard {missing[0]}), or "
                "name its folder, too."
            )
    return [group[number] for group in groups.values() for number in sorted(group)]
