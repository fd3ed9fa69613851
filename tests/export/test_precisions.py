"""Smaller numbers: what is stored in how many bits, unit length, and how far embeddings are from torch's."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest

from prunnet_hf.export.distances import Precision
from prunnet_hf.export.onnx import export_copy, to_onnx
from prunnet_hf.export.precisions import distance_from_torch, path_as_it_was, to_precision
from tests.tiny_models import images, tiny_of_units

SAME = """<ir_version: 10, opset_import: ["" : 20]>
    network (float[batch, 2] pixel_values) => (float[batch, 2] pooler_output)
    { pooler_output = Identity (pixel_values) }"""
"""A network whose embedding is its input."""


def embed(content: bytes, pixel_values: list[list[float]]) -> np.ndarray:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (found,) = session.run(["pooler_output"], {"pixel_values": np.float32(pixel_values)})
    return found


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_embeddings_get_unit_length_also_if_their_squares_need_more_than_16_bits(precision: Precision) -> None:
    content = to_precision(onnx.parser.parse_model(SAME).SerializeToString(), precision, [])
    found = embed(content, [[3, 4], [30000, -40000], [0, 0.5]])
    np.testing.assert_allclose(found, [[0.6, 0.8], [0.6, -0.8], [0, 1]], atol=1e-6)


def test_what_is_stored_in_how_many_bits() -> None:
    network = export_copy(tiny_of_units().prune(0.5))
    batches = [images(8).numpy()]
    whole, path = to_onnx(network), list(sys.path)
    layers = {node.input[1] for node in onnx.load_from_string(whole).graph.node if node.op_type in ("Conv", "Gemm")}
    half = onnx.load_from_string(to_precision(whole, "fp16", batches))
    kinds = {tensor.name: tensor.data_type for tensor in half.graph.initializer}
    assert {kinds[name] for name in layers} == {onnx.TensorProto.FLOAT16}
    eighth = to_precision(whole, "int8", batches)
    stored = {
        tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load_from_string(eighth).graph.initializer
    }
    assert len(layers) == 3 + 4 * (2 + 1) + 1  # of the stem, of four blocks with their shortcuts, the projector
    for name in layers:
        levels, scales = stored[f"{name}_quantized"], stored[f"{name}_scale"]
        assert levels.dtype == np.int8
        assert scales.shape == levels.shape[:1]  # by channel
        assert 32 < np.abs(levels.astype(int)).max() <= 64  # of 7 bits
    assert sys.path == path
    assert 0 < distance_from_torch(eighth, network, batches).mean < 0.02
    for values in onnx.load_from_string(eighth).graph.input, half.graph.output:
        assert [value.type.tensor_type.elem_type for value in values] == [onnx.TensorProto.FLOAT]


def test_what_a_range_cuts_off_by_itself_takes_no_step() -> None:
    network = export_copy(tiny_of_units().prune(0.5))
    whole = to_onnx(network)
    nodes = onnx.load_from_string(to_precision(whole, "int8", [images(8).numpy()])).graph.node
    before = {output: node.op_type for node in nodes for output in node.output}
    relus = [before[node.input[0]] for node in nodes if node.op_type == "Relu"]
    assert relus == ["Add"] * 4  # of four blocks; the three of the stem and those between two convolutions are gone
    count = sum(node.op_type == "Relu" for node in onnx.load_from_string(whole).graph.node)
    assert count == 4 + 3 + 4
    rounded = {before.get(node.input[0]) for node in nodes if node.op_type == "QuantizeLinear"}
    assert "Conv" in rounded
    assert "Gemm" not in rounded  # the projector's sums are the embedding


@path_as_it_was()
def interrupted_import() -> None:
    sys.path.append("a folder of theirs")
    raise KeyboardInterrupt


def test_an_import_that_is_interrupted_leaves_the_path_as_it_was() -> None:
    path = list(sys.path)
    with pytest.raises(KeyboardInterrupt):
        interrupted_import()
    assert sys.path == path
