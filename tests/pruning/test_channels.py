"""Units: where they lie, how many a capacity keeps, which ones, and the gradients of their scores."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call

from prunnet_hf import PrunNetModel
from prunnet_hf.pruning.channels import (
    Axis,
    StraightThroughUnits,
    UnitGroup,
    UnitScores,
    add_units,
    check_unit_scores,
    drop_units,
    find_unit_masks,
    init_unit_scores,
    masked_consumers,
)
from prunnet_hf.pruning.masking import kept_count
from tests.tiny_models import config_of_units, images, tiny_of_units

CAPACITY = st.floats(min_value=0.0, max_value=1.0, exclude_min=True)


def group_of(num_units: int, inner: int = 1, outer: int = 1) -> UnitGroup:
    """Units between the first and the last of two linear layers, `0` and `1`."""
    axes = (Axis("0.weight", 0, outer, inner), Axis("1.weight", 1, outer, inner, masked=outer))
    return UnitGroup("0", num_units, axes, {})


class TestCounts:
    @pytest.mark.parametrize(
        ("capacity", "num_units", "kept"),
        [
            (0.2, 127, 26),  # 127 - round(0.8 * 126) = 127 - 101: a small group isn't rounded
            (0.2, 128, 24),  # 128 - round(0.8 * 127) = 128 - 102 = 26 = 3.25 * 8
            (0.01, 128, 8),  # 128 - round(0.99 * 127) = 2 = 0.25 * 8, and at least 8
            (0.99, 132, 128),  # 132 - round(0.01 * 131) = 131 = 16.375 * 8
            (0.99, 135, 135),  # 135 - round(0.01 * 134) = 134 = 16.75 * 8, which is 136, and there are 135
            (1.0, 130, 130),
            (1.0, 1, 1),
            (1e-9, 1, 1),
        ],
    )
    def test_by_hand(self, capacity: float, num_units: int, kept: int) -> None:
        assert group_of(num_units).kept(capacity) == kept

    @given(capacity=CAPACITY, num_units=st.integers(128, 5000))
    def test_large_groups_keep_the_nearest_multiple_of_8(self, capacity: float, num_units: int) -> None:
        kept, exact = group_of(num_units).kept(capacity), kept_count(capacity, num_units)
        assert kept % 8 == 0 or kept == num_units
        assert kept >= 8
        assert abs(kept - exact) <= (4 if exact >= 4 else 8 - exact)

    @given(capacity=CAPACITY, num_units=st.integers(1, 5000), shape=st.sampled_from([(2, 1), (1, 2), (3, 4)]))
    def test_units_of_several_channels_are_never_rounded(self, capacity, num_units: int, shape) -> None:
        inner, outer = shape
        assert group_of(num_units, inner, outer).kept(capacity) == kept_count(capacity, num_units)

    @given(smaller=CAPACITY, larger=CAPACITY, num_units=st.integers(1, 5000))
    def test_a_larger_capacity_keeps_as_many_or_more(self, smaller: float, larger: float, num_units: int) -> None:
        smaller, larger = sorted((smaller, larger))
        group = group_of(num_units)
        assert 1 <= group.kept(smaller) <= group.kept(larger) <= group.kept(1.0) == num_units


class TestMasks:
    @staticmethod
    def network(scores: Tensor) -> tuple[nn.Sequential, dict[str, UnitGroup]]:
        network = nn.Sequential(nn.Linear(2, len(scores)), nn.Linear(len(scores), 3))
        groups = {"0": group_of(len(scores))}
        add_units(network, groups)
        with torch.no_grad():
            network[0].units.scores.copy_(scores)
        return network, groups

    def test_the_largest_magnitudes_are_kept_and_ties_go_to_the_first(self) -> None:
        network, groups = self.network(torch.tensor([0.5, -0.7, 0.7, 0.1, 0.7]))
        small, middle, whole = find_unit_masks(network, groups, [0.3, 0.5, 1.0])  # 5 - round(2.8), 5 - round(2)
        assert small["0"].tolist() == [False, True, True, False, False]
        assert middle["0"].tolist() == [False, True, True, False, True]
        assert whole["0"].tolist() == [True] * 5
        assert find_unit_masks(network, groups, []) == []

    @given(values=st.lists(st.integers(-3, 3), min_size=1, max_size=200), smaller=CAPACITY, larger=CAPACITY)
    def test_they_are_exact_and_nested(self, values: list[int], smaller: float, larger: float) -> None:
        smaller, larger = sorted((smaller, larger))
        network, groups = self.network(torch.tensor(values, dtype=torch.float32))
        small, large = (masks["0"] for masks in find_unit_masks(network, groups, [smaller, larger]))
        ranked = sorted(range(len(values)), key=lambda unit: (-abs(values[unit]), unit))
        for mask, capacity in ((small, smaller), (large, larger)):
            assert set(mask.nonzero().flatten().tolist()) == set(ranked[: groups["0"].kept(capacity)])
        assert not (small & ~large).any()


class TestAxis:
    def test_places_by_hand(self) -> None:
        # Three units, two places each, repeated twice: 0 0 1 1 2 2 | 0 0 1 1 2 2.
        axis = Axis("weight", 0, outer=2, inner=2)
        assert axis.places(torch.tensor([0, 2]), 3).tolist() == [0, 1, 4, 5, 6, 7, 10, 11]
        assert axis.places(torch.tensor([1]), 3).tolist() == [2, 3, 8, 9]

    def test_only_the_masked_repetitions_become_zero(self) -> None:
        weight = torch.ones(12, 2)
        factor = Axis("weight", 0, outer=2, inner=2, masked=1).factor(torch.tensor([True, False, True]), weight)
        assert factor.shape == (12, 1)
        assert factor.flatten().tolist() == [1, 1, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1]

    @given(outer=st.integers(1, 3), num_units=st.integers(1, 5), inner=st.integers(1, 3), data=st.data())
    def test_sums_are_those_of_the_masked_places_of_each_unit(self, outer, num_units, inner, data) -> None:
        masked = data.draw(st.integers(0, outer))
        values = torch.arange(4.0 * outer * num_units * inner).view(2, -1, 2)
        sums = Axis("weight", 1, outer, inner, masked).unit_sums(values, num_units)
        for unit, found in enumerate(sums.tolist()):
            places = Axis("weight", 1, masked, inner).places(torch.tensor([unit]), num_units)
            assert found == values[:, places].sum()

    def test_sums_of_a_bias(self) -> None:
        assert Axis("bias", 0, outer=2, masked=1).unit_sums(torch.tensor([1.0, 2.0, 4.0, 8.0]), 2).tolist() == [1, 2]

    @pytest.mark.parametrize(
        ("dtype", "wide"), [(torch.bfloat16, torch.float32), (torch.float32,) * 2, (torch.float64,) * 2]
    )
    def test_sums_are_exact_in_their_type(self, dtype: torch.dtype, wide: torch.dtype) -> None:
        values = torch.full((257, 1), 1.0, dtype=dtype)  # bfloat16 can't count to 257
        values[0] += torch.finfo(wide).eps * 512 if dtype == wide else 0
        (total,) = Axis("weight", 1, masked=1).unit_sums(values, 1)
        assert total.dtype == wide
        assert total == 257.0 + (torch.finfo(wide).eps * 512 if dtype == wide else 0)


class TestGradients:
    def test_by_hand(self) -> None:
        weight = torch.tensor([[2.0, -3.0, 5.0], [7.0, 11.0, 13.0]], requires_grad=True)  # three units: the columns
        scores = torch.tensor([-0.5, 0.25, 0.75], requires_grad=True)
        mask = torch.tensor([True, False, True])
        effective = StraightThroughUnits.apply(weight, scores, mask, Axis("weight", 1, masked=1))
        assert effective.tolist() == [[2.0, 0.0, 5.0], [7.0, 0.0, 13.0]]
        effective.backward(torch.tensor([[1.0, 10.0, 100.0], [1000.0, 1.0, 1.0]]))  # G
        assert weight.grad.tolist() == [[1.0, 0.0, 100.0], [1000.0, 0.0, 1.0]]  # m * G
        # m * sign(s) * sum of G * W: -(1 * 2 + 1000 * 7), left out, 100 * 5 + 1 * 13
        assert scores.grad.tolist() == [-7002.0, 0.0, 513.0]

    def test_several_consumers_add_up(self) -> None:
        network = nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 1, bias=False))
        other = Axis("0.weight", 0, masked=1)  # as if the units' producer also had places to set to zero
        groups = {"0": UnitGroup("0", 2, (other, Axis("1.weight", 1, masked=1)), {})}
        add_units(network, groups)
        with torch.no_grad():
            network[0].weight.copy_(torch.tensor([[3.0], [5.0]]))
            network[0].bias.zero_()
            network[1].weight.copy_(torch.tensor([[7.0, 11.0]]))
            network[0].units.scores.copy_(torch.tensor([1.0, -1.0]))
        tensors = masked_consumers(network, groups, {"0": torch.tensor([True, True])})
        functional_call(network, tensors, (torch.tensor([[2.0]]),)).backward()
        # The output is 2 * (3 * 7 + 5 * 11). Each unit has its part from both of its weights: 2 * 21 twice, 2 * 55.
        assert network[0].units.scores.grad.tolist() == [84.0, -220.0]

    def test_frozen_scores_get_none(self) -> None:
        weight, scores = torch.ones(1, 2, requires_grad=True), torch.ones(2)
        axis = Axis("weight", 1, masked=1)
        StraightThroughUnits.apply(weight, scores, torch.tensor([True, False]), axis).sum().backward()
        assert weight.grad.tolist() == [[1.0, 0.0]]
        assert scores.grad is None

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
    def test_types(self, dtype: torch.dtype) -> None:
        weight, scores = torch.ones(1, 2, dtype=dtype, requires_grad=True), torch.ones(2, requires_grad=True)
        masked = StraightThroughUnits.apply(weight, scores, torch.tensor([True, False]), Axis("weight", 1, masked=1))
        masked.sum().backward()
        assert masked.dtype == weight.grad.dtype == dtype
        assert scores.grad.dtype == torch.float32


class TestScores:
    def test_they_begin_at_random_near_each_other(self) -> None:
        torch.manual_seed(0)
        units = UnitScores(10_000)
        init_unit_scores(units)
        assert 0.5 <= units.scores.min() < 0.501
        assert 0.999 < units.scores.max() <= 1.0

    @pytest.mark.parametrize(
        "cast", [lambda m: m.to(torch.bfloat16), lambda m: m.half(), lambda m: m.bfloat16().float()]
    )
    def test_casts_leave_them_and_so_the_choice_alone(self, cast) -> None:
        model = tiny_of_units()
        before = {name: scores.clone() for name, scores in model.named_parameters() if name.endswith(".scores")}
        cast(model)
        assert len(before) == 4
        for name, scores in before.items():
            assert model.get_parameter(name).dtype == torch.float32
            assert torch.equal(model.get_parameter(name), scores)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
    def test_in_a_network_made_in_another_type(self, dtype: torch.dtype) -> None:
        model = PrunNetModel._from_config(config_of_units("basic block"), dtype=dtype)
        wide = torch.promote_types(dtype, torch.float32)
        assert {p.dtype for name, p in model.named_parameters() if name.endswith(".scores")} == {wide}
        assert model.backbone.layer1[0].conv1.weight.dtype == dtype
        with torch.no_grad():
            assert model.eval()(images().to(dtype), capacity=0.35).pooler_output.dtype == dtype

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_those_that_are_not_numbers_are_refused_by_name(self, bad: float) -> None:
        model = tiny_of_units()
        with torch.no_grad():
            model.prunnet.backbone.layer2[0].conv1.units.scores[1] = bad
        uses = (
            lambda: model.prune(0.5),
            lambda: model(images(), capacity=0.5),
            lambda: model.calibrate([images()]),
        )
        for use in uses:
            with pytest.raises(ValueError, match=r"layer2\.0\.conv1\.units\.scores.*finite.*1 of 4.*earlier"):
                use()

    def test_added_and_removed(self) -> None:
        network, groups = TestMasks.network(torch.ones(3))
        check_unit_scores(network, groups)
        assert list(dict(network[0].named_parameters())) == ["weight", "bias", "units.scores"]
        drop_units(network, groups)
        assert list(dict(network[0].named_parameters())) == ["weight", "bias"]
