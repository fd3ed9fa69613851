"""Embeddings that other programs made: an array or a Parquet file, described so that a gallery can be made of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

from .embedding_table import EMBEDDING, FORMAT, PATH, Embeddings
from .foreign_encoders import ForeignEncoder, stated_space


def describe_space(
    source: ArrayLike | str | os.PathLike[str],
    *,
    model: ForeignEncoder | str,
    revision: str = "",
    paths: Sequence[str | os.PathLike[str]] | None = None,
    labels: Sequence[str | None] | None = None,
    embedding_column: str = EMBEDDING,
    path_column: str = PATH,
    label_column: str | None = None,
) -> Embeddings:
    """Say which model made embeddings, so that they have a space, and `Gallery.from_embeddings` takes them.

    Args:
        source: An array `(n, dim)`, or a Parquet file with a column of lists of numbers, which is read whole.
            Embeddings become float32.
        model: The encoder that made them, whose id they get; or its name, with its `revision`.
        revision: Which version of the model of that name: a commit, a version, a date. The id is made of both, so it
            is the same wherever both are.
        paths: Names the images of an array.
        labels: Of an array's images, None for one without a label.
        embedding_column: Of a Parquet file.
        path_column: Of a Parquet file: names the images.
        label_column: Of a Parquet file, if it has labels.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If an embedding isn't finite or is zero, lengths differ, a column is missing, the file names its
            space already, or the model has no name or revision.

    Example:
        >>> found = describe_space([[0.5, 2.0]], model="clip", revision="2021-01", paths=["a.jpg"])
        >>> found.embeddings.dtype, found.embedding_space == describe_space(
        ...     [[1.0, 0.0]], model="clip", revision="2021-01"
        ... ).embedding_space
        (dtype('float32'), True)
    """
    if isinstance(model, ForeignEncoder):
        if revision:
            raise ValueError(f"revision={revision!r} is for a model that is named; the space of {model!r} is known.")
        space, name = model.config.embedding_space, model.config.name_or_path
    else:
        space, name = stated_space(model, revision), f"{model}@{revision}"
    if isinstance(source, str | os.PathLike):
        if paths is not None or labels is not None:
            raise ValueError(f"paths and labels are for an array; of {os.fspath(source)!r} they are columns.")
        array, paths, labels = _read(Path(source), embedding_column, path_column, label_column)
    else:
        array = np.asarray(source)
    vectors = _checked(array)
    if isinstance(model, ForeignEncoder) and vectors.shape[1] != model.config.embedding_dim:
        raise ValueError(
            f"embeddings have dimension {vectors.shape[1]}, and {model!r} gives {model.config.embedding_dim}: "
            "another model made them."
        )
    return Embeddings(vectors, space, 1.0, [os.fspath(path) for path in paths or []], list(labels or []), name)


def _read(
    path: Path, embedding_column: str, path_column: str, label_column: str | None
) -> tuple[NDArray[Any], list[str], list[str | None]]:
    """The columns of a Parquet file."""
    if not path.is_file():
        raise FileNotFoundError(f"source={str(path)!r} is not a file.")
    try:
        with pq.ParquetFile(path) as file:
            metadata, names = file.metadata.metadata or {}, file.schema_arrow.names
            if metadata.get(b"format") == FORMAT.encode():
                raise ValueError("it names its embedding space already: read_embeddings reads it")
            wanted = [embedding_column, path_column, *([label_column] if label_column else [])]
            missing = [name for name in wanted if name not in names]
            if missing:
                raise ValueError(
                    f"it has no column {missing[0]!r}, but {', '.join(names)}: name the columns by "
                    "embedding_column, path_column and label_column"
                )
            table = file.read(columns=wanted)
        array = _rows(table.column(embedding_column).combine_chunks(), embedding_column)
        paths = table.column(path_column).cast(pa.string()).to_pylist()
        labels = table.column(label_column).cast(pa.string()).to_pylist() if label_column else []
    except (ValueError, OSError, pa.ArrowException) as error:
        raise ValueError(f"source={str(path)!r} can't be described: {error}.") from error
    if None in paths:
        raise ValueError(f"source={str(path)!r}: row {paths.index(None)} of its column {path_column!r} has no value.")
    return array, paths, labels


def _rows(column: Any, name: str) -> NDArray[Any]:
    """A column of lists of one length as an array."""
    kind = column.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not is_list or not pa.types.is_floating(kind.value_type):
        raise ValueError(f"its column {name!r} holds {kind}; it must hold lists of floating-point numbers")
    flat = column.flatten()
    dim, rest = divmod(len(flat), max(len(column), 1))
    lengths = set(column.value_lengths().to_pylist()) if not pa.types.is_fixed_size_list(kind) else {dim}
    if column.null_count or flat.null_count or rest or lengths - {dim}:
        raise ValueError(f"its column {name!r} must hold equally many numbers in every row")
    rows: NDArray[Any] = flat.to_numpy(zero_copy_only=False).reshape(len(column), dim)
    return rows


def _checked(array: NDArray[Any]) -> NDArray[np.float32]:
    """Embeddings in float32, finite and not zero."""
    if array.dtype.kind != "f" or array.ndim != 2 or array.shape[1] < 1:
        raise ValueError(
            f"source must be an array (n, dim) of floating-point numbers; got {array.dtype} of shape {array.shape}."
        )
    with np.errstate(over="ignore"):
        vectors = array.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1) | ~vectors.any(axis=1))
    if bad.size:
        raise ValueError(
            f"the embedding of row {bad[0]} (and of {bad.size - 1} others) must be finite and not zero, as cosines "
            "compare embeddings. Leave these images out, or embed them again."
        )
    return vectors
