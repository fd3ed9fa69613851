"""Images of a folder that have no classes, and how some of them become a test."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from datasets import ClassLabel, Dataset, Features, Image, Value

from .folder_walk import find_images
from .reading import stored_images
from .splits import FEWEST_CLASSES, IMAGE, LABEL, WITHOUT_CLASSES, RetrievalSplits, listed

logger = logging.getLogger(__name__)

ID = "id"
TEST_SHARE_OF_IMAGES = 10
"""One in so many images without classes becomes a test image, if there are no others."""


def load_unlabelled(folder: Path, *, in_any_folders: bool = False) -> Dataset | None:
    """The images of a folder without classes, all with the one label of `WITHOUT_CLASSES`.

    Args:
        folder: It need not be there.
        in_any_folders: Folders in it never are classes.

    Returns:
        None if there are no images, or all lie in several folders, which then are the classes.
    """
    paths = find_images(folder).images if folder.is_dir() else []
    folders = {path.partition("/")[0] for path in paths if "/" in path}
    outside = [path for path in paths if "/" not in path]
    if not paths or (not outside and len(folders) >= FEWEST_CLASSES and not in_any_folders):
        return None
    if folders:
        why = f"{len(outside)} lie in no folder: {listed(outside)}" if outside else "they lie in one folder"
        if in_any_folders:
            why = f"there is no train folder; there are {listed(sorted(folders))}"
        logger.warning("%s: all %d images are taken without classes, as %s.", folder, len(paths), why)
    features = Features({IMAGE: Image(), LABEL: ClassLabel(names=list(WITHOUT_CLASSES))})
    columns = {IMAGE: [str(folder / path) for path in paths], LABEL: [0] * len(paths)}
    return Dataset.from_dict(columns, features=features)


def hold_out_images(images: Dataset, root: Path) -> RetrievalSplits:
    """Every tenth image becomes a query that is to find itself, among all that were held out; the others train.

    Args:
        images: Those of `load_unlabelled`.
        root: The folder that they lie in; a query is called by its path there.

    Raises:
        ValueError: If fewer than two would be held out.
    """
    places = range(TEST_SHARE_OF_IMAGES - 1, len(images), TEST_SHARE_OF_IMAGES)
    if len(places) < FEWEST_CLASSES:
        raise ValueError(
            f"data_dir={str(root)!r} has {len(images)} images without classes; at least "
            f"{TEST_SHARE_OF_IMAGES * FEWEST_CLASSES} are needed, as every tenth is held out to test on, or a test "
            "folder with classes: test/<class>/<image>."
        )
    logger.warning(
        "%s has no test folder: every tenth image is held out of training (%d of %d), and is to find itself in the "
        "gallery.",
        root,
        len(places),
        len(images),
    )
    files = [row[IMAGE]["path"] for row in stored_images(images.select(places))]
    columns = {IMAGE: files, ID: [Path(os.path.relpath(file, root)).as_posix() for file in files]}
    test = Dataset.from_dict(columns, features=Features({IMAGE: Image(), ID: Value("string")}))
    train = images.select([place for place in range(len(images)) if place not in places])
    return RetrievalSplits(train, test, test, "same_image", held_out=True)
