"""Networks that really lack units: with smaller tensors, and modules that know their new sizes.

For one pass, `thin_tensors` are stand-ins for the network's own tensors, to be called inside `thin_modules`. For good,
`cut_units` changes the network itself. Both give exactly the network whose consumers are masked (`channels`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .channels import Axis, UnitGroup

IN_FORWARD = ("groups", "head_dim", "attn_dim")
"""The attributes, among those that count units, that the forward of a module reads."""


def thin_tensors(
    tensors: Mapping[str, Tensor], groups: Mapping[str, UnitGroup], kept: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The tensors that become smaller, without the units that aren't `kept`; differentiable.

    Args:
        tensors: The network's tensors by name, at least all parameters. Names that are missing are left out.
        groups: The groups of units.
        kept: For each group the units to keep, `(k,)`, ascending.
    """
    thin: dict[str, Tensor] = {}
    for name, group in groups.items():
        for axis in group.axes:
            if axis.tensor in tensors:
                before = thin.get(axis.tensor, tensors[axis.tensor])
                thin[axis.tensor] = _without_others(before, axis, kept[name], group.num_units)
    return thin


def _without_others(tensor: Tensor, axis: Axis, kept: Tensor, num_units: int) -> Tensor:
    thin = tensor.index_select(axis.dim, axis.places(kept, num_units))
    return rescaled(thin, axis, len(kept), num_units)


def rescaled(thin: Tensor, axis: Axis, count: int, num_units: int) -> Tensor:
    """A tensor that has `count` of `num_units` units along `axis`, with the factor that makes up for the others."""
    if not axis.scaled or count == num_units:
        return thin
    # Attention divides by the square root of the dimensions it has; here it must be of those it had.
    factor = torch.ones(axis.outer, count * axis.inner, dtype=thin.dtype, device=thin.device)
    factor[: axis.masked] = math.sqrt(count / num_units)
    return thin * axis.along(factor, thin)


@contextmanager
def thin_modules(network: nn.Module, groups: Mapping[str, UnitGroup], counts: Mapping[str, int]) -> Iterator[None]:
    """Let modules compute with this number of units of each group while the block runs."""
    before = [
        (module, attribute, getattr(module, attribute))
        for group in groups.values()
        for module, attribute, _ in _settings(network, group, group.num_units, IN_FORWARD)
    ]
    try:
        for name, group in groups.items():
            for module, attribute, value in _settings(network, group, counts[name], IN_FORWARD):
                setattr(module, attribute, value)
        yield
    finally:
        for module, attribute, value in before:
            setattr(module, attribute, value)


def _settings(
    network: nn.Module, group: UnitGroup, count: int, only: tuple[str, ...] | None = None
) -> Iterator[tuple[nn.Module, str, Any]]:
    """The attributes of modules, and what they are with `count` units."""
    for (name, attribute), per_unit in group.sizes.items():
        if only is None or attribute in only:
            yield network.get_submodule(name), attribute, per_unit * count
    if group.scale is not None:
        yield network.get_submodule(group.scale), "scale", count**-0.5


@torch.no_grad()
def cut_units(network: nn.Module, groups: Mapping[str, UnitGroup], kept: Mapping[str, Tensor]) -> None:
    """Leave out, for good and in place, the units that aren't `kept`.

    Args:
        network: On any device; on the meta device only shapes change.
        groups: The groups of units.
        kept: For each group the units to keep, `(k,)`, ascending.
    """
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    for name, thin in thin_tensors(tensors, groups, kept).items():
        owner, _, key = name.rpartition(".")
        module, own = network.get_submodule(owner), tensors[name]
        if isinstance(own, nn.Parameter):
            setattr(module, key, nn.Parameter(thin, requires_grad=own.requires_grad))
        else:
            setattr(module, key, thin)
    for name, group in groups.items():
        for module, attribute, value in _settings(network, group, len(kept[name])):
            setattr(module, attribute, value)
