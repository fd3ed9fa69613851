"""A data set by the name that `--dataset` gives it."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from functools import partial

from .gldv2 import load_gldv2
from .glyphs import load_glyphs
from .image_folder import load_hub_dataset, load_image_folder
from .in_shop import load_in_shop
from .revisited import load_revisited
from .splits import RetrievalSplits
from .veri776 import load_veri776

FOLDERS = ("image_folder", "gldv2", "in_shop", "veri776", "roxford5k", "rparis6k")
"""Data sets that lie in a folder of the user's."""


def load_splits(
    dataset: str,
    data_dir: str | None = None,
    *,
    streaming: bool = False,
    class_share: float | None = None,
    num_classes: int | None = None,
    subset: str = "clean",
    bounding_boxes: bool = False,
    evaluation_only: bool = False,
) -> RetrievalSplits:
    """Load the training, query and gallery images of a data set.

    Args:
        dataset: `"glyphs"` (embedded), one of `FOLDERS`, or the name of a Hub data set with image and label columns.
        data_dir: For one of `FOLDERS`: where its files are.
        streaming: Read as streams; for one of `FOLDERS`. GLDv2 then comes straight from its tar files.
        class_share: For `"gldv2"`: share of the training classes to take.
        num_classes: For `"gldv2"`: how many to take.
        subset: For `"gldv2"`: `"clean"` or `"full"`, the training images of which list.
        bounding_boxes: For `"in_shop"`: crop images to their boxes.
        evaluation_only: Leave out training images where they are a download of their own, as GLDv2's are.

    Raises:
        ValueError: If `data_dir` is missing where one is needed, or an argument is given that doesn't belong to the
            data set.
        FileNotFoundError: If a folder or file is missing.
    """
    if not evaluation_only:  # else a recipe's choice of training classes does no harm
        _check_belongs("class_share", class_share is not None, dataset, ("gldv2",))
        _check_belongs("num_classes", num_classes is not None, dataset, ("gldv2",))
        _check_belongs("subset", subset != "clean", dataset, ("gldv2",))
    _check_belongs("bounding_boxes", bounding_boxes, dataset, ("in_shop",))
    _check_belongs("streaming", streaming, dataset, FOLDERS)
    _check_belongs("data_dir", data_dir is not None, dataset, FOLDERS)
    if dataset == "glyphs":
        return load_glyphs()
    if dataset not in FOLDERS:
        return load_hub_dataset(dataset)
    if data_dir is None:
        raise ValueError(f"--dataset {dataset} needs --data_dir DIR, the folder of its files.")
    loaders: dict[str, Callable[..., RetrievalSplits]] = {
        "image_folder": load_image_folder,
        "gldv2": partial(
            load_gldv2,
            subset=None if evaluation_only else subset,
            class_share=class_share,
            num_classes=num_classes,
        ),
        "in_shop": partial(load_in_shop, bounding_boxes=bounding_boxes),
        "veri776": load_veri776,
        "roxford5k": partial(load_revisited, name="roxford5k"),
        "rparis6k": partial(load_revisited, name="rparis6k"),
    }
    return loaders[dataset](data_dir, streaming=streaming)


def _check_belongs(argument: str, is_given: bool, dataset: str, owners: tuple[str, ...]) -> None:
    if is_given and dataset not in owners:
        alike = get_close_matches(dataset, FOLDERS, n=1)
        hint = f" Did you mean {alike[0]}?" if alike and dataset not in FOLDERS else ""
        raise ValueError(
            f"--{argument} belongs to --dataset {' or '.join(owners)}; got it with --dataset {dataset}.{hint}"
        )
