"""A data set by the name that `--dataset` gives it."""

from __future__ import annotations

from .glyphs import load_glyphs
from .image_folder import load_hub_dataset
from .image_folder import load_image_folder
from .splits import RetrievalSplits


def load_splits(dataset: str, data_dir: str | None = None) -> RetrievalSplits:
    """Load the training, query and gallery images of a data set.

    Args:
        dataset: `"glyphs"` (embedded), `"image_folder"`, or the name of a Hub data set with image and label columns.
        data_dir: For `"image_folder"`: a folder with `train/` and `test/`, and in each a folder a class.

    Raises:
        ValueError: If `data_dir` is missing for `"image_folder"`, or given for a data set that has none.
        FileNotFoundError: If a folder or file is missing.
    """
    if dataset == "image_folder":
        if data_dir is None:
            raise ValueError(
                "--dataset image_folder needs --data_dir DIR, with DIR/train/<class>/<image> and "
                "DIR/test/<class>/<image>."
            )
        return load_image_folder(data_dir)
    if data_dir is not None:
        raise ValueError(f"--data_dir belongs to --dataset image_folder; got {data_dir!r} with --dataset {dataset}.")
    return load_glyphs() if dataset == "glyphs" else load_hub_dataset(dataset)
