"""Which runs a phase has, in what order, and which of them have a row already."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunnet_hf.runs.arguments import parse_arguments
from prunnet_hf.runs.description import recipe_of

from .methods import (
    CAPACITIES,
    DENSE_ALONE,
    ENTRIES,
    MAIN,
    MAIN_SEEDS,
    SIDE,
    SIDE_ENTRIES,
    SIDE_SEEDS,
    VALIDATION,
    WIDE,
    WIDE_ENTRIES,
    WIDE_SEEDS,
    Entry,
    Flags,
    find_entry,
    words_of,
)

RESULTS = Path(__file__).parents[1] / "results" / "compare"
CHOSEN = "chosen.json"
EVERY_RUN = (
    *("--overwrite_output_dir", "--num_workers", "0", "--checkpoint_every", "0", "--keep_checkpoints", "1"),
    *("--eval_capacities", "0.05"),
)
NOT_TRAINING = {"data_dir", "output_dir", "teacher", "eval_capacities", "checkpoint_every"}
"""Arguments that may differ from those of a row: where folders are, and what is measured and kept."""
OF_SCORES = {"score_learning_rate", "score_weight_decay"}
"""Those that a dense network alone has no use for."""
RECIPES = ("omniglot", "grocery")
VALIDATED = "omniglot"
"""The recipe whose training classes lend those for validation."""

COMPARED = {MAIN: (ENTRIES, MAIN_SEEDS), SIDE: (SIDE_ENTRIES, SIDE_SEEDS), WIDE: (WIDE_ENTRIES, WIDE_SEEDS)}
"""The entries of each phase that reads the test classes, and their seeds."""


@dataclass(frozen=True)
class Run:
    """One run: a training, or the pruning of a network that another run trained.

    Attributes:
        entry: What is run.
        recipe: With which recipe.
        phase: `"validation"`, `"main"`, `"side"` or `"wide"`.
        seed: With which seed.
        settings: What was chosen for it, or is tried.
        trial: The number of the trial; None outside validation.
        teacher: The run that must be finished before, of the dense network alone; in validation, of its first trial.
    """

    entry: Entry
    recipe: str
    phase: str
    seed: int
    settings: Flags
    trial: int | None = None
    teacher: Run | None = None

    @property
    def name(self) -> str:
        """Of its files."""
        words = self.entry.name.replace(",", "").replace(":", "").replace(" ", "-")
        return words + ("" if self.trial is None else f"-trial{self.trial}") + f"-seed{self.seed}"

    @property
    def flags(self) -> dict[str, Any]:
        """What the training is asked for beyond the recipe, as it comes back from JSON."""
        flags: dict[str, Any] = {**self.entry.flags, **self.settings}
        if self.trial is None and self.recipe in self.entry.epochs:
            flags["epochs"] = self.entry.epochs[self.recipe]
        return {name: list(value) if isinstance(value, tuple) else value for name, value in flags.items()}

    def row(self, results: Path) -> Path:
        """The file of its row."""
        return results / self.recipe / self.phase / f"{self.name}.json"

    def is_done(self, results: Path) -> bool:
        """Whether there is a row, made with the same flags, which then meant the training that they mean today."""
        file = self.row(results)
        if not file.is_file():
            return False
        row = json.loads(file.read_text(encoding="utf-8"))
        return row["flags"] == self.flags and (self.entry.post_hoc or not _differences(row, self))


def training_flags(run: Run) -> list[str]:
    """The words of a training's command line, without those that name folders."""
    words = ["--config", run.recipe, *EVERY_RUN, "--seed", str(run.seed)]
    return [*words, *words_of(run.flags)]


def _differences(row: Mapping[str, Any], run: Run) -> list[str]:
    """The arguments of the training in a row that a recipe, or a default, would give another value today."""
    folders = ["--data_dir", "any", *(["--teacher", "any"] if run.teacher else [])]
    now = json.loads(json.dumps(recipe_of(parse_arguments([*training_flags(run), *folders]))))
    then = row["record"]["recipe"]
    ignored = NOT_TRAINING if run.entry.capacity != 1.0 else NOT_TRAINING | OF_SCORES
    known = {name for name, value in then.items() if value is not None and name not in ignored}
    return [name for name in now.keys() & known if not _is_same(now[name], then[name])]


def _is_same(one: Any, other: Any) -> bool:
    both = isinstance(one, float) and isinstance(other, float)
    return math.isclose(one, other) if both else bool(one == other)


def validation_runs(recipe: str) -> list[Run]:
    """Seed 0 of every trial of every method: the first trial of all, then the second of all, and so on."""
    if recipe != VALIDATED:
        return []
    dense = find_entry(DENSE_ALONE)
    teacher = Run(dense, recipe, VALIDATION, 0, dense.trials[0], 0)
    runs = [
        Run(entry, recipe, VALIDATION, 0, trial, number, teacher if entry.has_teacher else None)
        for entry in ENTRIES
        for number, trial in enumerate(entry.trials)
    ]
    return sorted(runs, key=lambda run: run.trial or 0)


def compared_runs(recipe: str, phase: str, chosen: Mapping[str, Any]) -> list[Run]:
    """The runs of `"main"`, `"side"` or `"wide"`: all entries with seed 0, then all with seed 1, and so on.

    Args:
        recipe: Which recipe.
        phase: Which phase; only the recipe of the validation has a `"side"`, and only the other is tried `"wide"`.
        chosen: What `choose` wrote.

    Raises:
        ValueError: If nothing was chosen for an entry.
    """
    if not is_compared(recipe, phase):
        return []
    entries, seeds = COMPARED[phase]
    dense = find_entry(DENSE_ALONE)
    return [
        Run(
            entry,
            recipe,
            phase,
            seed,
            settings_for(entry, chosen),
            teacher=Run(dense, recipe, MAIN, seed, settings_for(dense, chosen))
            if entry.has_teacher or entry.post_hoc
            else None,
        )
        for seed in seeds
        for entry in entries
    ]


def is_compared(recipe: str, phase: str) -> bool:
    """Whether a recipe has a phase: only that of the validation has a `"side"`, only the other is tried `"wide"`."""
    return phase == MAIN or (phase == SIDE) == (recipe == VALIDATED)


def settings_for(entry: Entry, chosen: Mapping[str, Any]) -> Flags:
    """What was chosen for an entry.

    Raises:
        ValueError: If nothing was.
    """
    if entry.settings_of is None:
        return {}
    if entry.settings_of not in chosen:
        raise ValueError(f"{CHOSEN} has no settings of {entry.settings_of!r}: run --phase choose again.")
    settings: Flags = chosen[entry.settings_of]["settings"]
    return settings


def choose(results: Path) -> dict[str, Any]:
    """For each method the trial whose cross-test has the largest mean over capacities.

    Args:
        results: Where the rows are.

    Returns:
        By the name of an entry: `settings`, and what each finished trial scored in percent. Without a finished trial
        the first one is taken.
    """
    tried: dict[str, list[Run]] = {}
    for run in validation_runs(VALIDATED):
        tried.setdefault(run.entry.name, []).append(run)
    chosen = {}
    for name, runs in tried.items():
        scores = {
            run.trial: score_of(json.loads(run.row(results).read_text(encoding="utf-8")))
            for run in runs
            if run.is_done(results)
        }
        best = max(scores, key=lambda trial: scores[trial]) if scores else runs[0].trial
        tests = [
            {"settings": run.settings, "mean": round(100 * scores[run.trial], 2)}
            for run in runs
            if run.trial in scores
        ]
        chosen[name] = {"settings": dict(runs[best or 0].settings), "trials": tests}
    return chosen


def score_of(row: Mapping[str, Any]) -> float:
    """The mean over capacities of a row's cross-test; of a network that serves one capacity, its only figure."""
    cross = row["cross"]
    found = [cross[name] for name in (f"{capacity:g}" for capacity in CAPACITIES) if name in cross]
    return sum(found) / len(found)


def read_chosen(results: Path) -> dict[str, Any]:
    """What was chosen.

    Raises:
        FileNotFoundError: If nothing was.
    """
    file = results / CHOSEN
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} is missing, which says with what settings each method is compared. Run --phase validation with "
            f"--recipe {VALIDATED}, or only --phase choose to take the first trial of each."
        )
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def selected(runs: Iterable[Run], only: Sequence[str] | None, seeds: Sequence[int] | None) -> list[Run]:
    """The runs of these entries and seeds; None takes all."""
    for name in only or ():
        find_entry(name)
    return [run for run in runs if (only is None or run.entry.name in only) and (seeds is None or run.seed in seeds)]
