"""Programs for ExecuTorch: run here, they give torch's embeddings, and what can't be one is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from prunnet_hf import PrunNetImageProcessor, PrunNetPreTrainedModel
from prunnet_hf.export.device_folder import export_folder
from prunnet_hf.export.executorch import open_program
from tests.processes import start_process
from tests.tiny_models import tiny_of_units

PICTURES = [
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 9, 3)).astype(np.uint8)).resize((50, 40))
    for seed in range(8)
]
PRECISIONS = ["fp32", "int8"]

pytestmark = pytest.mark.executorch


def subnetwork() -> PrunNetPreTrainedModel:
    dense = tiny_of_units()
    dense.image_processor = PrunNetImageProcessor.for_image_size(32)
    return dense.prune(0.5)


def export_and_run(folder: Path) -> None:
    """In a process of its own, as ExecuTorch leaves threads behind: export, and embed by what an app would load."""
    network = subnetwork()
    files = export_folder(network, folder / "phone", format="executorch", precisions=PRECISIONS, images=PICTURES)
    from executorch.runtime import Runtime

    for file in files:
        method = Runtime.get().load_program(file.path).load_method("forward")
        pixel_values = network.image_processor(PICTURES, return_tensors="pt")["pixel_values"]
        found = [method.execute([image])[0].clone() for image in pixel_values.split(1)]
        np.save(folder / f"{file.precision}.npy", torch.cat(found).numpy())
        (folder / f"{file.precision}.txt").write_text(f"{file.path.name} {file.path.stat().st_size - file.size}")
    try:
        open_program(b"no program")
    except RuntimeError as error:
        (folder / "error.txt").write_text(str(error))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("programs")
    process = start_process(export_and_run, folder)
    process.join(timeout=600)
    assert process.exitcode == 0
    return folder


def test_the_folder_holds_programs_and_what_belongs_to_them(folder: Path) -> None:
    assert sorted(path.name for path in (folder / "phone").iterdir()) == [
        "config.json",
        "model.pte",
        "model_quantized.pte",
        "preprocessor_config.json",
    ]
    assert [(folder / f"{precision}.txt").read_text() for precision in PRECISIONS] == [
        "model.pte 0",
        "model_quantized.pte 0",
    ]
    assert "transformers.js" not in (folder / "phone" / "config.json").read_text()


@pytest.mark.parametrize(("precision", "least", "most"), [("fp32", -1e-6, 1e-6), ("int8", 1e-6, 2e-2)])
def test_programs_give_torchs_embeddings(precision: str, least: float, most: float, folder: Path) -> None:
    found = np.load(folder / f"{precision}.npy")
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert least < (1 - (found * subnetwork().encode(PICTURES)).sum(axis=1)).max() < most  # 8 bits do change them


def test_what_executorch_cannot_run_is_refused_in_its_words(folder: Path) -> None:
    assert re.fullmatch(
        r"ExecuTorch can't run the network \(.+\)\. Try another precision.*", (folder / "error.txt").read_text()
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format": "coreml"}, "format must be one of 'onnx', 'executorch'; got 'coreml'"),
        ({"precisions": ["fp16"]}, "precision 'fp16' must be left out .* has 'fp32' and 'int8'"),
        ({"processing": "inside"}, "processing='inside' must be left out .* preprocessor_config.json"),
        ({"precisions": ["int8"]}, "'int8' needs images"),
    ],
)
def test_what_is_refused(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        export_folder(subnetwork(), tmp_path / "new", **{"format": "executorch", **settings})
    assert [*tmp_path.iterdir()] == []
