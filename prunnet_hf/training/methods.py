"""The objective of each training method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from ..modeling_prunnet import PrunNetForImageClassification
from ..runs.arguments import TrainArguments
from .distillation import DistillationObjective
from .evidential import EvidentialObjective
from .into_space import IntoSpaceObjective
from .kept_weights import KeptObjective
from .mergers import Integration, create_merger
from .objectives import ConflictAwareObjective, Objective, SumObjective
from .teachers import Teacher, class_names_of
from .towards_teacher import BackwardCompatibleObjective, RegressionObjective

PAPER_EPS = 1e-8
"""The `eps` of the paper's released code, which switches off the projection of very small gradients."""


@dataclass(frozen=True)
class Circumstances:
    """What else an objective may need to know.

    Attributes:
        steps_per_epoch: The number of steps in an epoch.
        teacher: The network that `--teacher` names, if it does.
    """

    steps_per_epoch: int = 1
    teacher: Teacher | None = None

    @property
    def given_teacher(self) -> Teacher:
        """The teacher, of a method that needs one.

        Raises:
            ValueError: If there is none.
        """
        if self.teacher is None:
            raise ValueError("teacher must be given for a method that trains towards one; got None.")
        return self.teacher


OBJECTIVES: dict[str, Callable[[PrunNetForImageClassification, TrainArguments, Circumstances], Objective]] = {
    "distilled": lambda model, options, around: DistillationObjective(
        model, weight=options.distillation_weight, temperature=options.distillation_temperature
    ),
    "prunnet": lambda model, options, around: ConflictAwareObjective(
        model, create_merger(options), scale_dense_gradients=options.scale_dense_gradients
    ),
    "paper": lambda model, options, around: ConflictAwareObjective(
        model,
        Integration(alpha=options.alpha, projection=options.projection, eps=PAPER_EPS),
        scale_dense_gradients=options.scale_dense_gradients,
    ),
    "joint": lambda model, options, around: SumObjective(model),
    "sfsc": lambda model, options, around: EvidentialObjective(
        model, steps_per_epoch=around.steps_per_epoch, penalty=options.evidence_penalty
    ),
    "independent": lambda model, options, around: SumObjective(model),
    "bct": lambda model, options, around: BackwardCompatibleObjective(
        model, around.given_teacher.classifier(class_names_of(model.config))
    ),
    "regression": lambda model, options, around: RegressionObjective(model, around.given_teacher.embed),
}
"""The objective of each method in `METHODS`, made from the network in training and the arguments of the run."""


def create_objective(
    model: PrunNetForImageClassification,
    options: TrainArguments,
    circumstances: Circumstances | None = None,
    *,
    kept: Mapping[str, Tensor] | None = None,
) -> Objective:
    """The objective of the method that `options` name.

    Args:
        model: The network in training.
        options: The method, and what its objective needs to know.
        circumstances: What else some objectives need.
        kept: See `KeptObjective`; only for a method that trains one network alone.

    Raises:
        ValueError: If `kept` is given with another method than `independent`.
    """
    if kept is None:
        own = OBJECTIVES[options.method](model, options, circumstances or Circumstances())
    elif options.method != "independent":
        raise ValueError(f"method must be 'independent' if kept says which weights to train; got {options.method!r}.")
    else:
        own = KeptObjective(model, kept)
    return IntoSpaceObjective(own) if options.trains_into else own
