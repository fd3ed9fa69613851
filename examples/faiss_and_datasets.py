"""A gallery as a `datasets` table with a faiss index: embedded by the dense network, searched by a subnetwork.

    python examples/faiss_and_datasets.py                                    # the glyphs that come with the package
    python examples/faiss_and_datasets.py --model org/name --images photos   # photos/<class>/<image>

A tenth of the images are queries, the others are the gallery. The dense network embeds the gallery once. Then the
subnetwork of capacity 0.2, which fits a smaller device, embeds the queries and searches the same index.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from datasets import Dataset, load_dataset
from transformers import AutoModel

from prunnet_hf import PrunNetModel, check_compatible, load_splits

GLYPHS = Path(__file__).parents[1] / "model_cards" / "glyphs" / "model"


def main() -> None:
    """Embed, index, search, save and load."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--model", default=str(GLYPHS), help="a dense PrunNet checkpoint, local or on the Hub")
    parser.add_argument("--images", help="a folder with a folder of images for each class")
    parser.add_argument("--output", default="out/gallery", help="where the gallery and its index are saved")
    arguments = parser.parse_args()

    model = AutoModel.from_pretrained(arguments.model)
    phone = model.prune(capacity=0.2)
    check_compatible(model, phone)  # both embed into the same space, or their embeddings couldn't be compared

    images = load_dataset("imagefolder", data_dir=arguments.images)["train"] if arguments.images else glyphs()
    parts = images.train_test_split(test_size=0.1, seed=0)
    gallery = parts["train"].map(embedder(model), batched=True, batch_size=64)
    gallery.add_faiss_index("embedding", metric_type=faiss.METRIC_INNER_PRODUCT)  # of unit vectors: the cosine

    for name, network in {"dense network": model, "capacity 0.20": phone}.items():
        queries = parts["test"].map(embedder(network), batched=True, batch_size=64)
        _, nearest = gallery.get_nearest_examples_batch("embedding", np.array(queries["embedding"], np.float32), k=5)
        found = [rows["label"] for rows in nearest]
        right = np.mean([labels[0] == label for labels, label in zip(found, queries["label"], strict=True)])
        print(f"{name}: the nearest of {len(gallery)} images shows the query's class for {right:.0%} of the queries")
        print(
            f"  for a {class_name(images, queries['label'][0])} it finds {[class_name(images, n) for n in found[0]]}"
        )

    save_and_load(gallery, Path(arguments.output), model.config.embedding_space)


def embedder(model: PrunNetModel) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A function for `Dataset.map` that adds a column of unit-length embeddings."""
    return lambda rows: {"embedding": model.encode(rows["image"])}


def save_and_load(gallery: Dataset, folder: Path, space: str) -> None:
    """Save table and index. The index is named after its embedding space, as only networks of that space fit it."""
    folder.mkdir(parents=True, exist_ok=True)
    index = folder / f"{space}.faiss"
    gallery.save_faiss_index("embedding", str(index))
    gallery.drop_index("embedding")  # `save_to_disk` refuses a table with an index
    gallery.save_to_disk(folder / "images")
    loaded = Dataset.load_from_disk(folder / "images")
    loaded.load_faiss_index("embedding", str(index))
    scores, _ = loaded.get_nearest_examples("embedding", np.array(loaded[0]["embedding"], np.float32), k=1)
    print(f"saved and loaded {index} and {folder / 'images'}: an image finds itself with cosine {scores[0]:.3f}")


def glyphs() -> Dataset:
    """Images of characters that no training of the package has seen."""
    return load_splits("glyphs").gallery


def class_name(images: Dataset, label: int) -> str:
    """The name of a class."""
    return str(images.features["label"].int2str(label))


if __name__ == "__main__":
    main()
