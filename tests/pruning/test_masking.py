"""Masks: exact counts, nested, the same on every path; gradients that pass them straight through."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prunnet_hf.pruning.masking import (
    StraightThrough,
    check_capacities,
    check_capacity,
    check_finite,
    format_capacity,
    kept_count,
    kept_masks,
    score_gradient,
)
from tests.tiny_models import kept_mask

CAPACITY = st.floats(min_value=0.0, max_value=1.0, exclude_min=True)


def reference_mask(scores: Tensor, capacity: float) -> list[bool]:
    """The definition: rank by (magnitude descending, flat index ascending), keep the first `kept_count`."""
    magnitudes = [abs(score) for score in scores.flatten().tolist()]
    ranked = sorted(range(len(magnitudes)), key=lambda index: (-magnitudes[index], index))
    kept = set(ranked[: kept_count(capacity, len(magnitudes))])
    return [index in kept for index in range(len(magnitudes))]


@pytest.mark.parametrize(
    ("capacity", "num_weights", "kept"),
    [
        (0.2, 11, 3),  # 11 - round(0.8 * 10) = 11 - 8
        (0.5, 4, 2),  # 4 - round(0.5 * 3) = 4 - round(1.5) = 4 - 2
        (0.5, 6, 4),  # 6 - round(0.5 * 5) = 6 - round(2.5) = 6 - 2: Python rounds a half to the even number
        (0.25, 9, 3),  # 9 - round(0.75 * 8) = 9 - 6
        (1.0, 7, 7),
        (1e-9, 7, 1),  # 7 - round(6): one weight always stays
        (0.3, 1, 1),
    ],
)
def test_kept_count_is_the_formula(capacity: float, num_weights: int, kept: int) -> None:
    assert kept_count(capacity, num_weights) == kept


@given(smaller=CAPACITY, larger=CAPACITY, num_weights=st.integers(1, 10**9))
def test_kept_count_grows_with_capacity_and_stays_in_range(smaller: float, larger: float, num_weights: int) -> None:
    smaller, larger = sorted((smaller, larger))
    assert 1 <= kept_count(smaller, num_weights) <= kept_count(larger, num_weights) <= num_weights


@pytest.mark.parametrize("capacity", [0.05, 1, 1.0, torch.tensor(0.5).item()])
def test_a_capacity_is_returned_as_float(capacity: float) -> None:
    assert check_capacity(capacity) == float(capacity)
    assert isinstance(check_capacity(capacity), float)


@pytest.mark.parametrize("capacity", [0.0, -0.2, 1.0001, 20, math.nan, math.inf])
def test_a_capacity_outside_its_range_is_refused_by_name_and_value(capacity: float) -> None:
    with pytest.raises(ValueError, match=rf"^query_capacity.*\(0, 1\].*{capacity!r}"):
        check_capacity(capacity, "query_capacity")


@pytest.mark.parametrize("capacity", ["0.2", None, True, False, [0.2], 0.2 + 0j])
def test_a_capacity_that_is_no_number_is_refused_by_name_and_value(capacity: object) -> None:
    with pytest.raises(TypeError, match=r"^capacity.*\(0, 1\]") as caught:
        check_capacity(capacity)  # type: ignore[arg-type]
    assert repr(capacity) in str(caught.value)
    assert type(capacity).__name__ in str(caught.value)


def test_capacities_come_back_ascending_and_once_each() -> None:
    assert check_capacities([0.8, 0.2, 1, 0.2]) == [0.2, 0.8, 1.0]
    assert check_capacities(()) == []


@pytest.mark.parametrize("capacities", ["0.2", 0.2, {0.2}, None])
def test_capacities_that_are_no_list_are_refused(capacities: object) -> None:
    with pytest.raises(TypeError, match=r"statistics_capacities.*list"):
        check_capacities(capacities, "statistics_capacities")  # type: ignore[arg-type]


def test_a_bad_number_among_capacities_is_refused_by_their_name() -> None:
    with pytest.raises(ValueError, match=r"statistics_capacities.*\(0, 1\].*1\.5"):
        check_capacities([0.2, 1.5], "statistics_capacities")


def test_the_largest_magnitudes_are_kept() -> None:
    scores = torch.tensor([[-5.0, 1.0, 0.0], [4.0, -2.0, 3.0]])
    mask = kept_mask(scores, 0.4)  # 6 - round(0.6 * 5) = 3 of them: 5, 4 and 3
    assert mask.tolist() == [[True, False, False], [True, False, True]]


def test_ties_go_to_the_lower_flat_index() -> None:
    scores = torch.tensor([1.0, -2.0, 2.0, 2.0, 0.0])
    assert kept_mask(scores, 0.5).tolist() == [False, True, True, True, False]  # 5 - round(2.0) = 3
    assert kept_mask(scores, 0.25).tolist() == [False, True, True, False, False]  # 5 - round(3.0) = 2
    assert kept_mask(torch.zeros(4), 0.5).tolist() == [True, True, False, False]


@given(
    values=st.lists(st.integers(-3, 3), min_size=1, max_size=40),  # few different magnitudes: many ties
    smaller=CAPACITY,
    larger=CAPACITY,
)
def test_masks_are_exact_and_nested(values: list[int], smaller: float, larger: float) -> None:
    smaller, larger = sorted((smaller, larger))
    scores = torch.tensor(values, dtype=torch.float32)
    small, large = kept_masks(scores, [smaller, larger])
    assert small.tolist() == reference_mask(scores, smaller)
    assert large.tolist() == reference_mask(scores, larger)
    assert not (small & ~large).any()


@given(
    values=st.lists(st.floats(width=16, allow_nan=False, allow_infinity=False), min_size=1, max_size=30),
    capacity=CAPACITY,
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
)
def test_every_floating_type_is_ranked_exactly(values: list[float], capacity: float, dtype: torch.dtype) -> None:
    scores = torch.tensor(values, dtype=dtype)
    assert kept_mask(scores, capacity).tolist() == reference_mask(scores, capacity)


def test_float64_scores_that_float32_cannot_tell_apart_are_ranked() -> None:
    scores = torch.tensor([1.0, 1.0 + 2**-40, 1.0 + 2**-30, 1.0], dtype=torch.float64)
    assert kept_mask(scores, 0.5).tolist() == [False, True, True, False]


def test_flat_indices_are_logical_whatever_the_memory_layout() -> None:
    scores = torch.tensor([1.0, 2.0, 2.0, 1.0]).repeat(8).view(2, 4, 2, 2)
    channels_last = scores.contiguous(memory_format=torch.channels_last)
    assert channels_last.stride() != scores.stride()
    assert torch.equal(kept_mask(channels_last, 0.3), kept_mask(scores, 0.3))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_of_a_diverged_run_are_refused(bad: float) -> None:
    check_finite("scores", torch.tensor([1.0, 2.0]))
    with pytest.raises(ValueError, match=r"scores.*1 of 3.*earlier checkpoint"):
        check_finite("scores", torch.tensor([1.0, bad, 2.0]))


def test_scores_stay_untouched_and_masks_carry_no_gradient() -> None:
    scores = torch.tensor([-3.0, 2.0, 1.0], requires_grad=True)
    mask = kept_mask(scores, 0.5)
    assert scores.tolist() == [-3.0, 2.0, 1.0]
    assert mask.dtype == torch.bool
    assert not mask.requires_grad


def test_straight_through_gradients_by_hand() -> None:
    weight = torch.tensor([2.0, -3.0, 5.0, 7.0], requires_grad=True)
    scores = torch.tensor([-1.0, 4.0, 0.5, 0.0], requires_grad=True)
    mask = torch.tensor([True, True, False, True])
    effective = StraightThrough.apply(weight, scores, mask)
    assert effective.tolist() == [2.0, -3.0, 0.0, 7.0]
    effective.backward(torch.tensor([10.0, 100.0, 1000.0, 1.0]))  # G
    assert weight.grad.tolist() == [10.0, 100.0, 0.0, 1.0]  # mask * G
    # mask * G * W * sign(S): 10 * 2 * -1, 100 * -3 * 1, dropped, 1 * 7 * sign(0)
    assert scores.grad.tolist() == [-20.0, -300.0, 0.0, 0.0]


def test_straight_through_is_the_derivative_of_a_magnitude_scaled_weight() -> None:
    # The estimator treats the mask as if it were `|s|` near a kept weight: d(|s| * w)/ds = w * sign(s), scaled by G.
    weight, scores = torch.tensor([1.5, -2.0]), torch.tensor([0.7, -0.9])
    upstream, step = torch.tensor([3.0, 5.0]), 1e-3
    rise = (upstream * weight * ((scores + step).abs() - (scores - step).abs())) / (2 * step)
    torch.testing.assert_close(score_gradient(upstream, weight, scores), rise, rtol=1e-3, atol=1e-3)


def test_the_weight_gradient_is_the_true_derivative() -> None:
    weight = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    scores, mask = torch.randn(2, 3, dtype=torch.float64), torch.tensor([[True, False, True], [False, True, True]])
    assert torch.autograd.gradcheck(lambda w: StraightThrough.apply(w, scores, mask) ** 2, weight)


@pytest.mark.parametrize("capacity", [0.05, 0.3, 0.5, 1.0])
def test_masks_do_not_depend_on_the_layout(capacity: float) -> None:
    generator = torch.Generator().manual_seed(0)
    # Few values, so that ties are everywhere: these go to the lower index as the tensor is read, not as it lies.
    scores = torch.randint(-3, 4, (4, 6, 3, 3), generator=generator).float()
    expected = kept_mask(scores, capacity)
    assert int(expected.sum()) == kept_count(capacity, 216)
    assert torch.equal(kept_mask(scores.contiguous(memory_format=torch.channels_last), capacity), expected)
    assert torch.equal(kept_mask(scores.transpose(0, 3).contiguous().transpose(0, 3), capacity), expected)


def test_an_overflowing_gradient_of_a_dropped_weight_is_not_hidden() -> None:
    weight, scores = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    StraightThrough.apply(weight, scores, torch.tensor([True, False])).backward(torch.tensor([1.0, math.inf]))
    # The run has diverged, and whoever looks at the gradients must see it.
    assert weight.grad[0] == 1.0
    assert weight.grad[1].isnan()


def test_frozen_scores_get_no_gradient() -> None:
    weight, scores = torch.ones(2, requires_grad=True), torch.ones(2)
    StraightThrough.apply(weight, scores, torch.tensor([True, False])).sum().backward()
    assert weight.grad.tolist() == [1.0, 0.0]
    assert scores.grad is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_effective_weight_keeps_the_type_of_the_weight(dtype: torch.dtype) -> None:
    weight = torch.ones(3, dtype=dtype)
    assert StraightThrough.apply(weight, weight, torch.tensor([True, False, True])).dtype == dtype


@pytest.mark.parametrize(
    ("capacity", "text"),
    [(0.2, "0.20"), (0.204, "0.204"), (0.125, "0.125"), (1.0, "1.00"), (1, "1.00"), (0.05, "0.05"), (1e-5, "0.00001")],
)
def test_a_capacity_is_written_with_at_least_two_digits(capacity: float, text: str) -> None:
    assert format_capacity(capacity) == text


@given(CAPACITY)
def test_a_written_capacity_is_read_back_exactly_so_no_two_share_a_name(capacity: float) -> None:
    assert float(format_capacity(capacity)) == capacity
