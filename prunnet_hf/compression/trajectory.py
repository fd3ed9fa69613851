"""What a pruning loop found, round by round: files, a table, and where the PQ Index falls and rises."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..pruning.masking import format_capacity
from ..pruning.pq_index import pq_index
from .sap_arguments import SapArguments
from .schedules import check_finite

FORMAT = 1
NUMBERS = ("p", "q", "eta", "gamma", "beta", "prune_share")
"""Of `SapArguments`, those that tell runs of one schedule apart."""
FALLS, RISES, STAYS = "falls", "rises", "stays"
TOLERANCE = 0.001
"""Moves of the index up to this, the last digit told of it, count as noise."""
CLAIM = [FALLS, RISES, FALLS]
"""What the paper expects of the index along pruning (arXiv 2302.05601, section 3)."""


_REMEDY = "Start `prunnet_hf.compression.sap` with --resume, which writes it anew from the rounds."


@dataclass(frozen=True)
class LayerIndex:
    """One layer after a training.

    Attributes:
        layer: Its name.
        num_weights: How many weights it has.
        kept: How many of them aren't pruned.
        index: PQ Index of these, in [0, 1).
    """

    layer: str
    num_weights: int
    kept: int
    index: float


@dataclass(frozen=True)
class Round:
    """A network that was pruned (but for the first) and trained.

    Attributes:
        number: Of the round; 0 trains all weights.
        capacity: Kept share of the prunable weights, in (0, 1].
        kept_weights: How many are kept.
        prunable_weights: How many there are.
        index: PQ Index of the kept ones as one scope, after training and before the next pruning, in [0, 1).
        mean_layer_index: Mean of the layers' indices, weighted by their numbers of weights.
        layers: Each layer, from the first to the last.
        prunes_next: How many weights the schedule prunes of them next, 0 where nothing more.
        metrics: Self-test by the protocol, in [0, 1], the headline first.
        training_seconds: That its training took.
    """

    number: int
    capacity: float
    kept_weights: int
    prunable_weights: int
    index: float
    mean_layer_index: float
    layers: list[LayerIndex]
    prunes_next: int
    metrics: dict[str, float]
    training_seconds: float


@dataclass(frozen=True)
class Trajectory:
    """A run of the loop, finished or not.

    Attributes:
        run: How it was made: data set, protocol, command, recipe, arguments of the pruning, commit, versions, device.
        rounds: Those done, from the first to the last.
    """

    run: dict[str, Any]
    rounds: list[Round]

    @property
    def metric(self) -> str:
        """Name of the headline metric."""
        return next(iter(self.rounds[0].metrics))

    @property
    def name(self) -> str:
        """The schedule in a few words, for legends and tables: with its numbers where they aren't the usual ones."""
        pruning = self.run["pruning"]
        unusual = [f"{name} {pruning[name]:g}" for name in NUMBERS if pruning[name] != getattr(SapArguments, name)]
        if self.run["recipe"].get("seed", 0) != 0:
            unusual.append(f"seed {self.run['recipe']['seed']}")
        return ", ".join([pruning["schedule"], pruning["scope"], pruning["after"], *unusual])

    @property
    def indices(self) -> list[float]:
        """PQ Index of the network in each round."""
        return [entry.index for entry in self.rounds]

    @property
    def course(self) -> str:
        """Where the index falls and rises in the run, in a sentence or two."""
        if self.run["pruning"]["schedule"] == "one_shot":
            return (
                "The rounds of one_shot are separate cuts of the first network, in the order of their capacities: "
                "where the PQ Index falls and rises along a pruning isn't told from them."
            )
        return describe_phases(self.indices)

    def as_markdown(self) -> str:
        """A table with a row a round, and below it where the index falls and rises."""
        names = list(self.rounds[0].metrics)
        heading = ["round", "capacity", "kept weights", "PQ Index", "mean of layers"]
        heading += [*(f"{name} (%)" for name in names), "prunes next", "training (s)"]
        lines = [f"| {' | '.join(heading)} |", f"|{'---:|' * len(heading)}", *map(_line, self.rounds)]
        return "\n".join([*lines, "", self.course])

    def as_dict(self) -> dict[str, Any]:
        """What `trajectory.json` holds."""
        return {"format": FORMAT, **self.run, "rounds": [asdict(entry) for entry in self.rounds]}


def read_trajectory(path: str | os.PathLike[str]) -> Trajectory:
    """Read `trajectory.json`, or the one in a run directory.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is damaged, of another kind or version, or has no rounds.
    """
    file = Path(path) / "trajectory.json" if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{file} doesn't exist: name a run directory of `prunnet_hf.compression.sap`.")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is damaged ({error}). {_REMEDY}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT or not content.get("rounds"):
        raise ValueError(
            f"{file} must be a trajectory of `prunnet_hf.compression.sap`, format {FORMAT}, with at least one round."
        )
    run = {key: value for key, value in content.items() if key not in ("format", "rounds")}
    try:
        return Trajectory(_checked(run), [read_round(entry) for entry in content["rounds"]])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is damaged ({type(error).__name__}: {error}). {_REMEDY}") from error


def _checked(run: dict[str, Any]) -> dict[str, Any]:
    """A run's description, which must have what tables and names are made of."""
    for name in ("dataset", "protocol", "recipe", "pruning"):
        run[name]
    for name in asdict(SapArguments()):
        run["pruning"][name]
    return run


def read_round(entry: Mapping[str, Any]) -> Round:
    """A round from what JSON holds of it.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: If it holds something else.
    """
    if not entry["metrics"]:
        raise ValueError("no metrics")
    return Round(**{**entry, "layers": [LayerIndex(**layer) for layer in entry["layers"]]})


def measure_layers(weights: Mapping[str, Tensor], p: float, q: float) -> list[LayerIndex]:
    """How unequal the kept weights of each layer are.

    Args:
        weights: By the name of the parameter; what is zero is pruned.
        p: As for `pq_index`.
        q: As for `pq_index`.

    Raises:
        ValueError: If a weight isn't finite; the message names the layer.
    """
    check_finite(weights)
    return [
        LayerIndex(name.removesuffix(".weight"), weight.numel(), int(weight.count_nonzero()), _index([weight], p, q))
        for name, weight in weights.items()
    ]


def measure_round(
    number: int,
    weights: Mapping[str, Tensor],
    p: float,
    q: float,
    *,
    prunes_next: int,
    metrics: dict[str, float],
    training_seconds: float,
) -> Round:
    """What is recorded of a round.

    Args:
        number: See `Round`.
        weights: The prunable weights after training, by the name of the parameter; what is zero is pruned.
        p: As for `pq_index`.
        q: As for `pq_index`.
        prunes_next: See `Round`.
        metrics: See `Round`.
        training_seconds: See `Round`.

    Raises:
        ValueError: If a weight isn't finite; the message names the layer.
    """
    layers = measure_layers(weights, p, q)
    total, kept = sum(layer.num_weights for layer in layers), sum(layer.kept for layer in layers)
    mean = sum(layer.num_weights * layer.index for layer in layers) / total
    whole = _index([*weights.values()], p, q)
    return Round(number, kept / total, kept, total, whole, mean, layers, prunes_next, metrics, training_seconds)


def phases(values: Sequence[float], tolerance: float = TOLERANCE) -> list[tuple[str, int, int]]:
    """Where a sequence falls and rises: it turns where it moves by more than `tolerance` from its last extreme.

    Args:
        values: The sequence.
        tolerance: At least 0.

    Returns:
        `(falls | rises, first place, last place)` of each stretch; a stretch begins at the extreme where the last one
        ended. Of a sequence that never moves so far, a single stretch that `stays`.

    Example:
        >>> phases([0.5, 0.25, 0.125, 0.375, 0.0])
        [('falls', 0, 2), ('rises', 2, 3), ('falls', 3, 4)]
    """
    found: list[tuple[str, int, int]] = []
    start = low = high = 0  # of the stretch, and its extremes so far
    kind = STAYS
    for place, value in enumerate(values):
        low = place if value <= values[low] else low
        high = place if value >= values[high] else high
        if kind != RISES and value - values[low] > tolerance:
            turn, next_kind = low, RISES
        elif kind != FALLS and values[high] - value > tolerance:
            turn, next_kind = high, FALLS
        else:
            continue
        if kind != STAYS:
            found.append((kind, start, turn))
            start = turn
        kind, low, high = next_kind, place, place
    return [*found, (kind, start, len(values) - 1)] if len(values) > 1 else []


def describe_phases(indices: Sequence[float]) -> str:
    """Say where the index falls and rises over the rounds, and whether that is what SAP's paper expects.

    Example:
        >>> describe_phases([0.5, 0.25]).partition(";")[0]
        'The PQ Index falls from round 0 to 1 (0.500 to 0.250)'
    """
    stretches = phases(indices)
    if not stretches:
        return "Of one round, the PQ Index neither falls nor rises."
    told = ", ".join(
        f"{kind} from round {first} to {last} ({indices[first]:.3f} to {indices[last]:.3f})"
        for kind, first, last in stretches
    )
    kinds = [kind for kind, _, _ in stretches]
    is_seen = any(kinds[place : place + len(CLAIM)] == CLAIM for place in range(len(kinds)))
    verdict = "Seen here." if is_seen else "Not seen here."
    return (
        f"The PQ Index {told}; moves of up to {TOLERANCE:g} count as noise. The paper expects: {', '.join(CLAIM)}. "
        f"{verdict}"
    )


def _line(entry: Round) -> str:
    cells = [str(entry.number), short_capacity(entry.capacity), f"{entry.kept_weights:,}"]
    cells += [f"{entry.index:.3f}", f"{entry.mean_layer_index:.3f}"]
    cells += [f"{100 * value:.1f}" for value in entry.metrics.values()]
    return f"| {' | '.join([*cells, f'{entry.prunes_next:,}', f'{entry.training_seconds:.0f}'])} |"


def short_capacity(capacity: float) -> str:
    """A capacity for tables, to four digits behind the point."""
    return format_capacity(round(capacity, 4))


def _index(weights: Sequence[Tensor], p: float, q: float) -> float:
    values = torch.cat([weight.flatten() for weight in weights])
    return float(pq_index(values, p, q, values != 0))
