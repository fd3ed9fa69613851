"""Most benchmarks take minutes and don't run here, but everything they import must exist."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from prunnet_hf.runs.record import RunRecord

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = sorted(BENCHMARKS.glob("*.py"))


def load(script: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmarks_{script.stem}", script)
    module = importlib.util.module_from_spec(spec)
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
