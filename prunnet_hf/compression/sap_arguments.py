"""The arguments of the pruning loop that a training run doesn't have."""

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
from .scopes import Scope

DEFAULT_ROUNDS = 8
SETTLED: dict[str, Any] = {"method": "independent", "capacities": [1.0]}
"""Arguments of training that the loop sets: it trains a single network, with all the weights that are left."""
WITHOUT_EFFECT = (
    *("rounds", "output_dir", "data_dir", "num_workers", "eval_batch_size", "report_to", "log_every"),
    *("checkpoint_every", "checkpoint_steps", "keep_checkpoints", "skip_corrupt_images"),
)
"""Arguments that don't change the result of a round: a folder may move, and a run may report or keep more or less."""
OWNERS = {
    "eta": "sap",
    "gamma": "sap",
    "beta": "sap",
    "prune_share": "lottery_ticket",
    "kept_shares": "one_shot",
}
"""The only schedule that uses the argument."""


@dataclass
class SapArguments:
    """How the loop prunes."""

    rounds: int | None = field(
        default=None,
        metadata={
            "help": f"Number of prunings, each followed by a training. The first training comes before them. Default "
            f"{DEFAULT_ROUNDS}; one_shot has one round for each of kept_shares."
        },
    )
    schedule: Literal["sap", "lottery_ticket", "one_shot"] = field(
        default="sap",
        metadata={
            "help": "How much each round prunes. sap: as much as the PQ Index allows; lottery_ticket: prune_share of "
            "what is left; one_shot: the first trained network is cut to each of kept_shares, and each cut is trained."
        },
    )
    scope: Scope = field(
        default="global",
        metadata={"help": "Compare magnitudes and measure the index within each neuron, each layer, or the network."},
    )
    after: Literal["rewind", "continue"] = field(
        default="rewind",
        metadata={"help": "After a pruning, train from the initial weights (rewind) or the trained ones (continue)."},
    )
    p: float = field(default=DEFAULT_P, metadata={"help": "Exponent of the lower norm in the index, in (0, 1]."})
    q: float = field(default=DEFAULT_Q, metadata={"help": "Exponent of the upper norm in the index, at least 1."})
    eta: float = field(
        default=0.0, metadata={"help": "For sap: how large pruned weights may be together, as a share of kept ones."}
    )
    gamma: float = field(default=1.0, metadata={"help": "For sap: factor for the share to prune, at least 0."})
    beta: float = field(default=0.9, metadata={"help": "For sap: largest share to prune in a round, in [0, 1]."})
    prune_share: float = field(
        default=0.2, metadata={"help": "For lottery_ticket: share of what is left to prune each round, in (0, 1)."}
    )
    kept_shares: list[float] = field(
        default_factory=list, metadata={"help": "For one_shot: shares of the weights to keep, each in (0, 1]."}
    )

    def __post_init__(self) -> None:
        """Check ranges, and refuse arguments that the schedule doesn't use."""
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
                    f"{name} is for --schedule {owner}, and --schedule {self.schedule} doesn't use it; got {value!r}. "
                    "Leave it out."
                )
        if self.schedule != "one_shot":
            return
        if not self.kept_shares:
            raise ValueError(
                "kept_shares must hold the shares to cut to for --schedule one_shot, such as 0.2 0.5; got none."
            )
        if self.rounds is not None:
            raise ValueError(
                "rounds must be left out for --schedule one_shot, which has one round for each of kept_shares; got "
                f"{self.rounds}."
            )

    @property
    def num_prunings(self) -> int:
        """How many rounds prune. Round 0, which trains all weights, comes before them."""
        if self.schedule == "one_shot":
            return len(self.kept_shares)
        return DEFAULT_ROUNDS if self.rounds is None else self.rounds

    def pruned_round(self, number: int) -> int:
        """The round whose network round `number` (from 1) prunes: the one before it, or always 0 for one_shot."""
        return 0 if self.schedule == "one_shot" else number - 1


def parse_sap_arguments(
    command_line: Sequence[str] | None = None, name: str | None = None
) -> tuple[RunArguments, SapArguments]:
    """Read the command line. Flags win over the recipe of `--config FILE`, which wins over the defaults.

    The recipe may be one for training: its method and capacities are ignored, see `SETTLED`.

    Args:
        command_line: Arguments without the program's name; `sys.argv` if not given.
        name: How the program is called, for `--help` and errors; by default the name of its file.

    Raises:
        FileNotFoundError: If the recipe doesn't exist.
        TypeError: If an argument has the wrong type.
        ValueError: If the recipe isn't a mapping or has unknown keys, or an argument is out of range or isn't used.
    """
    kinds = [ModelArguments, DataArguments, TrainArguments, SapArguments]
    model, data, train, sap = parse_dataclasses(kinds, command_line, SETTLED, name)
    if train.eval_only:
        raise ValueError("eval_only must be left out: the pruning loop evaluates each round right after its training.")
    if train.trains_into:
        name = "teacher" if train.into is None else "into"
        raise ValueError(
            f"{name} must be left out: the pruning loop trains networks with a space of their own; got "
            f"{getattr(train, name)!r}. train_accelerate.py --{name} trains into one that exists."
        )
    check_prunes_weights(model.granularity)
    if model.model_name_or_path is None:  # trainings have other defaults
        model.granularity, model.classifier = "weight", model.classifier or "softmax"
    _check_settled(command_line)
    return RunArguments(model, data, train), sap


def check_prunes_weights(granularity: str | None) -> None:
    """Refuse networks whose capacities are shares of whole units.

    Raises:
        ValueError: If `granularity` is that of such a network.
    """
    if granularity not in (None, "weight"):
        raise ValueError(
            "granularity must be 'weight', or left out, for the pruning loop, which prunes single weights; got "
            f"{granularity!r}. train_accelerate.py --granularity channel trains capacities of whole units."
        )


def _check_settled(command_line: Sequence[str] | None) -> None:
    """Refuse flags for what the loop sets. A recipe may hold it, because training uses the same recipes."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--method")
    parser.add_argument("--capacities", type=float, nargs="+")
    flags, _ = parser.parse_known_args(command_line)
    for name, value in SETTLED.items():
        given = getattr(flags, name)
        if given not in (None, value):
            raise ValueError(
                f"{name} must be left out: the pruning loop trains a single network with all weights that are left "
                f"(--method independent --capacities 1.0); got {given!r}."
            )


def differences(before: Mapping[str, Any], now: Mapping[str, Any], ignored: Sequence[str] = ()) -> list[str]:
    """The arguments that make two runs differ, as `name old -> new`; one that is missing in a run doesn't count.

    Args:
        before: Arguments of one run, by name.
        now: Arguments of the other.
        ignored: Names that may differ, in addition to those `WITHOUT_EFFECT`.
    """
    free = {*WITHOUT_EFFECT, *ignored}
    return [
        f"{name} {before[name]!r} -> {now[name]!r}"
        for name in now
        if name in before and name not in free and before[name] != now[name]
    ]
