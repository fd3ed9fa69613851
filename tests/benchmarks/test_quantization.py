"""The benchmark of quantised galleries, from a run to its rows, table and picture."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import pytest
import yaml

from benchmarks.quantization import METHODS, Case, line_of, perform, summarise
from tests.tiny_models import tiny
from tests.training.tiny_run import make_photos

RUN = {"image_size": 32, "resize": 36, "augmentation": "crop"}


def test_rows_of_all_methods_become_a_table_and_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos, run = make_photos(tmp_path / "photos", train_classes=6), tmp_path / "run"
    model = tiny().prunnet
    model.renew_embedding_space()
    model.save_pretrained(run / "model")
    (run / "config.yaml").write_text(yaml.safe_dump(RUN))
    arguments = Namespace(
        data_dir=str(photos),
        work_dir=str(tmp_path / "work"),
        results=str(tmp_path / "results"),
        methods=METHODS,
        ratios=[32],
        images=300,
        steps=6,
    )
    case = Case("set-weights-seed0", run, arguments)
    assert len(case.missing()) == 5
    perform(case)
    assert case.missing() == []
    rows = {name: json.loads(case.row(name, 1 if name == "exact" else 32).read_text()) for name in METHODS}
    assert {row["images"] for row in rows.values()} == {300}
    assert rows["exact"]["index_bytes"] == 300 * 8 * 4
    assert [rows[name]["bytes"] for name in METHODS] == [32, 1, 1, 1, 1]
    assert rows["queries"]["own"].keys() == rows["queries"]["own exact"].keys() == {"0.20"}
    assert rows["centroids"]["steps"] == 6
    assert 0 < rows["centroids"]["search_share"] < 1
    summarise(tmp_path / "results", "set")
    table = (tmp_path / "results/set.md").read_text()
    assert table in capsys.readouterr().out
    assert len(table.splitlines()) == 4 + 5 + 2  # asked by the learned network, the index and exact search
    assert (tmp_path / "results/set-weights.png").stat().st_size > 10_000


def test_a_line_has_the_means_over_seeds_in_percent() -> None:
    rows = [
        {"bytes": 16, "capacities": {"1.00": {"mAP": value, "recall@1": 0.75}}, "step_ms": 10 * value}
        for value in (0.25, 0.5)
    ]
    line = line_of("units", "centroids", rows, "capacities")
    assert line == "| units | centroids | 16 | 2 | 37.5 | 75.0 |  |  |  |  | 3.75 |  |"
