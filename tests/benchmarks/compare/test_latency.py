"""Times of the recipes' networks, which depend on their shapes alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.compare import latency
from benchmarks.compare.methods import CAPACITIES
from benchmarks.compare.plan import RECIPES, RESULTS


def test_each_capacity_of_both_granularities_has_a_time() -> None:
    found = latency.measure("omniglot", rounds=1)
    assert [*found] == ["weight", "channel", "runtime", "device"]
    for granularity in ("weight", "channel"):
        assert [*found[granularity]] == [f"{capacity:g}" for capacity in CAPACITIES]
        assert min(found[granularity].values()) > 0


def test_times_are_read_without_what_measured_them(tmp_path: Path) -> None:
    assert latency.read_latencies(tmp_path, "omniglot") == {}
    content = {"omniglot": {"weight": {"1": 2.0}, "channel": {"1": 3.0}, "runtime": "torch", "device": "CPU"}}
    (tmp_path / "latency.json").write_text(json.dumps(content))
    assert latency.read_latencies(tmp_path, "omniglot") == {"weight": {"1": 2.0}, "channel": {"1": 3.0}}
    assert latency.read_latencies(tmp_path, "grocery") == {}


@pytest.mark.parametrize("recipe", RECIPES)
def test_those_of_the_report_are_there(recipe: str) -> None:
    assert latency.read_latencies(RESULTS, recipe).keys() == {"weight", "channel"}
