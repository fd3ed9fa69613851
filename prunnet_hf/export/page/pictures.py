"""The part of a page that shows a gallery: its images small, its vectors, and examples to search with."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ...data.folder_walk import find_images
from ...data.official_files import require_folder
from ...image_files import open_image
from ...retrieval.gallery import Gallery
from ...retrieval.gallery_files import About, read_gallery, read_vectors
from ...retrieval.gallery_index import stored_vectors
from ...retrieval.image_sources import label_of

VECTORS, THUMBNAILS = "gallery/vectors.float16", "gallery/thumbnails.webp"
EXAMPLES = "examples"
BYTES_AN_IMAGE = 5_000
"""Of vector and thumbnail together: 5 MB for 1,000 images."""
SIDES = (128, 96, 64, 48, 32)
"""Pixels of a thumbnail's side. The largest is taken with which all fit."""
_QUALITY = 75
LARGEST_EXAMPLE = 640
"""Pixels of an example's longer side. Larger images are shrunk, and what was shrunk is what is embedded and shown."""
_LOSSLESS_UP_TO = 160
MOST_EXAMPLES = 12


@dataclass(frozen=True)
class Shown:
    """The images of a gallery that a page shows.

    Attributes:
        paths: Where they are.
        labels: None for an image without one.
        vectors: Of unit length, `(count, dim)`.
        about: What the gallery is.
    """

    paths: list[str]
    labels: list[str | None]
    vectors: NDArray[np.float32]
    about: About


def choose_images(folder: Path, most: int) -> Shown:
    """Read a gallery; of one with more than `most` images, take that many at even distances.

    Raises:
        FileNotFoundError: If there is no gallery.
        ValueError: If it is damaged or empty, or holds its vectors only approximately.
    """
    gallery, stored = Gallery.load(folder), read_gallery(folder, mmap=False)
    vectors = stored_vectors(stored.index)
    if vectors is None:
        vectors = read_vectors(folder, stored.about, stored.state)
    if vectors is None:
        raise ValueError(
            f"--gallery {str(folder)!r} was saved without embeddings, and its index {stored.about.factory!r} has only "
            "approximations of them. Make it again by prunnet index without --without_embeddings."
        )
    if not len(vectors):
        raise ValueError(f"--gallery {str(folder)!r} has 0 images: add some by prunnet index.")
    rows = np.unique(np.linspace(0, len(vectors) - 1, min(most, len(vectors))).round().astype(int))
    paths, labels = gallery.paths, gallery.labels
    return Shown([paths[row] for row in rows], [labels[row] for row in rows], vectors[rows], gallery.about)


def write_gallery_part(shown: Shown, site: Path) -> dict[str, Any]:
    """Write vectors and thumbnails of a gallery.

    Args:
        shown: The images.
        site: The folder to write into.

    Returns:
        What the page's manifest says of them.

    Raises:
        ValueError: If an image can't be read, or vectors are so long that nothing is left for thumbnails.
    """
    vectors = shown.vectors.astype("<f2").tobytes()
    thumbnails = _thumbnails([_small(path) for path in shown.paths], len(vectors), shown.vectors.shape[1])
    (site / VECTORS).parent.mkdir()
    (site / VECTORS).write_bytes(vectors)
    (site / THUMBNAILS).write_bytes(b"".join(thumbnails))
    return {
        "of": shown.about.num_images,
        "capacity": shown.about.capacity,
        "dim": shown.vectors.shape[1],
        "vectors": {"url": VECTORS, "bytes": len(vectors)},
        "thumbnails": {"url": THUMBNAILS, "bytes": sum(map(len, thumbnails))},
        "sizes": [len(thumbnail) for thumbnail in thumbnails],
        "names": short_names(shown.paths),
        "labels": shown.labels,
    }


def short_names(paths: Sequence[str]) -> list[str]:
    """Paths without the folders that they share, which are nobody's business on a public page.

    Example:
        >>> short_names(["/home/me/photos/cat/1.jpg", "/home/me/photos/dog/2.jpg"])
        ['cat/1.jpg', 'dog/2.jpg']
    """
    folders = {os.path.dirname(os.path.abspath(path)) for path in paths}
    shared = os.path.commonpath(folders)
    return [Path(os.path.relpath(os.path.abspath(path), shared)).as_posix() for path in paths]


def write_examples(folder: Path | None, shown: Shown, site: Path) -> list[dict[str, Any]]:
    """Write the images that a visitor may search with.

    Args:
        folder: Holds them, perhaps in a folder for each label. If not given, they are images of the gallery, each of
            which the page leaves out of what it finds.
        shown: The gallery's images.
        site: The folder to write into.

    Returns:
        What the page's manifest says of each.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If there are no images in it, or one can't be read.
    """
    if folder is None:
        rows: list[int | None] = [int(row) for row in _evenly(len(shown.paths), MOST_EXAMPLES)]
        paths = [shown.paths[row or 0] for row in rows]
        names, labels = short_names(paths), [shown.labels[row or 0] for row in rows]
    else:
        names, labels = _examples_in(folder)
        paths, rows = [str(folder / name) for name in names], [None] * len(names)
    (site / EXAMPLES).mkdir()
    urls = [_write_example(path, site, number) for number, path in enumerate(paths, 1)]
    fields = zip(urls, names, labels, rows, strict=True)
    return [{"url": url, "name": name, "label": label, "row": row} for url, name, label, row in fields]


def _examples_in(folder: Path) -> tuple[list[str], list[str | None]]:
    require_folder("--examples", folder, "It must hold images to search with.")
    found = sorted(find_images(folder).images)
    if not found:
        raise ValueError(f"--examples {str(folder)!r} has no images: put some into it, or leave it out.")
    names = [found[place] for place in _evenly(len(found), MOST_EXAMPLES)]
    return names, [label_of(name) for name in names]


def _evenly(count: int, most: int) -> NDArray[np.int64]:
    """Up to `most` places of `count`, in the middle of parts of equal size."""
    number = min(count, most)
    return ((np.arange(number) + 0.5) * count / number).astype(np.int64)


def _write_example(path: str, site: Path, number: int) -> str:
    image = open_image(path)
    image.thumbnail((LARGEST_EXAMPLE, LARGEST_EXAMPLE), Image.Resampling.LANCZOS)
    suffix = "png" if max(image.size) <= _LOSSLESS_UP_TO else "jpg"
    url = f"{EXAMPLES}/{number:02}.{suffix}"
    image.save(site / url, quality=92)  # PNG has none, and loses nothing
    return url


def _thumbnails(images: Sequence[Image.Image], vector_bytes: int, dim: int) -> list[bytes]:
    """Every image as a small square, a WebP file, all of one size with which they fit."""
    allowed = BYTES_AN_IMAGE * len(images) - vector_bytes
    for side in SIDES:
        thumbnails = [_thumbnail(image, side) for image in images]
        if sum(map(len, thumbnails)) <= allowed:
            return thumbnails
    raise ValueError(
        f"embedding_dim={dim} leaves {max(allowed, 0) // len(images)} of {BYTES_AN_IMAGE:,} bytes for the thumbnail "
        "of an image, which is too little. A page needs a model of shorter embeddings, of up to about 2,048 numbers."
    )


def _small(path: str) -> Image.Image:
    """The largest thumbnail of an image: all lie in memory together, where whole photos would not fit."""
    return _square(open_image(path), SIDES[0])


def _thumbnail(image: Image.Image, side: int) -> bytes:
    written = io.BytesIO()
    _square(image, side).save(written, "WEBP", quality=_QUALITY)
    return written.getvalue()


def _square(image: Image.Image, side: int) -> Image.Image:
    side = min(side, *image.size)  # enlarging is the browser's work
    return ImageOps.fit(image, (side, side), Image.Resampling.LANCZOS)
