"""What the pruning loop is told besides the arguments of a training run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from typing import Any
from typing import Literal

from ..masking import check_capacities
from ..pq_index import DEFAULT_P
from ..pq_index import DEFAULT_Q
from ..pq_index import check_exponents
from ..sap_bound import check_sap_factors
from ..training.arguments import DataArguments
from ..training.arguments import ModelArguments
from ..training.arguments import RunArguments
from ..training.arguments import TrainArguments
from ..training.arguments import check_choices
from ..training.arguments import parse_dataclasses

DEFAULT_ROUNDS = 8
SETTLED: dict[str, Any] = {"method": "independent", "capacities": [1.0]}
"""Arguments of training that the loop decides: it trains one network alone, all of what is left of it."""


@dataclass
class SapArguments:
    """The pruning."""

    rounds: int | None = field(
        default=None,
        metadata={
            "help": f"Prunings, each followed by a training; one comes before the first. {DEFAULT_ROUNDS} if not "
            "given; one_shot has one for each of kept_shares."
        },
    )
    schedule: Literal["sap", "lottery_ticket", "one_shot"] = field(
        default="sap",
        metadata={
            "help": "How much each round prunes. sap: what the PQ Index supports; lottery_ticket: prune_share of what "
            "is left; one_shot: the network trained first is cut to each of kept_shares, each cut trained by itself."
        },
    )
    scope: Literal["neuron", "layer", "global"] = field(
        default="global",
        metadata={"help": "Where magnitudes are compared, and the index measured: each neuron, each layer, or all."},
    )
    after: Literal["rewind", "continue"] = field(
        default="rewind",
        metadata={"help": "Where training begins after a pruning: where the first did, or from the trained weights."},
    )
    p: float = field(default=DEFAULT_P, metadata={"help": "Exponent of the index' lower norm, in (0, 1]."})
    q: float = field(default=DEFAULT_Q, metadata={"help": "Exponent of the index' upper norm, at least 1."})
    eta: float = field(
        default=0.0, metadata={"help": "For sap: what pruned weights may hold, as a share of what kept ones do."}
    )
    gamma: float = field(default=1.0, metadata={"help": "For sap: factor of the share to prune, at least 0."})
    beta: float = field(default=0.9, metadata={"help": "For sap: largest share to prune in a round, in [0, 1]."})
    prune_share: float = field(
        default=0.2, metadata={"help": "For lottery_ticket: share of what is left to prune each round, in (0, 1)."}
    )
    kept_shares: list[float] = field(
        default_factory=list, metadata={"help": "For one_shot: shares of the weights to keep, each in (0, 1]."}
    )

    def __post_init__(self) -> None:
        """Check ranges, and what belongs to one schedule only."""
        check_choices(self)
        check_exponents(self.p, self.q)
        check_sap_factors(self.eta, self.gamma, self.beta)
        if not 0.0 < self.prune_share < 1.0:
            raise ValueError(f"prune_share must be in (0, 1); got {self.prune_share!r}.")
        if self.rounds is not None and self.rounds < 1:
            raise ValueError(f"rounds must be at least 1; got {self.rounds!r}.")
        self.kept_shares = check_capacities(self.kept_shares, "kept_shares")
        self._check_schedule()

    def _check_schedule(self) -> None:
        if self.schedule != "one_shot":
            if self.kept_shares:
                raise ValueError(
                    f"kept_shares is for --schedule one_shot; --schedule {self.schedule} finds its own. Leave it out."
                )
            return
        if not self.kept_shares:
            raise ValueError(
                "kept_shares must name what to cut to for --schedule one_shot, such as 0.2 0.5; got none."
            )
        if self.rounds is not None:
            raise ValueError(
                f"rounds must be left out for --schedule one_shot, which has one for each of kept_shares; got "
                f"{self.rounds}."
            )

    @property
    def num_prunings(self) -> int:
        """How many rounds prune; one more trains, the first, with all weights."""
        if self.schedule == "one_shot":
            return len(self.kept_shares)
        return DEFAULT_ROUNDS if self.rounds is None else self.rounds

    def pruned_round(self, number: int) -> int:
        """Whose trained network a round prunes, `number` from 1: the one before, or for one_shot always the first."""
        return 0 if self.schedule == "one_shot" else number - 1


def parse_sap_arguments(command_line: Sequence[str] | None = None) -> tuple[RunArguments, SapArguments]:
    """Read flags, over the recipe that `--config FILE` names, over the defaults.

    Method and capacities of a recipe, or given as flags, don't count: see `SETTLED`.

    Args:
        command_line: Without the program's name; `sys.argv` if not given.

    Raises:
        FileNotFoundError: If the recipe doesn't exist.
        ValueError: If it is no mapping or has keys that are no arguments, or an argument is out of range.
    """
    kinds = [ModelArguments, DataArguments, TrainArguments, SapArguments]
    model, data, train, sap = parse_dataclasses(kinds, command_line, SETTLED)
    if train.eval_only:
        raise ValueError("eval_only must be left out: the pruning loop evaluates each round when it is trained.")
    return RunArguments(model, data, train), sap
