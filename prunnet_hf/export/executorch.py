"""An embedding network as an ExecuTorch program (`.pte`) for Android and iOS, which XNNPACK computes on their CPUs.

Its input `pixel_values` is one image, `(1, 3, size, size)`: what activations need is planned when it is written. Its
output is `(1, embedding_dim)`, of unit length. The packages of the extra `executorch` are imported only when needed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .distances import Batches, Distance, Precision, distance_between
from .onnx import Embedder

PACKAGES = ("executorch", "torchao")
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")
PROGRAM = ".pte"
"""How its files end."""
_METHOD = "forward"


def has_executorch() -> bool:
    """Whether the packages of the extra `executorch` are installed."""
    return all(find_spec(package) for package in PACKAGES)


def require_executorch() -> None:
    """Check that the packages of the extra `executorch` are installed.

    Raises:
        ImportError: If one isn't.
    """
    missing = [package for package in PACKAGES if find_spec(package) is None]
    if missing:
        raise ImportError(
            f'ExecuTorch needs {", ".join(missing)}, not installed here: pip install "prunnet_hf[executorch]"'
        )


def to_program(network: Embedder, precision: Precision, batches: Batches) -> bytes:
    """The contents of the `.pte` file of a network that `export_copy` made; they aren't checked.

    Args:
        network: What embeds.
        precision: `"fp32"`, or `"int8"`: weights by channel and activations in one range each.
        batches: Pixel values of images, from which int8 takes the ranges of activations.
    """
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    image = (network.images(1),)
    embedder = _UnitLength(network).eval()
    if precision == "int8":
        embedder = _quantized(torch.export.export(embedder, image).module(), batches)
    exported = torch.export.export(embedder, image)
    lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
    return bytes(lowered.to_executorch().buffer)


def open_program(source: bytes | str | os.PathLike[str]) -> Callable[[Tensor], Tensor]:
    """Open a `.pte` file, or its contents, in ExecuTorch's Python runtime; the caller's thread does all work.

    Returns:
        A function that embeds one image, `(1, 3, size, size)`.

    Raises:
        RuntimeError: If ExecuTorch can't run it.
    """
    from executorch.extension.pybindings.portable_lib import _threadpool_get_thread_count, _unsafe_reset_threadpool
    from executorch.runtime import Runtime

    if _threadpool_get_thread_count() != 1:
        _unsafe_reset_threadpool(1)
    try:
        program = Runtime.get().load_program(source if isinstance(source, bytes) else os.fspath(source))
        method = program.load_method(_METHOD)
    except RuntimeError as error:
        raise RuntimeError(
            f"ExecuTorch can't run the network ({error}). Try another precision, another version of executorch, or "
            "another backbone."
        ) from error

    def embed(pixel_values: Tensor) -> Tensor:
        embedding: Tensor = method.execute([pixel_values])[0]
        return embedding.clone()  # the next image is computed in the same memory

    return embed


@torch.inference_mode()
def distance_from_torch(content: bytes, network: Embedder, batches: Batches) -> Distance:
    """The distance of ExecuTorch's embeddings from torch's."""
    embed = open_program(content)
    images = torch.cat([torch.from_numpy(batch) for batch in batches])
    found = torch.cat([embed(image) for image in images.split(1)])
    return distance_between(found, torch.cat([network(batch) for batch in images.split(32)]))


class _UnitLength(nn.Module):
    """Pixel values to embeddings of unit length."""

    def __init__(self, network: Embedder) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixel_values: Tensor) -> Tensor:
        return F.normalize(self.network(pixel_values))


@torch.no_grad()
def _quantized(embedder: Any, batches: Batches) -> Any:
    """The same graph with roundings to 8 bits, which XNNPACK takes for what to compute in 8 bits."""
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    observed = prepare_pt2e(embedder, quantizer)
    for batch in batches:
        for image in torch.from_numpy(batch).split(1):
            observed(image)
    return convert_pt2e(observed)
