"""Revisited Oxford and Paris: photographs of buildings, with queries and judgements of three difficulties.

Radenovic, Iscen, Tolias, Avrithis, Chum: "Revisiting Oxford and Paris: Large-Scale Image Retrieval Benchmarking",
CVPR 2018.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from datasets import Features
from datasets import Image
from datasets import List
from datasets import Value
from PIL import Image as PILImage

from .official_files import find_file
from .official_files import join_inside
from .official_files import refuse_repeats
from .official_files import require_images
from .official_files import require_root
from .plain_pickle import load_plain_pickle
from .reading import DECODING_ERRORS
from .splits import IMAGE
from .splits import RetrievalSplits
from .splits import listed
from .streams import as_stream

NAME = "name"
DIFFICULTIES = ("easy", "hard", "junk")
_PAGES = {
    "roxford5k": "https://www.robots.ox.ac.uk/~vgg/data/oxbuildings/",
    "rparis6k": "https://www.robots.ox.ac.uk/~vgg/data/parisbuildings/",
}

Box = tuple[float, float, float, float]


def load_revisited(root: str | os.PathLike[str], name: str, *, streaming: bool = False) -> RetrievalSplits:
    """Load the official queries and gallery; there is nothing to train on.

    Gallery images have the columns `image` and `name`, queries also `easy`, `hard` and `junk`: rows of the gallery.
    Queries are cropped here and held as PNG, as the official code crops them: the pixels as they are stored, whatever
    Exif says of their orientation, the box rounded to whole pixels (a half to the even one), black where it leaves
    the image.

    Args:
        root: The folder that holds `gnd_<name>.pkl` and `jpg/` with all images in it, or these in a folder `<name>/`.
        name: `"roxford5k"` or `"rparis6k"`.
        streaming: Give streams.

    Raises:
        FileNotFoundError: If the folder, the ground truth, or an image that it names is missing.
        ValueError: If `name` is another, or the ground truth is no pickle of plain data, lacks something, names an
            image twice or a query in the gallery, judges an image twice or one that the gallery lacks, or has a box
            that holds nothing of its image; or if the image of a query can't be decoded.
    """
    if name not in _PAGES:
        raise ValueError(f"name={name!r} must be one of {', '.join(_PAGES)}.")
    source = _source(name)
    folder = require_root(root, f"gnd_{name}.pkl and jpg/", source)
    truth = find_file(folder, f"gnd_{name}.pkl", f"{name}/gnd_{name}.pkl", source=source)
    image_folder = find_file(truth.parent, "jpg", source=source)
    gallery_names, query_names, judged = _read_truth(truth)
    paths = {image: join_inside(image_folder, f"{image}.jpg", where=str(truth)) for image in gallery_names + query_names}
    require_images(image_folder, [f"{image}.jpg" for image in paths], where=truth, source=source)
    rows = [_judgements(gnd, len(gallery_names), f"{truth}, query {query}") for query, gnd in zip(query_names, judged)]
    boxes = [_box(gnd, f"{truth}, query {query}") for query, gnd in zip(query_names, judged)]
    gallery = _dataset([str(paths[image]) for image in gallery_names], gallery_names)
    crops = [_crop(paths[image], box) for image, box in zip(query_names, boxes)]
    query = _dataset([{"bytes": crop, "path": None} for crop in crops], query_names, rows)
    splits = RetrievalSplits(None, query, gallery, "revisited")
    return RetrievalSplits(None, as_stream(query), as_stream(gallery), "revisited") if streaming else splits
