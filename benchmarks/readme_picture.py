"""The README's picture: what the dense network and a subnetwork find in one gallery, which the dense network embedded.

    python benchmarks/readme_picture.py out/grocery --data_dir data/grocery --output docs/images/search.png

The run must be one on an image folder. For each query there are two rows of photos: those that the dense network
finds, and those that the subnetwork finds in the same gallery, no photo embedded again. Correct photos, those of the
query's class, have a green frame and a tick, wrong ones a red frame and a cross.

The queries are not picked by hand: a generator with the given seed (0 by default) first draws as many
different test classes as there are queries, then one photo of each. All other test photos are the gallery. The size of
a network is that of its weight file, saved and measured here: packed for the subnetwork, without scores for the dense
network. The mAP of both networks over all test photos stands below the photos, and is printed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import NamedTuple

import numpy as np
from datasets import Dataset
from matplotlib import get_data_path
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps
from transformers.utils.logging import disable_progress_bar

from prunnet_hf import PrunNetImageProcessor, PrunNetModel
from prunnet_hf.commands import CommandParser, run_command
from prunnet_hf.data.loading import load_splits
from prunnet_hf.data.splits import IMAGE, LABEL
from prunnet_hf.pruning.masking import format_capacity
from prunnet_hf.retrieval.dataset_encoding import encode
from prunnet_hf.retrieval.protocols import Side, leave_one_out
from prunnet_hf.retrieval.search import search
from prunnet_hf.storage.whole_file import whole_file

NUM_FOUND = 5
DENSE = 1.0
WIDTH = 830
"""Pixels that GitHub gives a README's picture."""
QUERY, PHOTO, GAP, FRAME = 128, 100, 6, 4
MARGIN, LABEL_WIDTH, LINE, LETTERS = 10, 138, 16, 18
NUM_COLOURS = 256
"""Photos as PNG in full colour would take five times the bytes."""
INK, GREY, GREEN, RED = "#1f2328", "#59636e", "#1a7f37", "#cf222e"


class Searched(NamedTuple):
    """What one network found.

    Attributes:
        name: Of the network, for people.
        file_bytes: Size of its weight file.
        mean_average_precision: Over all test photos, in [0, 1].
        found: `(num_queries, NUM_FOUND)` rows of the gallery, best first.
    """

    name: str
    file_bytes: int
    mean_average_precision: float
    found: NDArray[np.int64]


def main() -> None:
    """Search, print what was measured, and draw."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished run directory, of an image folder")
    parser.add_argument("--data_dir", required=True, help="the image folder it was trained on")
    parser.add_argument("--output", type=Path, required=True, help="the PNG to write")
    parser.add_argument("--capacity", type=float, default=0.1, help="of the subnetwork")
    parser.add_argument("--num_queries", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="draws the queries")
    arguments = parser.parse_args()
    disable_progress_bar()  # transformers shows one for every network loaded and saved
    photos = load_splits("image_folder", arguments.data_dir).query
    queries = draw_queries(photos, arguments.num_queries, arguments.seed)
    searches = search_photos(arguments.run / "model", arguments.capacity, photos, queries)
    for item in searches:
        print(f"{item.name}: {item.file_bytes:,} bytes, mAP {item.mean_average_precision:.1%}")
    save_small(draw_picture(photos, queries, searches), arguments.output)
    print(f"{arguments.output}: {arguments.output.stat().st_size:,} bytes")


def draw_queries(photos: Dataset, num_queries: int, seed: int) -> NDArray[np.int64]:
    """Draw different classes, then one photo of each; returns `(num_queries,)` rows of `photos`."""
    generator = np.random.default_rng(seed)
    labels = np.asarray(photos[LABEL][:])
    classes = generator.choice(np.unique(labels), num_queries, replace=False)
    return np.array([generator.choice(np.flatnonzero(labels == label)) for label in classes])


def search_photos(place: Path, capacity: float, photos: Dataset, queries: NDArray[np.int64]) -> list[Searched]:
    """Search the dense network's gallery with the dense network and with a subnetwork.

    Args:
        place: Where the dense model and its image processor are saved.
        capacity: Of the subnetwork, in (0, 1].
        photos: The gallery, with labels. A query doesn't find itself.
        queries: `(num_queries,)` rows of `photos`.
    """
    model = PrunNetModel.from_pretrained(place)
    networks = {DENSE: model.prune(DENSE), capacity: model.prune(capacity)}
    embeddings = encode(networks, photos, PrunNetImageProcessor.from_pretrained(place))
    sides = {key: Side(table, {LABEL: photos[LABEL][:]}) for key, table in embeddings.items()}
    names = {DENSE: "dense network", capacity: f"capacity {format_capacity(capacity)}"}
    return [
        Searched(
            names[key],
            weight_file_bytes(network),
            leave_one_out(sides[key], sides[DENSE])["mAP"],
            search(embeddings[key][queries], embeddings[DENSE], NUM_FOUND, exclude=queries),
        )
        for key, network in networks.items()
    ]


def weight_file_bytes(network: PrunNetModel) -> int:
    """Save a network and measure its weight file."""
    with tempfile.TemporaryDirectory() as directory:
        network.save_pretrained(directory)
        return sum(file.stat().st_size for file in Path(directory).glob("*.safetensors"))


def draw_picture(photos: Dataset, queries: NDArray[np.int64], searches: list[Searched]) -> Image.Image:
    """Lay out the queries one below the other, and what they are compared by at the foot."""
    row = PHOTO + GAP
    block = row * len(searches) + 3 * GAP
    foot = MARGIN + block * len(queries)
    picture = Image.new("RGB", (WIDTH, foot + 2 * LINE + MARGIN), "white")
    draw = ImageDraw.Draw(picture)
    for index, query in enumerate(queries.tolist()):
        top = MARGIN + index * block
        if index:
            draw.line([(MARGIN, top - 2 * GAP), (WIDTH - MARGIN, top - 2 * GAP)], fill="#d1d9e0")
        draw_query(picture, draw, photos, query, (MARGIN, top, len(searches) * row - GAP))
        for place, item in enumerate(searches):
            draw_found(picture, draw, photos, (query, item.found[index].tolist()), item, top + place * row)
    for line, text in enumerate(foot_lines(photos, searches)):
        draw.text((MARGIN, foot - GAP + line * LINE), text, INK if line == 0 else GREY, font(12))
    return picture


def draw_query(
    picture: Image.Image, draw: ImageDraw.ImageDraw, photos: Dataset, query: int, box: tuple[int, int, int]
) -> None:
    """Draw a query and its class in the middle of the height that its rows take; `box` is left, top and height."""
    left, top, height = box
    name = photos.features[LABEL].int2str(photos[query][LABEL])
    lines = textwrap.wrap("query: " + name.replace("-", " "), LETTERS)
    upper = top + (height - QUERY - len(lines) * LINE) // 2
    picture.paste(square(photos[query][IMAGE], QUERY), (left, upper))
    for number, line in enumerate(lines):
        draw.text((left, upper + QUERY + 5 + number * LINE), line, INK, font(12))


def draw_found(
    picture: Image.Image,
    draw: ImageDraw.ImageDraw,
    photos: Dataset,
    found: tuple[int, list[int]],
    item: Searched,
    top: int,
) -> None:
    """Draw a network's name and size, and the photos that it found for a query, best first."""
    query, rows = found
    left = WIDTH - MARGIN - NUM_FOUND * (PHOTO + GAP) + GAP
    middle = top + PHOTO // 2
    draw.text((left - LABEL_WIDTH, middle - LINE), item.name, INK, font(14, bold=True))
    draw.text((left - LABEL_WIDTH, middle + 3), f"{item.file_bytes / 1e6:.2f} MB", INK, font(14))
    for place, row in enumerate(rows):
        corner = (left + place * (PHOTO + GAP), top)
        picture.paste(framed(photos[row][IMAGE], photos[row][LABEL] == photos[query][LABEL]), corner)


def foot_lines(photos: Dataset, searches: list[Searched]) -> list[str]:
    """What the picture compares, and over how many photos."""
    figures = ", ".join(f"{item.name} {item.mean_average_precision:.1%}" for item in searches)
    num_classes = len(set(photos[LABEL][:]))
    return [
        f"mAP over all {len(photos):,} photos of {num_classes} classes unseen in training: {figures}",
        "Both search the same gallery, embedded once by the dense network.",
    ]


def framed(photo: Image.Image, is_correct: bool) -> Image.Image:
    """A square photo with the frame and the mark of what is correct or wrong."""
    colour = GREEN if is_correct else RED
    result = ImageOps.expand(square(photo, PHOTO - 2 * FRAME), FRAME, colour)
    draw = ImageDraw.Draw(result)
    draw.rectangle([(PHOTO - 19, PHOTO - 19), (PHOTO, PHOTO)], fill=colour)
    draw.text((PHOTO - 10, PHOTO - 10), "\N{CHECK MARK}" if is_correct else "\N{BALLOT X}", "white", font(14), "mm")
    return result


def square(photo: Image.Image, side: int) -> Image.Image:
    """The middle of a photo as a square of `side` pixels."""
    return ImageOps.fit(photo.convert("RGB"), (side, side), Image.Resampling.LANCZOS)


def font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Matplotlib's own font, which is there wherever matplotlib is."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / name), size)


def save_small(picture: Image.Image, path: Path) -> None:
    """Save as a PNG with a palette of its own; an existing file is replaced only by a complete one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    small = picture.quantize(NUM_COLOURS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    with whole_file(path) as file:
        small.save(file, format="PNG", optimize=True)


if __name__ == "__main__":
    sys.exit(run_command("benchmarks/readme_picture.py", main))
