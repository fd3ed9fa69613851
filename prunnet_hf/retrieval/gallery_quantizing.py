"""A gallery's index made small: each embedding becomes a few bytes, of product quantisation after a rotation (OPQ).

The gallery that is quantised is read from disk in batches, so that only codes and a sample are in memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tqdm import tqdm

from .embedding_table import EMBEDDING
from .gallery_files import (
    About,
    check_file,
    read_about,
    read_gallery,
    refuse_existing,
    state_of,
    write_rows,
)
from .gallery_images import IMAGES_SCHEMA
from .gallery_index import check_factory, empty_index, sample_size, stored_vectors, train_index
from .gallery_table import IMAGES, ROWS_A_GROUP, image_batches, image_rows, images_schema

Vectors = NDArray[np.float32]
_SHOWN = 4


@dataclass(frozen=True)
class StoredRows:
    """The images and embeddings of a gallery on disk, which are read in batches.

    Attributes:
        folder: The gallery's.
        about: What it is.
        state: Its state, which must stay the same.
        index: Its index, left on disk, if only that has the embeddings; None if the table has them.
    """

    folder: Path
    about: About
    state: str | None
    index: Any

    @classmethod
    def of(cls, folder: str | os.PathLike[str]) -> Self:
        """Those of a gallery.

        Raises:
            FileNotFoundError: If there is no gallery.
            ValueError: If it is damaged, empty, or was saved without embeddings and its index has only approximations.
        """
        folder = Path(folder)
        about, files = read_about(folder)
        state = state_of(folder)
        check_file(folder / IMAGES, files[IMAGES], contents=True)
        if EMBEDDING in pq.read_schema(folder / IMAGES).names:
            return cls(folder, about, state, None)
        index = read_gallery(folder, mmap=True).index
        if stored_vectors(index) is None:
            raise ValueError(
                f"The gallery {folder} was saved without embeddings, and its index {about.factory!r} has only "
                "approximations of them. Embed the images again, and save them with embeddings."
            )
        return cls(folder, about, state, index)

    def batches(self, size: int = ROWS_A_GROUP) -> Iterator[tuple[pa.Table, Vectors]]:
        """Images, and their embeddings `(n, dim)`, of at most `size` rows.

        Raises:
            ValueError: If the gallery has been replaced, or an embedding isn't finite.
        """
        if state_of(self.folder) != self.state:
            raise ValueError(f"{self.folder} was saved by another process meanwhile. Give the same command again.")
        indexed = None if self.index is None else stored_vectors(self.index)
        names = [*IMAGES_SCHEMA.names, *([EMBEDDING] if indexed is None else [])]
        start = 0
        for batch in image_batches(self.folder / IMAGES, names, size):
            end = start + len(batch)
            vectors = _vectors(batch) if indexed is None else indexed[start:end]
            bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
            if bad.size:
                raise ValueError(
                    f"The embedding of row {start + bad[0]} of the gallery {self.folder} isn't finite, so it can't be "
                    "quantised. Remove its image, or make the gallery again."
                )
            start = end
            yield pa.table(batch.select(IMAGES_SCHEMA.names).columns, schema=IMAGES_SCHEMA), vectors


def quantize_gallery(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    num_bytes: int,
    *,
    seed: int = 0,
    with_embeddings: bool = True,
    progress: bool = True,
) -> About:
    """Make a gallery of the same images whose index has `num_bytes` of each: `OPQ<n>,PQ<n>x8np`.

    Args:
        source: The gallery's folder; its embeddings must be stored, in the table or in the index.
        output: The folder of the new gallery.
        num_bytes: How many bytes an embedding becomes; it must divide the number of dimensions.
        seed: Decides which images the index is trained on.
        with_embeddings: Also store the embeddings.
        progress: Whether to show a bar.

    Returns:
        What the new gallery is.

    Raises:
        FileExistsError: If there is something at `output`.
        FileNotFoundError: If there is no gallery.
        ValueError: If it is damaged or has no embeddings, has too few images, or `num_bytes` doesn't suit it.
    """
    refuse_existing(Path(output))
    rows = StoredRows.of(source)
    index = quantized_index(rows, num_bytes, seed=seed, progress=progress)
    return write_quantized(Path(output), rows, index, num_bytes, with_embeddings=with_embeddings, progress=progress)


def quantized_index(rows: StoredRows, num_bytes: int, *, seed: int, progress: bool) -> Any:
    """An index trained on a sample of the embeddings, and filled with all of them; see `quantize_gallery`.

    That of a gallery that is quantised so already is taken as it is.
    """
    check_bytes(num_bytes, rows.about)
    factory = factory_of(num_bytes, rows.about)
    if rows.about.factory == factory:
        return read_gallery(rows.folder, mmap=False).index
    index = empty_index(rows.about.embedding_dim, factory)
    train_index(index, _sample(rows, min(sample_size(index), rows.about.num_images), seed), factory)
    with tqdm(total=rows.about.num_images, desc="quantize", unit="image", disable=not progress) as bar:
        for _, vectors in rows.batches():
            index.add(np.ascontiguousarray(vectors))
            bar.update(len(vectors))
    return index


def write_quantized(
    output: Path, rows: StoredRows, index: Any, num_bytes: int, *, with_embeddings: bool, progress: bool
) -> About:
    """Write the rows of one gallery with the index of another; see `quantize_gallery`."""
    about = replace(rows.about, factory=factory_of(num_bytes, rows.about), parameters="")
    schema = images_schema(about.embedding_space, about.embedding_dim, with_vectors=with_embeddings)
    batches = tqdm(
        rows.batches(),
        desc="write",
        total=-(-about.num_images // ROWS_A_GROUP),
        unit="batch",
        disable=not progress,
    )
    write_rows(output, about, index, schema, (image_rows(schema, images, vectors) for images, vectors in batches))
    return about


def check_bytes(num_bytes: int, about: About) -> None:
    """Refuse a number of bytes that a gallery's embeddings can't become.

    Raises:
        ValueError: If the dimensions can't be divided so, or there are too few images.
    """
    factory = factory_of(num_bytes, about)
    if about.factory != factory:
        check_factory(factory, about.embedding_dim, lambda: about.num_images)


def factory_of(num_bytes: int, about: About) -> str:
    """Faiss's factory string for so many bytes an image.

    Raises:
        ValueError: If the dimensions can't be divided so.
    """
    dim = about.embedding_dim
    if isinstance(num_bytes, bool) or not isinstance(num_bytes, int) or num_bytes < 1 or dim % num_bytes:
        divisors = [each for each in range(1, dim + 1) if dim % each == 0]
        near = sorted(sorted(divisors, key=lambda each: abs(each - dim // 8))[:_SHOWN])
        raise ValueError(
            f"bytes must divide the {dim} dimensions of the gallery's embeddings, as {', '.join(map(str, near))} do; "
            f"got {num_bytes!r}."
        )
    return f"OPQ{num_bytes},PQ{num_bytes}x8np"


def _sample(rows: StoredRows, size: int, seed: int) -> Vectors:
    """Embeddings of images drawn from all, in order."""
    drawn = np.sort(np.random.default_rng(seed).choice(rows.about.num_images, size, replace=False))
    sample = np.empty((size, rows.about.embedding_dim), dtype=np.float32)
    start = filled = 0
    for _, vectors in rows.batches():
        upto = int(np.searchsorted(drawn, start + len(vectors)))
        sample[filled:upto] = vectors[drawn[filled:upto] - start]
        start, filled = start + len(vectors), upto
    return sample


def _vectors(batch: pa.RecordBatch) -> Vectors:
    flat: Vectors = batch.column(EMBEDDING).flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(batch), -1)
