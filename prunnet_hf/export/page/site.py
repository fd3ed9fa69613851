"""A page on disk: a folder that any static host serves as it is.

- `index.html`, `page.css`, `page.js`: the page itself, the same for every model but for the title.
- `page.json`: what the page shows: networks, gallery, examples, matrix, runtime, each file with its size.
- `networks/capacity-0.20.onnx`: the network of a capacity, its image processing inside; 1.00 is the dense network.
- `gallery/`: vectors (float16, row after row), and thumbnails (WebP files, one behind the other).
- `examples/`: images to search with.
- `runtime/`: onnxruntime-web, if it was copied.
"""

from __future__ import annotations

import html
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ...modeling_prunnet import PrunNetModel
from ...pruning.masking import format_capacity
from ...retrieval.spaces import check_compatible
from ...storage.json_text import load_json
from ...storage.replacing import Replaceable, is_free, replaced_whole, tidy_directory
from ..device_folder import FOLDER as ONNX
from ..device_folder import WITH_PROCESSING, write_onnx_files
from .pictures import choose_images, write_examples, write_gallery_part
from .runtime import FROM_CDN, copy_runtime

FORMAT, VERSION = "prunnet-page", 1
INDEX, MANIFEST, NETWORKS = "index.html", "page.json", "networks"
STATIC = Path(__file__).parent / "static"
PAGE_FILES = Replaceable(
    files=(INDEX, "page.css", "page.js", MANIFEST, NETWORKS, "gallery", "examples", "runtime"), last=INDEX
)
STARTS_WITH = 0.2
"""The capacity that a page shows first, or the nearest one."""
MOST_IMAGES = 1_000


@dataclass(frozen=True)
class Matrix:
    """What each query network finds in each gallery.

    Attributes:
        metric: Its name.
        queries: Capacities, ascending.
        galleries: Capacities, ascending.
        values: `(query, gallery)`, in [0, 1]; None if a pair wasn't evaluated.
    """

    metric: str
    queries: list[float]
    galleries: list[float]
    values: list[list[float | None]]


@dataclass(frozen=True, kw_only=True)
class Page:
    """What a page is to show.

    Attributes:
        title: Its headline.
        capacities: Those to choose from, in (0, 1); the dense network is there in any case.
        examples: Folder of images to search with; None takes some of the gallery.
        most_images: How many images of the gallery it shows.
        drawing: Whether a visitor can draw a query.
        matrix: The compatibility matrix; None if there is none.
    """

    title: str
    capacities: Sequence[float]
    examples: Path | None = None
    most_images: int = MOST_IMAGES
    drawing: bool = False
    matrix: Matrix | None = None

    def __post_init__(self) -> None:
        """Refuse what no page can be made of."""
        if not self.capacities or not all(0 < capacity < 1 for capacity in self.capacities):
            raise ValueError(
                f"--capacity must be above 0 and below 1, given once or more; got {list(self.capacities)}. The dense "
                "network, 1.0, is on every page."
            )
        if self.most_images < 1:
            raise ValueError(f"--images must be at least 1; got {self.most_images}.")


def build_page(
    model: PrunNetModel, gallery: Path, output: Path, page: Page, *, runtime: Path | None = None
) -> dict[str, Any]:
    """Build a page in a folder, in place of one that is there; whole or not at all.

    Args:
        model: The dense network, of the gallery's space.
        gallery: Folder of a saved gallery.
        output: Created if necessary.
        page: What it shows.
        runtime: Folder of npm's package onnxruntime-web, to be copied; None takes it from its CDN.

    Returns:
        The page's manifest.

    Raises:
        FileExistsError: If `output` holds something other than a page.
        FileNotFoundError: If a folder or an image isn't there.
        ImportError: If a package of the extra `onnx` isn't installed.
        ValueError: If the gallery is of another space or has no exact vectors, the model can't be pruned, or an
            image can't be read.
    """
    shown = choose_images(gallery, page.most_images)
    check_compatible(shown.about, model)
    refuse_other_folder(output)
    output.mkdir(parents=True, exist_ok=True)
    with replaced_whole(output, PAGE_FILES) as site:
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "title": page.title,
            "unit": "units" if model.config.granularity == "channel" else "weights",
            "start": STARTS_WITH,
            "drawing": page.drawing,
            "runtime": asdict(FROM_CDN if runtime is None else copy_runtime(runtime, site)),
            "gallery": write_gallery_part(shown, site),
            "examples": write_examples(page.examples, shown, site),
            "matrix": None if page.matrix is None else asdict(page.matrix),
            "networks": _write_networks(model, page.capacities, site),
        }
        _write_static(page.title, site)
        (site / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a page.

    Raises:
        FileNotFoundError: If the folder has none.
        ValueError: If it is damaged, or another program's.
    """
    path = folder / MANIFEST
    if folder.is_dir():
        tidy_directory(folder, PAGE_FILES)  # puts a page back if the command that was replacing it was killed
    if not (folder / INDEX).is_file() or not path.is_file():
        raise FileNotFoundError(
            f"{str(folder)!r} must be the folder of a page, which prunnet page makes; there is none in it."
        )
    content = load_json(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path} isn't the manifest of a page, which prunnet page makes. Choose another folder.")
    return content


def refuse_other_folder(output: Path) -> None:
    """Refuse to write a page into a file, or a folder that holds something else.

    Raises:
        FileExistsError: If it is one.
    """
    if output.is_file():
        raise FileExistsError(f"--output {str(output)!r} is a file: choose the name of a folder.")
    if is_free(output, PAGE_FILES):
        return
    try:
        read_manifest(output)
    except (FileNotFoundError, ValueError) as error:
        raise FileExistsError(
            f"--output {str(output)!r} holds something other than a page: choose another folder, or empty it."
        ) from error


def _write_networks(model: PrunNetModel, capacities: Sequence[float], site: Path) -> list[dict[str, Any]]:
    """The networks from the smallest to the dense one."""
    (site / NETWORKS).mkdir()
    networks = []
    for capacity in tqdm([*sorted(set(capacities)), 1.0], desc="networks", disable=None):
        network = model if capacity == 1.0 else model.prune(capacity)
        url = f"{NETWORKS}/capacity-{format_capacity(capacity)}.onnx"
        _write_network(network, site / url)
        networks.append({"capacity": capacity, "url": url, "bytes": (site / url).stat().st_size})
    return networks


def _write_network(network: PrunNetModel, path: Path) -> None:
    """Write the network with its image processing inside; checked against torch before."""
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        write_onnx_files(network, Path(scratch), processing="inside")
        os.replace(Path(scratch, ONNX, WITH_PROCESSING), path)


def _write_static(title: str, site: Path) -> None:
    for file in STATIC.iterdir():
        shutil.copyfile(file, site / file.name)
    index = site / INDEX
    index.write_text(index.read_text(encoding="utf-8").replace("{{title}}", html.escape(title)), encoding="utf-8")
