"""Galleries in Milvus, for more images or more queries than one machine carries.

A collection holds images of one embedding space, which its property `embedding_space` and each of its rows name. The
columns are `path` (the primary key), `label`, `digest`, `embedding_space` and `embedding`. An image has one row, so an
export that is run again, also after it was interrupted, ends with the same rows.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from .embedding_table import EMBEDDING, LABEL, PATH
from .gallery_files import About, Stored, read_gallery, vector_batches
from .gallery_images import DIGEST
from .gallery_index import stored_vectors

SPACE = "embedding_space"
METRIC = "COSINE"
AUTO_INDEX = "AUTOINDEX"
_BYTES_A_BATCH = 2**22
"""Of embeddings; a message to Milvus may have 64 MiB."""
_LONGEST_TEXT = 65_535
"""In bytes; the longest that Milvus has."""
_DELETED_AT_ONCE = 1000


class Exported(NamedTuple):
    """What an export left in a collection.

    Attributes:
        images: Images of the gallery, which are all there.
        others: Other rows: of other galleries of the space, and of images that have been removed from this one.
    """

    images: int
    others: int


def export_to_milvus(
    folder: str | os.PathLike[str],
    uri: str,
    collection: str,
    *,
    token: str = "",
    index_type: str | None = None,
    remove_others: bool = False,
    progress: bool = True,
) -> Exported:
    """Write a saved gallery into a collection of Milvus; rows of the same paths are replaced.

    Args:
        folder: The gallery's.
        uri: Of a server, such as `"http://localhost:19530"`, or a local file of Milvus Lite, such as `"gallery.db"`.
        collection: Created if necessary; one that is there must be of the gallery's space.
        token: For servers that ask for it: an API key, or `"user:password"`.
        index_type: Of Milvus, for a new collection: `"FLAT"` is exact; by default `"AUTOINDEX"`, which Milvus chooses.
        remove_others: Remove the rows of images that aren't in the gallery.
        progress: Whether to show a bar.

    Raises:
        FileNotFoundError: If there is no gallery.
        ImportError: If pymilvus isn't installed.
        RuntimeError: If Milvus can't be reached, or refuses.
        ValueError: If the gallery is damaged, or was saved without embeddings and its index has only approximations;
            or the collection is of another space, wasn't made by an export, or has another kind of index.
    """
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,254}", collection):
        raise ValueError(
            f"collection={collection!r} must have letters, digits and underscores only, and begin with no digit: "
            "Milvus allows no others."
        )
    stored = read_gallery(Path(folder), mmap=True)
    batches = _batches(Path(folder), stored)
    with _opened(uri, token) as client, _explained(uri, collection):
        _open_collection(client, collection, stored.about, index_type)
        with tqdm(total=len(stored.images), desc="export", unit="image", disable=not progress) as bar:
            for batch in batches:
                client.upsert(collection, batch)
                bar.update(len(batch))
        if remove_others:
            _remove_others(client, collection, set(stored.images.column(PATH).to_pylist()))
        return Exported(len(stored.images), _count(client, collection) - len(stored.images))


def _batches(folder: Path, stored: Stored) -> Iterator[list[dict[str, Any]]]:
    """The rows of a collection, for each image of a gallery."""
    about = stored.about
    size = max(1, _BYTES_A_BATCH // (4 * about.embedding_dim))
    batches = vector_batches(folder, stored.state, size)
    if batches is None:
        vectors = stored_vectors(stored.index)
        if vectors is None:
            raise ValueError(
                f"The gallery {folder} was saved without embeddings, and its index {about.factory!r} has only "
                "approximations of them. Embed the images again, and save them with embeddings or by factory='Flat'."
            )
        batches = (vectors[start : start + size] for start in range(0, len(vectors), size))
    return _rows(stored, batches)


def _rows(stored: Stored, batches: Iterator[NDArray[np.float32]]) -> Iterator[list[dict[str, Any]]]:
    start = 0
    for vectors in batches:
        images = stored.images.slice(start, len(vectors)).select([PATH, LABEL, DIGEST]).to_pylist()
        start += len(vectors)
        yield [
            {**image, SPACE: stored.about.embedding_space, EMBEDDING: vector}
            for image, vector in zip(images, vectors, strict=True)
        ]


@contextmanager
def _opened(uri: str, token: str) -> Iterator[Any]:
    """A client of Milvus."""
    try:
        from pymilvus import MilvusClient, MilvusException
    except ImportError as error:
        raise ImportError("Milvus needs pymilvus, not installed here: pip install prunnet_hf[engines]") from error
    with _quiet("pymilvus", "milvus_lite", "grpc"):
        try:
            client = MilvusClient(uri, token=token)
        except MilvusException as error:
            raise RuntimeError(
                f"uri={uri!r} can't be opened ({error.message}). It must be a server that runs, such as "
                "http://localhost:19530; or a file of Milvus Lite, such as gallery.db, in a folder that is there, and "
                "which no other process has open."
            ) from error
        try:
            yield client
        finally:
            client.close()


@contextmanager
def _explained(uri: str, collection: str) -> Iterator[None]:
    """Say what Milvus refuses, and that nothing is lost."""
    from pymilvus import MilvusException

    try:
        yield
    except MilvusException as error:
        raise RuntimeError(
            f"Milvus ({uri}) refuses work on collection={collection!r}: {error.message}. Rows that are there stay; "
            "the same export again completes them."
        ) from error


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Keep libraries from printing tracebacks of errors that they raise as well."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _open_collection(client: Any, collection: str, about: About, index_type: str | None) -> None:
    """Make a collection, or check the one that is there, and load it."""
    if client.has_collection(collection):
        _check_collection(client, collection, about, index_type)
        client.load_collection(collection)
        return
    from pymilvus import DataType

    schema = client.create_schema(
        description="A gallery of prunnet_hf; its property embedding_space must be a query's."
    )
    schema.add_field(PATH, DataType.VARCHAR, is_primary=True, max_length=_LONGEST_TEXT)
    schema.add_field(LABEL, DataType.VARCHAR, max_length=_LONGEST_TEXT, nullable=True)
    schema.add_field(DIGEST, DataType.VARCHAR, max_length=64)
    schema.add_field(SPACE, DataType.VARCHAR, max_length=64)
    schema.add_field(EMBEDDING, DataType.FLOAT_VECTOR, dim=about.embedding_dim)
    indices = client.prepare_index_params()
    indices.add_index(EMBEDDING, index_type=index_type or AUTO_INDEX, metric_type=METRIC)
    client.create_collection(
        collection, schema=schema, index_params=indices, properties={SPACE: about.embedding_space}
    )


def _check_collection(client: Any, collection: str, about: About, index_type: str | None) -> None:
    space = client.describe_collection(collection).get("properties", {}).get(SPACE)
    if space is None:
        raise ValueError(
            f"collection={collection!r} exists and has no property {SPACE!r}, so it isn't a gallery's. Choose another "
            "name."
        )
    if space != about.embedding_space:
        raise ValueError(
            f"collection={collection!r} is of the space {space!r}, and the gallery of {about.embedding_space!r}: they "
            "come from different trainings, so their similarities mean nothing, even if the dimensions agree. Choose "
            "another name."
        )
    there = client.describe_index(collection, EMBEDDING)["index_type"]
    if index_type not in (None, there):
        raise ValueError(
            f"index_type={index_type!r} differs from {there!r}, that of collection={collection!r}. Leave it out, or "
            "choose another name."
        )


def _remove_others(client: Any, collection: str, kept: set[str]) -> None:
    others = [path for path in _paths(client, collection) if path not in kept]
    for start in range(0, len(others), _DELETED_AT_ONCE):
        client.delete(collection, ids=others[start : start + _DELETED_AT_ONCE])


def _paths(client: Any, collection: str) -> Iterator[str]:
    rows = client.query_iterator(collection, batch_size=_DELETED_AT_ONCE, output_fields=[PATH])
    try:
        while batch := rows.next():
            yield from (row[PATH] for row in batch)
    finally:
        rows.close()


def _count(client: Any, collection: str) -> int:
    (row,) = client.query(collection, filter="", output_fields=["count(*)"], consistency_level="Strong")
    return int(row["count(*)"])
