"""An embedding network as an ONNX file: `pixel_values` in, `pooler_output` out.

The packages that write and run it are those of the extra `onnx`, and are imported only when they are needed.
"""

from __future__ import annotations

import copy
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..prunable_model import PrunNetPreTrainedModel
from ..storage.whole_file import whole_file

PACKAGES = ("onnx", "onnxruntime", "onnxscript")
INPUT, OUTPUT = "pixel_values", "pooler_output"
OPSET = 20
TOLERANCE = 1e-3
"""How much an embedding by ONNX Runtime may differ from torch's, as a share of the largest component. Both round every
step, in another order: for a random small ViT they differ by 5e-5, and each from float64 by 4e-5 or less."""
CHECKED_BATCHES = (1, 3)
"""The sizes of the batches on which the two are compared."""
SHOWN = 300
"""How many characters of another package's error are shown."""
_ANOTHER = "Try another version of torch, onnxscript or onnxruntime, or another backbone."


def has_onnx() -> bool:
    """Whether the packages of the extra `onnx` are installed."""
    return all(find_spec(package) for package in PACKAGES)


def export_onnx(model: PrunNetPreTrainedModel, path: str | os.PathLike[str]) -> Path:
    """Write the embedding network of a model, dense or pruned, as an ONNX file of float32 weights.

    Its input `pixel_values` has the shape `(batch, 3, size, size)`, with `config.image_size` as the size; its output
    `pooler_output`, `(batch, embedding_dim)`, isn't normalised. Any number of images makes a batch.

    Args:
        model: Not changed. Of a prunable model the dense network is written; for another call `model.prune` first.
        path: The file to write, whose folder is created if necessary. It is replaced only by a file that was checked.

    Returns:
        The path.

    Raises:
        ImportError: If a package of the extra `onnx` isn't installed.
        RuntimeError: If torch can't export the network, or ONNX Runtime doesn't give torch's embeddings.
    """
    network = export_copy(model)
    content = to_onnx(network)
    check_onnx(content, network, path)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.write(content)
    return Path(path)


def export_copy(model: PrunNetPreTrainedModel) -> Embedder:
    """A copy of the embedding network that is ready for export: on the CPU, in float32, for evaluation."""
    return Embedder(copy.deepcopy(model.base_model).to("cpu", torch.float32)).eval()


def require_onnx() -> None:
    """Check that the packages of the extra `onnx` are installed.

    Raises:
        ImportError: If one isn't.
    """
    missing = [package for package in PACKAGES if find_spec(package) is None]
    if missing:
        raise ImportError(f'ONNX needs {", ".join(missing)}, not installed here: pip install "prunnet_hf[onnx]"')


def to_onnx(network: Embedder) -> bytes:
    """The contents of the ONNX file of a network that `export_copy` made; they aren't checked.

    Raises:
        ImportError: If a package of the extra `onnx` isn't installed.
        RuntimeError: If torch can't export the network.
    """
    require_onnx()
    try:
        program = torch.onnx.export(
            network,
            (network.images(2),),  # one image would be taken for a fixed size
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes={INPUT: {0: torch.export.Dim("batch")}},
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        reason = " ".join(str(error.__cause__ or error).split())[:SHOWN]
        backbone = network.network.config.backbone
        raise RuntimeError(f"torch can't export backbone={backbone!r} to ONNX ({reason}). {_ANOTHER}") from error
    return without_notes(program.model_proto)  # type: ignore[union-attr]  # None without dynamo


def open_session(source: bytes | str | os.PathLike[str], threads: int = 1) -> Any:
    """Open an ONNX file, or its contents, in ONNX Runtime on the CPU; with one thread, the caller does all work.

    Raises:
        RuntimeError: If ONNX Runtime can't run it.
    """
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as states

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except (states.Fail, states.InvalidGraph, states.InvalidProtobuf, states.NotImplemented) as error:
        reason = " ".join(str(error).split())[:SHOWN]
        raise RuntimeError(f"ONNX Runtime can't run the network ({reason}). {_ANOTHER}") from error


class Embedder(nn.Module):
    """Pixel values to embeddings: plain tensors in and out, as ONNX has them."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Embed `(batch, 3, size, size)`."""
        embeddings: Tensor = self.network(pixel_values=pixel_values).pooler_output
        return embeddings

    def images(self, count: int) -> Tensor:
        """Noise as pixel_values `(count, 3, size, size)`, always the same."""
        size = self.network.config.image_size
        return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def without_notes(model: Any) -> bytes:
    """The contents of a file without the notes of what made it, which are long, and name folders of this machine."""
    for noted in (*model.graph.node, *model.graph.value_info, *model.graph.initializer, model.graph, model):
        noted.ClearField("metadata_props")
        noted.ClearField("doc_string")
    content: bytes = model.SerializeToString()
    return content


@torch.inference_mode()
def check_onnx(content: bytes, network: Embedder, path: str | os.PathLike[str]) -> None:
    """Check that ONNX Runtime gives torch's embeddings.

    Args:
        content: The contents of an ONNX file.
        network: What they were made of.
        path: Where they are going to be written, for the error.

    Raises:
        RuntimeError: If it doesn't, or can't run them.
    """
    session = open_session(content)
    for count in CHECKED_BATCHES:
        images = network.images(count)
        expected = network(images)
        found = torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])
        difference = float((found - expected).abs().max() / expected.abs().max())
        if not difference <= TOLERANCE:  # also if it isn't a number
            raise RuntimeError(
                f"path={str(path)!r} isn't written, because ONNX Runtime's embeddings differ from torch's by "
                f"{difference:.1e} of the largest component, where {TOLERANCE:g} is allowed. {_ANOTHER}"
            )
