"""The images of a run: loaded, looked at before training where that is cheap, and validation classes set apart."""

from __future__ import annotations

from datasets import Dataset

from ..data.loading import load_splits
from ..data.sets.image_folder import check_images
from ..data.splits import RetrievalSplits, hold_out_classes
from ..data.streams import ImageDataset, num_images
from .arguments import RunArguments

CHECKED_BEFOREHAND = 100_000
"""Sets of up to so many images are decoded once before training; larger ones, and streams, only as they are read."""


def load_run_data(arguments: RunArguments, *, is_main_process: bool = True) -> RetrievalSplits:
    """The images of a run: listed, and the test images decoded once, before hours of training and not after.

    Args:
        arguments: See `parse_arguments`.
        is_main_process: Whether this process is the one that decodes them.

    Raises:
        ValueError: If a test image can't be decoded, or there is nothing to train on.
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
    )
    if splits.train is None and not arguments.train.eval_only:
        raise ValueError(
            f"--dataset {data.dataset} has no training images: evaluate a trained model on it, with --eval_only "
            "--model_name_or_path DIR."
        )
    if is_main_process:
        for images in {id(images): images for images in (splits.query, splits.gallery)}.values():
            check_beforehand(images, skip_corrupt=False)
    return splits


def check_beforehand(images: ImageDataset, *, skip_corrupt: bool) -> ImageDataset:
    """Decode all images once where that takes minutes at most, and leave unreadable ones out if asked to.

    Raises:
        ValueError: If an image can't be decoded, or unreadable ones should be left out of a set too large to look.
    """
    if isinstance(images, Dataset) and len(images) <= CHECKED_BEFOREHAND:
        return check_images(images, skip_corrupt=skip_corrupt)
    if skip_corrupt:
        raise ValueError(
            f"--skip_corrupt_images decodes every image before training, which is for data sets (no streams) of up to "
            f"{CHECKED_BEFOREHAND} images; there are {num_images(images)}. Take the corrupt ones out of the lists."
        )
    return images


def set_apart(
    splits: RetrievalSplits, arguments: RunArguments, *, is_main_process: bool = True
) -> tuple[ImageDataset, RetrievalSplits]:
    """Training images, and what `eval_every` looks at: training classes held out, else the test classes.

    Raises:
        ValueError: If there is nothing to train on, or classes can't be held out.
    """
    if splits.train is None:
        raise ValueError("splits.train is None: this data set is for evaluation only.")
    train, skip_corrupt = splits.train, arguments.data.skip_corrupt_images
    if is_main_process or skip_corrupt:  # what is left out, all processes must know
        train = check_beforehand(train, skip_corrupt=skip_corrupt)
    if arguments.data.validation_share == 0:
        return train, splits
    if not isinstance(train, Dataset):
        raise ValueError("--validation_share needs to look at all labels, which streams can't: leave it out.")
    train, held_out = hold_out_classes(train, arguments.data.validation_share, arguments.train.seed)
    return train, RetrievalSplits(None, held_out, held_out, "leave_one_out")
