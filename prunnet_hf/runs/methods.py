"""The training methods, and the other choices by name that a training offers.

`METHODS` is what `--method` accepts, and what `--help` and the model card say about each. `training/` obeys these
choices and imports them from here; `training/objectives.py` has the objective of each method under the same name.
"""

from dataclasses import dataclass
from typing import Literal

CapacitySampling = Literal["fixed", "sandwich"]
Projection = Literal["last", "sequential"]
OptimizerName = Literal["sgd", "adamw"]
LearningRateSchedule = Literal["cosine", "multistep"]


@dataclass(frozen=True)
class Method:
    """What there is to say about a training method.

    Attributes:
        description: One sentence, for `--help` and the model card; it names the paper if there is one.
        has_subnetworks: Whether a run trains the dense network together with subnetworks. If not, it trains one
            network at the one capacity given.
    """

    description: str
    has_subnetworks: bool = True


METHODS = {
    "prunnet": Method(
        "At every step the gradients of the dense network and of its subnetworks are merged, and projected where they "
        "conflict (PrunNet, arXiv 2504.11879)."
    ),
    "joint": Method(
        "The losses of the dense network and of its subnetworks are added up, for comparison with PrunNet."
    ),
    "independent": Method(
        "One network is trained alone, at the one capacity given, for comparison with PrunNet.", has_subnetworks=False
    ),
}


def find_method(name: str) -> Method:
    """The method of this name.

    Raises:
        ValueError: If there is none.
    """
    if name not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}; got {name!r}.")
    return METHODS[name]
