"""One network's queries in the gallery of another."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.compare.cross import cross_test
from prunnet_hf import PrunNetModel
from tests.finished_runs import train_run


def self_test(run: Path) -> float:
    results = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["results"]
    return next(cell["value"] for cell in results if cell["metric"] == "mAP")


def by_hand(asking: Path, asked: Path, folder: Path) -> float:
    """Each image searches all others: the mean of average precisions, from sorted cosines."""
    images = sorted(folder.glob("*/*"))
    queries, gallery = (PrunNetModel.from_pretrained(run / "model").encode(images) for run in (asking, asked))
    precisions = []
    for place, cosines in enumerate(queries @ gallery.T):
        others = [other for other in np.argsort(-cosines, kind="stable") if other != place]
        hits = [images[other].parent == images[place].parent for other in others]
        places = [rank for rank, hit in enumerate(hits, start=1) if hit]
        precisions.append(sum(number / rank for number, rank in enumerate(places, start=1)) / len(places))
    return sum(precisions) / len(precisions)


def test_a_network_finds_in_its_own_gallery_what_its_self_test_found(
    independent_run: Path, client_photos: Path
) -> None:
    found = cross_test(independent_run, independent_run, str(client_photos))
    assert found["mAP"] == pytest.approx(self_test(independent_run), abs=1e-6)


def test_the_gallery_is_the_teachers(independent_run: Path, client_photos: Path, tmp_path: Path) -> None:
    dense = train_run(client_photos, tmp_path / "dense", "independent", [1.0])
    found = cross_test(independent_run, dense, str(client_photos))["mAP"]
    assert found == pytest.approx(by_hand(independent_run, dense, client_photos / "test"), abs=1e-6)
    # Two networks trained apart, neither of which understands the other: the other way round it is another figure.
    assert found != pytest.approx(by_hand(dense, independent_run, client_photos / "test"), abs=1e-3)
