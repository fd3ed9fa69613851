"""ONNX files of a published run: where they are, what the cards say of them, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import yaml

from prunnet_hf import PrunNetModel
from prunnet_hf.hub.names import is_ours
from prunnet_hf.hub.staging import Publication, StagedFolder, stage_run
from prunnet_hf.runs.record import RunRecord

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
    card = main.files()["README.md"].read_text(encoding="utf-8")
    assert "was not measured for this card.\n- **Latency** of one image" in card
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


@pytest.mark.usefixtures("snippets_run_here")
def test_the_card_says_what_each_file_finds_beside_what_torch_finds(finished_run: Path, tmp_path: Path) -> None:
    publication = Publication("org/name", [0.5], onnx=["fp32"], with_onnx_test=True)
    main = stage_run(finished_run, publication, tmp_path).main
    record = RunRecord.read(finished_run / "metrics.json")
    in_torch = {
        f"{result.query_capacity:.2f}": 100 * result.value
        for result in record.results
        if (result.metric, result.gallery_capacity) == (record.headline, 1.0)
    }
    card = main.files()["README.md"].read_text(encoding="utf-8")
    assert f"| file | {record.headline} (%) |" in card
    assert f"\n- **{record.headline}** on the test images" in card
    assert "\n- **Latency** of one image" in card
    assert "not measured for this card" not in card.split("## On devices and in browsers")[1].split("\n## ")[0]
    found = {row[0]: float(row[3]) for row in rows_of(main)}
    assert found == {capacity: pytest.approx(in_torch[capacity], abs=0.006) for capacity in ("0.50", "1.00")}


def test_the_test_images_must_be_there(finished_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    recipe = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump({**recipe, "data_dir": str(tmp_path / "gone")}))
    with pytest.raises(FileNotFoundError, match="gone"):
        stage_run(run, Publication("org/name", onnx=["fp32"], with_onnx_test=True), tmp_path / "new")


def test_what_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'int8' needs images.*--data_dir"):
        Publication("org/name", onnx=["int8"])
    with pytest.raises(ValueError, match=r"data_dir='.*' is for ONNX files: give onnx"):
        Publication("org/name", data_dir=tmp_path)
    with pytest.raises(ValueError, match=r"with_onnx_test=True is for ONNX files: give onnx"):
        Publication("org/name", with_onnx_test=True)
    with pytest.raises(ValueError, match=r"precisions must be one or more of .* got 'int4'"):
        Publication("org/name", onnx=["int4"])  # type: ignore[list-item]
