"""What every data set is here: images to train on, queries, a gallery, and the protocol that judges them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from datasets import ClassLabel
from datasets import Dataset
from datasets import Image

IMAGE = "image"
LABEL = "label"
SHOWN = 5
"""Names an error message lists before it only counts."""


@dataclass(frozen=True)
class RetrievalSplits:
    """Images of a retrieval task; each data set has a column `image` (Image) and a column `label` (ClassLabel).

    Attributes:
        train: Images of the training classes, labels from 0 to `num_classes - 1`.
        query: Images to search with.
        gallery: Images to search among; the same object as `query` where each image is a query against all others.
        protocol: Name of the rule by which retrieval is judged; `retrieval.protocols.resolve_protocol` finds it.

    Raises:
        ValueError: If a split is empty or lacks a column, or, under `"leave_one_out"`, a class has one image only.
    """

    train: Dataset
    query: Dataset
    gallery: Dataset
    protocol: str

    def __post_init__(self) -> None:
        """Check the columns, and that every query can find something."""
        for role in ("train", "query", "gallery"):
            _check_columns(role, getattr(self, role))
        if self.protocol == "leave_one_out":
            check_pairs(self.query)

    @property
    def num_classes(self) -> int:
        """Number of training classes."""
        return int(self.train.features[LABEL].num_classes)


def hold_out_classes(train: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Set some of the training classes aside, to choose between models without looking at the test classes.

    Args:
        train: Images with `label`.
        share: Share of the classes to hold out, in (0, 1).
        seed: Decides which.

    Returns:
        The remaining images, their labels renumbered from 0, and the held-out images.

    Raises:
        ValueError: If fewer than one class would be held out, fewer than two would remain, or a held-out class has one
            image only.
    """
    names: list[str] = train.features[LABEL].names
    num_held_out = round(share * len(names))
    if not 1 <= num_held_out <= len(names) - 2:
        raise ValueError(
            f"validation_share={share} holds out {num_held_out} of {len(names)} training classes: it must hold out at "
            "least one and leave at least two."
        )
    held_out = set(np.random.default_rng(seed).permutation(len(names))[:num_held_out].tolist())
    labels = train[LABEL]
    validation = train.select([i for i, label in enumerate(labels) if label in held_out])
    check_pairs(validation)
    kept = [index for index in range(len(names)) if index not in held_out]
    remaining = train.select([i for i, label in enumerate(labels) if label not in held_out])
    return renumber(remaining, kept), validation


def renumber(dataset: Dataset, classes: Sequence[int]) -> Dataset:
    """Give the labels in `classes` the numbers 0, 1, ... in that order; names stay with their classes."""
    names: list[str] = dataset.features[LABEL].names
    number = {old: new for new, old in enumerate(classes)}
    labels = [number[label] for label in dataset[LABEL]]
    feature = ClassLabel(names=[names[index] for index in classes])
    return dataset.remove_columns(LABEL).add_column(LABEL, labels, feature=feature)


def check_pairs(images: Dataset) -> None:
    """Refuse a class with a single image: as a query it has nothing to find."""
    names: list[str] = images.features[LABEL].names
    single = sorted(names[label] for label, count in Counter(images[LABEL]).items() if count == 1)
    if single:
        raise ValueError(
            f"{len(single)} test classes have one image only, so that a query of theirs has nothing to find: "
            f"{listed(single)}. Add images, or take these classes out."
        )


def listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _check_columns(role: str, images: Dataset) -> None:
    if not isinstance(images.features.get(IMAGE), Image) or not isinstance(images.features.get(LABEL), ClassLabel):
        raise ValueError(
            f"{role} must have the columns image (datasets.Image) and label (datasets.ClassLabel); it has "
            f"{dict(images.features)}."
        )
    if not len(images):
        raise ValueError(f"{role} has no images.")
