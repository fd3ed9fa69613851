"""Most benchmarks take minutes and don't run here, but everything they import must exist."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from prunnet_hf.runs.record import RunRecord

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = sorted(BENCHMARKS.glob("*.py"))


def load(script: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmarks_{script.stem}", script)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for the types of their fields
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_script_can_be_imported(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(script.parent)  # as Python does for a script, so that one may import another
    assert callable(load(script).main)


def test_interpolation_is_compared_with_what_the_run_recorded(
    photos: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load(BENCHMARKS / "interpolation.py").main([str(finished), "--data_dir", str(photos)])
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| 0")]
    recorded = {
        result.query_capacity: result.value
        for result in RunRecord.read(finished / "metrics.json").results
        if result.metric == "mAP" and result.query_capacity == result.gallery_capacity
    }
    # All four are in the default grid of statistics; the run evaluated 0.2, 0.3, 0.5 and 1.
    assert [row[0] for row in rows] == ["0.10", "0.30", "0.50", "0.70"]
    for name, stored, interpolated, difference in rows:
        assert 0 < float(interpolated) <= 100
        assert float(difference) == pytest.approx(float(interpolated) - float(stored), abs=0.11)
        if float(name) in recorded:
            assert float(stored) == pytest.approx(100 * recorded[float(name)], abs=0.051)


def test_exact_neighbours_are_found_block_by_block_among_the_same_vectors() -> None:
    vectors = load(BENCHMARKS / "gallery.py").Clustered(250, 8, block=100)
    every = np.concatenate(list(vectors.blocks()))
    assert every.shape == (250, 8)
    assert (np.concatenate(list(vectors.blocks(120))) == every[:120]).all()
    expected = np.argsort(-(vectors.queries @ every.T), axis=1)[:, :10]
    assert (vectors.nearest(10) == expected).mean() > 0.999  # the last bit may change places of equals


def test_rows_of_galleries_are_written_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--output", str(tmp_path), "--count", "600", "--dim", "8", "--block", "250", "--factories"]
    main = load(BENCHMARKS / "gallery.py").main
    main([*arguments, "Flat"])
    flat = tmp_path / "600-Flat.json"
    row = json.loads(flat.read_text())
    assert row["recall_at_10"] == 1
    assert row["bytes_a_vector"] == pytest.approx(4 * 8, abs=0.5)  # and a header
    flat.write_text(json.dumps(row | {"build_seconds": 12345}))
    main([*arguments, "Flat", "IVF4,PQ4x4np,Refine(SQ8)"])
    assert json.loads(flat.read_text())["build_seconds"] == 12345
    ranked_again = json.loads((tmp_path / "600-IVF4-PQ4x4np-Refine-SQ8.json").read_text())
    assert ranked_again["parameters"] == "nprobe=1,k_factor_rf=10"
    assert 0.1 < ranked_again["recall_at_10"] <= 1
    assert [line.split(" | ")[1] for line in capsys.readouterr().out.splitlines() if "12345" in line] == ["`Flat`"]
