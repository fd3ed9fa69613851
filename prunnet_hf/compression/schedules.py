"""How much each round prunes: SAP's adaptive share, the lottery ticket's fixed share, or everything at once.

Sources: SAP, arXiv 2302.05601; iterative pruning by a fixed share, the lottery ticket hypothesis, arXiv 1803.03635.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

import torch
from torch import Tensor

from ..pruning.masking import kept_count
from ..pruning.pq_index import pq_index
from .sap_arguments import SapArguments
from .sap_bound import sap_prune_counts
from .scopes import KeepCounts, Masks, keep_largest


def keep_counts(sap: SapArguments, number: int) -> KeepCounts:
    """How many weights each scope keeps in a round.

    Args:
        sap: The schedule and its numbers.
        number: Number of the round, from 1; decides the kept share of a one-shot cut.

    Returns:
        A function for `keep_largest`.
    """

    def by_index(weights: Tensor, kept: Tensor) -> Tensor:
        counts = kept.sum(1)
        indices = pq_index(weights, sap.p, sap.q, kept)
        return counts - sap_prune_counts(indices, counts, sap.p, sap.q, eta=sap.eta, gamma=sap.gamma, beta=sap.beta)

    def by_share(weights: Tensor, kept: Tensor) -> Tensor:
        share = Fraction(str(sap.prune_share))  # exactly what is written: 0.29 * 100 is below 29
        return torch.tensor([count - int(count * share) for count in kept.sum(1).tolist()], device=weights.device)

    def at_once(weights: Tensor, kept: Tensor) -> Tensor:
        count = kept_count(sap.kept_shares[-number], weights.shape[1])
        return torch.full((len(weights),), count, device=weights.device)

    return {"sap": by_index, "lottery_ticket": by_share, "one_shot": at_once}[sap.schedule]


def masks_of_round(weights: Mapping[str, Tensor], sap: SapArguments, number: int) -> Masks:
    """Which of the trained weights a round keeps.

    Args:
        weights: The trained prunable weights, by name; those that are zero are pruned already.
        sap: The schedule, its numbers and its scope.
        number: Number of the round, from 1.

    Raises:
        ValueError: If a weight isn't finite; the message names the layer.
    """
    check_finite(weights)
    return keep_largest(weights, sap.scope, keep_counts(sap, number))


def check_finite(weights: Mapping[str, Tensor]) -> None:
    """Make sure that weights can be ranked.

    Raises:
        ValueError: If one isn't finite; the message names the layer.
    """
    for name, weight in weights.items():
        bad = int((~torch.isfinite(weight)).sum())
        if bad:
            raise ValueError(
                f"layer {name.removesuffix('.weight')!r} must have finite weights; {bad} of {weight.numel()} are NaN "
                "or infinite, because training diverged. Lower --learning_rate."
            )


def check_no_layer_is_zero(weights: Mapping[str, Tensor]) -> None:
    """Make sure that each layer of a network that was trained with all its weights has weights other than zero.

    Zero marks a weight as pruned, so a layer of zeros would count as pruned completely and would stay so.

    Raises:
        ValueError: If all weights of a layer are zero; the message names the layers.
    """
    found = [name.removesuffix(".weight") for name, weight in weights.items() if not weight.any()]
    if found:
        raise ValueError(
            f"trained layers must have weights other than zero, because zero marks pruned weights; these have none: "
            f"{', '.join(found)}. Training doesn't change them: choose a network without them (--backbone, "
            "--backbone_kwargs, --model_name_or_path)."
        )
