"""The PQ Index: how unequal weights are.

The index of `d` weights is `1 - d^(1/q - 1/p) ||w||_p / ||w||_q` with `0 < p <= 1 <= q` and `p < q`. It is 0 if all
magnitudes are equal, and near 1 if a few weights hold nearly everything. It is computed as one minus a ratio of power
means of magnitudes relative to the largest, so that no power that matters over- or underflows.

Source: Diao et al., arXiv 2302.05601. See `compression.sap_bound` for what adaptive pruning concludes from the index.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor

from .masking import check_capacities, check_finite, kept_masks

DEFAULT_P = 0.5
DEFAULT_Q = 1.0
LARGEST_INDEX = math.nextafter(1.0, 0.0)
"""Stands for values that would round to 1."""


@torch.no_grad()
def pq_index(weights: Tensor, p: float = DEFAULT_P, q: float = DEFAULT_Q, kept: Tensor | None = None) -> Tensor:
    """The PQ Index of each row of weights.

    Args:
        weights: `(rows, d)`, or `(d,)` for a single scope; finite, of any floating type and size.
        p: Exponent of the lower norm, in (0, 1], less than `q`.
        q: Exponent of the upper norm, at least 1.
        kept: Which weights count: a boolean tensor of the shape of `weights`, or None for all of them. Rows may keep
            different numbers of weights.

    Returns:
        Float64, `(rows,)`, or `()` for a single scope. Each is in [0, 1): a value that would round to 1 becomes the
        float64 before it. It is 0 if nothing is kept or everything kept is zero.

    Raises:
        TypeError: If `weights` isn't a tensor of a floating type, `kept` isn't a boolean tensor, or an exponent isn't
            a number.
        ValueError: If a weight isn't finite, an exponent is out of range, or a shape is wrong.

    Example:
        >>> pq_index(torch.tensor([[1.0, 0.0, 0.0, 0.0], [2.0, 2.0, -2.0, 2.0]])).tolist()  # 1 - 4^(1 - 2) * 1, 0
        [0.75, 0.0]
    """
    p, q = check_exponents(p, q)
    _check_weights(weights)
    if weights.ndim not in (1, 2):
        raise ValueError(
            f"weights must have the shape (rows, d) or (d,); got {tuple(weights.shape)}. Use weights.flatten() for "
            "one index of a layer, weights.flatten(1) for one a neuron."
        )
    magnitudes = weights.double().abs()
    counts = torch.full(weights.shape[:-1], weights.shape[-1], dtype=torch.float64, device=weights.device)
    if kept is not None:
        _check_kept(kept, weights)
        magnitudes = magnitudes * kept
        counts = kept.sum(-1, dtype=torch.float64)
    if weights.shape[-1] == 0:
        return torch.zeros_like(counts)
    relative = magnitudes / _at_least_something(magnitudes.amax(-1, keepdim=True))
    return _index(counts, relative.pow(p).sum(-1), relative.pow(q).sum(-1), p, q)


@torch.no_grad()
def prefix_indices(weights: Tensor, p: float = DEFAULT_P, q: float = DEFAULT_Q) -> Tensor:
    """The PQ Index of the first weight, the first two weights, and so on to all of them.

    Args:
        weights: `(d,)`, finite, of any floating type. Magnitudes so far below the largest that the q-th power of the
            ratio underflows in float64 (with `q` 1: below 1e-308) count as zero.
        p: See `pq_index`.
        q: See `pq_index`.

    Returns:
        Float64, `(d,)`, each in [0, 1).

    Raises:
        TypeError: See `pq_index`.
        ValueError: See `pq_index`.

    Example:
        >>> prefix_indices(torch.tensor([2.0, 2.0, 0.0, 0.0])).tolist()  # equal; then 1 - 2/3 and 1 - 2/4
        [0.0, 0.0, 0.33333333333333326, 0.5]
    """
    p, q = check_exponents(p, q)
    _check_weights(weights)
    if weights.ndim != 1:
        raise ValueError(f"weights must have the shape (d,); got {tuple(weights.shape)}. Use weights.flatten().")
    if not len(weights):
        return torch.zeros(0, dtype=torch.float64, device=weights.device)
    magnitudes = weights.double().abs()
    relative = magnitudes / _at_least_something(magnitudes.max())
    counts = torch.arange(1, len(weights) + 1, dtype=torch.float64, device=weights.device)
    return _index(counts, relative.pow(p).cumsum(0), relative.pow(q).cumsum(0), p, q)


def normal_index(p: float, q: float) -> float:
    """The PQ Index that many weights drawn from a normal distribution around 0 have, whatever their scale.

    Args:
        p: See `pq_index`.
        q: See `pq_index`.

    Example:
        >>> round(normal_index(0.5, 1.0), 3)
        0.153
    """
    return 1.0 - _normal_power_mean(p) / _normal_power_mean(q)


@dataclass(frozen=True)
class KeptPowers:
    """The sums that give the indices of one scope at several capacities; scopes can be joined without their weights.

    Attributes:
        counts: How many weights each capacity keeps, `(capacities,)`, float64.
        p_sums: For each capacity the sum of `(magnitude / scale)^p` over the weights it keeps, `(capacities,)`.
        q_sums: The same with `q`.
        scale: The largest magnitude of the scope, kept or not. Magnitudes so far below it that the q-th power of the
            ratio underflows in float64 (with `q` 1: below 1e-308) count as zero.
        p: Exponent of the lower norm.
        q: Exponent of the upper norm.
    """

    counts: Tensor
    p_sums: Tensor
    q_sums: Tensor
    scale: float
    p: float
    q: float

    def indices(self) -> Tensor:
        """The PQ Index of the kept weights at each capacity, `(capacities,)`, float64, each in [0, 1)."""
        return _index(self.counts, self.p_sums, self.q_sums, self.p, self.q)


@torch.no_grad()
def kept_powers(
    weights: Tensor, scores: Tensor, capacities: Sequence[float], p: float = DEFAULT_P, q: float = DEFAULT_Q
) -> KeptPowers:
    """Read one layer at several capacities at once: each weight's powers are computed and added up once.

    Args:
        weights: Weights of a layer, any shape, finite.
        scores: Their scores, of the same shape, finite; they decide which weights a capacity keeps.
        capacities: Kept shares, each in (0, 1], ascending.
        p: See `pq_index`.
        q: See `pq_index`.

    Raises:
        TypeError: See `pq_index`; also if a capacity isn't a number.
        ValueError: See `pq_index`; also if scores aren't finite or have another shape, or capacities aren't
            ascending.
    """
    p, q = check_exponents(p, q)
    _check_weights(weights)
    _check_weights(scores, "scores")
    if scores.shape != weights.shape:
        raise ValueError(f"scores must have the shape of weights, {tuple(weights.shape)}; got {tuple(scores.shape)}.")
    if check_capacities(capacities) != list(capacities):
        raise ValueError(f"capacities must be ascending, without repetition; got {capacities!r}.")
    # Masks are nested, so the number of capacities that keep a weight tells which of them do.
    times_kept = torch.zeros(weights.shape, dtype=torch.int16, device=weights.device)
    for mask in kept_masks(scores, capacities):
        times_kept += mask
    return _powers(weights, times_kept, len(capacities), p, q)


@torch.no_grad()
def powers_of_pruned(weights: Tensor, count: int, p: float = DEFAULT_P, q: float = DEFAULT_Q) -> KeptPowers:
    """Read a layer that is pruned already. The weights it lost are zeros, which add nothing.

    Args:
        weights: Weights of a layer, any shape, finite.
        count: How many of them were kept, including zeros.
        p: See `pq_index`.
        q: See `pq_index`.

    Returns:
        The sums for one capacity.

    Raises:
        TypeError: See `pq_index`.
        ValueError: See `pq_index`; also if `count` is less than the number of weights that aren't zero.
    """
    p, q = check_exponents(p, q)
    _check_weights(weights)
    nonzero = int(weights.count_nonzero())
    if not nonzero <= count <= weights.numel():
        raise ValueError(
            f"count must be from {nonzero}, the weights that aren't zero, to {weights.numel()}, all; got {count}."
        )
    everything = torch.ones(weights.shape, dtype=torch.int16, device=weights.device)
    powers = _powers(weights, everything, 1, p, q)
    return KeptPowers(torch.full_like(powers.counts, count), powers.p_sums, powers.q_sums, powers.scale, p, q)


def join(scopes: Sequence[KeptPowers]) -> KeptPowers:
    """Join several scopes into one, for example the layers of a network.

    Args:
        scopes: At least one, all with the same capacities and exponents.

    Raises:
        ValueError: If there is none, or they differ in number of capacities or in exponents.
    """
    if len({(len(scope.counts), scope.p, scope.q) for scope in scopes}) != 1:
        raise ValueError("scopes must hold at least one scope, all of the same capacities and exponents.")
    p, q = scopes[0].p, scopes[0].q
    largest = max(scope.scale for scope in scopes)
    shares = [scope.scale / (largest or 1.0) for scope in scopes]
    counts = torch.stack([scope.counts.cpu() for scope in scopes]).sum(0)
    p_sums = torch.stack([scope.p_sums.cpu() * share**p for scope, share in zip(scopes, shares, strict=True)]).sum(0)
    q_sums = torch.stack([scope.q_sums.cpu() * share**q for scope, share in zip(scopes, shares, strict=True)]).sum(0)
    return KeptPowers(counts, p_sums, q_sums, largest, p, q)


def check_exponents(p: float, q: float) -> tuple[float, float]:
    """Return `p` and `q` as floats after checking that they make a PQ Index.

    Raises:
        TypeError: If one of them is not a real number.
        ValueError: Unless `0 < p <= 1 <= q`, `p < q` and `q` is finite.
    """
    for name, value in (("p", p), ("q", q)):
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(f"{name} must be a number; got {value!r} ({type(value).__name__}).")
    if not (0.0 < p <= 1.0 <= q < math.inf and p < q):
        raise ValueError(
            f"p and q must satisfy 0 < p <= 1 <= q and p < q, and be finite, such as p=0.5 and q=1; got p={p!r} and "
            f"q={q!r}."
        )
    return float(p), float(q)


def _normal_power_mean(power: float) -> float:
    """`(E |w|^power)^(1 / power)` of a standard normal `w`."""
    moment = 2.0 ** (power / 2.0) * math.gamma((power + 1.0) / 2.0) / math.sqrt(math.pi)
    return float(moment ** (1.0 / power))


def _powers(weights: Tensor, times_kept: Tensor, num_capacities: int, p: float, q: float) -> KeptPowers:
    magnitudes = weights.double().abs().flatten()
    scale = float(magnitudes.max()) if magnitudes.numel() else 0.0
    relative = magnitudes / (scale or 1.0)
    bands = times_kept.flatten()

    def add_up(values: Tensor | None) -> Tensor:
        sums = torch.bincount(bands, values, minlength=num_capacities + 1).double()
        return sums.flip(0)[:num_capacities].cumsum(0)  # from what all capacities keep to what only the largest keeps

    return KeptPowers(add_up(None), add_up(relative.pow(p)), add_up(relative.pow(q)), scale, p, q)


def _index(counts: Tensor, p_sums: Tensor, q_sums: Tensor, p: float, q: float) -> Tensor:
    empty = (counts == 0) | (p_sums == 0) | (q_sums == 0)
    counts, p_sums, q_sums = (values.where(~empty, 1.0) for values in (counts, p_sums, q_sums))
    log_ratio_of_means = (p_sums / counts).log() / p - (q_sums / counts).log() / q
    return 0.0 - log_ratio_of_means.where(~empty, 0.0).expm1().clamp(-LARGEST_INDEX, 0.0)


def _at_least_something(largest: Tensor) -> Tensor:
    return largest.where(largest > 0, 1.0)


def _check_weights(weights: Tensor, name: str = "weights") -> None:
    if not isinstance(weights, Tensor) or not weights.is_floating_point():
        kind = weights.dtype if isinstance(weights, Tensor) else type(weights).__name__
        raise TypeError(f"{name} must be a tensor of a floating type; got {kind}.")
    check_finite(name, weights)


def _check_kept(kept: Tensor, weights: Tensor) -> None:
    if not isinstance(kept, Tensor) or kept.dtype != torch.bool:
        kind = kept.dtype if isinstance(kept, Tensor) else type(kept).__name__
        raise TypeError(f"kept must be a boolean tensor; got {kind}.")
    if kept.shape != weights.shape:
        raise ValueError(f"kept must have the shape of weights, {tuple(weights.shape)}; got {tuple(kept.shape)}.")
