"""Which weights a capacity keeps, and how gradients pass the choice.

A capacity `c` in (0, 1] keeps, in every layer, the weights with the largest score magnitudes. The number kept depends
on the layer's size alone, and ties go to the lower flat index, so counts are exact and masks are nested: what a
smaller capacity keeps, every larger one keeps too.

Source: PrunNet, arXiv 2504.11879, section 3 (masks by score magnitude, straight-through estimator).
"""

from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor


def check_capacity(capacity: float, name: str = "capacity") -> float:
    """Return `capacity` as a float after checking that it is a share of weights one can keep.

    Args:
        capacity: The kept share of prunable weights, in (0, 1].
        name: The name of the argument in the error message.

    Raises:
        TypeError: If `capacity` is not a real number.
        ValueError: If it is outside (0, 1] or NaN.
    """
    if isinstance(capacity, bool) or not isinstance(capacity, Real):
        raise TypeError(
            f"{name} must be a number in (0, 1], the share of prunable weights to keep; got {capacity!r} "
            f"({type(capacity).__name__})."
        )
    if not 0.0 < float(capacity) <= 1.0:
        raise ValueError(
            f"{name} must be in (0, 1], the share of prunable weights to keep (0.2 keeps one fifth); got {capacity!r}."
        )
    return float(capacity)


def check_capacities(capacities: Sequence[float], name: str = "capacities") -> list[float]:
    """Return `capacities` in ascending order without repetition, each checked by `check_capacity`."""
    if isinstance(capacities, str) or not isinstance(capacities, Sequence):
        raise TypeError(f"{name} must be a list of numbers in (0, 1], such as [0.2, 0.4]; got {capacities!r}.")
    return sorted({check_capacity(capacity, name) for capacity in capacities})


def format_capacity(capacity: float) -> str:
    """Write a capacity for names and messages: as many digits as it needs to be read back exactly, at least two.

    Example:
        >>> format_capacity(0.2), format_capacity(0.204), format_capacity(1)
        ('0.20', '0.204', '1.00')
    """
    return np.format_float_positional(capacity, min_digits=2)


def kept_count(capacity: float, num_weights: int) -> int:
    """Number of weights that `capacity` keeps in a layer of `num_weights`: `n - round((1 - c)(n - 1))`.

    At least one weight is always kept. `round` is Python's, in float64, on every platform.

    Example:
        >>> kept_count(0.2, 11), kept_count(1.0, 11), kept_count(1e-9, 11)
        (3, 11, 1)
    """
    return num_weights - round((1.0 - capacity) * (num_weights - 1))


def kept_masks(scores: Tensor, capacities: Sequence[float]) -> list[Tensor]:
    """Masks of the kept weights of one layer at several capacities, found together.

    Args:
        scores: Scores of a layer, any shape, finite. Only their magnitudes matter.
        capacities: Kept shares, each in (0, 1].

    Returns:
        One boolean tensor of the shape of `scores` for each capacity, with exactly `kept_count(c, scores.numel())`
        true.
    """
    return masks_of_counts(scores, [kept_count(capacity, scores.numel()) for capacity in capacities])


def masks_of_counts(scores: Tensor, counts: Sequence[int]) -> list[Tensor]:
    """Masks of the weights of one layer with the largest score magnitudes, for several numbers of weights.

    Args:
        scores: Scores of a layer, any shape, finite.
        counts: How many to keep, each from 1 to `scores.numel()`.

    Returns:
        One boolean tensor of the shape of `scores` for each count, with exactly that many true. The mask of a smaller
        count is contained in that of a larger one.
    """
    magnitudes = scores.detach().abs()
    thresholds = smallest_of_largest(_in_any_order(magnitudes), counts)
    return [
        _mask_of_largest(magnitudes, threshold, count) for threshold, count in zip(thresholds, counts, strict=True)
    ]


def check_finite(name: str, values: Tensor) -> None:
    """Raise a ValueError unless all `values`, weights or scores, are finite.

    Args:
        name: What they are called in the error message.
        values: Any shape, of a floating-point type.
    """
    finite = torch.isfinite(values)
    if not finite.all():
        raise ValueError(
            f"{name} must be finite; {int((~finite).sum())} of {values.numel()} are NaN or infinite. The training run "
            "that produced them diverged: go back to an earlier checkpoint."
        )


def smallest_of_largest(values: Tensor, counts: Sequence[int]) -> list[Tensor]:
    """For each count `k` in `counts` the smallest of the `k` largest values of `(n,)`, as a tensor `()`."""
    if values.device.type != "cpu" or torch.compiler.is_compiling():  # which can't trace NumPy's selection
        ascending = values.sort().values
        return [ascending[len(values) - count] for count in counts]
    # NumPy selects with vector instructions, an order of magnitude faster than torch (benchmarks/selection.py), but
    # one rank at a time. The larger a count, the fewer values are left to look among.
    # NumPy doesn't know bfloat16; float32 holds each of its values exactly.
    known = values.float() if values.dtype == torch.bfloat16 else values
    left, found = known.numpy().copy(), {}
    for count in sorted(set(counts)):
        first = len(values) - count
        left.partition(first)
        found[count] = torch.tensor(left[first]).to(values.dtype)
        left = left[:first]
    return [found[count] for count in counts]


def _in_any_order(tensor: Tensor) -> Tensor:
    """View a tensor of any layout (such as channels_last) as `(n,)`, in its order in memory."""
    order = sorted(range(tensor.ndim), key=lambda dimension: -tensor.stride()[dimension])
    return tensor.permute(order).reshape(-1)


def _mask_of_largest(values: Tensor, threshold: Tensor, count: int) -> Tensor:
    mask = values >= threshold
    # Only on a CPU: counting would make a GPU wait for the host, and the general way is cheap there.
    if values.device.type == "cpu" and not torch.compiler.is_compiling() and int(mask.count_nonzero()) == count:
        return mask
    above = values > threshold
    tied = values == threshold
    places_among_tied = tied.flatten().cumsum(0).view(tied.shape)
    return above | (tied & (places_among_tied <= count - above.sum()))


class StraightThrough(torch.autograd.Function):
    """Effective weight `V = mask * W`, with the gradients of the straight-through estimator.

    With `G = dL/dV`: `dL/dW = mask * G`, and `dL/dS = mask * G * W * sign(S)`. The mask of the dense network is true
    everywhere.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
        """Return `weight` where `mask` is true and zero elsewhere. All three have the same shape."""
        # A product of floats is far faster than torch.where on a CPU.
        factor = mask.to(weight.dtype)
        ctx.save_for_backward(weight, scores, factor)
        return weight * factor

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        """Return the gradients of weight and scores for `grad`, the gradient of the effective weight."""
        weight, scores, factor = ctx.saved_tensors
        kept = grad * factor
        needs_scores = ctx.needs_input_grad[1]
        return kept, score_gradient(kept, weight, scores) if needs_scores else None, None


def score_gradient(weight_gradient: Tensor, weight: Tensor, scores: Tensor) -> Tensor:
    """The gradient of the scores, `mask * G * W * sign(S)`, from a masked weight gradient `mask * G`."""
    return weight_gradient * weight * scores.sign()
