"""Conflict-aware integration: worked examples, its laws, and the fast form against the readable reference."""

from __future__ import annotations

from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from prunnet_hf.runs.methods import Projection
from prunnet_hf.training.gradients import (
    integrate,
    integrate_weight_and_scores,
    integration_coefficients,
    projection_orders,
)
from prunnet_hf.training.gradients_reference import integrate_reference, integrate_weight_and_scores_reference

PROJECTIONS: tuple[Projection, ...] = ("last", "sequential")
SHAPES = [(7,), (4, 5), (3, 2, 3, 3), (6, 1, 1, 1), (1, 40)]

both_projections = pytest.mark.parametrize("projection", PROJECTIONS)
both_extents = pytest.mark.parametrize("per_row", [True, False], ids=["per_row", "whole"])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ascending(num_gradients: int) -> Tensor:
    return torch.arange(num_gradients).expand(num_gradients, num_gradients)


def random_gradients(num_subnetworks: int, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(num_subnetworks + 1, *shape, generator=generator(seed))


@pytest.mark.parametrize("per_row", [True, False])
def test_layout_does_not_matter_and_is_kept(per_row: bool) -> None:
    gradients, (weight, scores) = random_gradients(4, (6, 5, 3, 3)), random_gradients(1, (6, 5, 3, 3), seed=1)
    orders = [projection_orders(5, per_row=per_row, generator=generator(seed)) for seed in (0, 1)]
    expected = integrate_weight_and_scores(gradients, weight, scores, *orders, per_row=per_row)
    alone = integrate(gradients, orders[0], per_row=per_row)
    last = {"memory_format": torch.channels_last}
    of_weight, of_scores = integrate_weight_and_scores(
        [gradient.contiguous(**last) for gradient in gradients],
        weight.contiguous(**last),
        scores.contiguous(**last),
        *orders,
        per_row=per_row,
    )
    torch.testing.assert_close(of_weight, expected[0])
    torch.testing.assert_close(of_scores, expected[1])
    assert of_weight.is_contiguous(**last)
    assert of_scores.is_contiguous(**last)
    torch.testing.assert_close(integrate([g.contiguous(**last) for g in gradients], orders[0], per_row=per_row), alone)
    # One gradient in another layout than the weight is put into its order.
    mixed = [gradients[0].contiguous(**last), *gradients[1:]]
    torch.testing.assert_close(
        integrate_weight_and_scores(mixed, weight, scores, *orders, per_row=per_row)[0], expected[0]
    )


@st.composite
def integer_problems(draw: st.DrawFn) -> tuple[Tensor, Tensor, bool, Projection]:
    """Gradients of small integers: their dot products are exact, and zeros, duplicates and ties are common."""
    num_gradients, rows, length = draw(st.integers(2, 5)), draw(st.integers(1, 3)), draw(st.integers(1, 4))
    size = num_gradients * rows * length
    values = draw(st.lists(st.integers(-3, 3), min_size=size, max_size=size))
    gradients = torch.tensor(values, dtype=torch.float32).reshape(num_gradients, rows, length)
    per_row = draw(st.booleans())
    orders = projection_orders(num_gradients, per_row=per_row, generator=generator(draw(st.integers(0, 99))))
    return gradients, orders, per_row, draw(st.sampled_from(PROJECTIONS))


class TestProjectionOrders:
    @both_extents
    def test_every_row_is_a_permutation(self, per_row: bool) -> None:
        orders = projection_orders(5, per_row=per_row, generator=generator())
        assert orders.dtype == torch.int64
        assert torch.equal(orders.sort(dim=1).values, ascending(5))

    def test_a_convolution_shares_one_order_and_other_tensors_do_not(self) -> None:
        shared = projection_orders(5, per_row=True, generator=generator())
        separate = projection_orders(5, per_row=False, generator=generator())
        assert len(shared.unique(dim=0)) == 1
        assert len(separate.unique(dim=0)) > 1

    def test_the_seed_decides_and_successive_draws_differ(self) -> None:
        first, second = generator(3), generator(3)
        draws = [projection_orders(5, per_row=False, generator=first) for _ in range(2)]
        again = [projection_orders(5, per_row=False, generator=second) for _ in range(2)]
        assert all(torch.equal(one, other) for one, other in zip(draws, again, strict=True))
        assert not torch.equal(draws[0], draws[1])

    def test_every_order_is_equally_likely(self) -> None:
        source = generator()
        firsts = torch.stack([projection_orders(3, per_row=True, generator=source)[0, 0] for _ in range(3000)])
        # 1000 expected each, standard deviation 26.
        assert (firsts.bincount(minlength=3) - 1000).abs().max() < 130

    def test_no_gradient_is_refused(self) -> None:
        with pytest.raises(ValueError, match="num_gradients is 0"):
            projection_orders(0, per_row=True, generator=generator())


class TestWorkedExamples:
    @both_projections
    @both_extents
    def test_two_conflicting_vectors(self, per_row: bool, projection: Projection) -> None:
        gradients = torch.tensor([[[1.0, 0.0]], [[-1.0, 1.0]]])
        # g_0 . g_1 = -1, |g_0|^2 = 1, |g_1|^2 = 2.
        # g'_0 = g_0 + 1/2 g_1 = (1/2, 1/2), cos(g'_0, g_0) = 1/sqrt(2)
        # g'_1 = g_1 +     g_0 = (0, 1),     cos(g'_1, g_1) = 1/sqrt(2)
        # So a_0 = a_1 = 1/2, and the result is 2 (1/2 g'_0 + 1/2 g'_1).
        result = integrate(gradients, ascending(2), per_row=per_row, projection=projection)
        assert result.tolist() == [[pytest.approx(0.5), pytest.approx(1.5)]]

    @pytest.mark.parametrize(
        ("projection", "order", "expected"),
        [
            # g_0 = (1, 0) conflicts with g_1 = (-1, 1) and g_2 = (-1, 0), which do not conflict with each other.
            # g'_1 = g_1 + g_0 = (0, 1) and g'_2 = g_2 + g_0 = (0, 0) in every order. g'_0 depends on it:
            ("last", [0, 1, 2], [0.0, 1.0]),  # g_2 wins: g_0 + g_2 = (0, 0)
            ("last", [0, 2, 1], [0.5, 1.5]),  # g_1 wins: g_0 + 1/2 g_1 = (1/2, 1/2)
            ("sequential", [0, 1, 2], [0.0, 1.5]),  # (1/2, 1/2), then off g_2: (0, 1/2)
            ("sequential", [0, 2, 1], [0.0, 1.0]),  # (0, 0) at once
        ],
    )
    def test_of_several_conflicts_the_last_in_the_order_wins(
        self, projection: Projection, order: list[int], expected: list[float]
    ) -> None:
        gradients = torch.tensor([[1.0, 0.0], [-1.0, 1.0], [-1.0, 0.0]])
        orders = torch.tensor(order).expand(3, 3)
        # With alpha = 0 all weigh the same: the result is the sum of the g'_i.
        result = integrate(gradients, orders, per_row=False, alpha=0.0, projection=projection)
        assert result.tolist() == pytest.approx(expected, abs=1e-6)

    @both_projections
    def test_each_gradient_follows_its_own_order(self, projection: Projection) -> None:
        gradients = torch.tensor([[1.0, 0.0], [-1.0, 1.0], [-1.0, 0.0]])
        orders = torch.tensor([[0, 2, 1], [0, 1, 2], [0, 1, 2]])
        expected = {"last": [0.5, 1.5], "sequential": [0.0, 1.0]}[projection]  # only g_0's order matters: see above
        result = integrate(gradients, orders, per_row=False, alpha=0.0, projection=projection)
        assert result.tolist() == pytest.approx(expected, abs=1e-6)

    def test_rows_are_projected_one_by_one_or_as_one_vector(self) -> None:
        # Row 0 agrees (dot 4), row 1 opposes (dot -1): no conflict as one vector.
        gradients = torch.tensor([[[2.0], [1.0]], [[2.0], [-1.0]]])
        as_one = integrate(gradients, ascending(2), per_row=False, alpha=0.0)
        row_by_row = integrate(gradients, ascending(2), per_row=True, alpha=0.0)
        assert as_one.tolist() == [[4.0], [0.0]]
        assert row_by_row.tolist() == [[4.0], [0.0]]  # opposite numbers project each other to 0, with the same sum
        # With alpha, rows still share one weight: cos_i = 4 / (sqrt(4) sqrt(5)) for both, so a_0 = a_1.
        assert integrate(gradients, ascending(2), per_row=True).tolist() == [[pytest.approx(4.0)], [0.0]]

    def test_the_cosine_is_over_all_rows_together(self) -> None:
        gradients = torch.tensor([[[2.0], [1.0]], [[1.0], [-1.0]]])
        # Row 1 cancels: g'_0 = (2, 0), g'_1 = (1, 0), with cosines 2/sqrt(5) and 1/sqrt(2).
        first, second = (2 / 5**0.5 + 1) / 2, (1 / 2**0.5 + 1) / 2
        expected = 2 * (2 * first + second) / (first + second)
        result = integrate(gradients, ascending(2), per_row=True, alpha=1.0)
        assert result.tolist() == [[pytest.approx(expected)], [pytest.approx(0.0, abs=1e-6)]]

    def test_a_zero_gradient_has_cosine_zero(self) -> None:
        gradients = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
        # a_0 : a_1 = 1 : 1/sqrt(2), so the result is 2 / (1 + 1/sqrt(2)) g_0.
        share = 2 / (1 + 0.5**0.5)
        assert integrate(gradients, ascending(2), per_row=False).tolist() == pytest.approx([3 * share, 4 * share])

    def test_eps_switches_projection_off_for_small_gradients(self) -> None:
        gradients = 1e-6 * torch.tensor([[1.0, 0.0], [-1.0, 1.0]])
        plain_sum = [0.0, 1e-6]
        with_eps = integrate(gradients, ascending(2), per_row=False, eps=1.0)
        assert with_eps.tolist() == pytest.approx(plain_sum, abs=1e-9)
        # Without it: the result of the two conflicting vectors above.
        assert integrate(gradients, ascending(2), per_row=False).tolist() == pytest.approx([0.5e-6, 1.5e-6])

    @both_projections
    def test_a_squared_norm_that_rounded_to_zero_projects_nothing(self, projection: Projection) -> None:
        gram = torch.tensor([[[1.0, -1e-30], [-1e-30, 0.0]]])
        coefficients = integration_coefficients(gram, ascending(2), alpha=0.0, projection=projection)
        assert coefficients.tolist() == [[pytest.approx(1.0), pytest.approx(1.0)]]

    def test_coefficients_from_a_gram_matrix(self) -> None:
        gram = torch.tensor([[[1.0, -1.0], [-1.0, 2.0]]])
        # g'_0 + g'_1 of the two conflicting vectors: (g_0 + 1/2 g_1) + (g_1 + g_0).
        assert integration_coefficients(gram, ascending(2)).tolist() == [[pytest.approx(2.0), pytest.approx(1.5)]]


class TestReference:
    @both_projections
    @both_extents
    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("num_subnetworks", [1, 2, 3, 4])
    def test_integrate(
        self, num_subnetworks: int, shape: tuple[int, ...], per_row: bool, projection: Projection
    ) -> None:
        per_row = per_row and len(shape) > 1
        gradients = random_gradients(num_subnetworks, shape)
        orders = projection_orders(num_subnetworks + 1, per_row=per_row, generator=generator())
        for alpha, eps in ((0.5, 0.0), (2.0, 0.1)):
            result = integrate(gradients, orders, per_row=per_row, projection=projection, alpha=alpha, eps=eps)
            expected = integrate_reference(
                gradients, orders, per_row=per_row, projection=projection, alpha=alpha, eps=eps
            )
            torch.testing.assert_close(result, expected.float(), rtol=1e-5, atol=1e-5)

    @both_projections
    @both_extents
    def test_weight_and_scores(self, per_row: bool, projection: Projection) -> None:
        gradients, shape = random_gradients(4, (6, 3, 3, 3)), (6, 3, 3, 3)
        row_sizes = torch.tensor([0.01, 1.0, 0.3, 10.0, 0.001, 2.0])[:, None, None, None]
        weight, scores = row_sizes * random_gradients(0, shape, 1)[0], random_gradients(0, shape, 2)[0]
        scores[:, 0] = 0
        weight[1] = 0
        source = generator()
        orders = [projection_orders(5, per_row=per_row, generator=source) for _ in range(2)]
        results = integrate_weight_and_scores(
            gradients, weight, scores, *orders, per_row=per_row, projection=projection
        )
        expected = integrate_weight_and_scores_reference(
            gradients, weight, scores, *orders, per_row=per_row, projection=projection
        )
        for result, reference in zip(results, expected, strict=True):
            torch.testing.assert_close(result, reference.float(), rtol=1e-5, atol=1e-6)
        assert not results[1][:, 0].any()
        assert not results[1][1].any()

    def test_many_rows_span_several_blocks(self) -> None:
        gradients = random_gradients(1, (300, 1000))
        orders = ascending(2)
        for per_row in (True, False):
            expected = integrate_reference(gradients, orders, per_row=per_row)
            result = integrate(gradients, orders, per_row=per_row)
            torch.testing.assert_close(result, expected.float(), rtol=1e-4, atol=1e-5)

    @settings(max_examples=80, deadline=None)
    @given(integer_problems())
    def test_zeros_duplicates_and_ties(self, problem: tuple[Tensor, Tensor, bool, Projection]) -> None:
        gradients, orders, per_row, projection = problem
        result = integrate(gradients, orders, per_row=per_row, projection=projection)
        expected = integrate_reference(gradients, orders, per_row=per_row, projection=projection)
        torch.testing.assert_close(result, expected.float(), rtol=1e-3, atol=1e-3)

    @both_projections
    def test_bfloat16_gradients_are_integrated_in_float32(self, projection: Projection) -> None:
        gradients = random_gradients(3, (4, 50)).bfloat16()
        orders = projection_orders(4, per_row=True, generator=generator())
        result = integrate(gradients, orders, per_row=True, projection=projection)
        expected = integrate_reference(gradients, orders, per_row=True, projection=projection)
        assert result.dtype == torch.bfloat16
        torch.testing.assert_close(result, expected.bfloat16(), rtol=1e-2, atol=1e-4)

    def test_autocast_does_not_lower_the_precision(self) -> None:
        gradients, orders = random_gradients(3, (4, 50)), ascending(4)
        outside = integrate(gradients, orders, per_row=True)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(integrate(gradients, orders, per_row=True), outside)


class TestLaws:
    @settings(max_examples=40, deadline=None)
    @given(integer_problems(), st.integers(-60, 60))
    def test_scaling_all_gradients_scales_the_result(
        self, problem: tuple[Tensor, Tensor, bool, Projection], exponent: int
    ) -> None:
        gradients, orders, per_row, projection = problem
        result = integrate(gradients, orders, per_row=per_row, projection=projection)
        scaled = integrate(gradients * 2.0**exponent, orders, per_row=per_row, projection=projection)
        torch.testing.assert_close(scaled * 2.0**-exponent, result, rtol=1e-6, atol=0)

    @both_projections
    @both_extents
    @pytest.mark.parametrize("scale", [1e-30, 1e-20, 0.3, 1e20, 1e30])
    def test_no_scale_is_too_small_or_too_large(self, scale: float, per_row: bool, projection: Projection) -> None:
        # At 1e-20 and 1e20 squares leave float32's range.
        gradients, orders = random_gradients(4, (3, 20)), ascending(5)
        weight, scores = random_gradients(0, (3, 20), 1)[0], random_gradients(0, (3, 20), 2)[0]
        for result, scaled in zip(
            *(
                integrate_weight_and_scores(
                    stack, weight, scores, orders, orders, per_row=per_row, projection=projection
                )
                for stack in (gradients, gradients * scale)
            ),
            strict=True,
        ):
            torch.testing.assert_close(scaled.double() / scale, result.double(), rtol=1e-5, atol=1e-5)

    def test_rows_and_gradients_of_very_different_size(self) -> None:
        row_sizes, gradient_sizes = torch.tensor([1e-20, 1.0, 1e15]), torch.tensor([1.0, 1e-9, 1e9])
        gradients = random_gradients(2, (3, 20)) * row_sizes[:, None] * gradient_sizes[:, None, None]
        result = integrate(gradients, ascending(3), per_row=True)
        expected = integrate_reference(gradients, ascending(3), per_row=True)
        for row in range(3):
            size = float(expected[row].abs().max())
            torch.testing.assert_close(result[row].double() / size, expected[row] / size, rtol=1e-5, atol=1e-5)

    def test_a_ratio_beyond_float32_stays_finite(self) -> None:
        gradients = torch.tensor([[1e30, 0.0, 0.0], [-1e-30, 1e-30, 0.0]])
        assert integrate(gradients, ascending(2), per_row=False).isfinite().all()

    @settings(max_examples=40, deadline=None)
    @given(integer_problems(), st.randoms(use_true_random=False))
    def test_numbering_the_gradients_otherwise_changes_nothing(
        self, problem: tuple[Tensor, Tensor, bool, Projection], random: Random
    ) -> None:
        gradients, orders, per_row, projection = problem
        renumbering = torch.tensor(random.sample(range(len(gradients)), len(gradients)))
        # New gradient i is old gradient renumbering[i]: it meets the same vectors in the same order.
        renumbered_orders = renumbering.argsort()[orders[renumbering]]
        result = integrate(gradients, orders, per_row=per_row, projection=projection)
        renumbered = integrate(gradients[renumbering], renumbered_orders, per_row=per_row, projection=projection)
        torch.testing.assert_close(renumbered, result, rtol=1e-4, atol=1e-4)

    @both_projections
    def test_the_order_of_two_gradients_is_irrelevant(self, projection: Projection) -> None:
        gradients = random_gradients(1, (5, 8))
        one = integrate(gradients, torch.tensor([[0, 1], [0, 1]]), per_row=True, projection=projection)
        other = integrate(gradients, torch.tensor([[1, 0], [1, 0]]), per_row=True, projection=projection)
        swapped = integrate(gradients.flip(0), torch.tensor([[0, 1], [0, 1]]), per_row=True, projection=projection)
        assert torch.equal(one, other)
        torch.testing.assert_close(swapped, one)

    @settings(max_examples=40, deadline=None)
    @given(integer_problems(), st.randoms(use_true_random=False))
    def test_permuting_and_mirroring_the_axes_commutes(
        self, problem: tuple[Tensor, Tensor, bool, Projection], random: Random
    ) -> None:
        gradients, orders, per_row, projection = problem
        length = gradients.shape[2]
        axes = torch.tensor(random.sample(range(length), length))
        signs = torch.tensor([random.choice([-1.0, 1.0]) for _ in range(length)])
        result = integrate(gradients, orders, per_row=per_row, projection=projection)
        turned = integrate(gradients[:, :, axes] * signs, orders, per_row=per_row, projection=projection)
        torch.testing.assert_close(turned, result[:, axes] * signs, rtol=1e-4, atol=1e-4)

    @both_projections
    @pytest.mark.parametrize("alpha", [0.0, 0.5, 3.0])
    def test_without_conflicts_the_result_is_the_plain_sum(self, alpha: float, projection: Projection) -> None:
        gradients = random_gradients(3, (4, 6)).abs()
        result = integrate(gradients, ascending(4), per_row=True, alpha=alpha, projection=projection)
        torch.testing.assert_close(result, gradients.sum(0))

    @both_projections
    def test_equal_gradients_give_the_plain_sum(self, projection: Projection) -> None:
        gradients = random_gradients(0, (4, 6)).expand(3, 4, 6)
        result = integrate(gradients, ascending(3), per_row=False, projection=projection)
        torch.testing.assert_close(result, 3 * gradients[0])

    @both_projections
    @both_extents
    def test_all_zero_gradients_give_exactly_zero(self, per_row: bool, projection: Projection) -> None:
        zeros = torch.zeros(3, 4, 5)
        for eps in (0.0, 1e-8):
            assert torch.equal(
                integrate(zeros, ascending(3), per_row=per_row, projection=projection, eps=eps), zeros[0]
            )

    @both_extents
    def test_opposite_gradients_cancel(self, per_row: bool) -> None:
        gradient = random_gradients(0, (4, 500))
        result = integrate(torch.cat([gradient, -gradient]), ascending(2), per_row=per_row)
        assert result.abs().max() < 1e-5

    @both_projections
    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_a_non_finite_gradient_is_not_hidden(self, bad: float, projection: Projection) -> None:
        gradients = random_gradients(2, (4, 6))
        gradients[1, 2, 3] = bad
        assert not integrate(gradients, ascending(3), per_row=True, projection=projection).isfinite().all()


class TestWeightAndScores:
    def test_weight_and_scores_by_hand(self) -> None:
        gradients = torch.tensor([[[1.0, 0.0, 5.0]], [[-1.0, 1.0, 5.0]]])
        weight, scores = torch.tensor([[2.0, -2.0, 7.0]]), torch.tensor([[-0.1, 0.3, 0.0]])
        weight_gradient, score_gradient = integrate_weight_and_scores(
            gradients, weight, scores, ascending(2), ascending(2), per_row=True
        )
        # The weight's gradients agree (dot -1 + 25): their sum. The scores' are g * (-2, -2, 0) = -2 (1, 0, 0) and
        # -2 (-1, 1, 0): -2 times the two conflicting vectors of the worked example, whose result is (1/2, 3/2).
        assert weight_gradient.tolist() == [pytest.approx([0.0, 1.0, 10.0])]
        assert score_gradient.tolist() == [pytest.approx([-1.0, -3.0, 0.0])]

    def test_each_follows_its_own_orders(self) -> None:
        gradients = random_gradients(4, (8, 3))
        weight = torch.ones(8, 3)
        one, other = torch.arange(5).expand(5, 5), torch.arange(5).flip(0).expand(5, 5)
        weight_gradient, score_gradient = integrate_weight_and_scores(
            gradients, weight, weight, one, other, per_row=True
        )
        torch.testing.assert_close(weight_gradient, integrate(gradients, one, per_row=True))
        torch.testing.assert_close(score_gradient, integrate(gradients, other, per_row=True))
        assert not torch.allclose(weight_gradient, score_gradient)

    def test_the_result_needs_no_graph_and_leaves_its_input_alone(self) -> None:
        gradients, orders = random_gradients(2, (4, 6)), ascending(3)
        weight = torch.nn.Parameter(torch.ones(4, 6))
        before = gradients.clone()
        for result in integrate_weight_and_scores(gradients, weight, weight, orders, orders, per_row=True):
            assert not result.requires_grad
            assert result.shape == weight.shape
            assert result.is_contiguous()
        assert torch.equal(gradients, before)

    def test_scores_of_another_shape_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"scores.*\(4, 1\).*\(4, 6\)"):
            integrate_weight_and_scores(
                random_gradients(2, (4, 6)),
                torch.ones(4, 6),
                torch.ones(4, 1),
                ascending(3),
                ascending(3),
                per_row=True,
            )


class RecordOperations(TorchDispatchMode):
    """Notes the name of every operation that reaches the dispatcher."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(
        self, func: OpOverload, types: object, args: tuple[object, ...] = (), kwargs: dict[str, object] | None = None
    ) -> object:
        self.names.add(func.overloadpacket._qualified_op_name)
        return func(*args, **(kwargs or {}))


class TestExecution:
    @both_projections
    def test_nothing_waits_for_the_device(self, projection: Projection) -> None:
        gradients, orders = random_gradients(3, (4, 6)), ascending(4)
        weight = torch.ones(4, 6)
        with RecordOperations() as recorded:
            integrate_weight_and_scores(gradients, weight, weight, orders, orders, per_row=True, projection=projection)
        # What `.item()`, boolean indexing and comparisons that end in a Python bool come down to.
        waiting = {f"aten::{name}" for name in ("_local_scalar_dense", "item", "nonzero", "masked_select", "equal")}
        assert "aten::bmm" in recorded.names
        assert not recorded.names & waiting

    def test_the_same_seed_gives_the_same_bits(self) -> None:
        gradients = random_gradients(4, (16, 3, 3, 3))
        results = [
            integrate(gradients, projection_orders(5, per_row=True, generator=generator(7)), per_row=True)
            for _ in range(2)
        ]
        assert torch.equal(*results)
        others = [
            integrate(gradients, projection_orders(5, per_row=True, generator=generator(seed)), per_row=True)
            for seed in range(5)
        ]
        assert any(not torch.equal(results[0], other) for other in others)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": -1.0}, "alpha is -1.0"),
        ({"eps": float("nan")}, "eps is nan"),
        ({"projection": "first"}, "projection.*'first'.*last.*sequential"),
        ({"orders": torch.zeros(2, 2, dtype=torch.int64)}, r"orders.*\(2, 2\).*\(3, 3\)"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        integrate(random_gradients(2, (4, 6)), **{"orders": ascending(3), "per_row": True, **arguments})
