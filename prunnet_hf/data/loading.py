"""A data set by the name that `--dataset` gives it; a new one needs a row in `SOURCES`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import Any

from .sets.gldv2 import load_gldv2
from .sets.gldv2_lists import Subset
from .sets.glyphs import load_glyphs
from .sets.image_folder import load_hub_dataset, load_image_folder
from .sets.in_shop import load_in_shop
from .sets.revisited import load_revisited
from .sets.veri776 import load_veri776
from .splits import HoldOut, RetrievalSplits


@dataclass(frozen=True)
class Source:
    """A data set that `--dataset` knows by name.

    Attributes:
        load: Called with the folder if it `needs_folder`, and with the options that were given.
        options: The arguments of `load_splits` that it takes; each is a keyword of `load`.
        needs_folder: Whether its files lie in a folder of the user's (`--data_dir`).
    """

    load: Callable[..., RetrievalSplits]
    options: tuple[str, ...] = ("streaming",)
    needs_folder: bool = True


SOURCES = {
    "glyphs": Source(load_glyphs, options=(), needs_folder=False),
    "image_folder": Source(load_image_folder, options=("streaming", "labels_optional", "hold_out")),
    "gldv2": Source(load_gldv2, options=("streaming", "subset", "class_share", "num_classes", "evaluation_only")),
    "in_shop": Source(load_in_shop, options=("streaming", "bounding_boxes")),
    "veri776": Source(load_veri776),
    "roxford5k": Source(partial(load_revisited, name="roxford5k")),
    "rparis6k": Source(partial(load_revisited, name="rparis6k")),
}
"""Every data set that has a name of its own; any other name is one of the Hub."""


def load_splits(
    dataset: str,
    data_dir: str | None = None,
    *,
    streaming: bool = False,
    class_share: float | None = None,
    num_classes: int | None = None,
    subset: Subset = "clean",
    bounding_boxes: bool = False,
    evaluation_only: bool = False,
    labels_optional: bool = False,
    hold_out: HoldOut | None = None,
) -> RetrievalSplits:
    """Load the training, query and gallery images of a data set.

    Args:
        dataset: A name in `SOURCES`, or the name of a Hub data set with an image and a label column.
        data_dir: The folder of its files, if it needs one.
        streaming: Read images as streams. GLDv2 then comes straight from its tar files.
        class_share: Share of the training classes to take.
        num_classes: Number of training classes to take.
        subset: Which list of training images to read.
        bounding_boxes: Crop images to their boxes.
        evaluation_only: Leave out training images that are a separate download. What chooses training images is then
            ignored.
        labels_optional: Take training images without classes where the data set can have such.
        hold_out: How to test where the data set can lack test images, and does; None refuses.

    Raises:
        ValueError: If `data_dir` is missing but needed, or the data set doesn't take an argument that is given.
        FileNotFoundError: If a folder or file is missing.
    """
    source = SOURCES.get(dataset) or Source(partial(load_hub_dataset, dataset), options=(), needs_folder=False)
    if data_dir is not None and not source.needs_folder:
        raise _belongs_elsewhere("data_dir", in_folders(), dataset)
    chosen: dict[str, Any] = {"streaming": streaming or None, "bounding_boxes": bounding_boxes or None}
    if not evaluation_only:
        chosen |= {"class_share": class_share, "num_classes": num_classes}
        chosen["subset"] = None if subset == "clean" else subset
    options = {name: value for name, value in chosen.items() if value is not None}
    foreign = sorted(set(options) - set(source.options))
    if foreign:
        raise _belongs_elsewhere(foreign[0], takers(foreign[0]), dataset)
    wishes = {"evaluation_only": evaluation_only, "labels_optional": labels_optional, "hold_out": hold_out}
    options |= {name: wish for name, wish in wishes.items() if wish and name in source.options}
    if not source.needs_folder:
        return source.load(**options)
    if data_dir is None:
        raise ValueError(f"--dataset {dataset} needs --data_dir DIR, the folder of its files.")
    return source.load(data_dir, **options)


def takers(option: str) -> str:
    """The data sets that take an argument of `load_splits`, for messages and help.

    Example:
        >>> takers("class_share")
        'gldv2'
    """
    return _either([name for name, source in SOURCES.items() if option in source.options])


def in_folders() -> str:
    """The data sets that need `--data_dir`, for messages and help."""
    return _either([name for name, source in SOURCES.items() if source.needs_folder])


def without_folder() -> str:
    """The data sets that come with this package, for help."""
    return _either([name for name, source in SOURCES.items() if not source.needs_folder])


def _either(names: list[str]) -> str:
    return " or ".join([*filter(None, [", ".join(names[:-1])]), names[-1]])


def _belongs_elsewhere(argument: str, owners: str, dataset: str) -> ValueError:
    alike = get_close_matches(dataset, SOURCES, n=1)
    hint = f" Did you mean {alike[0]}?" if alike and dataset not in SOURCES else ""
    return ValueError(f"--{argument} belongs to --dataset {owners}; got it with --dataset {dataset}.{hint}")
