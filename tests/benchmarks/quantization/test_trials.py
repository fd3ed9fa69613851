"""The benchmark of quantised galleries, from a run to its rows."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import yaml

from benchmarks.quantization.trials import METHODS, Case, perform
from tests.tiny_models import tiny
from tests.training.tiny_run import make_photos

RUN = {"image_size": 32, "resize": 36, "augmentation": "crop"}


def test_a_case_has_a_row_of_every_method(tmp_path: Path) -> None:
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
    assert len(case.missing()) == 6
    perform(case)
    assert case.missing() == []
    rows = {name: json.loads(case.row(name, 1 if name == "exact" else 32).read_text()) for name in METHODS}
    assert {row["images"] for row in rows.values()} == {300}
    assert rows["exact"]["index_bytes"] == 300 * 8 * 4
    assert [rows[name]["bytes"] for name in METHODS] == [32, 1, 1, 1, 1, 1]
    assert rows["queries"]["own"].keys() == rows["queries"]["own exact"].keys() == {"0.20"}
    assert rows["centroids"]["steps"] == rows["bound"]["steps"] == 6
    centroids, bound = (
        (tmp_path / "work/set-weights-seed0" / f"{name}-1" / "index.faiss").read_bytes()
        for name in ("centroids", "bound")
    )
    assert centroids != bound  # they learn from other images
    assert 0 < rows["centroids"]["search_share"] < 1
