"""Export a subnetwork to ONNX, run it in ONNX Runtime, and search the dense network's gallery with it.

    pip install onnx onnxscript onnxruntime
    python examples/onnx_runtime.py                                    # the glyphs that come with the package
    python examples/onnx_runtime.py --model org/name --images photos   # photos/<class>/<image>

The ONNX file holds pruned weights as zeros, so it is as large as the dense network's and runs no faster: ordinary
kernels multiply by zero as by any other number. Only the packed file of `save_pretrained` is smaller.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from datasets import Dataset, load_dataset
from torch import Tensor, nn

from prunnet_hf import PrunNetImageProcessor, PrunNetModel
from prunnet_hf.data.loading import load_splits
from prunnet_hf.retrieval.dataset_encoding import encode, pixel_batches
from prunnet_hf.retrieval.search import search

GLYPHS = Path(__file__).parents[1] / "model_cards" / "glyphs" / "model"
LARGEST_DIFFERENCE = 1e-4
"""Between components of unit-length embeddings by torch and by ONNX Runtime, which add in another order."""


class Embedder(nn.Module):
    """Pixel values to unit-length embeddings: plain tensors in and out, as ONNX has them."""

    def __init__(self, model: PrunNetModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Embed `(batch, 3, height, width)`."""
        return nn.functional.normalize(self.model(pixel_values=pixel_values).pooler_output)


def main() -> None:
    """Export, compare, search."""
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

    subnetwork = Embedder(model.prune(arguments.capacity)).eval()
    session = export(subnetwork, queries[:2], Path(arguments.output))
    (embeddings,) = session.run(None, {"pixel_values": queries.numpy()})
    with torch.inference_mode():
        difference = float(np.abs(embeddings - subnetwork(queries).numpy()).max())
    print(f"{arguments.output}: {len(queries)} embeddings differ from torch's by at most {difference:.1e}")
    if difference > LARGEST_DIFFERENCE:
        raise SystemExit(f"That is more than {LARGEST_DIFFERENCE}: don't use this file.")

    gallery = encode({1.0: model}, parts["train"], processor, progress=False)[1.0]
    nearest = search(embeddings, gallery, k=1)[:, 0]
    right = np.mean(np.array(parts["train"]["label"])[nearest] == np.array(parts["test"]["label"]))
    print(f"the nearest of {len(gallery)} images, embedded by the dense network, is of the query's class: {right:.0%}")


def export(embedder: Embedder, pixel_values: Tensor, path: Path) -> onnxruntime.InferenceSession:
    """Write an ONNX file that takes any number of images, and open it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(
        embedder,
        (pixel_values,),
        path,
        input_names=["pixel_values"],
        output_names=["embeddings"],
        dynamic_shapes={"pixel_values": {0: torch.export.Dim("batch")}},
        dynamo=True,
        external_data=False,  # weights in the same file
        verbose=False,
    )
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    main()
