"""The images of a run: loading them, checking them before training, and holding out validation classes."""

from __future__ import annotations

from datasets import Dataset

from ..data.loading import load_splits
from ..data.sets.image_folder import check_images
from ..data.splits import HoldOut, RetrievalSplits, check_classes, has_classes, hold_out_classes
from ..data.streams import ImageDataset, num_images
from .arguments import RunArguments

CHECKED_BEFOREHAND = 100_000
"""Data sets of up to this many images are decoded once before training; larger ones and streams are not."""


def load_run_data(arguments: RunArguments, *, is_main_process: bool = True) -> RetrievalSplits:
    """Load the images of a run, and decode the test images once: before hours of training, not after.

    Args:
        arguments: See `parse_arguments`.
        is_main_process: Whether this is the process that decodes them.

    Raises:
        ValueError: If a test image can't be decoded, or there are no training images.
    """
    data = arguments.data
    splits = load_splits(
        data.dataset,
        data.data_dir,
        streaming=data.streaming,
        class_share=data.class_share,
        num_classes=data.num_classes,
        subset=data.subset,
        bounding_boxes=data.bounding_boxes,
        evaluation_only=arguments.train.eval_only,
        labels_optional=not arguments.train.needs_labels,
        hold_out=HoldOut(data.validation_share, arguments.train.seed) if arguments.train.trains_into else None,
    )
    if splits.train is None and not arguments.train.eval_only:
        raise ValueError(
            f"--dataset {data.dataset} has no training images. Evaluate a trained model on it, with --eval_only "
            "--model_name_or_path DIR."
        )
    if is_main_process:
        for images in {id(images): images for images in (splits.query, splits.gallery)}.values():
            check_beforehand(images, skip_corrupt=False)
    return splits


def check_beforehand(images: ImageDataset, *, skip_corrupt: bool) -> ImageDataset:
    """Decode all images once if that takes only minutes, and leave out unreadable ones if `skip_corrupt`.

    Raises:
        ValueError: If an image can't be decoded, or `skip_corrupt` is given for a stream or too large a data set.
    """
    if isinstance(images, Dataset) and len(images) <= CHECKED_BEFOREHAND:
        return check_images(images, skip_corrupt=skip_corrupt)
    if skip_corrupt:
        raise ValueError(
            f"--skip_corrupt_images decodes every image before training, which works with data sets (not streams) of "
            f"up to {CHECKED_BEFOREHAND} images; there are {num_images(images)}. Remove the corrupt ones yourself."
        )
    return images


def set_apart(
    splits: RetrievalSplits, arguments: RunArguments, *, is_main_process: bool = True
) -> tuple[ImageDataset, RetrievalSplits]:
    """The training images, and those for `eval_every`: held-out training classes, or else the test images.

    Raises:
        ValueError: If there are no training images, classes can't be held out, or fewer than two remain.
    """
    if splits.train is None:
        raise ValueError("splits.train is None: this data set can only be evaluated.")
    train, skip_corrupt = splits.train, arguments.data.skip_corrupt_images
    if is_main_process or skip_corrupt:  # all processes must know what is left out
        train = check_beforehand(train, skip_corrupt=skip_corrupt)
    if skip_corrupt and has_classes(train):
        check_classes("train", train)  # whole classes may have been left out
    if arguments.data.validation_share == 0:
        return train, splits
    if not has_classes(train):
        raise ValueError(
            f"validation_share={arguments.data.validation_share} holds out classes, and the training images have "
            "none. Leave --validation_share out."
        )
    if splits.held_out:
        return train, splits
    if not isinstance(train, Dataset):
        raise ValueError(
            "--validation_share needs all labels, which streams can't give: leave out either it or --streaming."
        )
    train, held_out = hold_out_classes(train, arguments.data.validation_share, arguments.train.seed)
    check_classes("train", train)
    return train, RetrievalSplits(None, held_out, held_out, "leave_one_out")
