"""Which files of a repository are this package's, to be deleted when stale; and that all it saves are among them."""

from __future__ import annotations

from pathlib import Path

import pytest

from prunnet_hf import PrunNetConfig, PrunNetImageProcessor, PrunNetModel
from prunnet_hf.hub.names import is_ours, subnetwork_name


@pytest.mark.parametrize(
    "path",
    [
        *("config.json", "model.safetensors", "model.packed.safetensors", "preprocessor_config.json"),
        *("bands.index.json", "band-00001-of-00005.safetensors", "band-00001-of-00005.ranks.safetensors"),
        *("metrics.json", "compatibility.png", "curve.png", "compressibility.png", "examples.png"),
        *("modeling_prunnet.py", "masking.py"),
        *("onnx/model.onnx", "onnx/model_fp16.onnx", "onnx/model_with_processing_quantized.onnx"),
        *("capacity-0.20/onnx/model.onnx", "capacity-0.20/onnx/model_quantized.onnx"),
        *("capacity-0.20/config.json", "capacity-0.125/model.packed.safetensors", "capacity-1.00/config.json"),
    ],
)
def test_ours(path: str) -> None:
    assert is_ours(path)


@pytest.mark.parametrize(
    "path",
    [
        *("README.md", ".gitattributes", "LICENSE", "notes.txt", "photo.png", "train.py", "tokenizer.json"),
        *(
            "capacity-0.20/notes.txt",
            "capacity-small/config.json",
            "onnx/model.safetensors",
            "capacity-0.20/a/config.json",
        ),
        *(
            "onnx/model_q4.onnx",
            "onnx/notes.txt",
            "model.onnx",
            "other/onnx/model.onnx",
            "a/capacity-0.20/onnx/model.onnx",
        ),
        *("capacity-0.20", "capacity-0.20/metrics.json", "capacity-0.20/README.md"),
    ],
)
def test_other_peoples(path: str) -> None:
    assert not is_ours(path)


def test_all_that_is_saved_is_ours(tmp_path: Path) -> None:
    config = PrunNetConfig(
        backbone="resnet10t", backbone_kwargs={"channels": [4, 4, 8, 8], "stem_width": 4}, capacities=[0.2, 0.5]
    )
    model = PrunNetModel(config)
    model.save_pretrained(tmp_path / "plain")
    model.save_pretrained(tmp_path / "bands", bands=[0.2, 0.5])
    model.prune(0.2).save_pretrained(tmp_path / "packed")
    PrunNetImageProcessor().save_pretrained(tmp_path / "packed")
    names = {file.name for file in tmp_path.rglob("*") if file.is_file()}
    assert len(names) >= 9
    assert [name for name in names if not is_ours(name)] == []


@pytest.mark.parametrize(
    ("capacity", "name"), [(0.2, "capacity-0.20"), (0.125, "capacity-0.125"), (1.0, "capacity-1.00")]
)
def test_names_of_subnetworks(capacity: float, name: str) -> None:
    assert subnetwork_name(capacity) == name
