"""The record of a run: written, read back, read from earlier versions, refused with a remedy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prunnet_hf.runs.record import RunRecord, TrainingFacts, recorded_training
from prunnet_hf.runs.run_directory import write_json
from tests.hub.example_run import metrics, metrics_of_units, value

OPTIONAL = (
    *("num_shared_classes", "recipe", "commit", "device", "latency_device", "num_processes", "mixed_precision"),
    *("method", "seed", "num_train_classes", "num_train_images", "training_seconds", "waiting_for_data"),
    *("skipped_steps", "base_model", "base_subnetwork", "training_device", "training_command", "model", "chance"),
    "into",
)


def written(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_record_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    record = RunRecord.from_json(metrics(), "example")
    record.write(tmp_path / "metrics.json")
    assert RunRecord.read(tmp_path / "metrics.json") == record
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics().items() <= content.items()
    assert content.keys() - metrics().keys() <= {*OPTIONAL}


def test_cells_and_names_of_the_matrix() -> None:
    record = RunRecord.from_json(metrics(), "example")
    assert record.metric_names == ["mAP", "recall@1"]
    assert record.headline == "mAP"
    assert record.chance_of_headline == 0.026
    assert record.evaluated_capacities == [0.2, 0.5, 1.0]
    assert record.value("recall@1", 0.2, 0.5) == value("recall@1", 0.2, 0.5)
    with pytest.raises(ValueError, match=r"0\.20, 0\.50, 1\.00.*0\.30.*--eval_capacities"):
        record.value("mAP", 0.3, 1.0)


def test_what_an_earlier_version_did_not_record_is_unknown(tmp_path: Path) -> None:
    old = {name: entry for name, entry in metrics().items() if name not in OPTIONAL}
    unknown = ("parameters", "multiply_adds", "executed_multiply_adds", "latency_runtime", "trained")
    for row in old["capacities"]:
        for name in unknown:
            del row[name]
    record = RunRecord.read(written(tmp_path / "metrics.json", {**old, "interpolation": [], "note": "by hand"}))
    assert {getattr(record, name) for name in OPTIONAL if name != "recipe"} == {None}
    assert record.recipe == {}
    assert record.chance_of_headline is None
    unknown += ("kept_units", "units", "dense_parameters")
    assert {getattr(row, name) for row in record.capacities for name in unknown} == {None}


def test_single_weights_were_left_out_before_there_was_another_way() -> None:
    content = metrics()
    del content["model"]["granularity"]
    record = RunRecord.from_json(content, "example")
    assert record.model is not None
    assert record.model.granularity == "weight"


def test_latency_was_measured_on_the_machine_of_the_evaluation_before_it_was_recorded_by_itself() -> None:
    assert RunRecord.from_json(metrics(), "example").latency_machine == "CPU (Some CPU, 1 thread)"
    assert RunRecord.from_json({**metrics(), "latency_device": None}, "example").latency_machine == "Some GPU"


def test_whole_numbers_are_taken_for_real_ones() -> None:
    record = RunRecord.from_json({**metrics(), "training_seconds": 9}, "example")
    assert record.training_seconds == 9.0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"metrics\.json.*damaged.*--eval_only"),
        ("[" * 100_000, r"metrics\.json.*damaged.*--eval_only"),
        ("[1]", r"metrics\.json.*list.*--eval_only"),
        ({}, r"metrics\.json lacks dataset, .*results, capacities.*--eval_only"),
        ({**metrics(), "results": []}, r"metrics\.json lacks results.*--eval_only"),
        ({**metrics(), "command": None, "split": ""}, r"metrics\.json lacks split, command"),
        ({**metrics(), "format": 2}, r"metrics\.json: format.*2.*version"),
        ({**metrics(), "seed": "three"}, r"metrics\.json.*'seed'.*'three'.*--eval_only"),
        ({**metrics(), "results": 0.5}, r"metrics\.json: results.*0\.5"),
        ({**metrics(), "model": {}}, r"metrics\.json: model lacks backbone, "),
        ({**metrics(), "capacities": [{"capacity": 0.2}]}, r"metrics\.json: capacities\[0\] lacks kept_weights, "),
        (
            {**metrics(), "results": [{**metrics()["results"][0], "value": 33.0}]},
            r"metrics\.json: results\[0\].*mAP.*33\.0.*--eval_only",
        ),
    ],
)
def test_unusable_file_is_named_with_field_and_remedy(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RunRecord.read(written(tmp_path / "metrics.json", content))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"training_seconds": -1.0}, "training_seconds.*-1"),
        ({"waiting_for_data": 7.0}, r"waiting_for_data.*\[0, 1.*7"),
        ({"num_queries": -1}, "num_queries.*-1"),
        ({"chance": {"mAP": 3.0}}, r"chance of mAP.*\[0, 1.*3"),
        ({"results": [*metrics()["results"], metrics()["results"][0]]}, "results.*'mAP'.*more than once"),
        *(
            ({"capacities": [{**metrics()["capacities"][0], name: value}]}, rf"capacities\[0\].*{name}.*{value}")
            for name, value in (("capacity", 20.0), ("kept_weights", -5), ("file_bytes", -1), ("latency_ms", -1))
        ),
        *(
            ({"capacities": [{**metrics_of_units()["capacities"][0], name: value}]}, rf"capacities\[0\].*{says}")
            for name, value, says in (
                *(("kept_units", 61, r"kept_units.*60.*61"), ("units", -1, "kept_units.*-1")),
                ("dense_parameters", 5082, r"parameters.*5082.*5083"),
            )
        ),
    ],
)
def test_figures_out_of_range_are_refused(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"metrics\.json.*{message}.*--eval_only"):
        RunRecord.read(written(tmp_path / "metrics.json", {**metrics(), **changed}))


def test_run_without_a_record(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"metrics\.json.*train_accelerate\.py"):
        RunRecord.read(tmp_path / "metrics.json")


def test_recorded_training_is_what_the_record_says(tmp_path: Path) -> None:
    facts = {"method": "joint", "seed": 3, "num_train_classes": 4, "num_train_images": 24, "training_seconds": 9.5}
    write_json(tmp_path / "metrics.json", {"dataset": "photos", "split": "test", **facts})
    assert recorded_training(tmp_path, "photos") == TrainingFacts(**facts)
    assert recorded_training(tmp_path / "elsewhere", "photos") == TrainingFacts()


@pytest.mark.parametrize(
    ("recorded", "expected"),
    [
        ({"command": "train.py --seed 1"}, "train.py --seed 1"),  # by an earlier version, which had one entry
        ({"command": "train.py --eval_only"}, None),  # by an earlier version, which has lost the other
        ({"command": "train.py --eval_only", "training_command": "train.py --seed 1"}, "train.py --seed 1"),
    ],
)
def test_the_command_that_trained_is_kept(tmp_path: Path, recorded: dict[str, str], expected: str | None) -> None:
    write_json(tmp_path / "metrics.json", {"dataset": "photos", "method": "joint", **recorded})
    assert recorded_training(tmp_path, "photos").training_command == expected


def test_results_on_another_data_set_are_not_replaced(tmp_path: Path) -> None:
    write_json(tmp_path / "metrics.json", {"dataset": "photos"})
    with pytest.raises(ValueError, match=r"'photos'.*--eval_only on 'glyphs'.*--output_dir"):
        recorded_training(tmp_path, "glyphs")
