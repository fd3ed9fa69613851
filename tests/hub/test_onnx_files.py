"""ONNX files of a published run: where they are, what the cards say of them, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from prunnet_hf import PrunNetModel
from prunnet_hf.hub.names import is_ours
from prunnet_hf.hub.staging import Publication, StagedFolder, stage_run

NAMES = {f"onnx/{name}{suffix}.onnx" for name in ("model", "model_with_processing") for suffix in ("", "_quantized")}


def rows_of(folder: StagedFolder) -> list[list[str]]:
    card = folder.files()["README.md"].read_text(encoding="utf-8")
    (section,) = card.split("## On devices and in browsers\n")[1:]
    lines = [line for line in section.split("\n## ")[0].splitlines() if line.startswith(("| 0", "| 1"))]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.usefixtures("snippets_run_here")
def test_each_network_is_published_as_onnx_and_its_card_says_how_large_it_is(
    finished_run: Path, client_photos: Path, tmp_path: Path
) -> None:
    publication = Publication(
        "org/name", [0.5], layout="repos", onnx=["fp32", "int8"], data_dir=client_photos / "train"
    )
    staged = stage_run(finished_run, publication, tmp_path)
    (thin,), main = staged.subnetworks, staged.main
    for folder, capacity in ((thin, 0.5), (main, 1.0)):
        files = folder.files()
        assert {name for name in files if name.startswith("onnx/")} == NAMES
        assert [name for name in NAMES if not is_ours(name)] == []
        config = json.loads(files["config.json"].read_text(encoding="utf-8"))
        assert (config["capacity"], config["transformers.js_config"]) == (capacity, {"dtype": "fp32"})
        PrunNetModel.from_pretrained(folder.path)  # the note in config.json does no harm
    sizes = [
        (capacity, precision, f"{folder.files()[f'onnx/{name}'].stat().st_size / 1e6:.2f} MB")
        for folder, capacity in ((thin, "0.50"), (main, "1.00"))
        for precision, name in (("fp32", "model.onnx"), ("int8", "model_quantized.onnx"))
    ]
    assert [tuple(row[:3]) for row in rows_of(main)] == sizes
    assert [tuple(row[:3]) for row in rows_of(thin)] == sizes[:2]
    for row in rows_of(main):
        assert 0 <= float(row[3]) <= float(row[4]) < 0.1
        assert row[5].endswith(" ms")
    assert "Single weights that are left out stand in these files as zeros" in main.files()["README.md"].read_text()
    picture = np.random.default_rng(0).integers(0, 256, (50, 40, 3)).astype(np.uint8)
    session = onnxruntime.InferenceSession(thin.files()["onnx/model_with_processing.onnx"])
    (found,) = session.run(None, {"image": picture})
    np.testing.assert_allclose(found, PrunNetModel.from_pretrained(thin.path).encode(picture), atol=0.1)


def test_what_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'int8' needs images.*--data_dir"):
        Publication("org/name", onnx=["int8"])
    with pytest.raises(ValueError, match=r"data_dir='.*' is for ONNX files: give onnx"):
        Publication("org/name", data_dir=tmp_path)
    with pytest.raises(ValueError, match=r"precisions must be one or more of .* got 'int4'"):
        Publication("org/name", onnx=["int4"])  # type: ignore[list-item]
