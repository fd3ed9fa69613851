"""Whole units of a network, chosen by one score each: `granularity="channel"`.

A unit is an inner channel of a block, or what stands for one: the same dimension in every head of an attention, or a
whole group of a grouped convolution. It lies between a tensor that computes it, its *producer*, and one that reads it,
its *consumer*; `channel_rules` knows where. The widths of stem, residual stream and embedding stay as they are.

Leaving a unit out means to set its columns in the consumer to zero, which gives exactly the network without it. So a
subnetwork can be run in two ways: with masked consumers (`masked_consumers`), or really thin (`thinning`).

With effective consumer `V = m * W` and `G = dL/dV`, the score of unit `u` gets the straight-through gradient of
single weights (`masking`), summed over the unit: `dL/ds_u = m_u * sign(s_u) * sum(G * W)` over its columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .layers import Scored
from .masking import check_finite, kept_count, masks_of_counts

ROUNDED_FROM = 128
"""In groups of at least this many single channels, a multiple of `ROUNDED_TO` is kept, which hardware prefers."""
ROUNDED_TO = 8
FIRST_SCORES = (0.5, 1.0)
"""Scores of units start uniformly between these."""
UNITS = "units"
"""The name under which the producer of a group has its `UnitScores`."""


class Axis(NamedTuple):
    """Where the units of a group lie in one tensor: along `dim`, which has the shape `(outer, num_units, inner)`.

    Attributes:
        tensor: Name of the parameter or buffer.
        dim: The dimension along which the units lie.
        outer: How often all units are repeated, such as in each head of an attention.
        inner: How many consecutive places each unit has.
        masked: How many of the repetitions, from the first, a mask sets to zero. 0 in all but consumers.
        scaled: Whether the masked part must grow by `sqrt(kept / num_units)` in a thin network. It is the queries of
            an attention, which divides by the square root of the dimensions that a head has.
    """

    tensor: str
    dim: int
    outer: int = 1
    inner: int = 1
    masked: int = 0
    scaled: bool = False

    def places(self, kept: Tensor, num_units: int) -> Tensor:
        """The places along `dim` of the units `kept`, `(k,)`; ascending, if `kept` is."""
        first = torch.arange(self.outer, device=kept.device)[:, None, None] * num_units + kept[:, None]
        return (first * self.inner + torch.arange(self.inner, device=kept.device)).flatten()

    def factor(self, mask: Tensor, like: Tensor) -> Tensor:
        """What to multiply the tensor `like` by to leave out units whose `mask` `(num_units,)` is false."""
        factor = like.new_ones(self.outer, len(mask), self.inner)
        factor[: self.masked] = mask[:, None].to(like.dtype)
        return self.along(factor, like)

    def along(self, values: Tensor, like: Tensor) -> Tensor:
        """Values for the places along `dim`, in a shape that the tensor `like` can be multiplied by."""
        shape = [1] * like.ndim
        shape[self.dim] = -1
        return values.reshape(shape)

    def unit_sums(self, values: Tensor, num_units: int) -> Tensor:
        """The sums of `values`, of the tensor's shape, over the masked places of each unit, `(num_units,)`."""
        others = [dim for dim in range(values.ndim) if dim != self.dim]
        values = values.to(torch.promote_types(values.dtype, torch.float32))
        along = values.sum(others) if others else values
        return along.view(self.outer, num_units, self.inner)[: self.masked].sum((0, 2))


@dataclass(frozen=True)
class UnitGroup:
    """Units that one order decides about, within a block.

    Attributes:
        name: The module that produces them, which also has their scores.
        num_units: How many there are.
        axes: Where they lie in every tensor that becomes smaller without some of them.
        sizes: Attributes of modules that say how many there are: for each module and attribute the value for one unit,
            which is multiplied by the number of units.
        scale: The attention whose attribute `scale` follows from the number of units; None for other blocks.
    """

    name: str
    num_units: int
    axes: tuple[Axis, ...]
    sizes: Mapping[tuple[str, str], int]
    scale: str | None = None

    @property
    def are_single_channels(self) -> bool:
        """Whether each unit is one channel."""
        return all(axis.outer == axis.inner == 1 for axis in self.axes)

    def kept(self, capacity: float) -> int:
        """How many units a capacity in (0, 1] keeps. More for a larger one, or as many.

        It is `kept_count`, in large groups of single channels rounded to the nearest multiple of 8, at least 8.
        """
        count = kept_count(capacity, self.num_units)
        if count == self.num_units or not self.are_single_channels or self.num_units < ROUNDED_FROM:
            return count
        return min(max(round(count / ROUNDED_TO), 1) * ROUNDED_TO, self.num_units)


class UnitScores(Scored):
    """The scores of a group's units, one parameter; the units with the largest `|scores|` are kept.

    Args:
        num_units: How many units the group has.
    """

    def __init__(self, num_units: int) -> None:
        super().__init__()
        wide = torch.promote_types(torch.get_default_dtype(), torch.float32)
        self.scores = nn.Parameter(torch.empty(num_units, dtype=wide))


def add_units(network: nn.Module, groups: Mapping[str, UnitGroup]) -> None:
    """Give the units of each group scores, which aren't initialised yet."""
    for name, group in groups.items():
        network.get_submodule(name).add_module(UNITS, UnitScores(group.num_units))


@torch.no_grad()
def init_unit_scores(units: UnitScores) -> None:
    """Fill the scores of a group at random, between `FIRST_SCORES`."""
    nn.init.uniform_(units.scores, *FIRST_SCORES)


def drop_units(network: nn.Module, groups: Mapping[str, UnitGroup]) -> None:
    """Remove the scores again."""
    for name in groups:
        delattr(network.get_submodule(name), UNITS)


def unit_scores(network: nn.Module, group: UnitGroup) -> nn.Parameter:
    """The scores of a group's units, `(num_units,)`."""
    return network.get_parameter(f"{group.name}.{UNITS}.scores")


def find_unit_masks(
    network: nn.Module, groups: Mapping[str, UnitGroup], capacities: Sequence[float]
) -> list[dict[str, Tensor]]:
    """The masks `(num_units,)` of all groups at several capacities, found together; see `subnetworks.find_masks`."""
    masks: list[dict[str, Tensor]] = [{} for _ in capacities]
    for name, group in groups.items():
        counts = [group.kept(capacity) for capacity in capacities]
        found = masks_of_counts(unit_scores(network, group), counts)
        for of_capacity, mask in zip(masks, found, strict=True):
            of_capacity[name] = mask
    return masks


def find_kept_units(
    network: nn.Module, groups: Mapping[str, UnitGroup], capacities: Sequence[float]
) -> list[dict[str, Tensor]]:
    """The places `(k,)`, ascending, of the units that several capacities keep, without waiting for a device."""
    return [
        {
            # The sort is stable, so kept units come first, in their order. Their number is known without a look at
            # the mask, which `nonzero` would need.
            name: mask.byte().sort(descending=True, stable=True).indices[: groups[name].kept(capacity)]
            for name, mask in masks.items()
        }
        for capacity, masks in zip(capacities, find_unit_masks(network, groups, capacities), strict=True)
    ]


def check_unit_scores(network: nn.Module, groups: Mapping[str, UnitGroup]) -> None:
    """Raise a ValueError that names the group unless all scores are finite. Not in compiled models."""
    if torch.compiler.is_compiling():  # reading values would break the graph in two
        return
    for name, group in groups.items():
        check_finite(f"{name}.{UNITS}.scores", unit_scores(network, group))


def masked_consumers(
    network: nn.Module, groups: Mapping[str, UnitGroup], masks: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Effective consumers under `masks`, named as parameters, differentiable straight through to scores."""
    return {
        axis.tensor: StraightThroughUnits.apply(
            network.get_parameter(axis.tensor), unit_scores(network, group), masks[name], axis
        )
        for name, group in groups.items()
        for axis in group.axes
        if axis.masked
    }


class StraightThroughUnits(torch.autograd.Function):
    """Effective consumer of the units under a mask, with the gradients that the head of this file defines."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, scores: Tensor, mask: Tensor, axis: Axis) -> Tensor:
        """Return `weight` with zeros along `axis` where `mask` `(num_units,)` is false."""
        factor = axis.factor(mask, weight)
        ctx.axis = axis
        ctx.save_for_backward(weight, scores, factor)
        return weight * factor

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        """Return the gradients of weight and scores for `grad`, the gradient of the effective weight."""
        weight, scores, factor = ctx.saved_tensors
        kept = grad * factor
        needs_scores = ctx.needs_input_grad[1]
        return kept, unit_gradient(kept, weight, scores, ctx.axis) if needs_scores else None, None, None


def unit_gradient(weight_gradient: Tensor, weight: Tensor, scores: Tensor, axis: Axis) -> Tensor:
    """The part of the scores' gradient, `(num_units,)`, that comes from the masked gradient of one consumer."""
    return axis.unit_sums(weight_gradient * weight, len(scores)) * scores.sign()
