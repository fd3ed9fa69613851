"""What the pruning loop is told besides the arguments of a training run."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from ..pruning.masking import check_capacities
from ..pruning.pq_index import DEFAULT_P, DEFAULT_Q, check_exponents
from ..runs.arguments import (
    DataArguments,
    ModelArguments,
    RunArguments,
    TrainArguments,
    check_choices,
    parse_dataclasses,
)
from .sap_bound import check_sap_factors

DEFAULT_ROUNDS = 8
SETTLED: dict[str, Any] = {"method": "independent", "capacities": [1.0]}
"""Arguments of training that the loop decides: it trains one network alone, all of what is left of it."""
WITHOUT_EFFECT = (
    *("rounds", "output_dir", "data_dir", "num_workers", "eval_batch_size", "report_to", "log_every"),
    *("checkpoint_every", "checkpoint_steps", "keep_checkpoints", "skip_corrupt_images"),
)
"""Arguments that don't decide what a round is: a folder may move, and what is told or kept of a run may change."""
OWNERS = {
    "eta": "sap",
    "gamma": "sap",
    "beta": "sap",
    "prune_share": "lottery_ticket",
    "kept_shares": "one_shot",
}
"""The schedule that an argument is for; the others make no use of it."""


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
        """Check ranges, and that no argument is given which the schedule makes no use of."""
        check_choices(self)
        check_exponents(self.p, self.q)
        check_sap_factors(self.eta, self.gamma, self.beta)
        if not 0.0 < self.prune_share < 1.0:
            raise ValueError(f"prune_share must be in (0, 1); got {self.prune_share!r}.")
        self._check_rounds()
        self.kept_shares = check_capacities(self.kept_shares, "kept_shares")
        self._check_schedule()

    def _check_rounds(self) -> None:
        if self.rounds is None:
            return
        if isinstance(self.rounds, bool) or not isinstance(self.rounds, int):
            raise TypeError(f"rounds must be a whole number; got {self.rounds!r} ({type(self.rounds).__name__}).")
        if self.rounds < 1:
            raise ValueError(f"rounds must be at least 1; got {self.rounds!r}.")

    def _check_schedule(self) -> None:
        usual = {entry.name: entry.default for entry in fields(self)} | {"kept_shares": []}
        for name, owner in OWNERS.items():
            value = getattr(self, name)
            if owner != self.schedule and value != usual[name]:
                raise ValueError(
                    f"{name} is for --schedule {owner}, and --schedule {self.schedule} makes no use of it; got "
                    f"{value!r}. Leave it out."
                )
        if self.schedule != "one_shot":
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

    Method and capacities of a recipe, which training may share, don't count: see `SETTLED`.

    Args:
        command_line: Without the program's name; `sys.argv` if not given.

    Raises:
        FileNotFoundError: If the recipe doesn't exist.
        TypeError: If an argument is of another kind.
        ValueError: If it is no mapping or has keys that are no arguments, or an argument is out of range or has no
            use.
    """
    kinds = [ModelArguments, DataArguments, TrainArguments, SapArguments]
    model, data, train, sap = parse_dataclasses(kinds, command_line, SETTLED)
    if train.eval_only:
        raise ValueError("eval_only must be left out: the pruning loop evaluates each round when it is trained.")
    _check_settled(command_line)
    return RunArguments(model, data, train), sap


def _check_settled(command_line: Sequence[str] | None) -> None:
    """Refuse flags for what the loop decides; a recipe may hold it, as training shares recipes."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--method")
    parser.add_argument("--capacities", type=float, nargs="+")
    flags, _ = parser.parse_known_args(command_line)
    for name, value in SETTLED.items():
        given = getattr(flags, name)
        if given not in (None, value):
            raise ValueError(
                f"{name} must be left out: the pruning loop trains one network alone, all of what is left of it "
                f"(--method independent --capacities 1.0); got {given!r}."
            )


def differences(before: Mapping[str, Any], now: Mapping[str, Any], besides: Sequence[str] = ()) -> list[str]:
    """Which arguments differ in what a round is, as `name old -> new`; one that only one of both has doesn't count.

    Args:
        before: Arguments by name.
        now: Others.
        besides: Names that may differ besides those `WITHOUT_EFFECT`.
    """
    free = {*WITHOUT_EFFECT, *besides}
    return [
        f"{name} {before[name]!r} -> {now[name]!r}"
        for name in now
        if name in before and name not in free and before[name] != now[name]
    ]
