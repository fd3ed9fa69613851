"""Capacities of the passes of a step."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunnet_hf.training.capacities import pass_capacities


@pytest.mark.parametrize(
    ("method", "capacities", "passes"),
    [
        ("prunnet", [0.2, 0.5, 1.0], [1.0, 0.2, 0.5]),
        ("joint", [0.2, 0.5], [1.0, 0.2, 0.5]),
        ("independent", [0.2], [0.2]),
        ("independent", [1.0], [1.0]),
    ],
)
def test_fixed_passes_of_each_method(method: str, capacities: list[float], passes: list[float]) -> None:
    found = pass_capacities(method, capacities)
    assert found.at(0) == found.at(17) == passes
    assert len(found) == len(passes)
    assert found.names[-1] == {0.5: "capacity-0.50", 0.2: "capacity-0.20", 1.0: "capacity-1.00"}[passes[-1]]


def test_sandwich_has_dense_and_smallest_and_a_draw_from_each_part_of_the_range() -> None:
    found = pass_capacities("prunnet", [0.2, 0.5], sampling="sandwich", num_draws=2)
    assert found.names == ["capacity-1.00", "capacity-smallest", "capacity-drawn-1", "capacity-drawn-2"]
    drawn = np.array([found.at(step) for step in range(2000)])
    assert (drawn[:, 0] == 1.0).all()
    assert (drawn[:, 1] == 0.2).all()
    # Uniform from 0.2 to 0.6 and from 0.6 to 1: a mean in the middle, a standard deviation of 0.4 / sqrt(12) = 0.1155.
    assert np.allclose(drawn[:, 2:].mean(axis=0), [0.4, 0.8], atol=0.01)
    assert np.allclose(drawn[:, 2:].std(axis=0), 0.1155, atol=0.005)
    assert abs(np.corrcoef(drawn[:, 2], drawn[:, 3])[0, 1]) < 0.1


def test_the_smallest_comes_down_evenly_and_draws_stay_above_it() -> None:
    found = pass_capacities("prunnet", [0.1], sampling="sandwich", num_draws=2, shrink_steps=50)
    smallest = [found.at(step)[1] for step in (0, 10, 25, 50, 1000)]
    assert smallest == pytest.approx([0.6, 0.5, 0.35, 0.1, 0.1])  # by 0.01 a step
    for step in range(60):
        _, low, first, second = found.at(step)
        assert low <= first <= (low + 1) / 2 <= second <= 1


def test_a_smallest_capacity_above_where_shrinking_begins_stays() -> None:
    found = pass_capacities("prunnet", [0.8], sampling="sandwich", shrink_steps=50)
    assert found.at(0)[1] == found.at(50)[1] == 0.8


@given(
    st.lists(st.floats(0.01, 0.99), min_size=1, max_size=5),
    st.integers(1, 4),
    st.integers(0, 2**40),
    st.integers(0, 2**40),
)
def test_draws_depend_on_seed_and_step_alone_and_stay_in_their_ranges(
    capacities: list[float], num_draws: int, seed: int, step: int
) -> None:
    found, again = (
        pass_capacities("prunnet", capacities, sampling="sandwich", num_draws=num_draws, seed=seed) for _ in range(2)
    )
    drawn = found.at(step)
    assert drawn == again.at(step)
    assert drawn[:2] == [1.0, min(capacities)]
    assert len(drawn) == len(found) == len(found.names) == num_draws + 2
    edges = np.linspace(min(capacities), 1, num_draws + 1)
    assert all(low - 1e-9 <= each <= high + 1e-9 for low, each, high in zip(edges, drawn[2:], edges[1:], strict=False))
    assert drawn[2:] != found.at(step + 1)[2:]


def test_shrinking_goes_on_from_the_same_place_where_epochs_have_become_longer() -> None:
    # 3 steps of 6 are done, half of the training. With twice as many steps an epoch that is step 6 of 12.
    short, long = (pass_capacities("prunnet", [0.1], sampling="sandwich", shrink_steps=steps) for steps in (6, 12))
    assert short.at(3)[1] == pytest.approx(0.35)
    long.resume(step=3, position=6)
    assert long.at(3)[1] == pytest.approx(0.35)
    assert long.at(8)[1] == pytest.approx(0.6 - 0.5 * 11 / 12)
    assert long.at(9)[1] == 0.1
    fixed = pass_capacities("prunnet", [0.1])
    fixed.resume(step=3, position=6)
    assert fixed.at(3) == [1.0, 0.1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sampling": "random"}, r"capacity_sampling .*fixed, sandwich.*'random'"),
        ({"sampling": "sandwich", "shrink_steps": -1}, r"shrink_steps .*-1"),
        (
            {"sampling": "sandwich", "capacities": [1.0]},
            r"capacities .*subnetwork.*\[1\.0\]",
        ),
        ({"capacities": []}, r"capacities .*subnetwork.*\[\]"),
        ({"sampling": "sandwich", "num_draws": 0}, r"capacity_draws .*1.*0"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pass_capacities(**({"method": "prunnet", "capacities": [0.2]} | arguments))
