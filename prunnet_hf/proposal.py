"""The smallest capacity that SAP's bound supports, and why: what `model.prune(capacity="auto")` cuts to.

Of a layer's `d` weights with the PQ Index `I`, SAP keeps at least `r`. As a capacity is one share for all layers, the
proposal is the share that all their bounds add up to. It is read off the dense weights; nothing is measured.

The bound is meant for leaving out the smallest magnitudes and training again. PrunNet leaves out the lowest scores and
doesn't train again, but has trained its subnetworks already. And it sees no more than the shape of the weights'
distribution: random normal weights get 0.848, and the trained networks of README's eight runs 0.845 to 0.847.

Source: Diao et al., arXiv 2302.05601, the bound on how many weights to keep.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .layers import naming_layer
from .masking import check_capacity
from .masking import format_capacity
from .pq_index import DEFAULT_P
from .pq_index import DEFAULT_Q
from .pq_index import check_exponents
from .pq_index import normal_index
from .pq_index import pq_index
from .sap_bound import sap_keep_bound

Auto = Literal["auto"]
"""Instead of a capacity: take the proposed one."""
STEPS = 1000
"""A proposal is a whole number of thousandths, rounded up."""


@dataclass(frozen=True)
class LayerBound:
    """What one layer contributes to a proposal.

    Attributes:
        layer: Its name.
        num_weights: How many weights it has.
        index: PQ Index of its weights, in [0, 1).
        keep_bound: How many of them SAP's bound keeps at least, in [0, num_weights].
    """

    layer: str
    num_weights: int
    index: float
    keep_bound: float


@dataclass(frozen=True)
class CapacityProposal:
    """A capacity and the numbers it follows from; `str()` says them in a sentence.

    Attributes:
        capacity: The smallest that the bounds support in total, in (0, 1], in thousandths.
        layers: The bound of each layer, from the first to the last.
        p: Exponent of the index' lower norm.
        q: Exponent of its upper norm.
        eta: What the bound allows to be left out.
    """

    capacity: float
    layers: tuple[LayerBound, ...]
    p: float
    q: float
    eta: float

    def __str__(self) -> str:
        """The proposal in numbers, for logs."""
        weights = sum(row.num_weights for row in self.layers)
        bound = math.ceil(sum(row.keep_bound for row in self.layers))
        low, high = (choose(self.layers, key=lambda row: row.index) for choose in (min, max))
        return (
            f"capacity {format_capacity(self.capacity)}: SAP's bound keeps at least {bound:,} of {weights:,} prunable "
            f"weights (p={self.p:g}, q={self.q:g}, eta={self.eta:g}), as the PQ Index of their layers is from "
            f"{low.index:.3f} ({low.layer}) to {high.index:.3f} ({high.layer}); weights drawn from a normal "
            f"distribution have {normal_index(self.p, self.q):.3f}"
        )


def check_capacity_or_auto(capacity: float | Auto) -> float | Auto:
    """Return a capacity as a float, or `"auto"`, after checking that it is one of them.

    Raises:
        TypeError: If it is neither a number nor `"auto"`.
        ValueError: If it is a number outside (0, 1].
    """
    if isinstance(capacity, str):
        if capacity != "auto":
            raise TypeError(f"capacity must be a number in (0, 1], or 'auto'; got {capacity!r}.")
        return capacity
    return check_capacity(capacity)


def propose_capacity(
    weights: Mapping[str, Tensor], *, p: float = DEFAULT_P, q: float = DEFAULT_Q, eta: float = 0.0
) -> CapacityProposal:
    """Propose the smallest capacity that SAP's bound supports.

    Args:
        weights: Dense weights of each layer by its name, any shape, finite.
        p: As for `pq_index`.
        q: As for `pq_index`.
        eta: As for `sap_keep_bound`; the larger, the smaller the proposal.

    Raises:
        TypeError: If an argument is no number, or a weight no tensor of a floating type.
        ValueError: If there is no layer, a weight isn't finite, or an argument is out of range.
    """
    if not weights:
        raise ValueError("weights must be those of at least one prunable layer; there is none.")
    check_exponents(p, q)  # here, as an error of a layer would name that layer
    rows = tuple(_layer_bound(name, tensor, p, q, eta) for name, tensor in weights.items())
    share = sum(row.keep_bound for row in rows) / sum(row.num_weights for row in rows)
    capacity = min(max(1, math.ceil(STEPS * share - 1e-9)), STEPS) / STEPS
    return CapacityProposal(capacity, rows, p, q, eta)


@torch.no_grad()
def _layer_bound(name: str, weights: Tensor, p: float, q: float, eta: float) -> LayerBound:
    with naming_layer(name):
        index = float(pq_index(weights.flatten(), p, q))
    return LayerBound(name, weights.numel(), index, sap_keep_bound(index, weights.numel(), p, q, eta))
