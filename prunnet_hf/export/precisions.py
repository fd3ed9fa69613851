"""ONNX files with smaller numbers: weights of 16 bits, or weights and activations of 8."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from .distances import Batches, Distance, Precision, distance_between
from .onnx import INPUT, OUTPUT, Embedder, open_session, without_notes

if TYPE_CHECKING:
    from onnx import ModelProto

SUFFIXES: dict[Precision, str] = {"fp32": "", "fp16": "_fp16", "int8": "_quantized"}
"""What transformers.js appends to the name of a model's file."""
_ANY_LENGTH = "embedding_of_any_length"
_LINEAR = ("Gemm", "MatMul")
"""What follows these (GELU, norms, additions) is computed in float32 and takes their sums as they are."""
_LAYERS = ("Conv", *_LINEAR)
"""Operators with weights, which are nearly all bytes and all work. What is left in float32 costs little."""
_ACTIVATIONS = ("Relu", "Clip")
"""What follows a layer and only cuts off values: the range of its 8 bits does that by itself. Left in float32, they
would take a step of their own, and the 8 bits before them would be spent on values that are cut off after them."""
_PREPARED = ("onnx.quant.pre_process", "onnxruntime.quant")
"""Says that norms are folded and shapes known, as torch's exporter leaves them: else ONNX Runtime warns."""


def to_precision(content: bytes, precision: Precision, batches: Batches) -> bytes:
    """The contents of an ONNX file at some precision, whose embeddings have unit length; these stay float32.

    Args:
        content: In float32, made by `to_onnx`.
        precision: Of weights, and as far as devices can of the work.
        batches: Pixel values `(batch, 3, size, size)` of images, from which int8 takes the ranges of activations.

    Raises:
        ImportError: If a package of the extra `onnx` isn't installed.
    """
    import onnx

    model = _CONVERT[precision](onnx.load_from_string(content), batches)
    _add_unit_length(model)
    return without_notes(model)


@torch.inference_mode()
def distance_from_torch(content: bytes, network: Embedder, batches: Batches) -> Distance:
    """The distance of ONNX Runtime's embeddings, which have unit length, from torch's."""
    session = open_session(content)
    found = [torch.from_numpy(session.run([OUTPUT], {INPUT: batch})[0]) for batch in batches]
    return distance_between(torch.cat(found), torch.cat([network(torch.from_numpy(batch)) for batch in batches]))


def _add_unit_length(model: ModelProto) -> None:
    """Added after conversion, as 16 bits are too few for it."""
    import onnx.helper

    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [_ANY_LENGTH if name == OUTPUT else name for name in names]
    model.graph.node.append(onnx.helper.make_node("LpNormalization", [_ANY_LENGTH], [OUTPUT], axis=1, p=2))


def _to_fp16(model: ModelProto, batches: Batches) -> ModelProto:
    with path_as_it_was():
        from onnxruntime.quantization.onnx_model import ONNXModel
        from onnxruntime.transformers.float16 import convert_float_to_float16
    converted = ONNXModel(convert_float_to_float16(model, keep_io_types=True))
    converted.topological_sort()  # casts were put behind the nodes that use them
    sorted_model: ModelProto = converted.model
    return sorted_model


def _to_int8(model: ModelProto, batches: Batches) -> ModelProto:
    """Weights by channel, activations in one range each (uint8): static, with QuantizeLinear and DequantizeLinear.

    Weights take 7 of their 8 bits: sums of products of two levels can't overflow 16 bits then, as they do on x86
    processors without VNNI, where embeddings would differ from those of other devices.
    """
    import onnx

    with path_as_it_was():
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    note = model.metadata_props.add()
    note.key, note.value = _PREPARED
    with tempfile.TemporaryDirectory(prefix="prunnet-int8-") as directory:
        path = Path(directory) / "model.onnx"
        quantize_static(
            model,
            path,
            _Reader(batches),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=[*_LAYERS, *_ACTIVATIONS],
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={
                "MatMulConstBOnly": True,  # products of attention have no weights
                "OpTypesToExcludeOutputQuantization": list(_LINEAR),
            },
        )
        quantized: ModelProto = onnx.load(path)
        return quantized


@contextmanager
def path_as_it_was() -> Iterator[None]:
    """onnxruntime.transformers appends its own folder, whose modules have names such as `benchmark`."""
    path = list(sys.path)
    try:
        yield
    finally:
        sys.path[:] = path


_CONVERT: dict[Precision, Callable[[ModelProto, Batches], ModelProto]] = {
    "fp32": lambda model, batches: model,
    "fp16": _to_fp16,
    "int8": _to_int8,
}


class _Reader:
    """Batches as ONNX Runtime's calibration reads them."""

    def __init__(self, batches: Batches) -> None:
        self._batches: Iterator[NDArray[np.float32]] = iter(batches)

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}
