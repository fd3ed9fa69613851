"""What a run measured, in the configurations of its models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prunnet_hf import PrunNetConfig, PrunNetModel
from prunnet_hf.runs.measured import measured_by, note_measured
from prunnet_hf.runs.record import RunRecord
from tests.hub.example_run import metrics
from tests.tiny_models import tiny

# The cross-tests of example_run: 0.3 + 0.1 query + 0.01
VALUES = {"0.20": 0.33, "0.50": 0.36, "1.00": 0.41}


def record(space: str | None = "3f9a3f9a3f9a3f9a", **model: object) -> RunRecord:
    content = metrics()
    content["model"] |= {"embedding_space": space, **model}
    return RunRecord.from_json(content, "metrics.json")


def test_it_is_the_cross_test_by_the_headline_metric() -> None:
    assert measured_by(record()) == {
        "space": "3f9a3f9a3f9a3f9a",
        "dataset": "photos",
        "protocol": "leave_one_out",
        "metric": "mAP",
        "values": pytest.approx(VALUES),
    }


def test_a_lone_network_has_none() -> None:
    assert measured_by(record(prunable=False)) is None
    assert measured_by(RunRecord.from_json(metrics("independent", (0.2,)), "metrics.json")) is None


@pytest.fixture
def run(tmp_path: Path) -> Path:
    model = tiny()
    model.renew_embedding_space()
    model.save_pretrained(tmp_path / "model")
    model.prune(0.2).save_pretrained(tmp_path / "subnetworks" / "capacity-0.20")
    return tmp_path


def test_models_and_what_is_cut_from_them_have_it(run: Path) -> None:
    before = {file: json.loads(file.read_text()) for file in run.glob("**/config.json")}
    space = before[run / "model/config.json"]["embedding_space"]
    note_measured(run, record(space))
    for file, config in before.items():
        found = json.loads(file.read_text())
        assert found.pop("measured")["values"] == pytest.approx(VALUES)
        assert found == {name: value for name, value in config.items() if name != "measured"}
    dense = PrunNetModel.from_pretrained(run / "model")
    ready = PrunNetModel.from_pretrained(run / "subnetworks/capacity-0.20")
    cut = PrunNetModel.from_pretrained(run / "model", capacity=0.2)
    assert dense.config.measured == ready.config.measured == cut.config.measured == measured_by(record(space))


def test_a_model_of_another_space_has_it_not(run: Path) -> None:
    note_measured(run, record("0123456789abcdef"))
    assert PrunNetConfig.from_pretrained(run / "model").measured is None
