"""Whether a network may keep its old space: the standard error by hand, and what follows from the comparison."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from prunnet_hf.retrieval.dataset_encoding import Encoded
from prunnet_hf.retrieval.protocols import Side
from prunnet_hf.runs.criterion import format_criterion, judged, name_space, standard_error
from prunnet_hf.runs.record import IntoRecord

LABELS = {"label": [0, 0, 1, 1]}
VECTORS = np.array([[1, 0], [1, 0], [0, 1], [0.8, 0.6]], dtype=np.float32)
"""The last image finds the first two before its own class: average precision 1/3; all others have 1."""
INTO = IntoRecord(embedding_space="aaaa", teacher="out/large", losses=["regression"])


def encoded(vectors: np.ndarray) -> Encoded[float]:
    return Encoded(np.arange(4), {"label": LABELS["label"]}, {0.2: vectors})


def test_the_standard_error_is_that_of_the_mean_over_queries() -> None:
    side = Side(VECTORS, LABELS)
    # 1, 1, 1, 1/3: the mean is 5/6, the deviation of a query 1/3, and of the mean of four half of that.
    assert standard_error("leave_one_out", side, side) == pytest.approx(1 / 6)
    gallery = Side(VECTORS[[0, 2]], {"label": [0, 1]})
    # Recall@1 is 1, 1, 1 and 0, each of one query.
    assert standard_error("in_shop", side, gallery) == pytest.approx(0.25)


def test_queries_are_scored_in_groups_if_there_are_many() -> None:
    labels = [0, 1] * 100
    right, wrong = Side(np.eye(2, dtype=np.float32)[labels], {"label": labels}), [1, *labels[1:]]
    gallery = Side(np.eye(2, dtype=np.float32), {"label": [0, 1]})
    assert standard_error("in_shop", right, gallery) == 0.0
    one_wrong = Side(np.eye(2, dtype=np.float32)[wrong], {"label": labels})
    # One of fifty groups of four queries has 3/4: the deviation is sqrt(1/4 ** 2 / 50), of the mean 1 / 4 / 50.
    assert standard_error("in_shop", one_wrong, gallery) == pytest.approx(0.25 / 50, rel=1e-6)


@pytest.mark.parametrize(("now", "kept"), [(5 / 6 - 1 / 6 + 1e-6, True), (5 / 6 - 1 / 6 - 1e-6, False)])
def test_a_network_stays_if_it_loses_at_most_one_standard_error(now: float, kept: bool) -> None:
    into = replace(INTO, values={"0.20": {"mAP": now, "recall@1": 0.0}})
    found = judged(into, encoded(VECTORS), "leave_one_out", Side(VECTORS, LABELS))
    assert found.before == {"0.20": pytest.approx(5 / 6)}
    assert found.standard_errors == {"0.20": pytest.approx(1 / 6)}
    assert (found.kept, found.failed) == (kept, [] if kept else ["0.20"])
    text = format_criterion(found, "mAP")
    assert ("stays in the space aaaa" in text, "Capacity 0.20: below" in text) == (kept, not kept)
    assert "83.3" in text
    assert "16.7" in text


def test_nothing_is_kept_that_was_not_measured() -> None:
    found = judged(INTO, encoded(VECTORS), "leave_one_out", None)
    assert (found.kept, found.failed) == (False, [])
    assert "Give the model that made the gallery by --teacher" in format_criterion(found, "mAP")


def test_models_of_a_run_are_given_another_id(tmp_path: Path) -> None:
    for folder in ("model", "subnetworks/capacity-0.20"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "config.json").write_text(json.dumps({"embedding_space": "old", "capacity": 0.2}))
    name_space(tmp_path, "new", [0.2, 0.5])
    for folder in ("model", "subnetworks/capacity-0.20"):
        found = json.loads((tmp_path / folder / "config.json").read_text())
        assert found == {"embedding_space": "new", "capacity": 0.2}


def test_what_was_measured_in_another_space_goes_with_its_id(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    noted = {"measured": {"space": "new", "values": {}}, "compatible_with": {"space": "old"}}
    (tmp_path / "model/config.json").write_text(json.dumps({"embedding_space": "old", **noted}))
    name_space(tmp_path, "new", [])
    found = json.loads((tmp_path / "model/config.json").read_text())
    assert found == {"embedding_space": "new", "measured": noted["measured"], "compatible_with": None}
