"""ONNX files: what is in them, that they give torch's embeddings, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch

from prunnet_hf import PrunNetForImageClassification
from prunnet_hf.export.onnx import export_onnx
from tests.tiny_models import assert_same_state, images, state_of, tiny, tiny_config, tiny_of_units, trained


def run(path: Path, pixel_values: torch.Tensor) -> torch.Tensor:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(["pooler_output"], {"pixel_values": pixel_values.numpy()})
    return torch.from_numpy(found)


@pytest.mark.parametrize("capacity", [None, 0.2])
def test_embeddings_are_those_of_torch_in_batches_of_any_size(capacity: float | None, tmp_path: Path) -> None:
    dense = tiny()
    model = dense if capacity is None else dense.prune(capacity)
    path = export_onnx(model, tmp_path / "new folder" / "model.onnx")
    assert path == tmp_path / "new folder" / "model.onnx"
    for count in (1, 2, 5):
        with torch.inference_mode():
            expected = model.prunnet(images(count)).pooler_output
        torch.testing.assert_close(run(path, images(count)), expected, rtol=1e-5, atol=1e-5)


def test_a_transformer(tmp_path: Path) -> None:
    kwargs = {"depth": 1, "embed_dim": 32, "num_heads": 2}
    model = trained(tiny_config(backbone="vit_tiny_patch16_224", backbone_kwargs=kwargs))
    path = export_onnx(model, tmp_path / "model.onnx")
    with torch.inference_mode():
        # Random layer norms make its own embeddings that imprecise.
        torch.testing.assert_close(run(path, images()), model.prunnet(images()).pooler_output, rtol=1e-3, atol=3e-4)


def test_whole_units(tmp_path: Path) -> None:
    dense = tiny_of_units()
    thin = dense.prune(0.5)
    path = export_onnx(thin, tmp_path / "thin.onnx")
    with torch.inference_mode():
        expected = dense.prunnet(images(), capacity=0.5).pooler_output
    torch.testing.assert_close(run(path, images()), expected, rtol=1e-4, atol=1e-5)
    assert path.stat().st_size < export_onnx(dense, tmp_path / "dense.onnx").stat().st_size


def test_the_file_says_what_it_takes_and_gives(tmp_path: Path) -> None:
    graph = onnx.load(export_onnx(tiny().prune(0.2), tmp_path / "model.onnx"))
    (opset,) = [entry.version for entry in graph.opset_import if entry.domain == ""]
    assert opset >= 18
    shapes = {
        value.name: [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*graph.graph.input, *graph.graph.output)
    }
    assert shapes == {"pixel_values": ["batch", 3, 32, 32], "pooler_output": ["batch", 8]}
    assert [*tmp_path.iterdir()] == [tmp_path / "model.onnx"]


def test_scores_and_statistics_of_subnetworks_stay_behind(tmp_path: Path) -> None:
    model = tiny()
    sizes = [export_onnx(m, tmp_path / "model.onnx").stat().st_size for m in (model, model.prune(1.0))]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


def test_a_model_is_not_changed(tmp_path: Path) -> None:
    model = tiny().train().to(torch.bfloat16)
    state = state_of(model)
    export_onnx(model, tmp_path / "model.onnx")
    assert model.training
    assert_same_state(model, state)


def test_embeddings_that_differ_are_no_file(tmp_path: Path) -> None:
    model: PrunNetForImageClassification = tiny()
    with torch.no_grad():
        model.prunnet.projector[0].bias.fill_(torch.nan)
    (tmp_path / "model.onnx").write_text("earlier")
    with pytest.raises(RuntimeError, match=r"path='.*model\.onnx'.*differ.*0\.001.*another version"):
        export_onnx(model, tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").read_text() == "earlier"
    assert [*tmp_path.iterdir()] == [tmp_path / "model.onnx"]


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_package_is_named_with_the_extra(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf'{package}.*pip install "prunnet_hf\[onnx\]"'):
        export_onnx(tiny(), "model.onnx")
