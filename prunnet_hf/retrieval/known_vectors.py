"""The vectors that a gallery, or a table of embeddings, already has of images: found by the images' paths."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..data.splits import listed
from .embedding_shards import find_shards
from .embedding_table import EMBEDDING, PATH
from .gallery_files import ABOUT, check_file, read_about
from .gallery_images import path_of
from .gallery_table import IMAGES, image_batches
from .image_sources import DatasetImages
from .search import normalize

Vectors = NDArray[np.float32]


def holds_vectors(source: str) -> bool:
    """Whether a path is a gallery, a table of embeddings, or a folder of its shards, or its name says that it is."""
    place = Path(source)
    is_folder = (place / ABOUT).is_file() or any(place.glob("shard-*.parquet"))
    return place.is_file() or is_folder or place.suffix == ".parquet"


class KnownVectors:
    """Vectors on disk, by the paths of their images.

    Args:
        source: The folder of a gallery; or a Parquet table of embeddings, or a folder of its shards.

    Attributes:
        source: The same.
        embedding_space: Id of their space.
        embedding_dim: Their length.

    Raises:
        FileNotFoundError: If there is no such thing.
        ValueError: If it is damaged, or a gallery that was saved without its embeddings.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self._folder = Path(source) if (Path(source) / ABOUT).is_file() else None
        if self._folder is not None:
            facts, files = read_about(self._folder)
            check_file(self._folder / IMAGES, files[IMAGES], contents=True)
            self._check_embeddings(self._folder / IMAGES)
            self.embedding_space, self.embedding_dim = facts.embedding_space, facts.embedding_dim
        elif Path(source).exists():
            first = find_shards(source).facts[0]
            self.embedding_space, self.embedding_dim = first.embedding_space, first.embedding_dim
        else:
            raise FileNotFoundError(
                f"there is no {source!r}: give the folder of a gallery, a Parquet table of embeddings, or a folder of "
                "its shards."
            )

    def of(self, images: DatasetImages, top: str | None = None) -> Match:
        """The vectors of a data set's images.

        A gallery may name an image as a table of the data set does, relative to the folder of the data set; by its
        path as it was given, absolute, or relative to the working directory; or relative to `top`. The way that finds
        most is taken for all.

        Args:
            images: The images.
            top: A folder, such as `common_folder` of the images that the gallery is known to have.

        Raises:
            ValueError: If the gallery names one twice, or its vector is zero or not finite.
        """
        matches = [Match(names, self.embedding_dim) for names in _namings(images, top)]
        for paths, vectors in self._batches():
            for match in matches:
                match.add(paths, vectors)
        best = max(matches, key=lambda match: match.num_found)
        best.check(self.source)
        return best

    def _batches(self) -> Iterator[tuple[list[str], Vectors]]:
        if self._folder is None:
            shards = find_shards(self.source)
            for place in range(len(shards)):
                found = shards.read(place)
                yield found.paths, found.embeddings
            return
        for batch in image_batches(self._folder / IMAGES, [PATH, EMBEDDING]):
            flat = batch.column(EMBEDDING).flatten().to_numpy(zero_copy_only=False)
            yield batch.column(PATH).to_pylist(), flat.reshape(len(batch), -1)

    def _check_embeddings(self, table: Path) -> None:
        if EMBEDDING not in pq.read_schema(table).names:
            raise ValueError(
                f"the gallery {self.source!r} was saved without its embeddings, so its vectors aren't known. Give the "
                "model that made it, by --teacher, or index the images again."
            )


@dataclass
class Match:
    """The vectors of images that were found by one way of naming them.

    Attributes:
        names: What the images are called in it.
        dim: Length of a vector.
        vectors: `(n, dim)`, of unit length once checked; rows of images that weren't found are undefined.
        times: How often each image came.
        total: How many vectors were looked at.
    """

    names: Sequence[str]
    dim: int
    vectors: Vectors = field(init=False)
    times: NDArray[np.int64] = field(init=False)
    total: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._places = {name: place for place, name in enumerate(self.names)}
        self.vectors = np.empty((len(self.names), self.dim), dtype=np.float32)  # takes memory only where it's written
        self.times = np.zeros(len(self.names), dtype=np.int64)

    @property
    def num_found(self) -> int:
        """How many of the images came."""
        return int((self.times > 0).sum())

    @property
    def missing(self) -> list[str]:
        """The images that didn't come."""
        return [self.names[place] for place in np.flatnonzero(self.times == 0).tolist()]

    def add(self, paths: Sequence[str], vectors: Vectors) -> None:
        """Take those that are wanted."""
        found = [(row, self._places[path]) for row, path in enumerate(paths) if path in self._places]
        rows, places = [row for row, _ in found], [place for _, place in found]
        self.vectors[places] = vectors[rows]
        np.add.at(self.times, places, 1)
        self.total += len(paths)

    def check(self, source: str) -> None:
        """Refuse what can't be a target, and give all vectors unit length.

        Raises:
            ValueError: If an image came twice, or a vector is zero or not finite.
        """
        twice = [self.names[place] for place in np.flatnonzero(self.times > 1).tolist()]
        if twice:
            raise ValueError(
                f"{source!r} holds {len(twice)} of the images more than once: {listed(twice)}. Keep one row of each."
            )
        there = np.flatnonzero(self.times)
        found = self.vectors[there]
        bad = ~np.isfinite(found).all(axis=1) | ~found.any(axis=1)
        if bad.any():
            names = [self.names[place] for place in there[bad].tolist()]
            raise ValueError(
                f"{source!r} holds vectors that are zero or not finite (NaN), of {len(names)} of the images: "
                f"{listed(names)}. Embed these images again."
            )
        self.vectors[there] = normalize(found) if len(found) else found


def common_folder(images: DatasetImages) -> str | None:
    """The folder that holds all images; None if some have no file of their own."""
    files = [path_of(file) for file in images.files if file is not None]
    return os.path.commonpath([os.path.dirname(file) for file in files]) if len(files) == len(images) else None


def _namings(images: DatasetImages, top: str | None) -> list[list[str]]:
    """The ways in which a gallery may name images; the first is a table's."""
    namings = [list(images.names)]
    files = [path_of(file) for file in images.files if file is not None]
    if len(files) == len(images):
        absolute = [os.path.abspath(file) for file in files]
        starts = [os.getcwd(), *([top] if top is not None else [])]
        namings += [files, absolute, *([_relative(file, start) for file in files] for start in starts)]
    return [names for place, names in enumerate(namings) if names not in namings[:place]]


def _relative(file: str, start: str) -> str:
    return Path(os.path.relpath(file, start)).as_posix()
