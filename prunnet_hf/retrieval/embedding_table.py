"""Embedding tables: Parquet files of embeddings that name their images, their model and their embedding space.

The layout, version 1: one row for each image, with the columns `embedding` (fixed-size list of float32, as the network
gave it, not normalised), `path` (string), `label` (string or null) and `embedding_space` (string, the same in every
row, so that a row in a database still has it). The schema's metadata, all text: `format` (`prunnet-embeddings`),
`version` (`1`), `embedding_space`, `capacity`, `model` and `embedding_dim`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..storage.tensor_file import refuse_newer
from ..storage.whole_file import whole_file
from .spaces import check_compatible, check_known_space

FORMAT = "prunnet-embeddings"
FORMAT_VERSION = 1
EMBEDDING, PATH, LABEL, SPACE = "embedding", "path", "label", "embedding_space"
_METADATA_KEYS = ("format", "version", "embedding_space", "capacity", "model", "embedding_dim")
_REPEATED = [LABEL, SPACE]
"""Columns whose values repeat. They are stored as a dictionary, which would only slow down embeddings and paths."""


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Embedded images that know which space they belong to.

    Attributes:
        embeddings: `(n, dim)` float32, not normalised.
        embedding_space: Id of their space, `model.config.embedding_space`.
        capacity: Capacity of the network that embedded them, in (0, 1].
        paths: One for each image, or empty.
        labels: One for each image, None if the image has no label; or empty.
        model: The name of the model, for people.
    """

    embeddings: NDArray[np.float32]
    embedding_space: str
    capacity: float
    paths: list[str] = field(default_factory=list)
    labels: list[str | None] = field(default_factory=list)
    model: str = ""

    def __post_init__(self) -> None:
        """Check what would make a search wrong.

        Raises:
            TypeError: If `embeddings` aren't float32.
            ValueError: If a shape, a length, the capacity or the space is impossible.
        """
        if not isinstance(self.embeddings, np.ndarray) or self.embeddings.dtype != np.float32:
            kind = getattr(self.embeddings, "dtype", type(self.embeddings).__name__)
            raise TypeError(f"embeddings must be a NumPy array of float32, got {kind}: convert it with astype.")
        if self.embeddings.ndim != 2 or self.embeddings.shape[1] < 1:
            raise ValueError(f"embeddings must have the shape (n, dim), dim at least 1; got {self.embeddings.shape}.")
        check_known_space(self.embedding_space)
        if not 0 < self.capacity <= 1:
            raise ValueError(f"capacity must lie in (0, 1], got {self.capacity!r}.")
        for name in ("paths", "labels"):
            count = len(getattr(self, name))
            if count not in (0, len(self.embeddings)):
                raise ValueError(
                    f"{name} must have one entry for each of the {len(self.embeddings)} embeddings, or be empty; "
                    f"it has {count}."
                )

    def __len__(self) -> int:
        return len(self.embeddings)


Searchable: TypeAlias = NDArray[np.floating] | Embeddings
"""Embeddings with their space, or an array `(n, dim)` whose space the caller knows."""


def arrays_of_one_space(queries: Searchable, gallery: Searchable) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Check that two sides can be compared, and return their arrays.

    Args:
        queries: Embeddings or an array.
        gallery: The same kind, because the space of an array beside Embeddings can't be checked.

    Raises:
        TypeError: If only one is an array.
        ValueError: If they are of two spaces.
    """
    if isinstance(queries, Embeddings) and isinstance(gallery, Embeddings):
        check_compatible(queries, gallery)
        return queries.embeddings, gallery.embeddings
    for argument, item in (("queries", queries), ("gallery", gallery)):
        if isinstance(item, Embeddings):
            raise TypeError(
                f"{argument} are Embeddings of the space {item.embedding_space!r}, but the other side is an array, "
                "whose space is unknown. Pass it as Embeddings(array, model.config.embedding_space, "
                "model.config.capacity)."
            )
    return queries, gallery  # type: ignore[return-value]  # the loop has found that neither is Embeddings


def table_schema(dim: int, embedding_space: str, capacity: float, model: str) -> pa.Schema:
    """The schema of a table, with its metadata.

    Args:
        dim: Length of an embedding.
        embedding_space: Id of the space.
        capacity: Capacity of the network, in (0, 1].
        model: The name of the model.
    """
    values = (FORMAT, str(FORMAT_VERSION), embedding_space, repr(float(capacity)), model, str(dim))
    columns = [
        pa.field(EMBEDDING, pa.list_(pa.field("element", pa.float32(), nullable=False), dim), nullable=False),
        pa.field(PATH, pa.string(), nullable=False),
        pa.field(LABEL, pa.string()),
        pa.field(SPACE, pa.string(), nullable=False),
    ]
    return pa.schema(columns, metadata=dict(zip(_METADATA_KEYS, values, strict=True)))


def as_table(
    schema: pa.Schema, embeddings: NDArray[np.float32], paths: list[str], labels: list[str | None]
) -> pa.Table:
    """Rows of a table.

    Args:
        schema: From `table_schema`.
        embeddings: `(n, dim)`.
        paths: n paths.
        labels: n labels.
    """
    flat = pa.array(np.ascontiguousarray(embeddings).reshape(-1))
    space = schema.metadata[b"embedding_space"].decode()
    columns = [
        pa.FixedSizeListArray.from_arrays(flat, type=schema.field(EMBEDDING).type),
        pa.array(paths, pa.string()),
        pa.array(labels, pa.string()),
        pa.array([space] * len(paths), pa.string()),
    ]
    return pa.table(columns, schema=schema)


@contextmanager
def whole_table(path: Path, schema: pa.Schema, scratch: Path | None = None) -> Iterator[pq.ParquetWriter]:
    """A writer whose file is whole or absent, and the same bytes for the same tables in the same groups.

    Args:
        path: The file.
        schema: The schema of the file.
        scratch: See `whole_file`.
    """
    with whole_file(path, scratch) as file, pq.ParquetWriter(file, schema, use_dictionary=_REPEATED) as writer:
        yield writer


def write_embeddings(path: str | os.PathLike[str], embeddings: Embeddings) -> Path:
    """Write a Parquet file, whole or not at all; an existing file is replaced.

    Args:
        path: The file. Its folder must exist.
        embeddings: What to write, with `paths`. Without `labels`, all are null.

    Returns:
        `path`.

    Raises:
        ValueError: If `embeddings` have no paths.
        OSError: If the file can't be written.
    """
    path = Path(path)
    if len(embeddings.paths) != len(embeddings):
        raise ValueError(
            f"embeddings of {len(embeddings)} images have no paths: name the images, so that results can be found."
        )
    array = embeddings.embeddings
    schema = table_schema(array.shape[1], embeddings.embedding_space, embeddings.capacity, embeddings.model)
    table = as_table(schema, array, embeddings.paths, embeddings.labels or [None] * len(embeddings))
    with whole_table(path, schema) as writer:
        writer.write_table(table)
    return path


def read_embeddings(path: str | os.PathLike[str]) -> Embeddings:
    """Read a file from `write_embeddings`, `encode_folder` or `python -m prunnet_hf.retrieval.encoding`.

    Args:
        path: The file.

    Returns:
        All rows, in the file's order; the embeddings need `n * dim * 4` bytes.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, not an embedding table, of a newer version, or contradicts itself.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"path={str(path)!r} is not a file. `python -m prunnet_hf.retrieval.encoding` writes such files."
        )
    try:
        with pq.ParquetFile(path) as file:
            return _read(file)
    except (ValueError, OSError, OverflowError) as error:  # pyarrow's errors are kinds of these
        raise ValueError(f"{path} can't be read as a table of embeddings: {error}") from error


def _read(file: pq.ParquetFile) -> Embeddings:
    metadata = _checked_metadata(file.schema_arrow.metadata or {})
    space, dim = metadata["embedding_space"], int(metadata["embedding_dim"])
    wanted = table_schema(dim, space, 1.0, "")
    if not file.schema_arrow.equals(wanted):
        raise ValueError(f"its columns are {file.schema_arrow.names}, not those of format version {FORMAT_VERSION}.")
    num_rows = file.metadata.num_rows
    array = np.empty((num_rows, dim), dtype=np.float32)
    paths: list[str] = []
    labels: list[str | None] = []
    for batch in file.iter_batches():
        if set(batch.column(SPACE).unique().to_pylist()) - {space}:
            raise ValueError(f"rows from {len(paths)} on have another space than {space!r}, which the file states.")
        array[len(paths) : len(paths) + len(batch)] = batch.column(EMBEDDING).flatten().to_numpy().reshape(-1, dim)
        paths += batch.column(PATH).to_pylist()
        labels += batch.column(LABEL).to_pylist()
    return Embeddings(array, space, float(metadata["capacity"]), paths, labels, metadata["model"])


def _checked_metadata(stored: Mapping[bytes, bytes]) -> dict[str, str]:
    metadata = {key: stored[key.encode()].decode() for key in _METADATA_KEYS if key.encode() in stored}
    if metadata.get("format") != FORMAT:
        raise ValueError(f"its metadata 'format' is {metadata.get('format')!r}; embedding tables have {FORMAT!r}.")
    version = metadata.get("version", "")
    if version.isdecimal():
        refuse_newer(int(version), FORMAT_VERSION)
    if version != str(FORMAT_VERSION):
        raise ValueError(f"its format version is {version!r}, not {FORMAT_VERSION}. Embed the images again.")
    missing = [key for key in _METADATA_KEYS if key not in metadata]
    if missing:
        raise ValueError(f"its metadata lacks {', '.join(missing)}. Embed the images again.")
    return metadata
