"""The methods that are compared, with their flags and what may be tried for each on validation classes.

All runs of a recipe have its network, its images, their order and the seed in common. What an entry doesn't say is as
the recipe, the method's own defaults and the package have it.

A default training sees the images in two phases, so that others are given more epochs than the recipe has: those that
train subnetworks as many as make the same number of passes over the images (`AS_MANY_PASSES`), networks alone as many
as both phases together (`AS_MANY_EPOCHS`). A network towards a teacher has the recipe's, besides those of the teacher.

`TRAINED_ALONE` were tried with the dense network; what was chosen there goes for its small ones too, masked and thin.
Where a trained smallest capacity is tried for one method, it is tried for all that train subnetworks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

Value = str | float | bool | Sequence[float]
Flags = Mapping[str, Value]

CAPACITIES = (0.05, 0.1, 0.2, 0.4, 0.6, 1.0)
"""Those of the tables, and of the mean by which settings are chosen."""
MAIN_SEEDS = (0, 1, 2)
SIDE_SEEDS = (0, 1)
WIDE_SEEDS = (0,)
MAIN, SIDE, WIDE, VALIDATION = "main", "side", "wide", "validation"
MAX_TRIALS = 4
DEFAULT, DEFAULT_UNITS = "default, weights", "default, units"
"""The default in both granularities. All other rows are compared with the first."""
DENSE_ALONE = "alone, dense"
"""The teacher of networks that are made compatible with it, and what is pruned post hoc."""
SMALLEST = {"capacities": (0.05, 0.1, 0.2, 0.4, 0.6, 0.8)}
FROM_TENTH = {"capacities": (0.1, 0.2, 0.4, 0.6, 0.8)}
UNITS = {"granularity": "channel"}
WEIGHTS = {"granularity": "weight"}
AS_MANY_PASSES = {"omniglot": 20, "grocery": 8}
"""The default: 15 x 1 passes, then 15 x 4 and a forward one; 6 for Grocery."""
AS_MANY_EPOCHS = {"omniglot": 30, "grocery": 12}
COSFACE = {"classifier": "cosface"}
SOFTMAX = {"classifier": "softmax"}
SCORES = {"score_learning_rate": 0.1875, "score_weight_decay": 0.0}
DISTILLED = {"method": "distilled", **COSFACE, **SCORES}
PRUNNET = {"method": "prunnet", **COSFACE, **SCORES}
JOINT = {"method": "joint", **COSFACE, **SCORES}
"""Said in full, so that a row stays what it was when a default changes."""
DISTILLED_TRIED = (
    {**SMALLEST, "dense_learning_rate": 0.1},
    {**SMALLEST, "dense_learning_rate": 0.1, "epochs": 11, "dense_epochs": 11},
    {**SMALLEST, "dense_learning_rate": 0.1, "distillation_weight": 1.0},
    {**SMALLEST, "dense_learning_rate": 0.15},
)
"""The second has 11 x 5 passes over the images, and 11 forward; 15 epochs with subnetworks alone have 15 x 4."""
UNITS_TRIED = (
    FROM_TENTH,
    {**FROM_TENTH, "margin": 0.3},
    SMALLEST,
    {**FROM_TENTH, "margin": 0.3, "learning_rate": 0.075, "score_learning_rate": 0.375},
)
JOINT_TRIED = (FROM_TENTH, {**FROM_TENTH, "margin": 0.3}, SMALLEST)
"""The rate of units' scores was one of three that were tried on the same validation classes before (commit 407c582,
`benchmarks/results/granularity/validation`)."""
WITHOUT_PENALTY = {"evidence_penalty": 0.0}
SFSC_TRIED = (
    {**SMALLEST, **WITHOUT_PENALTY},
    {**SMALLEST, **WITHOUT_PENALTY, "learning_rate": 0.1},
    SMALLEST,
)
"""The last has the published weight of the penalty for misleading evidence."""
TRAINED_ALONE = (
    {"learning_rate": 0.1},
    {"learning_rate": 0.05},
    {"learning_rate": 0.1, "margin": 0.3},
    {"learning_rate": 0.15, "weight_decay": 0.000125},
)


@dataclass(frozen=True)
class Entry:
    """A method with its settings: a row of the tables.

    Attributes:
        name: In the tables.
        flags: Of the training, without what was chosen on validation classes.
        trials: What may be chosen; `()` if the choice is that of another entry, or there is none.
        settings_of: The entry whose choice this one has; its own name if it has trials, None if there is no choice.
        has_teacher: Whether it needs the dense network alone of the same seed, whose gallery its queries search.
        capacity: The only capacity of a network that serves one.
        post_hoc: Whether nothing is trained: the dense network alone is pruned by magnitude, and calibrated.
        epochs: By recipe, in the comparisons; the recipe's own, as in trials, if there are none.
    """

    name: str
    flags: Flags
    trials: Sequence[Flags] = ()
    settings_of: str | None = None
    has_teacher: bool = False
    capacity: float | None = None
    post_hoc: bool = False
    epochs: Mapping[str, int] = field(default_factory=dict)


def _nested(name: str, flags: Flags, trials: Sequence[Flags] = (), settings_of: str | None = None) -> Entry:
    return Entry(name, flags, trials, settings_of or name, epochs=AS_MANY_PASSES)


def _alone(name: str, capacity: float, flags: Flags, trials: Sequence[Flags] = ()) -> Entry:
    own = {"method": "independent", "capacities": (capacity,), **COSFACE, **flags, **(SCORES if capacity < 1 else {})}
    return Entry(name, own, trials, settings_of=DENSE_ALONE, capacity=capacity, epochs=AS_MANY_EPOCHS)


def _with_teacher(method: str, capacity: float, trials: Sequence[Flags] = ()) -> Entry:
    flags = {"method": method, "capacities": (capacity,), **COSFACE, **UNITS, **SCORES}
    return Entry(f"{method} {capacity:g}", flags, trials, f"{method} 0.2", has_teacher=True, capacity=capacity)


_RATES_ALONE = ({"learning_rate": 0.1}, {"learning_rate": 0.05})
ENTRIES = (
    Entry(DEFAULT, {**DISTILLED, **WEIGHTS}, settings_of=DEFAULT_UNITS),
    Entry(DEFAULT_UNITS, {**DISTILLED, **UNITS}, DISTILLED_TRIED, DEFAULT_UNITS),
    _nested("prunnet, weights", {**PRUNNET, **WEIGHTS}, settings_of="prunnet, units"),
    _nested("prunnet, units", {**PRUNNET, **UNITS}, UNITS_TRIED),
    _nested("joint, weights", {**JOINT, **WEIGHTS}, settings_of="joint, units"),
    _nested("joint, units", {**JOINT, **UNITS}, JOINT_TRIED),
    _alone(DENSE_ALONE, 1.0, WEIGHTS, TRAINED_ALONE),
    _alone("thin, alone 0.2", 0.2, UNITS),
    _alone("alone 0.2", 0.2, WEIGHTS),
    _nested(
        "paper",
        {"method": "paper", "scale_dense_gradients": False, **SOFTMAX, **WEIGHTS},
        (
            {**FROM_TENTH, "learning_rate": 0.1},
            {**FROM_TENTH, "learning_rate": 0.0375},
            {"learning_rate": 0.0375, **SMALLEST},
        ),
    ),
    _nested("sfsc", {"method": "sfsc", **SOFTMAX, **SCORES, **UNITS}, SFSC_TRIED),
    _with_teacher("regression", 0.2, _RATES_ALONE),
    _with_teacher("bct", 0.2, _RATES_ALONE),
    _alone("thin, alone 0.1", 0.1, UNITS),
    _alone("alone 0.1", 0.1, WEIGHTS),
    _with_teacher("regression", 0.1),
    _with_teacher("bct", 0.1),
)
"""The main comparison, the most important first."""


def _merged(name: str, merger: str) -> Entry:
    return _nested(name, {**PRUNNET, **UNITS, "merger": merger}, settings_of="prunnet, units")


SIDE_ENTRIES = (
    Entry(
        "post hoc, magnitude",
        {"method": "joint", "capacities": SMALLEST["capacities"], "eval_capacities": (0.05,)},
        post_hoc=True,
    ),
    _merged("merger: sum", "sum"),
    _merged("merger: UPGrad", "benchmarks.compare.mergers:UPGrad"),
    _merged("merger: PCGrad", "benchmarks.compare.mergers:PCGrad"),
    Entry(
        f"{DEFAULT_UNITS}, without its teacher",
        {**DISTILLED, **UNITS, "distillation_weight": 0.0},
        settings_of=DEFAULT_UNITS,
    ),
)
"""Shorter comparisons, of one data set."""
BESIDE = (DEFAULT_UNITS, "prunnet, units", DENSE_ALONE)
"""Rows of the main comparison, which side ones are read beside: mergers take the place of `prunnet`'s integration."""


FULL_WIDTH = {"backbone_kwargs": "{}", "image_size": 64, "resize": 72}
_NAMES_WIDE = (DEFAULT, "joint, weights", DENSE_ALONE, "alone 0.2", "thin, alone 0.2")
WIDE_ENTRIES = tuple(
    replace(entry, flags={**entry.flags, **FULL_WIDTH}) for entry in ENTRIES if entry.name in _NAMES_WIDE
)
"""A look at a ResNet-18 of full width on larger images, of the other data set: does the order hold?"""


def find_entry(name: str) -> Entry:
    """The entry of this name.

    Raises:
        ValueError: If there is none.
    """
    known = {entry.name: entry for entry in (*ENTRIES, *SIDE_ENTRIES)}
    if name not in known:
        raise ValueError(f"--only must be among {', '.join(map(repr, known))}; got {name!r}.")
    return known[name]


def words_of(flags: Flags) -> list[str]:
    """Flags as words of a command line.

    Example:
        >>> words_of({"method": "joint", "scale_dense_gradients": False, "capacities": (0.1, 0.2)})
        ['--method', 'joint', '--scale_dense_gradients', 'false', '--capacities', '0.1', '0.2']
    """
    words = []
    for name, value in flags.items():
        values = value if isinstance(value, (list, tuple)) else [value]
        words += [f"--{name}", *(str(one).lower() if isinstance(one, bool) else f"{one}" for one in values)]
    return words
