"""Scores cut into levels: the order of masking, levels shared evenly, and scores rebuilt that give the same again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prunnet_hf.storage.score_levels import (
    fit_knots,
    knot_levels,
    level_scores,
    levels_of,
    rank_order,
    segment_sizes,
    share_levels,
)
from prunnet_hf.storage.tensor_file import CheckpointFormatError
from tests.tiny_models import kept_mask

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
SMALLEST, LARGEST = 2.0**-126, torch.finfo(torch.float32).max
FEW = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 1e-40, 1e-45, 3e38, -3e38])
MAGNITUDES = st.one_of(FEW, st.floats(-1e4, 1e4, width=32))


class TestOrder:
    def test_magnitudes_then_places(self) -> None:
        assert rank_order(torch.tensor([[0.5, -2.0], [0.5, 0.0]])).tolist() == [1, 0, 2, 3]

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @given(values=st.lists(MAGNITUDES, min_size=1, max_size=30))
    def test_as_sorted_by_magnitude_and_place(self, dtype: torch.dtype, values: list[float]) -> None:
        scores = torch.tensor(values, dtype=torch.float64).clamp(-6e4, 6e4).to(dtype)
        magnitudes = [abs(value) for value in scores.tolist()]
        assert rank_order(scores).tolist() == sorted(range(len(values)), key=lambda i: (-magnitudes[i], i))

    @given(values=st.lists(MAGNITUDES, min_size=1, max_size=30), capacity=st.floats(0.01, 1))
    def test_its_first_are_what_a_capacity_keeps(self, values: list[float], capacity: float) -> None:
        scores = torch.tensor(values)
        (count,) = segment_sizes([capacity], len(values))
        kept = torch.zeros(len(values), dtype=torch.bool)
        kept[torch.from_numpy(rank_order(scores)[:count])] = True
        assert torch.equal(kept, kept_mask(scores, capacity))

    def test_any_layout(self) -> None:
        scores = torch.randn(2, 3, 4, 4)
        order = rank_order(scores.to(memory_format=torch.channels_last))
        assert order.tolist() == rank_order(scores).tolist()

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_scores_that_have_no_order(self, value: float) -> None:
        with pytest.raises(ValueError, match=r"layer\.scores.*1 of 2 .*earlier checkpoint"):
            rank_order(torch.tensor([1.0, value]), "layer.scores")


class TestLevels:
    def test_segments(self) -> None:
        # Of 11 weights 0.2 keeps 3 and 0.6 keeps 7 (tests/test_masking.py); of one weight every capacity keeps it.
        assert segment_sizes([0.2, 0.6, 1.0], 11) == [3, 4, 4]
        assert segment_sizes([0.2, 0.6, 1.0], 1) == [1, 0, 0]

    @given(sizes=st.lists(st.integers(0, 500), min_size=1, max_size=8), spare=st.integers(0, 300))
    def test_each_segment_gets_its_share(self, sizes: list[int], spare: int) -> None:
        limit = len(sizes) + spare
        levels = share_levels(sizes, limit)
        assert sum(levels) <= limit
        assert all(min(size, 1) <= count <= size for size, count in zip(sizes, levels, strict=True))
        if sum(sizes) <= limit:
            assert levels == sizes

    @given(sizes=st.lists(st.integers(0, 60), min_size=1, max_size=5), limit=st.integers(5, 100))
    def test_levels_are_runs_none_empty_and_none_across_a_boundary(self, sizes: list[int], limit: int) -> None:
        levels = levels_of(sizes, share_levels(sizes, limit))
        assert len(levels) == sum(sizes)
        assert set(np.diff(levels, prepend=-1)) <= {0, 1}
        starts = np.cumsum([0, *sizes])[1:-1]
        assert all(levels[start] > levels[start - 1] for start in starts if 0 < start < len(levels))

    def test_knots_stand_evenly(self) -> None:
        assert knot_levels(256, 33).tolist() == [i * 255 // 32 for i in range(33)]
        assert knot_levels(1, 3).tolist() == [0, 0, 0]


class TestRebuiltScores:
    def test_between_knots_by_hand(self) -> None:
        # 1.0 is 0x3f800000, 0.5 is 0x3f000000; half-way lies 0x3f400000, which is 0.75.
        assert level_scores(torch.tensor([1.0, 0.5]), np.array([0, 2]), "k").tolist() == [1.0, 0.75, 0.5]

    def test_knots_that_fit_are_kept(self) -> None:
        magnitudes = torch.tensor([4.0, 4.0, 1.0])
        assert fit_knots(magnitudes, np.array([0, 0, 9])).tolist() == [4.0, 4.0, 1.0]

    def test_equal_magnitudes_are_moved_up_by_a_bit_pattern_a_level(self) -> None:
        step = 2.0**-23  # between 1.0 and the next float
        assert fit_knots(torch.tensor([1.0, 1.0]), np.array([0, 3])).tolist() == [1.0 + 3 * step, 1.0]

    @pytest.mark.parametrize(("value", "last"), [(0.0, SMALLEST), (1e-45, SMALLEST)])
    def test_nothing_below_normal_numbers(self, value: float, last: float) -> None:
        scores = level_scores(fit_knots(torch.full((2,), value), np.array([0, 100])), np.array([0, 100]), "k")
        assert scores[-1].item() == last
        assert (scores[:-1] > scores[1:]).all()

    def test_nothing_beyond_finite_numbers(self) -> None:
        scores = level_scores(fit_knots(torch.full((2,), LARGEST), np.array([0, 100])), np.array([0, 100]), "k")
        assert scores[0].item() == LARGEST
        assert (scores[:-1] > scores[1:]).all()

    def test_numbers_too_large_for_float32(self) -> None:
        assert fit_knots(torch.tensor([1e300], dtype=torch.float64), np.array([0])).tolist() == [LARGEST]

    @given(values=st.lists(MAGNITUDES, min_size=1, max_size=80), limit=st.integers(3, 50), knots=st.integers(2, 9))
    def test_ranked_again_they_give_the_same(self, values: list[float], limit: int, knots: int) -> None:
        first = rebuilt(torch.tensor(values), limit, knots)
        second = rebuilt(first[0], limit, knots)
        assert all(torch.equal(once, again) for once, again in zip(first, second, strict=True))
        assert ((first[0] >= SMALLEST) & (first[0] <= LARGEST)).all()

    @pytest.mark.parametrize(
        "knots", [[0.5, 1.0], [1.0, 1.0], [float("nan"), 1.0], [float("inf"), 1.0], [1.0, 0.0], [1.0, -1.0]]
    )
    def test_knots_that_cannot_be(self, knots: list[float]) -> None:
        with pytest.raises(CheckpointFormatError, match=r"the knots.*float32"):
            level_scores(torch.tensor(knots), np.array([0, 2]), "the knots")

    def test_two_knots_at_a_level_must_agree(self) -> None:
        with pytest.raises(CheckpointFormatError, match="the knots"):
            level_scores(torch.tensor([1.0, 0.5]), np.array([0, 0]), "the knots")


def rebuilt(scores: Tensor, limit: int, num_knots: int) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, levels and knots after cutting `scores` at capacities 0.2 and 0.6 and building them again."""
    order = rank_order(scores)
    sizes = segment_sizes([0.2, 0.6, 1.0], len(order))
    level_at = levels_of(sizes, share_levels(sizes, limit))
    at = knot_levels(int(level_at[-1]) + 1, num_knots)
    knots = fit_knots(scores.abs()[torch.from_numpy(order[np.searchsorted(level_at, at)])], at)
    levels = torch.empty(len(order), dtype=torch.int64)
    levels[torch.from_numpy(order)] = torch.from_numpy(level_at)
    return level_scores(knots, at, "the knots")[levels], levels, knots
