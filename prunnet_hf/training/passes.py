"""The passes of a training step over subnetworks: masked, or really thin where whole units are left out.

Both compute the same, gradients included. Scores don't change within a step, so what each capacity keeps is found once
for all passes and batches of a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Protocol

from torch import Tensor, nn

from ..pruning.calibration import scratch_statistics
from ..pruning.channels import UnitGroup, find_kept_units
from ..pruning.subnetworks import find_masks, masked_weights, refuse_recomputing, scored_units
from ..pruning.thinning import thin_modules, thin_tensors


class SubnetworkPasses(Protocol):
    """The passes of one step."""

    def at(self, capacity: float) -> AbstractContextManager[dict[str, Tensor]]:
        """Give the tensors that stand in for the network's own, by name, in a forward within the context.

        Among them are statistics to update instead of the dense network's.
        """


def subnetwork_passes(network: nn.Module, *, is_compiled: bool) -> Callable[[Sequence[float]], SubnetworkPasses]:
    """What makes the passes of a step from its capacities, each below 1: thin ones if the network has units.

    Args:
        network: Has scores.
        is_compiled: Whether its forward is compiled. Thin passes would be compiled again for each new capacity.

    Raises:
        ValueError: If gradients would be wrong because the backbone's gradient checkpointing is on.
    """
    refuse_recomputing(network)
    groups = {} if is_compiled else scored_units(network)
    return partial(ThinPasses, network, groups) if groups else partial(MaskedPasses, network)


class MaskedPasses:
    """Passes with zeros in place of what a capacity leaves out.

    Args:
        network: Has scores.
        capacities: Those of the step.
    """

    def __init__(self, network: nn.Module, capacities: Sequence[float]) -> None:
        self.network = network
        self.masks = dict(zip(capacities, find_masks(network, capacities), strict=True))

    @contextmanager
    def at(self, capacity: float) -> Iterator[dict[str, Tensor]]:
        """See `SubnetworkPasses`."""
        yield {**masked_weights(self.network, self.masks[capacity]), **scratch_statistics(self.network)}


class ThinPasses:
    """Passes without the units that a capacity leaves out, which cost less the smaller it is.

    Args:
        network: Has scores of units.
        groups: Its groups of units.
        capacities: Those of the step.
    """

    def __init__(self, network: nn.Module, groups: Mapping[str, UnitGroup], capacities: Sequence[float]) -> None:
        self.network, self.groups = network, groups
        self.kept = dict(zip(capacities, find_kept_units(network, groups, capacities), strict=True))

    @contextmanager
    def at(self, capacity: float) -> Iterator[dict[str, Tensor]]:
        """See `SubnetworkPasses`."""
        kept, scratch = self.kept[capacity], scratch_statistics(self.network)
        thin = thin_tensors({**dict(self.network.named_parameters()), **scratch}, self.groups, kept)
        with thin_modules(self.network, self.groups, {name: len(units) for name, units in kept.items()}):
            yield {**scratch, **thin}
