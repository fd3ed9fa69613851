"""The images of a gallery before they are in it: their names, labels and digests, and what embeds them."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from ..data.folder_walk import find_images
from ..data.official_files import require_folder
from ..image_colours import to_rgb
from ..image_files import missing_image
from ..modeling_prunnet import PrunNetModel
from .embedding_table import LABEL, PATH, Embeddings, read_embeddings
from .folder_encoding import encode_files, encode_folder
from .foreign_encoders import ForeignEncoder
from .image_sources import label_of

DIGEST = "digest"
DIGEST_DIGITS = 16
IMAGES_SCHEMA = pa.schema([pa.field(PATH, pa.string()), pa.field(LABEL, pa.string()), pa.field(DIGEST, pa.string())])
"""What a gallery keeps of its images besides their embeddings."""


@dataclass(frozen=True)
class Embedding:
    """How images are embedded; see `Gallery.add`."""

    batch_size: int
    num_workers: int
    skip_corrupt_images: bool
    progress: bool | None


@dataclass
class Candidates:
    """Images that may be added to a gallery: their names, digests and labels, and what embeds them.

    Attributes:
        paths: A name for each image.
        digests: Of their contents.
        labels: None for an image without one.
        images: What `model.encode` takes, or embeddings.
    """

    paths: list[str]
    digests: list[str]
    labels: list[str | None]
    images: list[Any] | Embeddings

    def __post_init__(self) -> None:
        for name in ("digests", "labels"):
            if len(getattr(self, name)) != len(self.paths):
                raise ValueError(
                    f"{name} must have one entry for each of the {len(self.paths)} images; it has "
                    f"{len(getattr(self, name))}."
                )
        if len(set(self.paths)) != len(self.paths):
            twice = next(path for path, count in Counter(self.paths).items() if count > 1)
            raise ValueError(f"paths must name each image once; {twice!r} comes more than once.")

    def only(self, places: Sequence[int]) -> Candidates:
        """Those at these places."""
        picked: list[Any] | Embeddings
        if isinstance(self.images, Embeddings):
            picked = replace(self.images, embeddings=self.images.embeddings[places], paths=[], labels=[])
        else:
            picked = [self.images[place] for place in places]
        paths, digests, labels = ([part[n] for n in places] for part in (self.paths, self.digests, self.labels))
        return Candidates(paths, digests, labels, picked)  # type: ignore[arg-type]  # mypy joins their types

    def embedded(self, model: Any, how: Embedding) -> tuple[Candidates, Embeddings]:
        """Those that could be embedded, which are all unless corrupt ones are skipped, and their embeddings."""
        if isinstance(self.images, Embeddings):
            return self, self.images
        images, config = self.images, model.config
        if not all(isinstance(image, str | os.PathLike) for image in images):
            array = model.encode(images, batch_size=how.batch_size, progress=how.progress)
            return self, Embeddings(array, config.embedding_space, config.capacity)
        array, skipped = encode_files(model, [os.fspath(image) for image in images], **asdict(how))
        left = self.only(sorted(set(range(len(images))) - skipped))
        return left, Embeddings(array, config.embedding_space, config.capacity)

    def embeddings(self) -> Embeddings:
        """The embeddings that were given as images."""
        if not isinstance(self.images, Embeddings):
            raise TypeError(f"images must be Embeddings; got {type(self.images).__name__}.")
        return self.images

    def table(self) -> pa.Table:
        """What a gallery keeps of them."""
        return pa.table([self.paths, self.labels, self.digests], schema=IMAGES_SCHEMA)


def candidates_of(images: Any, labels: Sequence[str | None] | None) -> Candidates:
    """What `Gallery.add` was given, with names and digests."""
    if isinstance(images, Embeddings):
        if len(images.paths) != len(images):
            raise ValueError(f"embeddings must have paths, which name the {len(images)} images; they have none.")
        own = list(labels) if labels is not None else images.labels or [None] * len(images)
        return Candidates(images.paths, digests_of(images), own, images)
    if isinstance(images, str | os.PathLike) and os.path.isdir(images):
        inside = images_of(images)
        names = [path_of(os.path.join(images, path)) for path in inside]
        own = list(labels) if labels is not None else [label_of(path) for path in inside]
        return Candidates(names, [digest_of(name) for name in names], own, list(names))
    each = [images] if isinstance(images, str | os.PathLike | Image.Image) else list(images)
    digests = [digest_of(image) for image in each]
    names = [
        path_of(i) if isinstance(i, str | os.PathLike) else f"image-{d}" for i, d in zip(each, digests, strict=True)
    ]
    return Candidates(names, digests, list(labels) if labels is not None else [None] * len(each), each)


def images_of(folder: str | os.PathLike[str]) -> list[str]:
    """The images of a folder, and of folders inside it, as paths relative to it.

    Raises:
        FileNotFoundError: If there is no such folder.
    """
    require_folder("folder", folder, "It must hold images.")
    return find_images(folder).images


def embedded_folder(
    model: PrunNetModel | ForeignEncoder, folder: str | os.PathLike[str], **options: Any
) -> Embeddings:
    """Embed a folder by `encode_folder`; paths begin with the folder, as they were given."""
    with tempfile.TemporaryDirectory() as scratch:
        table = Path(scratch, "images.parquet")
        encode_folder(model, folder, table, **options)
        found = read_embeddings(table)
    return replace(found, paths=[path_of(os.path.join(folder, path)) for path in found.paths])


def embedded_dataset(
    model: PrunNetModel | ForeignEncoder,
    dataset: Any,
    *,
    image_column: str,
    label_column: str | None,
    path_column: str | None,
    batch_size: int,
    progress: bool | None,
) -> Candidates:
    """Embed the images of a data set; see `Gallery.from_dataset`."""
    columns = {"image_column": image_column, "label_column": label_column, "path_column": path_column}
    for argument, name in columns.items():
        if name is not None and name not in dataset.column_names:
            raise ValueError(f"{argument} must be one of {', '.join(dataset.column_names)}; got {name!r}.")
    digests: list[str] = []

    def images() -> Iterator[Any]:
        for image in dataset[image_column]:
            digests.append(digest_of(image))
            yield image

    array = model.encode(images(), batch_size=batch_size, progress=progress)
    paths = [str(path) for path in dataset[path_column]] if path_column else [f"row-{n}" for n in range(len(dataset))]
    config = model.config
    embeddings = Embeddings(array, str(config.embedding_space), config.capacity, model=str(config.name_or_path))
    return Candidates(paths, digests, _labels(dataset, label_column), embeddings)


def _labels(dataset: Any, column: str | None) -> list[str | None]:
    if column is None:
        return [None] * len(dataset)
    values, names = dataset[column], getattr(dataset.features[column], "names", None)
    return [None if value is None else names[value] if names else str(value) for value in values]


def path_of(path: str | os.PathLike[str]) -> str:
    """The one way to write a path, so that `photos/1.jpg` and `./photos//1.jpg` are the same image."""
    return str(Path(path))


def digest_of(image: Any) -> str:
    """Digest of a file's content, or of the pixels of an image that isn't a file: 16 hexadecimal digits."""
    if isinstance(image, str | os.PathLike):
        try:
            with open(image, "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()[:DIGEST_DIGITS]
        except (FileNotFoundError, NotADirectoryError) as error:
            raise missing_image(os.fspath(image)) from error
        except IsADirectoryError as error:
            raise ValueError(
                f"images must be image files; {os.fspath(image)!r} is a folder. Give a folder alone, not in a list."
            ) from error
    pixels = to_rgb(image)
    content = repr(pixels.size).encode() + pixels.tobytes()
    return hashlib.sha256(content).hexdigest()[:DIGEST_DIGITS]


def digests_of(embeddings: Embeddings) -> list[str]:
    """Digests of the files that embeddings name, where they are there; else of the embeddings themselves."""
    return [
        digest_of(path) if os.path.isfile(path) else hashlib.sha256(row.tobytes()).hexdigest()[:DIGEST_DIGITS]
        for path, row in zip(embeddings.paths, embeddings.embeddings, strict=True)
    ]
