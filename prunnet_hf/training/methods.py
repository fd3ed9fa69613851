"""The objective of each training method."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from ..modeling_prunnet import PrunNetForImageClassification
from ..runs.arguments import TrainArguments
from ..runs.methods import find_method
from .kept_weights import KeptObjective
from .mergers import Integration, create_merger
from .objectives import ConflictAwareObjective, Objective, SumObjective

PAPER_EPS = 1e-8
"""The `eps` of the paper's released code, which switches off the projection of very small gradients."""

OBJECTIVES: dict[str, Callable[[PrunNetForImageClassification, TrainArguments], Objective]] = {
    "prunnet": lambda model, options: ConflictAwareObjective(
        model, create_merger(options), scale_dense_gradients=options.scale_dense_gradients
    ),
    "paper": lambda model, options: ConflictAwareObjective(
        model,
        Integration(alpha=options.alpha, projection=options.projection, eps=PAPER_EPS),
        scale_dense_gradients=options.scale_dense_gradients,
    ),
    "joint": lambda model, options: SumObjective(model),
    "independent": lambda model, options: SumObjective(model),
}
"""The objective of each method in `METHODS`, made from the network in training and the arguments of the run."""


def create_objective(
    model: PrunNetForImageClassification, options: TrainArguments, *, kept: Mapping[str, Tensor] | None = None
) -> Objective:
    """The objective of the method that `options` name.

    Args:
        model: The network in training.
        options: The method, and what its objective needs to know.
        kept: See `KeptObjective`; only for a method that trains one network alone.

    Raises:
        ValueError: If `kept` is given with a method that trains subnetworks.
    """
    if kept is None:
        return OBJECTIVES[options.method](model, options)
    if find_method(options.method).has_subnetworks:
        raise ValueError(f"method must be 'independent' if kept says which weights to train; got {options.method!r}.")
    return KeptObjective(model, kept)
