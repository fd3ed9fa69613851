"""How many weights adaptive pruning (SAP) keeps at least, and how many it prunes next, given their PQ Index.

SAP keeps at least `r = d (1 + eta)^(-q / (q - p)) (1 - I)^(q p / (q - p))` of `d` weights with the index `I`. If `k`
of them are equal and the others zero, and `eta` is 0, then `r` is `k`.

Source: Diao et al., arXiv 2302.05601, the bound and the algorithm.
"""

import math
from numbers import Real

import torch
from torch import Tensor

from ..pruning.pq_index import DEFAULT_P, DEFAULT_Q, LARGEST_INDEX, check_exponents

ROUNDING = 1e-6
"""Rounding may leave a count this far below a whole number: 0.29 * 100 is below 29."""


def sap_keep_bound(index: float, d: int, p: float = DEFAULT_P, q: float = DEFAULT_Q, eta: float = 0.0) -> float:
    """The smallest number of weights that SAP keeps, `r`.

    Args:
        index: PQ Index of the weights, in [0, 1).
        d: How many weights there are now.
        p: See `pq_index`.
        q: See `pq_index`.
        eta: How large the pruned weights may be together, as a share of the kept ones, both summed as p-th powers; at
            least 0.

    Returns:
        The bound, in [0, d]; rarely a whole number.

    Raises:
        TypeError: If an argument isn't a number, or `d` isn't a whole number.
        ValueError: If an argument is out of range.

    Example:
        >>> sap_keep_bound(0.75, 4)  # 4 * 0.25^(0.5 / 0.5)
        1.0
    """
    p, q = check_exponents(p, q)
    _check_number("index", index, 0.0, LARGEST_INDEX, "in [0, 1), from `pq_index`")
    _check_number("eta", eta, 0.0, math.inf, "at least 0 and finite")
    if isinstance(d, bool) or not isinstance(d, int):
        raise TypeError(f"d must be a whole number of weights; got {d!r} ({type(d).__name__}).")
    _check_number("d", d, 0, math.inf, "at least 0, the number of weights")
    factor, power = _factor_and_power(p, q, eta)
    return float(d * factor * (1.0 - index) ** power)


@torch.no_grad()
def sap_prune_counts(
    indices: Tensor,
    counts: Tensor,
    p: float = DEFAULT_P,
    q: float = DEFAULT_Q,
    *,
    eta: float = 0.0,
    gamma: float = 1.0,
    beta: float = 0.9,
) -> Tensor:
    """How many weights SAP prunes in each scope, the smallest first: `floor(d clamp(gamma (1 - r / d), 0, beta))`.

    Args:
        indices: PQ Index of each scope, float64, from `pq_index`; any shape.
        counts: How many weights each scope has now, `d`, int64, of the same shape.
        p: See `pq_index`.
        q: See `pq_index`.
        eta: See `sap_keep_bound`, which gives `r`.
        gamma: Factor of the share to prune, at least 0.
        beta: Largest share to prune at once, in [0, 1].

    Returns:
        Int64, of the same shape, each from 0 to its count.

    Raises:
        TypeError: If an argument isn't a number.
        ValueError: If an argument is out of range, or the shapes differ.

    Example:
        >>> sap_prune_counts(torch.tensor([0.75, 0.99]), torch.tensor([40, 40])).tolist()  # 40 - 10; at most 0.9 * 40
        [30, 36]
    """
    p, q = check_exponents(p, q)
    check_sap_factors(eta, gamma, beta)
    if indices.shape != counts.shape:
        raise ValueError(f"counts must have the shape of indices, {tuple(indices.shape)}; got {tuple(counts.shape)}.")
    if not ((indices >= 0) & (indices < 1)).all() or (counts < 0).any():
        raise ValueError(f"indices must be in [0, 1) and counts at least 0; got {indices} and {counts}.")
    factor, power = _factor_and_power(p, q, eta)
    shares = (gamma * (1.0 - factor * (1.0 - indices.double()) ** power)).clamp(0.0, beta)
    return torch.minimum((counts * shares + ROUNDING).floor().long(), counts)


def check_sap_factors(eta: float, gamma: float, beta: float) -> None:
    """Make sure that `sap_prune_counts` can use these factors.

    Raises:
        TypeError: If one isn't a number.
        ValueError: If one is out of range.
    """
    _check_number("eta", eta, 0.0, math.inf, "at least 0 and finite")
    _check_number("gamma", gamma, 0.0, math.inf, "at least 0 and finite")
    _check_number("beta", beta, 0.0, 1.0, "in [0, 1]")


def _factor_and_power(p: float, q: float, eta: float) -> tuple[float, float]:
    """The numbers for which `r / d` is `factor * (1 - I) ** power`."""
    return float((1.0 + eta) ** (-q / (q - p))), q * p / (q - p)


def _check_number(name: str, value: float, least: float, largest: float, allowed: str) -> None:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, {allowed}; got {value!r} ({type(value).__name__}).")
    if not least <= value <= largest or math.isinf(value):
        raise ValueError(f"{name} must be {allowed}; got {value!r}.")
