"""The README's picture: what the dense network and a subnetwork find in one gallery, which the dense network embedded.

    python benchmarks/readme_picture.py out/grocery-units --data_dir data/grocery --output docs/images/search.png

The run must be one on an image folder. For each query there are two rows of photos: those that the dense network
finds, and those that the subnetwork finds in the same gallery, no photo embedded again. Correct photos, those of the
query's class, have a green frame and a tick, wrong ones a red frame and a cross.

The queries are not picked by hand: a generator with the given seed (0 by default) first draws as many
different test classes as there are queries, then one photo of each. All other test photos are the gallery. The size of
a network is that of its weight file, saved and measured here, without scores for the dense network. The mAP of both
networks over all test photos stands below the photos, and is printed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray
from PIL import Image
from transformers.utils.logging import disable_progress_bar

from prunnet_hf import PrunNetImageProcessor, PrunNetModel
from prunnet_hf.commands import CommandParser, run_command
from prunnet_hf.data.loading import load_splits
from prunnet_hf.data.splits import IMAGE, LABEL
from prunnet_hf.retrieval.contact_sheet import Block, Hit, Row, contact_sheet, save_picture
from prunnet_hf.retrieval.dataset_encoding import encode
from prunnet_hf.retrieval.gallery_picture import network_name
from prunnet_hf.retrieval.protocols import Side, leave_one_out
from prunnet_hf.retrieval.search import exact_cosines, normalize, search
from prunnet_hf.storage.forms import weights_bytes

NUM_FOUND = 5
DENSE = 1.0


class Searched(NamedTuple):
    """What one network found.

    Attributes:
        name: Of the network, for people.
        file_bytes: Size of its weight file.
        mean_average_precision: Over all test photos, in [0, 1].
        found: `(num_queries, NUM_FOUND)` rows of the gallery, best first.
        cosines: `(num_queries, NUM_FOUND)`, of these with the queries.
    """

    name: str
    file_bytes: int
    mean_average_precision: float
    found: NDArray[np.int64]
    cosines: NDArray[np.float64]


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
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    save_picture(draw_picture(photos, queries, searches), arguments.output)
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
    gallery, searches = normalize(embeddings[DENSE]), []
    for key, network in networks.items():
        found = search(embeddings[key][queries], embeddings[DENSE], NUM_FOUND, exclude=queries)
        cosines = exact_cosines(normalize(embeddings[key][queries]), gallery)
        searches.append(
            Searched(
                network_name(network),
                weight_file_bytes(network),
                leave_one_out(sides[key], sides[DENSE])["mAP"],
                found,
                np.take_along_axis(cosines, found, axis=1),
            )
        )
    return searches


def weight_file_bytes(network: PrunNetModel) -> int:
    """Save a network and measure its weight file."""
    with tempfile.TemporaryDirectory() as directory:
        network.save_pretrained(directory)
        return weights_bytes(Path(directory))


def draw_picture(photos: Dataset, queries: NDArray[np.int64], searches: list[Searched]) -> Image.Image:
    """Lay out what was found, and say at the foot what is compared and over how many photos."""
    labels, names = photos[LABEL][:], photos.features[LABEL]

    def hits(item: Searched, index: int, query: int) -> list[Hit]:
        found = zip(item.found[index].tolist(), item.cosines[index].tolist(), strict=True)
        return [Hit(photos[row][IMAGE], cosine, labels[row] == labels[query]) for row, cosine in found]

    blocks = [
        Block(
            photos[query][IMAGE],
            "query: " + names.int2str(labels[query]).replace("-", " "),
            [Row(item.name, f"{item.file_bytes / 1e6:.2f} MB", hits(item, index, query)) for item in searches],
        )
        for index, query in enumerate(queries.tolist())
    ]
    figures = ", ".join(f"{item.name} {item.mean_average_precision:.1%}" for item in searches)
    foot = [
        f"mAP over all {len(photos):,} photos of {len(set(labels))} classes unseen in training: {figures}",
        "Both search the same gallery, embedded once by the dense network. Below each photo: its cosine.",
    ]
    return contact_sheet(blocks, foot)


if __name__ == "__main__":
    sys.exit(run_command("benchmarks/readme_picture.py", main))
