"""Whether two trainings see the same images: class names, the number of images, and a digest of their list."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datasets import Dataset

from .splits import LABEL
from .streams import ImageDataset, list_digest, num_images, stored_digest


def identify(images: ImageDataset) -> dict[str, Any]:
    """What makes the training images these and no others, as JSON has it.

    Returns:
        `class_names`, `num_images`, and `digest`: the SHA-256 of the list of file names and labels, in its order; None
        for a stream that was made without one.
    """
    digest = list_digest(images) if isinstance(images, Dataset) else stored_digest(images)
    return {"class_names": images.features[LABEL].names, "num_images": num_images(images), "digest": digest}


def differences_of_data(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """How the images differ from those of `before`, in words; what `before` doesn't know doesn't count."""
    found = []
    if before.get("class_names") is not None and before["class_names"] != now["class_names"]:
        found.append(_difference_of_classes(before["class_names"], now["class_names"]))
    if before.get("num_images") not in (None, now["num_images"]):
        found.append(f"{before['num_images']} images became {now['num_images']}")
    if not found and None not in (before.get("digest"), now["digest"]) and before["digest"] != now["digest"]:
        found.append("the file names or labels in their list differ")
    return found


def _difference_of_classes(before: list[str], now: list[str]) -> str:
    if len(before) != len(now):
        return f"{len(before)} classes became {len(now)}"
    first = next(label for label, (old, new) in enumerate(zip(before, now, strict=True)) if old != new)
    return f"class {first} was {before[first]!r} and is {now[first]!r}"
