"""How the gradients of a step's passes become one: with coefficients that are computed from their dot products.

Bring your own in one class, and name it by `--merger PACKAGE.MODULE:CLASS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib import import_module
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from ..runs.arguments import TrainArguments
from ..runs.methods import MERGERS as NAMES
from ..runs.methods import Projection
from .gradients import integration_coefficients, projection_orders

Sees = Literal["tensor", "network", "nothing"]


class Merger(ABC):
    """Says how much each of the gradients `g_0..g_N` counts; that of the dense network comes first.

    Attributes:
        sees: What `gram` holds. `"tensor"`: the dot products within one tensor, so that each tensor (of a convolution
            each output channel) is merged by itself. `"network"`: those over all that the passes train together,
            which is then merged with the same coefficients. `"nothing"`: zeros, for coefficients that don't depend on
            gradients; this spares the dot products.
    """

    sees: ClassVar[Sees] = "tensor"

    @abstractmethod
    def coefficients(self, gram: Tensor, *, per_row: bool, generator: torch.Generator) -> Tensor:
        """The coefficients of `g_0..g_N` in the merged gradient.

        With N+1 times a mean of the gradients, one learning rate suits every number of passes.

        Args:
            gram: `(rows, N+1, N+1)` float64: the dot products of the gradients.
            per_row: Whether the rows are the output channels of one convolution. If not, there is one row.
            generator: Source of random numbers, on the CPU, in the same state on all processes.

        Returns:
            `(rows, N+1)`, on the device of `gram`.
        """

    def checked_coefficients(self, gram: Tensor, *, per_row: bool, generator: torch.Generator) -> Tensor:
        """As `coefficients`.

        Raises:
            ValueError: If they have another shape than they must have.
        """
        found = self.coefficients(gram, per_row=per_row, generator=generator)
        if found.shape != gram.shape[:2]:
            raise ValueError(
                f"{type(self).__name__}.coefficients must give one number for each row and gradient, "
                f"{tuple(gram.shape[:2])} for a gram matrix of {tuple(gram.shape)}; got {tuple(found.shape)}."
            )
        return found


class Integration(Merger):
    """Conflict-aware gradient integration (PrunNet, arXiv 2504.11879); see `gradients.integration_coefficients`.

    Args:
        alpha: See there.
        projection: See there.
        eps: See there.
    """

    def __init__(self, *, alpha: float = 0.5, projection: Projection = "last", eps: float = 0.0) -> None:
        self.alpha, self.projection, self.eps = alpha, projection, eps

    def coefficients(self, gram: Tensor, *, per_row: bool, generator: torch.Generator) -> Tensor:
        """See `Merger`."""
        orders = projection_orders(gram.shape[1], per_row=per_row, generator=generator)
        return integration_coefficients(gram, orders, alpha=self.alpha, projection=self.projection, eps=self.eps)


class Sum(Merger):
    """The plain sum, which needs no dot products."""

    sees = "nothing"

    def coefficients(self, gram: Tensor, *, per_row: bool, generator: torch.Generator) -> Tensor:
        """See `Merger`."""
        return torch.ones_like(gram[..., 0])


MERGERS: dict[str, Callable[[TrainArguments], Merger]] = {
    "integration": lambda options: Integration(alpha=options.alpha, projection=options.projection),
    "sum": lambda options: Sum(),
}
"""What `--merger` knows by name, made from the arguments of the run."""


def create_merger(options: TrainArguments) -> Merger:
    """The merger that `options` name.

    Raises:
        ValueError: If there is none of this name, or the class isn't a `Merger` that is made without arguments.
    """
    chosen = options.merger or NAMES[0]
    if chosen in MERGERS:
        return MERGERS[chosen](options)
    module, _, name = chosen.partition(":")
    try:
        merger = getattr(import_module(module), name)()
    except Exception as error:  # importing runs the user's module, which may raise anything
        raise ValueError(
            f"merger must be one of {', '.join(MERGERS)}, or PACKAGE.MODULE:CLASS of a class that Python can import "
            f"and that is made without arguments; got {chosen!r} ({type(error).__name__}: {error})."
        ) from error
    if not isinstance(merger, Merger):
        raise ValueError(
            f"merger must name a class derived from prunnet_hf.training.mergers.Merger; got {chosen!r}, which "
            f"makes a {type(merger).__name__}."
        )
    if merger.sees not in get_args(Sees):
        raise ValueError(
            f"merger {chosen!r} must have one of {', '.join(map(repr, get_args(Sees)))} as `sees`; it has "
            f"{merger.sees!r}."
        )
    return merger
