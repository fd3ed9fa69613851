"""What every data set gives: images to train on, queries, a gallery, and the name of the test protocol."""

from __future__ import annotations

import logging
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from datasets import ClassLabel, Dataset, Image

from .streams import ImageDataset, num_images

logger = logging.getLogger(__name__)

IMAGE = "image"
LABEL = "label"
WITHOUT_CLASSES = ("unlabelled",)
"""The only class of training images that have none: a run that needs no labels takes them."""
FEWEST_CLASSES = 2
"""With one class every answer is right: training has nothing to tell apart, and a test measures nothing."""
SHOWN = 5
"""How many names an error message lists; it counts the rest."""
_UNSEEN = dict.fromkeys(map(ord, "\u00ad\u200b\u200e\u200f\u2060\ufeff"))
"""Characters that are printed as nothing. Joiners aren't among them: they change how their neighbours look."""


@dataclass(frozen=True)
class HoldOut:
    """How to come by test images where there are none: they are held out of the training images.

    Attributes:
        share: Of the training classes, in [0, 1). Of images without classes every tenth is held out instead.
        seed: Decides which classes.
    """

    share: float
    seed: int


@dataclass(frozen=True)
class RetrievalSplits:
    """Images of a retrieval task: data sets, or streams of them, with a column `image` (Image).

    Attributes:
        train: Images of the training classes, with a column `label` (ClassLabel) from 0 to `num_classes - 1`; None if
            the data set is for evaluation only.
        query: Images to search with, and the columns that the protocol needs.
        gallery: Images to search among; the same object as `query` if each image is a query against all others.
        protocol: Name of the test's rule; `retrieval.protocols.resolve_protocol` finds it.
        held_out: Whether queries and gallery were held out of the training images, as there were no others.

    Raises:
        ValueError: If a split is empty or lacks a column, training or gallery images have fewer than two classes, or
            two that print alike, or, for the protocol `"leave_one_out"`, a test class has one image only. Test classes
            that are also training classes give a warning: they should be unseen.
    """

    train: ImageDataset | None
    query: ImageDataset
    gallery: ImageDataset
    protocol: str
    held_out: bool = False

    def __post_init__(self) -> None:
        """Check the columns, that every query can find something, and whether training saw its class."""
        if self.train is not None:
            _check_columns("train", self.train, {IMAGE: Image, LABEL: ClassLabel})
        for role, images in (("query", self.query), ("gallery", self.gallery)):
            _check_columns(role, images, {IMAGE: Image})
        for role, images in (("train", self.train), ("gallery", self.gallery)):
            is_labelled = images is not None and isinstance((images.features or {}).get(LABEL), ClassLabel)
            if images is not None and is_labelled and (role == "gallery" or has_classes(images)):
                check_classes(role, images)
        if self.protocol == "leave_one_out" and isinstance(self.query, Dataset):
            _check_columns("query", self.query, {IMAGE: Image, LABEL: ClassLabel})
            check_pairs(self.query)
            if isinstance(self.train, Dataset):
                _warn_of_seen_classes(self.train, self.query)

    def __repr__(self) -> str:
        sizes = {name: getattr(self, name) for name in ("train", "query", "gallery")}
        said = [f"{name}={_size(images)}" for name, images in sizes.items()]
        return f"RetrievalSplits({', '.join(said)}, {self.num_classes} training classes, protocol={self.protocol!r})"

    @property
    def num_classes(self) -> int:
        """Number of training classes; 0 if there are no training images, or these have no classes."""
        if self.train is None or not has_classes(self.train):
            return 0
        return int(self.train.features[LABEL].num_classes)

    @property
    def num_shared_classes(self) -> int | None:
        """Number of test classes whose name is also a training class's; None if it can't be known.

        It is known if all splits have labels. Streams aren't read for this: of them it is known only if the class
        names they declare have nothing in common.
        """
        splits = (self.train, self.query, self.gallery)
        if any(split is None or not isinstance((split.features or {}).get(LABEL), ClassLabel) for split in splits):
            return None
        if not self.num_classes:
            return None
        train, query, gallery = (_class_names(split) for split in splits if split is not None)
        shared = len(train & (query | gallery))
        return None if shared and not all(isinstance(split, Dataset) for split in splits) else shared


def _size(images: ImageDataset | None) -> str:
    if images is None:
        return "None"
    return f"{len(images):,} images" if isinstance(images, Dataset) else "a stream of images"


def has_classes(images: ImageDataset) -> bool:
    """Whether images with a column `label` have classes, rather than the one name for those that have none."""
    return tuple(images.features[LABEL].names) != WITHOUT_CLASSES


def hold_out_classes(train: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Set some training classes aside, to choose between models without the test classes.

    Args:
        train: Images with `label`.
        share: Share of the classes to hold out, in (0, 1).
        seed: Decides which classes. Only those with at least two images can be held out: a single image finds nothing.

    Returns:
        The remaining images and the held-out images; the labels of each start from 0.

    Raises:
        ValueError: If fewer than two classes would be held out or remain, or too few classes have two images.
    """
    names: list[str] = train.features[LABEL].names
    num_held_out = round(share * len(names))
    if not FEWEST_CLASSES <= num_held_out <= len(names) - FEWEST_CLASSES:
        raise ValueError(
            f"validation_share={share} holds out {num_held_out} of {len(names)} training classes: it must hold out at "
            f"least {FEWEST_CLASSES} and leave at least {FEWEST_CLASSES}. Choose another share, or 0."
        )
    with_pairs = sorted(label for label, count in Counter(train[LABEL][:]).items() if count > 1)
    if len(with_pairs) < num_held_out:
        raise ValueError(
            f"validation_share={share} holds out {num_held_out} training classes, but only {len(with_pairs)} have the "
            "two images that retrieval needs: choose a smaller share."
        )
    held_out = sorted(np.random.default_rng(seed).permutation(with_pairs)[:num_held_out].tolist())
    kept = sorted(set(range(len(names))) - set(held_out))
    return select_classes(train, kept), select_classes(train, held_out)


def select_classes(images: Dataset, classes: Sequence[int]) -> Dataset:
    """Take the images of some classes. These get the labels 0, 1, ... in the given order and keep their names.

    Args:
        images: With a column `label`.
        classes: Labels to take.
    """
    names: list[str] = images.features[LABEL].names
    number = {old: new for new, old in enumerate(classes)}
    labels = [number.get(label, -1) for label in images[LABEL][:]]
    feature = ClassLabel(names=[names[label] for label in classes])
    # Labels are changed before the selection, because adding a column to a selection would copy the data set.
    renumbered = images.remove_columns(LABEL).add_column(LABEL, labels, feature=feature)
    return renumbered.select([row for row, label in enumerate(labels) if label >= 0])


def check_classes(role: str, images: ImageDataset) -> None:
    """Refuse images of fewer than two classes, and classes whose names print alike.

    Args:
        role: What the images are for, for the error.
        images: With a column `label`. Streams aren't read: of them the classes they declare count.

    Raises:
        ValueError: If there are too few classes, or two names print alike.
    """
    names = sorted(_class_names(images))
    if len(names) < FEWEST_CLASSES:
        raise ValueError(
            f"{role} must have images of at least {FEWEST_CLASSES} classes; it has {len(names)}: {listed(names)}. "
            "With one class every answer is right: nothing is learned, and nothing measured. Add classes."
        )
    refuse_alike(names, role)


def check_pairs(images: Dataset) -> None:
    """Refuse a class with a single image, which as a query has nothing to find.

    Args:
        images: The images of a leave-one-out test, with a column `label`.

    Raises:
        ValueError: If there is such a class; the message names the first few.
    """
    names: list[str] = images.features[LABEL].names
    single = sorted(names[label] for label, count in Counter(images[LABEL][:]).items() if count == 1)
    if single:
        raise ValueError(
            f"{len(single)} test classes have one image only, which finds nothing as a query: {listed(single)}. Add "
            "images, or remove these classes."
        )


def listed(names: Sequence[str]) -> str:
    """Join the first `SHOWN` names with commas, and say how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _check_columns(role: str, images: ImageDataset, columns: Mapping[str, type]) -> None:
    features = images.features or {}
    if not all(isinstance(features.get(name), feature) for name, feature in columns.items()):
        wanted = " and ".join(f"{name} (datasets.{feature.__name__})" for name, feature in columns.items())
        raise ValueError(f"{role} must have the columns {wanted}; it has {dict(features)}.")
    if not num_images(images):
        raise ValueError(f"{role} has no images.")


def _warn_of_seen_classes(train: Dataset, test: Dataset) -> None:
    shared = sorted(_class_names(train) & _class_names(test))
    if shared:
        logger.warning(
            "%d test classes are also training classes: %s. Results on them say little about unseen classes. (Ignore "
            "this if the classes only share a name.)",
            len(shared),
            listed(shared),
        )


def _class_names(images: ImageDataset) -> set[str]:
    """Names of the classes that have images; for a stream, of all classes it declares."""
    names: list[str] = images.features[LABEL].names
    return {names[label] for label in set(images[LABEL][:])} if isinstance(images, Dataset) else set(names)


def refuse_alike(names: Iterable[str], where: str) -> None:
    """Refuse names that print alike: Unicode writes a character in several ways, and some aren't seen.

    They are refused rather than merged: whether they mean the same, only their owner knows.

    Args:
        names: Names, or paths with `/` between their parts.
        where: What has them, for the error.

    Raises:
        ValueError: If two names are alike, or their folders; the message shows how they are written.
    """
    written: dict[str, str] = {}
    for name in {part for path in names for part in _leading_parts(path)}:
        other = written.setdefault(_printed(name), name)
        if other != name:
            first, second = sorted((other, name))
            raise ValueError(
                f"{where} has two names that print alike, {first!a} and {second!a}: Unicode writes a "
                "character in several ways, and some aren't seen. Rename one, or put both together if they mean the "
                "same."
            )


def _printed(path: str) -> str:
    """What is seen of a path, so that names that print alike are equal."""
    seen = unicodedata.normalize("NFC", path).translate(_UNSEEN)
    spaced = "".join(" " if character.isspace() else character for character in seen)
    return "/".join(part.strip() for part in spaced.split("/"))


def _leading_parts(path: str) -> list[str]:
    """`a`, `a/b` and `a/b/c` of `a/b/c`."""
    ends = [place for place, character in enumerate(path) if character == "/"]
    return [path[:end] for end in (*ends, len(path))]
