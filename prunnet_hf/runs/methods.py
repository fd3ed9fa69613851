"""The training methods, and the other choices by name that a training offers.

`METHODS` is what `--method` accepts, what `--help` and the model card say about each, and the defaults that depend on
it. `training/` obeys these choices and imports them from here; `training/methods.py` has the objective of each
method under the same name.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

CapacitySampling = Literal["fixed", "sandwich"]
Projection = Literal["last", "sequential"]
OptimizerName = Literal["sgd", "adamw"]
LearningRateSchedule = Literal["cosine", "multistep"]
MERGERS = ("integration", "sum")
"""What `--merger` accepts by name, the default first; `training/mergers.py` has them under the same names."""


@dataclass(frozen=True)
class Derived:
    """A default that follows from other arguments.

    Attributes:
        text: What `--help` says it is, such as `"learning_rate"`.
        of: Computes it from the arguments, whose plain defaults are already there.
    """

    text: str
    of: Callable[[Any], Any]


USUAL: dict[str, Any] = {
    "capacity_sampling": "sandwich",
    "learning_rate": 0.0375,
    "weight_decay": 5e-4,
    "scale_dense_gradients": True,
    "alpha": 0.5,
    "granularity": "weight",
    "classifier": "cosface",
    "score_learning_rate": Derived("5 times learning_rate", lambda given: 5 * given.learning_rate),
    "score_weight_decay": 0.0,
}
"""The defaults, by argument, of a method that has none of its own: values, or `Derived` ones."""


@dataclass(frozen=True)
class Method:
    """What there is to say about a training method.

    Attributes:
        description: One sentence, for `--help` and the model card; it names the paper if there is one.
        has_subnetworks: Whether a run trains the dense network together with subnetworks. If not, it trains one
            network at the one capacity given.
        defaults: Its defaults by argument; without an entry, the argument stays None. A flag or a recipe wins over
            them.
        has_merger: Whether `--merger` says how it merges gradients.
        needs_teacher: Whether it trains towards the network that `--teacher` names.
        has_classifier: Whether it trains a classifier.
        has_dense_phase: Whether it first trains the dense network alone, for `--dense_epochs`.
        learns_evidence: Whether `--evidence_penalty` is part of its loss.
        trains_into: What a card says of it instead if the run trains into a space that exists (`--into`, `--teacher`);
            None if it can't.
    """

    description: str
    has_subnetworks: bool = True
    defaults: Mapping[str, Any] = field(default_factory=lambda: USUAL)
    has_merger: bool = False
    needs_teacher: bool = False
    has_classifier: bool = True
    has_dense_phase: bool = False
    learns_evidence: bool = False
    trains_into: str | None = None


def _passes_of(given: Any) -> int:
    """How many passes a step has, whose gradients add up: that of the dense network, and those of subnetworks."""
    if given.capacity_sampling == "sandwich":
        return int(given.capacity_draws) + 2
    return 1 + len([capacity for capacity in given.capacities if capacity < 1])


ALONE: dict[str, Any] = {
    **USUAL,
    "learning_rate": 0.15,
    "score_learning_rate": Derived("1.25 times learning_rate", lambda given: 1.25 * given.learning_rate),
}
"""The defaults of a method with one pass a step: its rate is that of all passes together, whose gradients add up.
Scores have the rate that they have where subnetworks are trained together."""
_PAPER_DECAY = {"sgd": 5e-4, "adamw": 0.01}

METHODS = {
    "distilled": Method(
        "The dense network is trained alone first. Then a frozen copy teaches it and its subnetworks, whose losses "
        "are added up (distillation, arXiv 1503.02531).",
        defaults={
            **USUAL,
            "dense_epochs": Derived("epochs", lambda given: given.epochs),
            "dense_learning_rate": Derived(
                "for sgd learning_rate times the passes of a step, whose gradients add up; for adamw learning_rate",
                lambda given: given.learning_rate * (_passes_of(given) if given.optimizer == "sgd" else 1),
            ),
        },
        has_dense_phase=True,
        trains_into="The dense network is trained alone first, and then together with its subnetworks, whose losses "
        "are added up.",
    ),
    "prunnet": Method(
        "At every step the gradients of the dense network and of its subnetworks are merged, and projected where they "
        "conflict (PrunNet, arXiv 2504.11879).",
        has_merger=True,
        trains_into="At every step the gradients of the dense network and of its subnetworks are merged, and "
        "projected where they conflict (PrunNet, arXiv 2504.11879).",
    ),
    "paper": Method(
        "PrunNet as its paper's code has it: fixed capacities, softmax, and a start and an AdamW of its own (arXiv "
        "2504.11879).",
        defaults={
            "capacity_sampling": "fixed",
            "granularity": "weight",
            "classifier": "softmax",
            "learning_rate": 0.1,
            "weight_decay": Derived("0.0005 for sgd, 0.01 for adamw", lambda given: _PAPER_DECAY[given.optimizer]),
            "score_learning_rate": Derived("learning_rate", lambda given: given.learning_rate),
            "score_weight_decay": Derived("weight_decay", lambda given: given.weight_decay),
            "scale_dense_gradients": False,
            "alpha": 0.5,
        },
    ),
    "joint": Method(
        "The losses of the dense network and of its subnetworks are added up, for comparison with PrunNet.",
        trains_into="The losses of the dense network and of its subnetworks are added up.",
    ),
    "sfsc": Method(
        "SFSC's loss, our aggregation: each pass learns evidence for classes, and its uncertainty weighs its "
        "projected gradient, for comparison with PrunNet (arXiv 2206.08289).",
        defaults={**USUAL, "classifier": "softmax"},
        learns_evidence=True,
    ),
    "independent": Method(
        "One network is trained alone, at the one capacity given, for comparison with PrunNet.",
        has_subnetworks=False,
        defaults=ALONE,
        trains_into="One network is trained alone, at the one capacity given.",
    ),
    "bct": Method(
        "One network of one capacity is trained with an added cross entropy through the classifier of a frozen "
        "teacher, for comparison with PrunNet (BCT, arXiv 2003.11942).",
        has_subnetworks=False,
        defaults=ALONE,
        needs_teacher=True,
    ),
    "regression": Method(
        "One network of one capacity learns the embeddings of a frozen teacher, without labels, for comparison with "
        "PrunNet.",
        has_subnetworks=False,
        defaults=ALONE,
        needs_teacher=True,
        has_classifier=False,
    ),
}


@dataclass(frozen=True)
class IntoLoss:
    """What there is to say about a loss by which networks learn a space that exists.

    Attributes:
        description: For `--help` and the model card.
        needs_labels: Whether images must have classes.
    """

    description: str
    needs_labels: bool = False


INTO_LOSSES = {
    "regression": IntoLoss("16 times 1 - the cosine to the image's target"),
    "csd": IntoLoss(
        "the divergence of the similarities to the target's nearest neighbours from the target's own (Contextual "
        "Similarity Distillation, CVPR 2022)"
    ),
    "classifier": IntoLoss(
        "cross entropy through a frozen classifier: the teacher's, if it knows the same classes, or the means of the "
        "classes' targets (BCT, arXiv 2003.11942)",
        needs_labels=True,
    ),
}
"""What `--into_loss` accepts; `training/into_space.py` has them under the same names."""


def into_weights(chosen: Sequence[str]) -> dict[str, float]:
    """The weight of each loss that `--into_loss` names.

    Args:
        chosen: Names, or `NAME:WEIGHT`.

    Raises:
        ValueError: If there is none, one is unknown or named twice, or a weight isn't a number above 0.

    Example:
        >>> into_weights(["regression", "csd:0.5"])
        {'regression': 1.0, 'csd': 0.5}
    """
    weights: dict[str, float] = {}
    for text in chosen:
        name, sign, number = text.partition(":")
        weight = _number(number) if sign else 1.0
        if name not in INTO_LOSSES or name in weights or not 0 < weight < math.inf:
            raise ValueError(
                f"into_loss must name each of {', '.join(INTO_LOSSES)} at most once, if need be with a weight above "
                f"0, such as csd:0.5; got {' '.join(chosen)!r}."
            )
        weights[name] = weight
    if not weights:
        raise ValueError(f"into_loss must name at least one of {', '.join(INTO_LOSSES)}; got none.")
    return weights


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def find_method(name: str) -> Method:
    """The method of this name.

    Raises:
        ValueError: If there is none.
    """
    if name not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}; got {name!r}.")
    return METHODS[name]


def by_method(name: str, description: str) -> Any:
    """The dataclass field of an argument whose default depends on the method; see `fill_defaults`.

    Args:
        name: The argument.
        description: What `--help` says of it. The defaults are added: the usual one if `USUAL` has it, and others.
    """
    usual = [f"Default {_text(USUAL[name])}"] if name in USUAL else []
    others = [
        f"with {method}: {_text(settings.defaults[name])}"
        for method, settings in METHODS.items()
        if settings.defaults.get(name) != USUAL.get(name)
    ]
    if len(others) == 1 and not usual:  # the only method that has this argument, as its description says
        others = [f"Default {others[0].partition(': ')[2]}"]
    defaults = "; ".join([*usual, *others])
    return field(
        default=None, metadata={"help": f"{description} {defaults[:1].upper()}{defaults[1:]}.".rstrip(" .") + "."}
    )


def fill_defaults(arguments: Any, method: Method) -> None:
    """Give each argument that is None, in a dataclass of arguments, the default of the method if that has one."""
    names = {entry.name for entry in fields(arguments)}
    missing = {name: value for name, value in method.defaults.items() if name in names}
    missing = {name: value for name, value in missing.items() if getattr(arguments, name) is None}
    for name, value in sorted(missing.items(), key=lambda item: isinstance(item[1], Derived)):
        setattr(arguments, name, value.of(arguments) if isinstance(value, Derived) else value)


def _text(value: Any) -> str:
    if isinstance(value, Derived):
        return value.text
    return str(value).lower() if isinstance(value, bool) else str(value)
