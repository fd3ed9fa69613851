"""The PQ Index: values worked out by hand, the properties that the paper proves, and safety at the ends of float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prunnet_hf.pruning.masking import kept_count
from prunnet_hf.pruning.pq_index import join, kept_powers, normal_index, powers_of_pruned, pq_index, prefix_indices
from tests.tiny_models import kept_mask

EXPONENTS = st.sampled_from([(0.5, 1.0), (0.5, 2.0), (1.0, 2.0), (0.1, 1.0), (0.9, 1.1)])
# Whole numbers, so that what differs differs by far more than rounding.
WEIGHTS = st.lists(st.integers(-20, 20), min_size=1, max_size=12).map(lambda values: [float(v) for v in values])


def index(weights, p=0.5, q=1.0) -> float:
    return pq_index(torch.tensor(weights, dtype=torch.float64), p, q).item()


@pytest.mark.parametrize(
    ("weights", "p", "q", "expected"),
    [
        ([1.0, 0.0, 0.0, 0.0], 0.5, 1.0, 0.75),  # 1 - 4^(1 - 2) * 1 / 1
        ([0.0, -3.0], 0.5, 1.0, 0.5),  # 1 - 2^(1 - 2) * 3 / 3
        ([4.0, 1.0], 0.5, 1.0, 0.1),  # 1 - 2^-1 * (2 + 1)^2 / 5 = 1 - 9 / 10
        ([3.0, 4.0], 1.0, 2.0, 1 - 7 / math.sqrt(50)),  # 1 - 2^(1/2 - 1) * 7 / 5
        ([1.0, 0.0, 0.0, 0.0], 0.5, 2.0, 0.875),  # 1 - 4^(1/2 - 2)
        ([-5.0, 5.0, 5.0], 0.5, 1.0, 0.0),
        ([7.0], 0.5, 1.0, 0.0),
    ],
)
def test_index_is_the_formula(weights, p, q, expected):
    assert index(weights, p, q) == pytest.approx(expected, rel=1e-14, abs=1e-15)


def test_rows_are_indexed_on_their_own_and_in_float64():
    found = pq_index(torch.tensor([[1.0, 0.0, 0.0, 0.0], [2.0, 2.0, -2.0, 2.0], [0.0, 0.0, 0.0, 0.0]]))
    assert found.dtype == torch.float64
    assert found.tolist() == [0.75, 0.0, 0.0]
    assert pq_index(torch.tensor([1.0, 0.0])).shape == ()


def test_only_kept_weights_count_and_rows_may_keep_different_numbers():
    weights = torch.tensor([[1.0, 9.0, 0.0, 4.0], [0.0, 1.0, 5.0, 5.0], [1.0, 2.0, 3.0, 4.0]])
    kept = torch.tensor([[True, False, False, True], [True, True, False, False], [False] * 4])
    assert pq_index(weights, kept=kept).tolist() == pytest.approx([0.1, 0.5, 0.0], rel=1e-14)


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 4)])
def test_empty_scopes_have_index_zero(shape):
    found = pq_index(torch.empty(shape))
    assert found.shape == shape[:-1]
    assert torch.equal(found, torch.zeros(shape[:-1], dtype=torch.float64))
    assert torch.equal(pq_index(torch.empty(shape), kept=torch.empty(shape, dtype=torch.bool)), found)


@pytest.mark.parametrize("exponents", [(0.5, 1.0), (0.5, 2.0), (1.0, 2.0), (0.01, 1.0), (1.0, 500.0)])
@pytest.mark.parametrize("size", [1e-300, 1e-200, 1.0, 1e200, 1e307])
def test_tiny_and_huge_norms_are_safe(size, exponents):
    weights = [1.0, 0.5, 4.0, 2.0]
    assert index([size * weight for weight in weights], *exponents) == pytest.approx(
        index(weights, *exponents), rel=1e-12
    )


def test_the_smallest_magnitudes_of_each_type_are_not_lost():
    for dtype, smallest in [(torch.float64, 5e-324), (torch.float32, 2.0**-149), (torch.bfloat16, 2.0**-133)]:
        assert pq_index(torch.tensor([smallest, 0, 0, 0], dtype=torch.float64).to(dtype)).item() == 0.75


def test_index_stays_below_one_where_it_would_round_to_one():
    assert index([1.0] + [0.0] * 999, 0.05, 1.0) == math.nextafter(1.0, 0.0)  # 1 - 1000^-19


@given(WEIGHTS, EXPONENTS)
def test_index_is_in_its_range_and_agrees_with_norms(weights, exponents):
    p, q = exponents
    found = index(weights, p, q)
    assert 0.0 <= found < 1.0
    norms = [sum(abs(weight) ** power for weight in weights) ** (1 / power) for power in (p, q)]
    expected = 1 - len(weights) ** (1 / q - 1 / p) * norms[0] / norms[1] if norms[1] else 0.0
    assert found == pytest.approx(expected, abs=1e-12)


@given(WEIGHTS, EXPONENTS, st.floats(1e-300, 1e300))
def test_scale_does_not_matter(weights, exponents, scale):
    assert index([scale * weight for weight in weights], *exponents) == pytest.approx(
        index(weights, *exponents), abs=1e-12
    )


@given(WEIGHTS, st.integers(0, 20), st.integers(1, 20), EXPONENTS, st.sampled_from([0.1, 0.25, 0.5]))
def test_robin_hood_taking_from_the_larger_lowers_the_index(others, poor, difference, exponents, share):
    given_away = share * difference  # at most half: the two don't change places
    before = [*others, poor + difference, poor]
    after = [*others, poor + difference - given_away, poor + given_away]
    assert index(after, *exponents) < index(before, *exponents)


@given(WEIGHTS, st.integers(1, 20), EXPONENTS, st.integers(1, 20))
def test_rising_tide_adding_to_all_magnitudes_lowers_the_index(others, difference, exponents, constant):
    magnitudes = [abs(other) for other in others]
    magnitudes.append(magnitudes[0] + difference)  # not all equal
    assert index([magnitude + constant for magnitude in magnitudes], *exponents) < index(magnitudes, *exponents)


@given(WEIGHTS, EXPONENTS, st.integers(2, 5))
def test_clones_leave_the_index_as_it_is(weights, exponents, copies):
    assert index(weights * copies, *exponents) == pytest.approx(index(weights, *exponents), abs=1e-12)


@given(WEIGHTS, EXPONENTS, st.randoms(use_true_random=False))
def test_all_capacities_together_are_each_on_its_own(weights, exponents, random):
    scores = torch.tensor([float(random.randint(-5, 5)) for _ in weights])  # ties are likely
    values = torch.tensor(weights)
    capacities = [0.1, 0.3, 0.5, 0.9, 1.0]
    powers = kept_powers(values, scores, capacities, *exponents)
    expected = [pq_index(values[kept_mask(scores, c)], *exponents).item() for c in capacities]
    assert powers.indices().tolist() == pytest.approx(expected, abs=1e-12)
    assert powers.counts.tolist() == [kept_count(c, len(weights)) for c in capacities]


@given(WEIGHTS, WEIGHTS, EXPONENTS, st.sampled_from([1e-30, 1.0, 1e30]))
def test_joined_scopes_are_one_scope(first, second, exponents, scale):
    scopes = [torch.tensor(first, dtype=torch.float64), scale * torch.tensor(second, dtype=torch.float64)]
    joined = join([kept_powers(scope, torch.ones_like(scope), [1.0], *exponents) for scope in scopes])
    assert joined.counts.tolist() == [len(first) + len(second)]
    assert joined.indices().item() == pytest.approx(pq_index(torch.cat(scopes), *exponents).item(), abs=1e-12)


def test_scopes_that_do_not_go_together_are_refused():
    ones = torch.ones(4)
    for scopes in (
        [],
        [kept_powers(ones, ones, [0.5, 1.0]), kept_powers(ones, ones, [1.0])],
        [kept_powers(ones, ones, [1.0]), kept_powers(ones, ones, [1.0], 1.0, 2.0)],
    ):
        with pytest.raises(ValueError, match=r"scopes.*at least one"):
            join(scopes)


def test_weights_that_pruning_left_out_add_nothing():
    # 2 of the 4 were kept, one of which is zero: 1 - 2^(1 - 2) * 1
    powers = powers_of_pruned(torch.tensor([[0.0, 3.0], [0.0, 0.0]]), 2)
    assert (powers.counts.tolist(), powers.indices().tolist()) == ([2.0], [0.5])
    for count in (0, 5):
        with pytest.raises(ValueError, match=rf"count.*1.*4.*{count}"):
            powers_of_pruned(torch.tensor([[0.0, 3.0], [0.0, 0.0]]), count)


@pytest.mark.parametrize(
    ("p", "q"), [(1.0, 1.0), (0.0, 1.0), (-0.5, 1.0), (1.1, 2.0), (0.5, 0.9), (0.5, math.inf), (math.nan, 1.0)]
)
def test_exponents_out_of_range_are_refused_with_both_values(p, q):
    for call in (
        lambda: pq_index(torch.ones(3), p, q),
        lambda: kept_powers(torch.ones(3), torch.ones(3), [1.0], p, q),
        lambda: powers_of_pruned(torch.ones(3), 3, p, q),
    ):
        with pytest.raises(ValueError, match=rf"0 < p <= 1 <= q and p < q.*p={p!r}.*q={q!r}"):
            call()


def test_exponents_that_are_no_numbers_are_refused():
    with pytest.raises(TypeError, match=r"p.*number.*'0\.5' \(str\)"):
        pq_index(torch.ones(3), "0.5")
    with pytest.raises(TypeError, match=r"q.*number.*True"):
        pq_index(torch.ones(3), 0.5, True)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_refused_and_counted(bad):
    weights = torch.tensor([1.0, bad, bad])
    with pytest.raises(ValueError, match=r"weights.*2 of 3"):
        pq_index(weights)
    with pytest.raises(ValueError, match=r"weights.*2 of 3"):
        kept_powers(weights, torch.ones(3), [0.5])
    with pytest.raises(ValueError, match=r"scores.*2 of 3"):
        kept_powers(torch.ones(3), weights, [0.5])


def test_tensors_of_another_kind_or_shape_are_refused():
    with pytest.raises(TypeError, match=r"weights.*tensor.*list"):
        pq_index([1.0])
    with pytest.raises(TypeError, match=r"weights.*torch\.int64"):
        pq_index(torch.tensor([1]))
    with pytest.raises(ValueError, match=r"weights.*shape.*\(\)"):
        pq_index(torch.tensor(1.0))
    with pytest.raises(ValueError, match=r"\(2, 2, 2\).*weights\.flatten"):
        pq_index(torch.ones(2, 2, 2))
    with pytest.raises(TypeError, match=r"kept.*boolean.*torch\.float32"):
        pq_index(torch.ones(2), kept=torch.ones(2))
    with pytest.raises(ValueError, match=r"kept.*\(2,\).*\(1,\)"):
        pq_index(torch.ones(2), kept=torch.ones(1, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"scores.*\(2,\).*\(1,\)"):
        kept_powers(torch.ones(2), torch.ones(1), [0.5])
    with pytest.raises(ValueError, match=r"capacities.*ascending.*\[0\.5, 0\.2\]"):
        kept_powers(torch.ones(2), torch.ones(2), [0.5, 0.2])


@given(weights=st.lists(st.just(0.0) | st.floats(1e-150, 1e150) | st.floats(-1e150, -1e-150), max_size=30))
def test_prefix_indices_are_those_of_each_prefix(weights: list[float]) -> None:
    expected = [
        float(pq_index(torch.tensor(weights[:count], dtype=torch.float64))) for count in range(1, len(weights) + 1)
    ]
    assert prefix_indices(torch.tensor(weights, dtype=torch.float64)).tolist() == pytest.approx(expected, abs=1e-9)


def test_prefix_indices_of_other_shapes_and_of_what_is_not_finite() -> None:
    with pytest.raises(ValueError, match=r"weights.*\(d,\).*\(1, 2\)"):
        prefix_indices(torch.ones(1, 2))
    with pytest.raises(ValueError, match=r"weights.*1 of 2"):
        prefix_indices(torch.tensor([1.0, float("nan")]))


def test_index_of_normal_weights() -> None:
    assert normal_index(0.5, 1.0) == pytest.approx(0.1528, abs=1e-4)
    # E|w| = sqrt(2 / pi), E w^2 = 1
    assert normal_index(1.0, 2.0) == pytest.approx(1 - math.sqrt(2 / math.pi))
    drawn = 3.0 * torch.randn(1_000_000, generator=torch.Generator().manual_seed(0))
    assert pq_index(drawn).item() == pytest.approx(normal_index(0.5, 1.0), abs=1e-3)
