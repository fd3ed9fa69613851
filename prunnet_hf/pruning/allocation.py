"""How a capacity is shared among the layers of a network.

The kept weights of a network are those of all its prunable layers. `"uniform"` keeps the same share of each layer, as
training does. The other two keep as many in total, but the layers compete for them: every weight of every layer has a
priority, which falls with its rank by score within its layer, and the weights with the highest priorities are kept. As
one order decides at all capacities, every larger capacity keeps what a smaller one keeps.

- `"pq_index"`: of a layer's `d` weights with the PQ Index `I`, the bound of adaptive pruning (SAP) needs the share
  `1 - I`. The more equal the weights that a layer keeps, the more of them it needs: shares are in proportion to
  `1 - I(k)`, the index of the `k` weights kept, until a layer is full. Rank `k` has the priority
  `(1 - I(k)) d / (k - 1/2)`, or that of the rank before it if that is smaller. (With one `I` a layer, this is
  Webster's method of giving seats to parties, in which no party loses a seat because there is one more to give.)
- `"global"`: one threshold over `|S| / RMS(S)`, with the root mean square of the layer's scores. Raw scores of
  different layers are not comparable.

Source: arXiv 2302.05601 for the index and the bound; the allocation is our own.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from .layers import PrunableLayer, naming_layer, prunable_layers
from .masking import kept_count, masks_of_counts, smallest_of_largest
from .pq_index import prefix_indices
from .subnetworks import check_scores, find_masks, scored_units

UNIFORM = "uniform"


def check_allocation(allocation: str) -> str:
    """Return `allocation` after checking that it is one of `ALLOCATIONS`.

    Raises:
        ValueError: If it isn't.
    """
    if allocation not in ALLOCATIONS:
        raise ValueError(f"allocation must be one of {', '.join(map(repr, ALLOCATIONS))}; got {allocation!r}.")
    return allocation


@torch.no_grad()
def allocated_masks(network: nn.Module, capacity: float, allocation: str = UNIFORM) -> dict[str, Tensor]:
    """The mask of every prunable layer at a capacity of the whole network, by the layer's name.

    Args:
        network: Has prunable layers.
        capacity: Kept share of all prunable weights, in (0, 1].
        allocation: How they are shared among the layers, one of `ALLOCATIONS`.

    Returns:
        Boolean tensors of the weights' shapes. Every allocation keeps the same number in total and at least one in
        each layer, and the masks of a smaller capacity are contained in those of a larger one.

    Raises:
        ValueError: If a score or (for `"pq_index"`) a weight isn't finite; the message names the layer.
    """
    check_scores(network)
    if allocation == UNIFORM:
        return find_masks(network, [capacity])[0]
    layers = prunable_layers(network)
    if scored_units(network):
        raise ValueError(
            f"allocation must be {UNIFORM!r} for a model of granularity 'channel', whose units aren't shared out "
            f"among layers; got {allocation!r}. Leave it out."
        )
    counts = allocated_counts(layers, capacity, allocation)
    return {name: masks_of_counts(layer.scores, [counts[name]])[0] for name, layer in layers.items()}


@torch.no_grad()
def allocated_counts(
    layers: Mapping[str, PrunableLayer], capacity: float, allocation: str = UNIFORM
) -> dict[str, int]:
    """How many weights each layer keeps at a capacity of all of them; see `allocated_masks`."""
    uniform = {name: kept_count(capacity, layer.weight.numel()) for name, layer in layers.items()}
    if allocation == UNIFORM or not layers:
        return uniform
    priorities = []
    for name, layer in layers.items():
        with naming_layer(name):
            priorities.append(_PRIORITIES[allocation](layer))
    return dict(zip(layers, share_out(priorities, sum(uniform.values())), strict=True))


def share_out(priorities: Sequence[Tensor], total: int) -> list[int]:
    """How many of the `total` highest priorities each layer has. The highest of each layer always counts.

    Args:
        priorities: For each layer those of its weights, `(n,)` in any order, not NaN.
        total: How many weights to keep, from the number of layers to the number of weights.

    Returns:
        A number for each layer, at least 1. They add up to `total`, and none falls when `total` rises. Among equal
        priorities an earlier layer comes first.

    Example:
        >>> share_out([torch.tensor([9.0, 8.0, 7.0]), torch.tensor([2.0, 1.0])], 3)
        [2, 1]
    """
    first = [values.argmax() for values in priorities]
    values = [v.index_fill(0, place, torch.inf) for v, place in zip(priorities, first, strict=True)]
    (threshold,) = smallest_of_largest(torch.cat(values), [total])
    counts = [int((v > threshold).count_nonzero()) for v in values]
    left = total - sum(counts)
    for index, v in enumerate(values):
        taken = min(left, int((v == threshold).count_nonzero()))
        counts[index] += taken
        left -= taken
    return counts


def _bound_priorities(layer: PrunableLayer) -> Tensor:
    order = layer.scores.detach().cpu().abs().flatten().sort(descending=True, stable=True).indices
    indices = prefix_indices(layer.weight.detach().cpu().flatten()[order])
    ranks = torch.arange(1, len(order) + 1, dtype=torch.float64)
    return ((1.0 - indices) * len(order) / (ranks - 0.5)).cummin(0).values.float()


def _score_priorities(layer: PrunableLayer) -> Tensor:
    magnitudes = layer.scores.detach().cpu().float().abs().flatten()
    largest = magnitudes.max()
    relative = magnitudes / largest.where(largest > 0, 1.0)  # so that squares neither over- nor underflow
    return relative / relative.square().mean(dtype=torch.float64).sqrt().float().where(largest > 0, 1.0)


# Computed on the CPU, so that every device makes the same choice: sums on a GPU can differ from call to call.
_PRIORITIES = {"pq_index": _bound_priorities, "global": _score_priorities}
ALLOCATIONS = (UNIFORM, *_PRIORITIES)
