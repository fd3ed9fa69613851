"""Where the units of groups lie in tensors, as `bands.index.json` says it: written, and read from a damaged file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..pruning.channels import Axis
from .tensor_file import damaged

DEFAULTS = {"dim": 0, "inner": 1, "outer": 1, "scaled": 0}
"""The members of an axis, and what they are if they are left out. `scaled` says how many of the `outer` repetitions,
from the first, grow by `sqrt(kept / num_units)`."""


def axis_members(axes: Mapping[str, Axis]) -> dict[str, dict[str, int]]:
    """The axes of a tensor by group, without members that have their default."""
    every = {
        group: {"dim": axis.dim, "inner": axis.inner, "outer": axis.outer, "scaled": axis.masked * axis.scaled}
        for group, axis in axes.items()
    }
    return {
        group: {name: value for name, value in members.items() if value != DEFAULTS[name]}
        for group, members in every.items()
    }


def parse_units(members: Mapping[str, Any]) -> dict[str, int]:
    """How many units each group has."""
    wrong = [name for name, count in members.items() if type(count) is not int or not 1 <= count < 2**31]
    if wrong:
        raise damaged(f"units has {str(members[wrong[0]])[:80]} for {wrong[0]!r}; it must be an integer >= 1")
    return dict(members)


def parse_axes(name: str, shape: Sequence[int], value: Any, units: Mapping[str, int]) -> dict[str, Axis]:
    """The axes of the tensor `name` by group.

    Raises:
        CheckpointFormatError: If they aren't axes of this shape.
    """
    if not isinstance(value, dict) or not value.keys() <= units.keys() or not all(map(_is_axis, value.values())):
        raise damaged(f"tensor {name!r} has axes {str(value)[:80]}; they must be those of groups of units")
    axes = {}
    for group, members in value.items():
        dim, inner, outer, scaled = (members.get(key, default) for key, default in DEFAULTS.items())
        axis = Axis(name, dim, outer, inner, masked=scaled, scaled=scaled > 0)
        if min(inner, outer) < 1 or not (0 <= dim < len(shape) and 0 <= scaled <= outer):
            raise damaged(f"tensor {name!r} has an axis {members}, which can't be one of shape {list(shape)}")
        if outer * units[group] * inner != shape[dim]:
            raise damaged(f"tensor {name!r} has an axis {members} of {units[group]} units in shape {list(shape)}")
        axes[group] = axis
    if len({axis.dim for axis in axes.values()}) != len(axes):
        raise damaged(f"tensor {name!r} has axes {str(value)[:80]}; each must have a dimension of its own")
    return axes


def _is_axis(members: Any) -> bool:
    known = isinstance(members, dict) and members.keys() <= DEFAULTS.keys()
    return known and all(type(number) is int for number in members.values())
