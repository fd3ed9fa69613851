"""Export a subnetwork to ONNX, run it in ONNX Runtime, and search the dense network's gallery with it.

    pip install "prunnet_hf[onnx]"
    python examples/onnx_runtime.py                                    # the glyphs that come with the package
    python examples/onnx_runtime.py --model org/name --images photos   # photos/<class>/<image>

With `granularity="channel"` the file is as small as the subnetwork, and as fast. With `"weight"` it holds pruned
weights as zeros, so it is as large as the dense network's and runs no faster: ordinary kernels multiply by zero as by
any other number. Then only the packed file of `save_pretrained` is smaller.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from datasets import Dataset, load_dataset
from torch.nn.functional import normalize

from prunnet_hf import PrunNetImageProcessor, PrunNetModel, export_onnx, load_splits, search
from prunnet_hf.retrieval.dataset_encoding import encode, pixel_batches

GLYPHS = Path(__file__).parents[1] / "model_cards" / "glyphs" / "model"


def main() -> None:
    """Export, embed, search."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--model", default=str(GLYPHS), help="a dense PrunNet checkpoint, local or on the Hub")
    parser.add_argument("--images", help="a folder with a folder of images for each class")
    parser.add_argument("--capacity", type=float, default=0.2, help="of the subnetwork to export")
    parser.add_argument("--output", default="out/subnetwork.onnx", help="the ONNX file to write")
    arguments = parser.parse_args()

    model = PrunNetModel.from_pretrained(arguments.model).eval()
    processor = PrunNetImageProcessor.from_pretrained(arguments.model)
    images: Dataset = (
        load_dataset("imagefolder", data_dir=arguments.images)["train"]
        if arguments.images
        else load_splits("glyphs").gallery
    )
    parts = images.train_test_split(test_size=0.1, seed=0)
    queries = torch.cat([*pixel_batches(parts["test"], processor)])

    file = export_onnx(model.prune(arguments.capacity), arguments.output)  # raises if it isn't as torch computes
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (outputs,) = session.run(["pooler_output"], {"pixel_values": queries.numpy()})
    embeddings = normalize(torch.from_numpy(outputs)).numpy()
    print(f"{file}: {file.stat().st_size:,} bytes, {len(embeddings)} queries embedded")

    gallery = encode({1.0: model}, parts["train"], processor, progress=False)[1.0]
    nearest = search(embeddings, gallery, k=1)[:, 0]
    right = np.mean(np.array(parts["train"]["label"])[nearest] == np.array(parts["test"]["label"]))
    print(f"the nearest of {len(gallery)} images, embedded by the dense network, is of the query's class: {right:.0%}")


if __name__ == "__main__":
    main()
