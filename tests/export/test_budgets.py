"""The capacity for a budget: the largest that meets it, in steps of a ten-thousandth, and what is said about it."""

from __future__ import annotations

import copy
import pickle
import sys
from itertools import chain, pairwise, repeat
from pathlib import Path
from typing import Any

import pytest

from prunnet_hf import PrunNetForImageClassification, capacity_for
from prunnet_hf.export import budgets
from prunnet_hf.export.costs import SubnetworkCosts
from prunnet_hf.export.latency import Latency
from prunnet_hf.export.multiply_adds import count_multiply_adds
from prunnet_hf.storage.forms import weights_bytes
from tests.tiny_models import tiny, tiny_of_units

STEP = 1e-4
VALUES = {"0.20": 0.70, "0.40": 0.72, "0.60": 0.715, "1.00": 0.74}


@pytest.fixture(scope="module")
def weights() -> PrunNetForImageClassification:
    return tiny()


@pytest.fixture(scope="module")
def units() -> PrunNetForImageClassification:
    return tiny_of_units()


@pytest.fixture
def measured() -> PrunNetForImageClassification:
    """Loses 4, 2, 2.5 and 0 points at 0.2, 0.4, 0.6 and 1."""
    model = tiny()
    space = model.renew_embedding_space()
    about = {"dataset": "photos", "protocol": "leave_one_out", "metric": "mAP"}
    model.config.measured = {"space": space, **about, "values": VALUES}
    return model


@pytest.mark.parametrize("granularity", ["weights", "units"])
def test_the_file_fits_and_that_of_the_next_capacity_does_not(
    granularity: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    model: PrunNetForImageClassification = request.getfixturevalue(granularity)
    found = capacity_for(model, max_bytes=30_000)
    model.prune(capacity=found).save_pretrained(tmp_path)
    assert weights_bytes(tmp_path) == found.figures["max_bytes"] <= 30_000
    assert SubnetworkCosts(model).file_bytes(found + STEP) > 30_000


def test_it_is_the_largest_where_files_of_larger_capacities_are_smaller(
    weights: PrunNetForImageClassification,
) -> None:
    costs = SubnetworkCosts(weights)
    sizes = [costs.file_bytes(step / 10_000) for step in range(9600, 10_001)]
    falls = [larger for smaller, larger in pairwise(sizes) if larger < smaller]
    assert falls  # tensors that are packed no longer shorten the header
    for limit in {*falls, *(size - 1 for size in falls), *(size + 300 for size in falls)} - {min(sizes) - 1}:
        found = capacity_for(weights, max_bytes=limit)
        assert round(found / STEP) == max(step for step, size in enumerate(sizes, 9600) if size <= limit)


def test_multiply_adds_fit_and_those_of_the_next_capacity_do_not(units: PrunNetForImageClassification) -> None:
    found = capacity_for(units, max_macs=170_000)
    assert count_multiply_adds(units.prune(found).prunnet, 32).dense == found.figures["max_macs"] <= 170_000
    assert SubnetworkCosts(units).multiply_adds(found + STEP) > 170_000


def test_latency_is_measured_again_at_the_answer(units: PrunNetForImageClassification) -> None:
    found = capacity_for(units, max_latency_ms=1000)
    assert found == 1.0
    assert 0 < found.figures["max_latency_ms"] < 1000
    assert "ONNX Runtime" in repr(found)
    assert "1 thread)" in repr(found)


def test_too_fast_for_any(units: PrunNetForImageClassification, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # eager torch needs no export
    with pytest.raises(ValueError, match=r"max_latency_ms=1e-09 .*smallest.* ms \(eager torch.*1 thread\)\)\. Allow"):
        capacity_for(units, max_latency_ms=1e-9)


def test_a_smallest_subnetwork_that_turns_out_slower_is_no_answer(
    units: PrunNetForImageClassification, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = chain([1.0], repeat(1.1))  # the first look at it was a lucky one

    def measure(networks: dict[int, PrunNetForImageClassification]) -> Latency[int]:
        return Latency({step: next(times) if step == 1 else 2.0 for step in networks}, {}, "a clock", "a CPU")

    monkeypatch.setattr(budgets, "measure_latency", measure)
    with pytest.raises(ValueError, match=r"max_latency_ms=1\.0 can't be met: the smallest subnetwork takes 1\.1 ms"):
        capacity_for(units, max_latency_ms=1.0)


def test_all_budgets_are_met(units: PrunNetForImageClassification) -> None:
    bytes_alone, macs_alone = capacity_for(units, max_bytes=30_000), capacity_for(units, max_macs=170_000)
    both = capacity_for(units, max_bytes=30_000, max_macs=170_000)
    assert both == min(bytes_alone, macs_alone)
    assert {*both.figures} == {"max_bytes", "max_macs"}
    assert capacity_for(units, max_bytes=1e9, max_macs=1e9) == 1.0


@pytest.mark.parametrize(
    ("limits", "expected", "loss"),
    [
        # alone: from 0.6, where 2.5 points are lost, to 1, the loss falls by 2.5 points
        ({"max_loss": 1.0}, 0.84, 1.0),
        ({"max_loss": 2.5}, 0.35, 2.5),  # from 0.2 to 0.4 it falls by 2 points
        ({"max_loss": 4.0}, 0.2, 4.0),  # below nothing is known
        ({"max_loss": 0}, 1.0, 0.0),
        # with another: as large as that allows
        ({"max_loss": 3.0, "max_bytes": 10**9}, 1.0, 0.0),
    ],
)
def test_loss_is_interpolated(
    limits: dict[str, float], expected: float, loss: float, measured: PrunNetForImageClassification
) -> None:
    found = capacity_for(measured, **limits)
    assert found == pytest.approx(expected, abs=1.01 * STEP)
    assert found.figures["max_loss"] == pytest.approx(loss, abs=0.01)
    for word in ("mAP", "photos", "leave_one_out", "interpolated between 0.20, 0.40, 0.60, 1.00"):
        assert word in repr(found)


def test_a_smaller_capacity_is_taken_if_it_loses_less(measured: PrunNetForImageClassification) -> None:
    size = SubnetworkCosts(measured).file_bytes(0.6)
    assert capacity_for(measured, max_bytes=size, max_loss=2.5) == 0.6
    # 0.4 loses 2 points, 0.6 half a point more: 2.1 points are lost at 0.44
    assert capacity_for(measured, max_bytes=size, max_loss=2.1) == pytest.approx(0.44, abs=1.01 * STEP)


def test_what_was_measured_in_another_space_does_not_count(measured: PrunNetForImageClassification) -> None:
    measured.config.measured = {**measured.config.measured, "space": "0" * 16}
    with pytest.raises(ValueError, match=r"config\.measured"):
        capacity_for(measured, max_loss=1)


def test_it_is_the_number_that_it_is(weights: PrunNetForImageClassification) -> None:
    found = capacity_for(weights, max_bytes=30_000)
    assert isinstance(found, float)
    assert str(found) == f"{found}" == repr(float(found))
    assert repr(found).startswith(f"{float(found)!r} (a file of ")
    assert repr(found).endswith(" bytes, at most 30,000)")
    for again in (copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
        assert (again, again.figures, again.how) == (found, found.figures, found.how)
    assert type(weights.prune(found).config.capacity) is float


@pytest.mark.parametrize(
    ("granularity", "limits", "message"),
    [
        ("units", {"max_bytes": 100}, r"max_bytes=100 .*smallest subnetwork has a file of [\d,]{6} bytes.*Allow more"),
        (
            "weights",
            {"max_bytes": 100},
            r"max_bytes=100 .*smallest subnetwork has a file of [\d,]{6} bytes.*Allow more",
        ),
        ("units", {"max_macs": 3}, r"max_macs=3 .*smallest subnetwork takes [\d,]{6,} multiply-adds.*Allow more"),
        ("weights", {"max_macs": 10**9}, r"max_macs must be left out.*'weight'.*zeros.*granularity='channel'"),
        ("weights", {"max_latency_ms": 9}, r"max_latency_ms must be left out.*'weight'.*granularity='channel'"),
        ("weights", {}, r"needs a budget.*max_bytes, max_macs, max_latency_ms, max_loss"),
        ("weights", {"max_bytes": -1}, r"max_bytes must be a finite number of at least 0; got -1"),
        ("weights", {"max_bytes": float("nan")}, r"max_bytes must be a finite number.*nan"),
        ("weights", {"max_loss": 1}, r"max_loss needs config\.measured.*--eval_only"),
    ],
)
def test_what_cannot_be_met(
    granularity: str, limits: dict[str, Any], message: str, request: pytest.FixtureRequest
) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        capacity_for(request.getfixturevalue(granularity), **limits)
    assert "\n" not in str(raised.value)


def test_loss_and_size_that_no_capacity_has_together(measured: PrunNetForImageClassification) -> None:
    size = SubnetworkCosts(measured).file_bytes(0.3)
    message = r"max_loss=1 .*other budgets.*up to 0\.3,.*mAP.*evaluated at 0\.20, .*is 3\.00 points.*Allow more"
    with pytest.raises(ValueError, match=message):
        capacity_for(measured, max_bytes=size, max_loss=1)


def test_what_was_measured_of_other_weights_does_not_count(measured: PrunNetForImageClassification) -> None:
    measured.prunnet.projector[0].bias.data += 1
    with pytest.warns(UserWarning, match="changed"), pytest.raises(ValueError, match=r"config\.measured"):
        capacity_for(measured, max_loss=1)


@pytest.mark.parametrize("limit", ["1 MB", True])
def test_a_budget_that_is_no_number(limit: Any, weights: PrunNetForImageClassification) -> None:
    with pytest.raises(TypeError, match=rf"max_bytes must be a number; got {limit!r}"):
        capacity_for(weights, max_bytes=limit)


def test_a_pruned_model(weights: PrunNetForImageClassification) -> None:
    with pytest.raises(ValueError, match=r"pruned already \(capacity 0\.20\).*dense checkpoint"):
        capacity_for(weights.prune(0.2), max_bytes=30_000)
