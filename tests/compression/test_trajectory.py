"""The records of rounds: figures worked out by hand, the file and back, tables, falls and rises."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from prunnet_hf.compression.sap_arguments import SapArguments
from prunnet_hf.compression.trajectory import (
    CLAIM,
    Round,
    Trajectory,
    describe_phases,
    measure_round,
    phases,
    read_trajectory,
)

WEIGHTS = {
    "a.weight": torch.tensor([[16.0, 1.0], [1.0, 1.0]]),
    "b.weight": torch.tensor([[0.0, 2.0, 2.0, 0.0, 0.0, 2.0]]),
}


def measured(number: int = 0, **metrics: float) -> Round:
    found = metrics or {"mAP": 0.5, "recall@1": 0.25}
    return measure_round(number, WEIGHTS, 0.5, 1.0, prunes_next=3, metrics=found, training_seconds=61.0)


def trajectory(schedule: str = "sap", dataset: str = "glyphs", rounds: int = 2, **metrics: float) -> Trajectory:
    pruning = SapArguments(schedule=schedule, kept_shares=[0.7] if schedule == "one_shot" else [])
    recipe = {"epochs": 2, "seed": 0, "num_workers": 0}
    run = {"dataset": dataset, "protocol": "leave_one_out", "recipe": recipe, "pruning": asdict(pruning)}
    return Trajectory(run, [measured(number, **metrics) for number in range(rounds)])


def test_figures_of_a_round_are_those_worked_out_by_hand():
    found = measured()
    assert (found.kept_weights, found.prunable_weights, found.capacity) == (7, 10, 0.7)
    assert [(layer.layer, layer.num_weights, layer.kept) for layer in found.layers] == [("a", 4, 4), ("b", 6, 3)]
    assert found.layers[0].index == pytest.approx(27 / 76)  # 1 - (4 + 1 + 1 + 1)^2 / (4 * 19)
    assert found.layers[1].index == pytest.approx(0.0)  # what is pruned doesn't count
    assert found.mean_layer_index == pytest.approx(4 / 10 * 27 / 76)
    assert found.index == pytest.approx(1 - (7 + 3 * math.sqrt(2)) ** 2 / (7 * 25))


def test_weights_that_are_not_finite_are_refused_by_their_layer():
    weights = {**WEIGHTS, "b.weight": torch.tensor([[math.inf]])}
    with pytest.raises(ValueError, match=r"layer 'b'.*finite.*1 of 1"):
        measure_round(0, weights, 0.5, 1.0, prunes_next=0, metrics={"mAP": 0.5}, training_seconds=1.0)


def test_the_file_gives_back_what_was_written(tmp_path: Path):
    (tmp_path / "trajectory.json").write_text(json.dumps(trajectory().as_dict()), encoding="utf-8")
    assert read_trajectory(tmp_path) == trajectory()
    assert read_trajectory(tmp_path / "trajectory.json") == trajectory()


def test_other_files_are_refused(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"trajectory.json doesn't exist"):
        read_trajectory(tmp_path)
    for content in ([], {"format": 2, "rounds": [1]}, {"format": 1, "rounds": []}):
        (tmp_path / "trajectory.json").write_text(json.dumps(content), encoding="utf-8")
        with pytest.raises(ValueError, match=r"trajectory.json.*format 1.*round"):
            read_trajectory(tmp_path)


def test_the_table_has_a_row_a_round():
    assert trajectory(rounds=1).as_markdown().splitlines()[0] == (
        "| round | capacity | kept weights | PQ Index | mean of layers | mAP (%) | recall@1 (%) | prunes next | "
        "training (s) |"
    )
    row = trajectory(rounds=1).as_markdown().splitlines()[2]
    assert row == f"| 0 | 0.70 | 7 | {measured().index:.3f} | 0.142 | 50.0 | 25.0 | 3 | 61 |"
    assert len(trajectory(rounds=3).as_markdown().splitlines()) == 2 + 3 + 2


def test_damaged_and_foreign_files_are_refused(tmp_path: Path):
    whole = trajectory().as_dict()
    rounds = whole["rounds"]
    contents = [
        *(whole | {"rounds": broken} for broken in ([1], [{"number": 0}], [rounds[0] | {"metrics": {}}])),
        *({name: value for name, value in whole.items() if name != missing} for missing in ("recipe", "pruning")),
        whole | {"pruning": {"schedule": "sap"}},
        whole | {"recipe": None, "pruning": 3},
    ]
    texts = [*map(json.dumps, contents), json.dumps(whole)[:40], "[" * 100_000]
    for text in texts:
        (tmp_path / "trajectory.json").write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=r"trajectory.json is damaged \(.*\).*--resume"):
            read_trajectory(tmp_path)


@pytest.mark.parametrize(
    "changed",
    [
        *({"capacity": 0.0}, {"capacity": 7.0}, {"capacity": "0.7"}, {"capacity": math.nan}, {"kept_weights": 11}),
        *({"index": -0.1}, {"index": 1.5}, {"metrics": {"mAP": 50.0}}, {"metrics": {"mAP": "high"}}, {"number": 5}),
        *({"prunes_next": -3}, {"prunes_next": 11}, {"training_seconds": math.inf}, {"kept_weights": 6.5}),
        *({"layers": [{"layer": "a", "num_weights": 4, "kept": 5, "index": 0.3}]}, {"layers": None}),
        {"layers": [{"layer": 1, "num_weights": 4, "kept": 4, "index": 0.3}]},
    ],
    ids=str,
)
def test_figures_out_of_range_are_refused(tmp_path: Path, changed: dict[str, object]):
    whole = trajectory().as_dict()
    damaged = whole | {"rounds": [whole["rounds"][0], whole["rounds"][1] | changed]}
    (tmp_path / "trajectory.json").write_text(json.dumps(damaged), encoding="utf-8")
    with pytest.raises(ValueError, match=r"trajectory.json is damaged \(.*\).*--resume"):
        read_trajectory(tmp_path)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], []),
        ([1.0], []),
        ([1.0, 1.0], [("stays", 0, 1)]),
        ([3.0, 2.0, 1.0], [("falls", 0, 2)]),
        ([3.0, 1.0, 2.0, 2.5, 0.5], [("falls", 0, 1), ("rises", 1, 3), ("falls", 3, 4)]),
        ([1.0, 2.0, 2.0, 1.0], [("rises", 0, 2), ("falls", 2, 3)]),
        # Noise: what moves by no more than 0.001 from the last extreme is not a turn, however often it does.
        ([0.5, 0.4, 0.4008, 0.4, 0.3], [("falls", 0, 4)]),
        ([0.5, 0.5009, 0.5, 0.5009], [("stays", 0, 3)]),
        ([0.5, 0.4, 0.4009, 0.4, 0.4009], [("falls", 0, 4)]),
        ([0.5, 0.4, 0.4008, 0.4016, 0.3], [("falls", 0, 1), ("rises", 1, 3), ("falls", 3, 4)]),  # 0.0016 in all
        ([0.5, 0.5009, 0.5018], [("rises", 0, 2)]),
    ],
)
def test_stretches_turn_where_the_sequence_moves_by_more_than_noise(values, expected):
    assert phases(values) == expected


def test_the_paper_s_claim_is_seen_only_where_the_index_falls_rises_and_falls():
    assert CLAIM == ["falls", "rises", "falls"]
    assert describe_phases([0.5, 0.25, 0.375, 0.125]) == (
        "The PQ Index falls from round 0 to 1 (0.500 to 0.250), rises from round 1 to 2 (0.250 to 0.375), falls from "
        "round 2 to 3 (0.375 to 0.125); changes of up to 0.001 count as noise. "
        "The paper expects: falls, rises, falls. Seen here."
    )
    assert describe_phases([0.25, 0.5, 0.25, 0.375, 0.125]).endswith(" Seen here.")  # wherever it begins
    assert describe_phases([0.5, 0.4, 0.4008, 0.3]).endswith("Not seen here.")  # noise
    assert describe_phases([0.5, 0.25, 0.375]).endswith("Not seen here.")
    assert describe_phases([0.25, 0.5, 0.25, 0.375]).endswith("Not seen here.")
    assert describe_phases([0.5]) == "In a single round the PQ Index neither falls nor rises."


def test_a_name_shows_what_is_unusual():
    pruning = asdict(SapArguments(scope="layer", after="continue", gamma=3.0, beta=0.5))
    assert (
        Trajectory({"pruning": pruning, "recipe": {"seed": 0}}, []).name == "sap, layer, continue, gamma 3, beta 0.5"
    )
    assert Trajectory({"pruning": pruning, "recipe": {"seed": 2}}, []).name.endswith(", beta 0.5, seed 2")


def test_no_verdict_is_read_off_separate_cuts():
    assert "expects" in trajectory("sap").as_markdown()
    assert "expects" not in trajectory("one_shot").as_markdown()
    assert "separate cuts of the first network" in trajectory("one_shot").as_markdown()
