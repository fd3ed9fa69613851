"""An orthogonal map from one embedding space to another, in closed form, from images that both have embedded.

It is the cheap way to search an old gallery with a new model's queries; nothing is trained. Of all maps that leave
angles as they are, it is the one whose images of the new unit vectors are nearest to the old ones (the orthogonal
Procrustes problem; Schoenemann, Psychometrika 1966): with `M` the sum of the outer products of old and new vectors,
and `M = U S V'`, it is `U V'`. Vectors aren't centred, as cosines are taken from zero.

If the old space has more dimensions, the new one is laid into a part of it, and keeps its angles. If it has fewer, the
map keeps only the part of the new space that agrees best, and what is lost of the rest shows in the loss.

A map is a safetensors file with the tensor `map`, `(old dim, new dim)` in float32, and in the metadata, all text:
`format` (`prunnet-alignment`), `version` (`1`), `old_space`, `new_space`, and `model`, the old model's name.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..modeling_prunnet import PrunNetModel
from ..storage.tensor_file import CheckpointFormatError, naming_file, read_tensors, refuse_newer, write_tensors
from .dataset_encoding import embed
from .embedding_table import LABEL, PATH, Embeddings, read_embeddings
from .foreign_encoders import ForeignEncoder
from .gallery_files import ABOUT
from .gallery_images import path_of
from .gallery_quantizing import StoredRows
from .protocols import Side, leave_one_out
from .search import normalize
from .spaces import check_compatible, check_known_space

FORMAT, FORMAT_VERSION = "prunnet-alignment", 1
MAP = "map"
HELD_OUT = 5
"""One of so many classes, or images without classes, is left out of the fit, to measure the loss on."""
Vectors = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Alignment:
    """A map from a new space to an old one; from `align`, or `load` one that was saved.

    Attributes:
        matrix: `(old dim, new dim)` float32, with orthonormal rows or columns.
        old_space: Id of the space in which galleries are searched.
        new_space: Id of the space of the queries.
        old_model: The name of the model that made the old embeddings.
    """

    matrix: Vectors
    old_space: str
    new_space: str
    old_model: str = ""

    def __post_init__(self) -> None:
        for space in (self.old_space, self.new_space):
            check_known_space(space)
        if self.matrix.ndim != 2 or not np.isfinite(self.matrix).all():
            raise ValueError(f"matrix must be finite, of shape (old dim, new dim); got shape {self.matrix.shape}.")

    def __repr__(self) -> str:
        old, new = self.matrix.shape
        return f"Alignment({new} dimensions of {self.new_space!r} -> {old} of {self.old_space!r})"

    def apply(self, embeddings: Embeddings) -> Embeddings:
        """The same images in the old space, as nearly as the map gets them there.

        Args:
            embeddings: Of the new space.

        Raises:
            ValueError: If they are of another space or dimension, or one is zero or not finite.
        """
        check_compatible(self.new_space, embeddings)
        self._check_dim(embeddings.embeddings.shape[1])
        mapped = normalize(embeddings.embeddings) @ self.matrix.T
        name = f"{embeddings.model} aligned to {self.old_model}"
        return replace(embeddings, embeddings=mapped, embedding_space=self.old_space, model=name)

    def encoder(self, model: PrunNetModel | ForeignEncoder) -> ForeignEncoder:
        """A model of the new space whose queries may search galleries of the old one.

        Args:
            model: Any network of the new space, on the device to use.

        Raises:
            ValueError: If it is of another space.
        """
        check_compatible(self.new_space, model)
        self._check_dim(model.config.embedding_dim)
        matrix = torch.from_numpy(self.matrix)

        def aligned(pixel_values: Any) -> Tensor:
            return torch.nn.functional.normalize(torch.from_numpy(embed(model, pixel_values))) @ matrix.T

        name = f"{model.config.name_or_path or 'model'} aligned to {self.old_model}"
        capacity = model.config.capacity
        return ForeignEncoder(
            aligned, model.image_processor, name=name, embedding_space=self.old_space, capacity=capacity
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the map, whole or not at all.

        Raises:
            FileNotFoundError: If its folder doesn't exist.
            OSError: If it can't be written.
        """
        spaces = {"old_space": self.old_space, "new_space": self.new_space, "model": self.old_model}
        metadata = {"format": FORMAT, "version": str(FORMAT_VERSION), **spaces}
        write_tensors(path, {MAP: torch.from_numpy(np.ascontiguousarray(self.matrix))}, metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Load what `save` wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is damaged, something else, or of a newer version.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"aligned={os.fspath(path)!r} is not a file. `prunnet align` writes one.")
        with naming_file(path):
            tensors, metadata = read_tensors(path)
            facts = metadata or {}
            version = facts.get("version", "")
            if (
                facts.get("format") != FORMAT
                or not version.isdecimal()
                or list(tensors) != [MAP]
                or tensors[MAP].dtype != torch.float32
            ):
                raise CheckpointFormatError(
                    f"it must be a map from `prunnet align`; its format is {facts.get('format')!r}."
                )
            refuse_newer(int(version), FORMAT_VERSION)
            names = (facts.get(name, "") for name in ("old_space", "new_space", "model"))
            return cls(tensors[MAP].numpy(), *names)

    def _check_dim(self, dim: int) -> None:
        if dim != self.matrix.shape[1]:
            raise ValueError(f"embeddings must have the {self.matrix.shape[1]} dimensions of the map; got {dim}.")


@dataclass(frozen=True)
class AlignmentLoss:
    """What a map loses, on images that it was not fitted to.

    Attributes:
        old_dim: Dimensions of the old space.
        new_dim: Dimensions of the new one.
        images: Number of images that both have embedded.
        fitted_to: Number of those that the map was fitted to.
        held_out: Number of those that it was measured on: all of some classes, or without classes some images.
        cosine: Mean cosine of a mapped new vector with the old one of the same image; 1.0 would lose nothing.
        cosine_of_worst_tenth: Below it, or at it, lies a tenth of these cosines.
        mAP: Where labels exist: of each held-out image among the others, by old embeddings, by new ones, and of
            mapped new ones among old ones. None if there are no classes of at least two images.
    """

    old_dim: int
    new_dim: int
    images: int
    fitted_to: int
    held_out: int
    cosine: float
    cosine_of_worst_tenth: float
    mAP: dict[str, float] | None  # noqa: N815  # as metrics are called everywhere

    def describe(self) -> str:
        """In words, for people."""
        how = f"Fitted to {self.fitted_to} images that both embedded; the loss is that on {self.held_out} others."
        lost = f"Mean cosine of a mapped vector with the old one {self.cosine:.3f}; a tenth of them at most "
        lines = [f"{how} {lost}{self.cosine_of_worst_tenth:.3f}."]
        if self.new_dim > self.old_dim:
            lines.append(f"The map keeps {self.old_dim} of the new space's {self.new_dim} dimensions.")
        if self.mAP is not None:
            lines.append("mAP: " + ", ".join(f"{name} {100 * value:.1f}" for name, value in self.mAP.items()) + ".")
        return "\n".join(lines)


def align(old: Embeddings, new: Embeddings) -> tuple[Alignment, AlignmentLoss]:
    """Fit the orthogonal map that takes new embeddings to old ones of the same images.

    Args:
        old: With paths; its labels count for the loss.
        new: With paths. Images are the same if their paths are.

    Raises:
        ValueError: If a path comes twice, too few images are in both (as many as the smaller space has dimensions are
            needed for the fit), an embedding is zero or not finite, or both are of one space.
    """
    if old.embedding_space == new.embedding_space:
        raise ValueError(f"old and new are both of the space {old.embedding_space!r}: they need no map.")
    places = _in_both(old, new)
    olds, news = normalize(old.embeddings[places[0]]), normalize(new.embeddings[places[1]])
    paths = [old.paths[place] for place in places[0]]
    labels = [old.labels[place] if old.labels else None for place in places[0]]
    is_held = _held_out(paths, labels)
    dim = min(olds.shape[1], news.shape[1])
    if (~is_held).sum() < dim or not is_held.any():
        raise ValueError(
            f"old and new must have more images in common: {len(paths)} paths are in both, and {(~is_held).sum()} are "
            f"left for the fit, which needs at least {dim}, the dimensions of the smaller space. Embed more by both."
        )
    matrix = orthogonal_map(olds[~is_held], news[~is_held])
    mapped = normalize(news[is_held] @ matrix.T)
    cosines = (mapped * olds[is_held]).sum(axis=1)
    held_labels = [label for label, held in zip(labels, is_held, strict=True) if held]
    loss = AlignmentLoss(
        old_dim=olds.shape[1],
        new_dim=news.shape[1],
        images=len(paths),
        fitted_to=int((~is_held).sum()),
        held_out=int(is_held.sum()),
        cosine=float(cosines.mean()),
        cosine_of_worst_tenth=float(np.quantile(cosines, 0.1, method="lower")),
        mAP=_precision(olds[is_held], news[is_held], mapped, held_labels),
    )
    return Alignment(matrix, old.embedding_space, new.embedding_space, old.model), loss


def orthogonal_map(old: Vectors, new: Vectors) -> Vectors:
    """The matrix with orthonormal rows or columns that takes `new` nearest to `old`, `(old dim, new dim)`.

    Args:
        old: `(n, old dim)`.
        new: `(n, new dim)`, of the same images.

    Example:
        >>> quarter_turn = orthogonal_map(np.float32([[0, 1], [-1, 0]]), np.float32([[1, 0], [0, 1]]))
        >>> quarter_turn.round(3).tolist()
        [[0.0, -1.0], [1.0, 0.0]]
    """
    u, _, v = np.linalg.svd(old.T.astype(np.float64) @ new.astype(np.float64), full_matrices=False)
    matrix: Vectors = (u @ v).astype(np.float32)
    return matrix


def read_any(source: str | os.PathLike[str], data_dir: str | os.PathLike[str] | None = None) -> Embeddings:
    """The embeddings of a table or of a gallery, in memory.

    Args:
        source: A Parquet file, or the folder of a gallery.
        data_dir: What the paths of a table will begin with, as those of galleries do.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is damaged, or a gallery without embeddings.
    """
    if not (Path(source) / ABOUT).is_file():
        found = read_embeddings(source)
        begun = found.paths if data_dir is None else [os.path.join(data_dir, path) for path in found.paths]
        return replace(found, paths=[path_of(path) for path in begun])
    rows = StoredRows.of(source)
    arrays, paths, labels = [], [], []
    for images, vectors in rows.batches():
        arrays.append(np.array(vectors, dtype=np.float32))
        paths += images.column(PATH).to_pylist()
        labels += images.column(LABEL).to_pylist()
    about = rows.about
    return Embeddings(np.concatenate(arrays), about.embedding_space, about.capacity, paths, labels, about.model)


def _in_both(old: Embeddings, new: Embeddings) -> tuple[list[int], list[int]]:
    """The places of the images that both have, in old and in new."""
    for name, each in (("old", old), ("new", new)):
        twice = [path for path, count in Counter(each.paths).items() if count > 1]
        if twice or not each.paths:
            what = f"{twice[0]!r} comes more than once" if twice else "there are none"
            raise ValueError(f"{name} must have a path of its own for each image: {what}.")
    news = {path: place for place, path in enumerate(new.paths)}
    both = [(place, news[path]) for place, path in enumerate(old.paths) if path in news]
    if not both:
        raise ValueError(
            f"old and new have no path in common: the first are {old.paths[0]!r} and {new.paths[0]!r}. If only a "
            "folder before them differs, name it by data_dir; else embed the same images by both."
        )
    return [place for place, _ in both], [place for _, place in both]


def _held_out(paths: list[str], labels: list[str | None]) -> NDArray[np.bool_]:
    """The images that are left out of the fit: those of every fifth class, or without enough classes every fifth."""
    classes = len({label for label in labels if label is not None})
    by = [label or path if classes >= HELD_OUT else path for path, label in zip(paths, labels, strict=True)]
    groups = sorted(set(by), key=lambda group: hashlib.sha256(group.encode()).digest())  # no order of their own
    held = set(groups[::HELD_OUT]) if len(groups) > 1 else set()
    return np.array([group in held for group in by])


def _precision(old: Vectors, new: Vectors, mapped: Vectors, labels: list[str | None]) -> dict[str, float] | None:
    """The mAP of each image among the others that have labels."""
    counts = Counter(label for label in labels if label is not None)
    rows = [row for row, label in enumerate(labels) if label is not None and counts[label] > 1]
    if len({labels[row] for row in rows}) < 2:
        return None
    columns = {"label": [labels[row] for row in rows]}
    sides = {name: Side(array[rows], columns) for name, array in (("old", old), ("new", new), ("mapped", mapped))}
    pairs = {"old among old": ("old", "old"), "new among new": ("new", "new"), "mapped among old": ("mapped", "old")}
    return {name: leave_one_out(sides[query], sides[gallery])["mAP"] for name, (query, gallery) in pairs.items()}
