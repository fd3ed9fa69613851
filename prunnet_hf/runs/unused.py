"""Arguments that nothing would use are refused: one that is taken without a word seems to have worked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from .methods import Derived, find_method


@dataclass(frozen=True)
class Use:
    """What uses an argument.

    Attributes:
        text: What the argument is only for, as an error says it.
        applies: Whether a run is such, by its model and its training arguments.
    """

    text: str
    applies: Callable[[Any, Any], bool]


def _integrates(model: Any, train: Any) -> bool:
    return train.method == "paper" or (train.method == "prunnet" and train.merger in (None, "integration"))


def _draws(model: Any, train: Any) -> bool:
    return find_method(train.method).has_subnetworks and train.capacity_sampling == "sandwich"


_INTEGRATION = Use("--method prunnet with --merger integration, and --method paper", _integrates)
_MERGING = Use("--method prunnet and paper", lambda model, train: train.method in ("prunnet", "paper"))
_TEACHER = Use(
    "--method distilled with a first phase (--dense_epochs above 0) and without --into and --teacher",
    lambda model, train: train.method == "distilled" and train.dense_epochs != 0 and not train.trains_into,
)
_SANDWICH = Use("--capacity_sampling sandwich", _draws)
_MARGIN = Use(
    "--classifier cosface and arcface, with --into and --teacher only for --into_loss classifier",
    lambda model, train: model.classifier != "softmax" and train.needs_labels,
)

OF_TRAINING = {
    "alpha": _INTEGRATION,
    "projection": _INTEGRATION,
    "scale_dense_gradients": _MERGING,
    "distillation_weight": _TEACHER,
    "distillation_temperature": _TEACHER,
    "capacity_draws": _SANDWICH,
    "shrink_share": _SANDWICH,
}
OF_MODEL = {"logit_scale": _MARGIN, "margin": _MARGIN}


def refuse_unused(model: Any, train: Any) -> None:
    """Make sure that no argument has another value than its default if nothing uses it.

    The recipe of a finished run states all arguments; those with their defaults do no harm.

    Args:
        model: The arguments of the network, filled in.
        train: Those of the training, filled in.

    Raises:
        ValueError: If there is one.
    """
    for arguments, uses in ((train, OF_TRAINING), (model, OF_MODEL)):
        for name, use in uses.items():
            value = getattr(arguments, name)
            if value not in _defaults(arguments, name, train.method) and not use.applies(model, train):
                raise ValueError(
                    f"{name} is only for {use.text}; got {value!r}, which nothing would use here (--method "
                    f"{train.method}). Leave --{name} out."
                )


def _defaults(arguments: Any, name: str, method: str) -> list[Any]:
    """The plain default of an argument and that of the method; none that is computed from others."""
    plain = next(entry.default for entry in fields(arguments) if entry.name == name)
    own = find_method(method).defaults.get(name)
    return [plain, *([] if isinstance(own, Derived) else [own])]
