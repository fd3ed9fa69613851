"""The table of a gallery's images on disk, which is written and read in parts: it may be larger than memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..storage.whole_file import whole_file
from .embedding_table import EMBEDDING, LABEL, PATH
from .gallery_images import DIGEST

IMAGES = "images.parquet"
PART, PART_OF = "part", "part_of"
"""Metadata: which part of the images of shards it has, such as `2/4`, and of which shards."""
ROWS_A_GROUP = 65_536


def images_schema(embedding_space: str, dim: int, *, with_vectors: bool, **facts: str) -> pa.Schema:
    """The schema of the table, with its metadata.

    Args:
        embedding_space: Id of the gallery's space.
        dim: Length of an embedding.
        with_vectors: Whether it has embeddings.
        **facts: Further metadata.
    """
    columns = [pa.field(PATH, pa.string(), nullable=False), pa.field(LABEL, pa.string())]
    columns.append(pa.field(DIGEST, pa.string(), nullable=False))
    if with_vectors:
        element = pa.field("element", pa.float32(), nullable=False)
        columns.append(pa.field(EMBEDDING, pa.list_(element, dim), nullable=False))
    return pa.schema(columns, metadata={"embedding_space": embedding_space, **facts})


def image_rows(schema: pa.Schema, images: pa.Table, vectors: NDArray[np.float32] | None) -> pa.Table:
    """Rows of the table.

    Args:
        schema: From `images_schema`.
        images: The columns `path`, `label` and `digest`.
        vectors: `(n, embedding_dim)`, if the schema has embeddings.
    """
    columns = [images.column(name).combine_chunks() for name in (PATH, LABEL, DIGEST)]
    if vectors is not None and EMBEDDING in schema.names:
        flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
        columns.append(pa.FixedSizeListArray.from_arrays(flat, type=schema.field(EMBEDDING).type))
    return pa.table(columns, schema=schema)


def all_rows(schema: pa.Schema, images: pa.Table, vectors: NDArray[np.float32] | None) -> Iterator[pa.Table]:
    """The rows of images that are in memory, a group at a time; see `image_rows`."""
    for start in range(0, len(images), ROWS_A_GROUP):
        end = start + ROWS_A_GROUP
        yield image_rows(schema, images[start:end], None if vectors is None else vectors[start:end])


def write_images(path: Path, schema: pa.Schema, rows: Iterable[pa.Table]) -> None:
    """Write a table, whole or not at all.

    Args:
        path: The file.
        schema: From `images_schema`.
        rows: From `image_rows`.

    Raises:
        OSError: If it can't be written.
    """
    with (
        whole_file(path) as file,
        pq.ParquetWriter(file, schema, write_page_checksum=True) as writer,
    ):
        for part in rows:
            writer.write_table(part, row_group_size=ROWS_A_GROUP)


def image_batches(path: Path, columns: Sequence[str], size: int = ROWS_A_GROUP) -> Iterator[pa.RecordBatch]:
    """The rows of a table, a part at a time.

    Args:
        path: The file.
        columns: The columns to read.
        size: How many rows to read at a time.
    """
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        yield from file.iter_batches(size, columns=list(columns))
