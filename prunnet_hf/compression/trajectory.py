"""The results of a pruning loop, round by round: files, a table, and where the PQ Index falls and rises."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

import torch
from huggingface_hub.dataclasses import type_validator
from torch import Tensor

from ..pruning.masking import format_capacity
from ..pruning.pq_index import pq_index
from ..retrieval.markdown import as_text
from ..storage.json_text import load_json
from .sap_arguments import SapArguments
from .schedules import check_finite

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_Record = TypeVar("_Record", bound="DataclassInstance")
FORMAT = 1
NUMBERS = ("p", "q", "eta", "gamma", "beta", "prune_share")
"""The numbers in `SapArguments` that make runs of one schedule differ."""
FALLS, RISES, STAYS = "falls", "rises", "stays"
TOLERANCE = 0.001
"""Changes of the index up to this size count as noise: tables show three digits."""
CLAIM = [FALLS, RISES, FALLS]
"""How the paper expects the index to change as pruning goes on (arXiv 2302.05601, section 3)."""
_REMEDY = "Start `prunnet_hf.compression.sap` with --resume, which writes it again from the rounds."


@dataclass(frozen=True)
class LayerIndex:
    """One layer after a training.

    Attributes:
        layer: Name of the layer.
        num_weights: How many weights it has.
        kept: How many of them aren't pruned.
        index: PQ Index of the kept weights, in [0, 1).
    """

    layer: str
    num_weights: int
    kept: int
    index: float


@dataclass(frozen=True)
class Round:
    """What was measured after a pruning and the training that followed it.

    Attributes:
        number: Number of the round; round 0 prunes nothing and trains all weights.
        capacity: Kept share of the prunable weights, in (0, 1].
        kept_weights: How many prunable weights are kept.
        prunable_weights: How many prunable weights there are.
        index: PQ Index of all kept weights as one scope, after training and before the next pruning, in [0, 1).
        mean_layer_index: Mean of the layers' indices, weighted by their numbers of weights.
        layers: Each layer, from the first to the last.
        prunes_next: How many of the kept weights the schedule prunes next; 0 at the end.
        metrics: Self-test by the protocol, in [0, 1], the headline metric first.
        training_seconds: How long the training took.
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
        run: How the run was made: data set, protocol, command, recipe, arguments of the pruning, commit, versions,
            device.
        rounds: The finished rounds, from the first to the last.
    """

    run: dict[str, Any]
    rounds: list[Round]

    @property
    def metric(self) -> str:
        """Name of the headline metric."""
        return next(iter(self.rounds[0].metrics))

    @property
    def name(self) -> str:
        """The schedule in a few words for legends and tables, with those of its numbers that aren't the defaults."""
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
        """Where the index falls and rises during the run, in a sentence or two."""
        if self.run["pruning"]["schedule"] == "one_shot":
            return (
                "The rounds of one_shot are separate cuts of the first network, by descending capacity. They don't "
                "show where the PQ Index falls and rises as pruning goes on."
            )
        return describe_phases(self.indices)

    def as_markdown(self) -> str:
        """A table with a row for each round, and below it where the index falls and rises."""
        names = list(self.rounds[0].metrics)
        heading = ["round", "capacity", "kept weights", "PQ Index", "mean of layers"]
        heading += [*(f"{as_text(name)} (%)" for name in names), "prunes next", "training (s)"]
        lines = [f"| {' | '.join(heading)} |", f"|{'---:|' * len(heading)}", *map(_line, self.rounds)]
        return "\n".join([*lines, "", self.course])

    def as_dict(self) -> dict[str, Any]:
        """The content of `trajectory.json`."""
        return {"format": FORMAT, **self.run, "rounds": [asdict(entry) for entry in self.rounds]}


def read_trajectory(path: str | os.PathLike[str]) -> Trajectory:
    """Read a `trajectory.json`, or the one in a run directory.

    Raises:
        FileNotFoundError: If the file doesn't exist.
        ValueError: If the file is damaged, has another kind or version, or has no rounds.
    """
    file = Path(path) / "trajectory.json" if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{file} doesn't exist. Name a run directory of `prunnet_hf.compression.sap`.")
    try:
        content = load_json(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is damaged ({error}). {_REMEDY}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT or not content.get("rounds"):
        raise ValueError(
            f"{file} must be a trajectory of `prunnet_hf.compression.sap`, format {FORMAT}, with at least one round."
        )
    run = {key: value for key, value in content.items() if key not in ("format", "rounds")}
    try:
        rounds = [read_round(entry) for entry in content["rounds"]]
        if [entry.number for entry in rounds] != list(range(len(rounds))):
            raise ValueError(f"its rounds are {[entry.number for entry in rounds]}")
        return Trajectory(_checked(run), rounds)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is damaged ({type(error).__name__}: {error}). {_REMEDY}") from error


def _checked(run: dict[str, Any]) -> dict[str, Any]:
    """The description of a run, after checking that it has everything that names and tables need."""
    for name in ("dataset", "protocol", "recipe", "pruning"):
        run[name]
    for name in asdict(SapArguments()):
        run["pruning"][name]
    return run


def read_round(entry: Mapping[str, Any]) -> Round:
    """Make a round from its JSON.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: If the JSON isn't that of a round.
    """
    if not entry["metrics"]:
        raise ValueError("no metrics")
    found = Round(**{**entry, "layers": [_validated(LayerIndex(**layer)) for layer in entry["layers"]]})
    shares = (*found.metrics.values(), found.index, found.mean_layer_index, *(layer.index for layer in found.layers))
    counts = [(found.kept_weights, found.prunable_weights), (found.prunes_next, found.prunable_weights)]
    counts += [(layer.kept, layer.num_weights) for layer in found.layers]
    are_possible = all(0 <= part <= whole for part, whole in counts) and 0 <= found.training_seconds < math.inf
    if not (are_possible and found.number >= 0 and 0 < found.capacity <= 1 and all(0 <= part <= 1 for part in shares)):
        raise ValueError(f"a figure of round {found.number} is out of range")
    return _validated(found)


def _validated(record: _Record) -> _Record:
    """A dataclass from JSON, after checking the types of its fields; whole numbers are taken for real ones."""
    for name, hint in get_type_hints(type(record)).items():
        value = getattr(record, name)
        type_validator(name, float(value) if hint is float and type(value) is int else value, hint)
    return record


def measure_layers(weights: Mapping[str, Tensor], p: float, q: float) -> list[LayerIndex]:
    """Measure how unequal the kept weights of each layer are.

    Args:
        weights: Weights by the name of the parameter; zeros are pruned.
        p: See `pq_index`.
        q: See `pq_index`.

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
    """Make the record of a round.

    Args:
        number: See `Round`.
        weights: The prunable weights after training, by the name of the parameter; zeros are pruned.
        p: See `pq_index`.
        q: See `pq_index`.
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
    """Where a sequence falls and rises: it turns where it moves away from its last extreme by more than `tolerance`.

    Args:
        values: The sequence.
        tolerance: At least 0.

    Returns:
        `(falls | rises, first place, last place)` for each stretch, which begins at the extreme where the last one
        ended. A sequence that never moves by more than `tolerance` is a single stretch that `stays`.

    Example:
        >>> phases([0.5, 0.25, 0.125, 0.375, 0.0])
        [('falls', 0, 2), ('rises', 2, 3), ('falls', 3, 4)]
    """
    found: list[tuple[str, int, int]] = []
    start = low = high = 0  # places where the stretch starts and of its extremes so far
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
    """Say where the index falls and rises over the rounds, and whether SAP's paper expects that.

    Example:
        >>> describe_phases([0.5, 0.25]).partition(";")[0]
        'The PQ Index falls from round 0 to 1 (0.500 to 0.250)'
    """
    stretches = phases(indices)
    if not stretches:
        return "In a single round the PQ Index neither falls nor rises."
    course = ", ".join(
        f"{kind} from round {first} to {last} ({indices[first]:.3f} to {indices[last]:.3f})"
        for kind, first, last in stretches
    )
    kinds = [kind for kind, _, _ in stretches]
    is_seen = any(kinds[place : place + len(CLAIM)] == CLAIM for place in range(len(kinds)))
    verdict = "Seen here." if is_seen else "Not seen here."
    return (
        f"The PQ Index {course}; changes of up to {TOLERANCE:g} count as noise. "
        f"The paper expects: {', '.join(CLAIM)}. {verdict}"
    )


def _line(entry: Round) -> str:
    cells = [str(entry.number), short_capacity(entry.capacity), f"{entry.kept_weights:,}"]
    cells += [f"{entry.index:.3f}", f"{entry.mean_layer_index:.3f}"]
    cells += [f"{100 * value:.1f}" for value in entry.metrics.values()]
    return f"| {' | '.join([*cells, f'{entry.prunes_next:,}', f'{entry.training_seconds:.0f}'])} |"


def short_capacity(capacity: float) -> str:
    """A capacity for tables, with at most four decimals."""
    return format_capacity(round(capacity, 4))


def _index(weights: Sequence[Tensor], p: float, q: float) -> float:
    values = torch.cat([weight.flatten() for weight in weights])
    return float(pq_index(values, p, q, values != 0))
