"""Runs of earlier versions that are resumed go on with the defaults of their time; see `keep_earlier_defaults`."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..runs.arguments import ModelArguments, RunArguments, TrainArguments
from ..runs.methods import Method, fill_defaults, find_method
from .checkpoints import list_checkpoints
from .state_files import recipe_of_earlier_version

EARLIER_DEFAULTS: dict[str, Any] = {
    "learning_rate": 0.1,
    "scale_dense_gradients": False,
    "capacity_sampling": "sandwich",
    "weight_decay": 5e-4,
    "alpha": 0.5,
    # Versions before 0.2 didn't have these arguments, and trained in this way.
    "merger": "integration",
    "classifier": "softmax",
    "granularity": "weight",
    "score_learning_rate": None,
    "score_weight_decay": None,
}
"""What arguments whose default depends on the method were by default in versions before 0.2.

Scores then had the rate and decay of weights, those of units 5 times the rate and no decay.
"""
EARLIER_METHOD = "prunnet"


def keep_earlier_defaults(arguments: RunArguments) -> None:
    """Let a run of an earlier version go on with the defaults that it began with, in what wasn't given."""
    for checkpoint in list_checkpoints(Path(arguments.train.output_dir))[-1:]:
        recipe = recipe_of_earlier_version(checkpoint)
        if recipe:
            _keep_earlier_method(arguments.train, recipe)
            _keep_earlier_capacities(arguments.train, recipe)
            for part in (arguments.model, arguments.train):
                _keep_earlier_defaults(part, find_method(arguments.train.method), recipe)
            _keep_earlier_scores(arguments)


def _keep_earlier_method(options: TrainArguments, recipe: Mapping[str, Any]) -> None:
    is_default = options.method == TrainArguments.method
    if is_default and recipe.get("method", EARLIER_METHOD) == EARLIER_METHOD:
        options.method = EARLIER_METHOD
        options.dense_epochs = options.dense_learning_rate = None


def _keep_earlier_capacities(options: TrainArguments, recipe: Mapping[str, Any]) -> None:
    usual = TrainArguments()
    for name in ("capacities", "eval_capacities"):
        if getattr(options, name) == getattr(usual, name):
            setattr(options, name, recipe.get(name, getattr(options, name)))


def _keep_earlier_defaults(part: ModelArguments | TrainArguments, method: Method, recipe: Mapping[str, Any]) -> None:
    given = copy(part)
    names = {entry.name for entry in fields(part)} & method.defaults.keys() & EARLIER_DEFAULTS.keys()
    for name in names:
        left_out = copy(given)
        setattr(left_out, name, None)
        fill_defaults(left_out, method)
        is_default = getattr(given, name) == getattr(left_out, name)
        if is_default and recipe.get(name) in (None, EARLIER_DEFAULTS[name]):
            setattr(part, name, EARLIER_DEFAULTS[name])


def _keep_earlier_scores(arguments: RunArguments) -> None:
    options, are_units = arguments.train, arguments.model.granularity == "channel"
    if options.score_learning_rate is None:
        options.score_learning_rate = options.learning_rate * (5 if are_units else 1)
    if options.score_weight_decay is None:
        options.score_weight_decay = 0.0 if are_units else options.weight_decay
