"""One network's queries in the gallery of another."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.compare.cross import cross_test
from tests.finished_runs import train_run


def self_test(run: Path) -> float:
    results = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["results"]
    return next(cell["value"] for cell in results if cell["metric"] == "mAP")


def test_a_network_finds_in_its_own_gallery_what_its_self_test_found(
    independent_run: Path, client_photos: Path
) -> None:
    found = cross_test(independent_run, independent_run, str(client_photos))
    assert found["mAP"] == pytest.approx(self_test(independent_run), abs=1e-6)


def test_the_gallery_is_the_teachers(independent_run: Path, client_photos: Path, tmp_path: Path) -> None:
    dense = train_run(client_photos, tmp_path / "dense", "independent", [1.0])
    found = cross_test(independent_run, dense, str(client_photos))
    other = cross_test(dense, independent_run, str(client_photos))
    of_each = {self_test(independent_run), self_test(dense), found["mAP"], other["mAP"]}
    assert len(of_each) == 4  # two networks trained apart, neither of which understands the other
