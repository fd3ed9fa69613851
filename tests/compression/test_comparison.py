"""Runs side by side: all their rounds, and quality at equal capacities."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from prunnet_hf.compression.comparison import compare, quality_at
from prunnet_hf.compression.trajectory import Trajectory
from tests.compression.test_trajectory import trajectory


def at(schedule: str, qualities: dict[float, float]) -> Trajectory:
    """A run whose rounds have these qualities by capacity."""
    made = trajectory(schedule, rounds=1)
    (entry,) = made.rounds
    rounds = [replace(entry, number=n, capacity=c, metrics={"mAP": v}) for n, (c, v) in enumerate(qualities.items())]
    return replace(made, rounds=rounds)


def test_all_rounds_of_all_runs() -> None:
    table = compare([at("sap", {1.0: 0.5, 0.7: 0.4}), at("one_shot", {1.0: 0.5})]).splitlines()
    assert table[0] == "| schedule | round | capacity | PQ Index | mAP (%) | training (s) |"
    assert [row.split(" | ")[:3] for row in table[2:5]] == [
        ["| sap, global, rewind", "0", "1.00"],
        ["| sap, global, rewind", "1", "0.70"],
        ["| one_shot, global, rewind", "0", "1.00"],
    ]
    assert [line.partition(":")[0] for line in table[-2:]] == ["- sap, global, rewind", "- one_shot, global, rewind"]


def test_quality_at_equal_capacities() -> None:
    table = compare([at("sap", {1.0: 0.5, 0.25: 0.4}), at("lottery_ticket", {1.0: 0.6, 0.5: 0.3})], [0.25, 0.5])
    # 0.5 is half-way between 0.25 and 1 in logarithms
    assert "\n| schedule | 0.25 | 0.50 |\n" in table
    assert "\n| sap, global, rewind | 40.0 | 45.0 |\n| lottery_ticket, global, rewind | - | 30.0 |\n" in table


def test_nothing_is_made_up_outside_of_the_rounds() -> None:
    run = at("sap", {1.0: 0.5, 0.1: 0.25})
    assert quality_at(run, "mAP", 0.1) == 0.25
    assert quality_at(run, "mAP", math.sqrt(0.1)) == pytest.approx(0.375)
    assert quality_at(run, "mAP", 0.09) is None


def changed(name: str, **changes: object) -> Trajectory:
    """A run whose recipe or pruning (`name`) has these values."""
    run = trajectory().run
    return replace(trajectory(), run=run | {name: run[name] | changes})


def test_runs_that_train_or_measure_differently_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'sap, global, rewind'.*epochs 2 -> 3.*Leave it out"):
        compare([trajectory(), changed("recipe", epochs=3)])
    with pytest.raises(ValueError, match=r"'sap, global, rewind, q 2'.*q 1.0 -> 2.0"):
        compare([trajectory(), changed("pruning", q=2.0)])


def test_seeds_and_what_has_no_effect_may_differ() -> None:
    table = compare([trajectory(), changed("recipe", seed=1, num_workers=4), changed("pruning", gamma=2.0, rounds=3)])
    assert "| sap, global, rewind, seed 1 |" in table


@pytest.mark.parametrize("other", [{"dataset": "omniglot"}, {"hit": 0.5}])
def test_runs_that_cannot_be_compared_are_refused(other) -> None:
    with pytest.raises(ValueError, match=r"same data set, protocol and metric.*got.*(omniglot|hit)"):
        compare([trajectory(), trajectory(**other)])
    with pytest.raises(ValueError, match=r"got none"):
        compare([])
