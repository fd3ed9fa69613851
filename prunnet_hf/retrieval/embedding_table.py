"""Embedding tables: Parquet files of embeddings that name their images, their model and their embedding space.

The layout, version 1: one row for each image, with the columns `embedding` (fixed-size list of float32, as the network
gave it, not normalised), `path` (string), `label` (string or null) and `embedding_space` (string, the same in every
row, so that a row in a database still has it). The schema's metadata, all text: `format` (`prunnet-embeddings`),
`version` (`1`), `embedding_space`, `capacity`, `model`, `embedding_dim`, and `digest`, which guards the others.

Every page has a checksum. What other programs make of such a file is read too, if their columns hold the same values.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..storage.tensor_file import refuse_newer
from ..storage.whole_file import whole_file
from .spaces import check_compatible, check_known_space

FORMAT = "prunnet-embeddings"
FORMAT_VERSION = 1
EMBEDDING, PATH, LABEL, SPACE = "embedding", "path", "label", "embedding_space"
_COLUMNS = (EMBEDDING, PATH, LABEL, SPACE)
_METADATA_KEYS = ("format", "version", "embedding_space", "capacity", "model", "embedding_dim")
_DIGEST = "digest"
"""Metadata: the digest of the other metadata. Tables of earlier versions lack it."""
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

    def __repr__(self) -> str:
        count, dim = self.embeddings.shape
        model = f", model={self.model!r}" if self.model else ""
        return (
            f"Embeddings({count:,} images, {dim} dimensions, embedding_space={self.embedding_space!r}, "
            f"capacity={self.capacity}{model})"
        )


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
    metadata = dict(zip(_METADATA_KEYS, values, strict=True))
    return pa.schema(columns, metadata={**metadata, _DIGEST: _metadata_digest(metadata)})


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
    with (
        whole_file(path, scratch) as file,
        pq.ParquetWriter(file, schema, use_dictionary=_REPEATED, write_page_checksum=True) as writer,
    ):
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

    Other programs may have rewritten it, if they kept the metadata: further columns are ignored, and lists, other
    kinds of text, and floating-point numbers that float32 holds exactly are converted.

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
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            return _read(file)
    except (ValueError, OSError, OverflowError, MemoryError, pa.ArrowException) as error:
        raise ValueError(f"{path} can't be read as a table of embeddings: {error}") from error


@dataclass(frozen=True)
class TableFacts:
    """What a table says of itself, without its rows; see `Embeddings`.

    Attributes:
        num_rows: Number of images.
        embedding_space: Id of their space.
        embedding_dim: Length of an embedding.
        capacity: Capacity of the network.
        model: Its name.
        others: All texts of the file's metadata.
    """

    num_rows: int
    embedding_space: str
    embedding_dim: int
    capacity: float
    model: str
    others: dict[str, str]


def read_facts(path: Path) -> TableFacts:
    """Read what a file says of itself.

    Raises:
        ValueError: If it is damaged, or no embedding table.
    """
    try:
        footer = pq.read_metadata(path)
        stored = footer.metadata or {}
        metadata = _checked_metadata(stored)
        texts = {name.decode(): text.decode(errors="replace") for name, text in stored.items()}
        space, dim, capacity = (metadata[key] for key in ("embedding_space", "embedding_dim", "capacity"))
        return TableFacts(footer.num_rows, space, int(dim), float(capacity), metadata["model"], texts)
    except (ValueError, OSError, pa.ArrowException) as error:
        raise ValueError(f"{path} can't be read as a table of embeddings: {error}") from error


def _read(file: pq.ParquetFile) -> Embeddings:
    stored = file.metadata.metadata or {}  # not of schema_arrow, which lacks what polars writes
    metadata = _checked_metadata(stored)
    space, dim = metadata["embedding_space"], int(metadata["embedding_dim"])
    _check_columns(file.schema_arrow, dim)
    num_rows = file.metadata.num_rows
    array = np.empty((num_rows, dim), dtype=np.float32)
    paths: list[str] = []
    labels: list[str | None] = []
    for batch in file.iter_batches(columns=list(_COLUMNS)):
        if set(_texts(batch, SPACE).unique().to_pylist()) - {space}:
            raise ValueError(f"rows from {len(paths)} on have another space than {space!r}, which the file states.")
        array[len(paths) : len(paths) + len(batch)] = _vectors(batch.column(EMBEDDING), dim)
        paths += _texts(batch, PATH).to_pylist()
        labels += _texts(batch, LABEL).to_pylist()
    if len(paths) != num_rows:  # else the rest of the array would be whatever was in memory
        raise ValueError(f"it states {num_rows} rows, but holds {len(paths)}: it is damaged. Embed the images again.")
    found = Embeddings(array, space, float(metadata["capacity"]), paths, labels, metadata["model"])
    if stored.get(_DIGEST.encode()) not in (None, _metadata_digest(metadata).encode()):
        raise ValueError(f"its metadata {metadata} lacks its digest: it is damaged or edited. Embed the images again.")
    return found


def _check_columns(schema: pa.Schema, dim: int) -> None:
    """Refuse, naming the column, what can't be converted whatever the values are."""
    for name in _COLUMNS:
        count = schema.names.count(name)
        if count != 1:
            raise ValueError(f"it must have one column {name!r}; it has {count} (its columns are {schema.names}).")
        kind = schema.field(name).type
        fits = _is_vector(kind, dim) if name == EMBEDDING else _is_text(kind)
        if not fits:
            wanted = f"lists of {dim} floating-point numbers" if name == EMBEDDING else "text"
            raise ValueError(f"its column {name!r} holds {kind}; it must hold {wanted}. Embed the images again.")


def _is_vector(kind: pa.DataType, dim: int) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    is_fixed = pa.types.is_fixed_size_list(kind) and kind.list_size == dim
    return bool((is_list or is_fixed) and pa.types.is_floating(kind.value_type))


def _is_text(kind: pa.DataType) -> bool:
    values = kind.value_type if pa.types.is_dictionary(kind) else kind
    # A column without any value has the type null in some programs.
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    return any(test(values) for test in tests)


def _texts(batch: pa.RecordBatch, name: str) -> pa.StringArray:
    texts = batch.column(name).cast(pa.string())
    if texts.null_count and name != LABEL:
        raise ValueError(f"its column {name!r} has rows without a value. Embed the images again.")
    return texts


def _vectors(column: pa.Array, dim: int) -> NDArray[np.float32]:
    flat = column.flatten()
    if column.null_count or flat.null_count or not pc.all(pc.equal(pc.list_value_length(column), dim)).as_py():
        raise ValueError(f"its column {EMBEDDING!r} must hold {dim} numbers in every row. Embed the images again.")
    numbers = flat.to_numpy(zero_copy_only=False).reshape(-1, dim)
    with np.errstate(over="ignore"):
        exact: NDArray[np.float32] = numbers.astype(np.float32, copy=False)
    if not np.array_equal(exact, numbers, equal_nan=True):
        raise ValueError(
            f"its column {EMBEDDING!r} holds {flat.type} numbers that float32 can't hold exactly. Embed the images "
            "again, or round the column to float32 yourself."
        )
    return exact


def _metadata_digest(metadata: Mapping[str, str]) -> str:
    return hashlib.sha256("\n".join(metadata[key] for key in _METADATA_KEYS).encode()).hexdigest()[:16]


def _checked_metadata(stored: Mapping[bytes, bytes]) -> dict[str, str]:
    metadata = {key: stored[key.encode()].decode() for key in _METADATA_KEYS if key.encode() in stored}
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"its metadata 'format' is {metadata.get('format')!r}; embedding tables have {FORMAT!r}. If another "
            "program rewrote the table, give it the metadata of the first one; if a model that isn't ours made the "
            "embeddings, describe_space gives them a space."
        )
    version = metadata.get("version", "")
    if version.isdecimal():
        refuse_newer(int(version), FORMAT_VERSION)
    if version != str(FORMAT_VERSION):
        raise ValueError(f"its format version is {version!r}, not {FORMAT_VERSION}. Embed the images again.")
    missing = [key for key in _METADATA_KEYS if key not in metadata]
    if missing:
        raise ValueError(f"its metadata lacks {', '.join(missing)}. Embed the images again.")
    return metadata
