"""The arguments of the pruning loop: flags, recipes, and clear errors."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from prunnet_hf.compression.sap_arguments import SapArguments
from prunnet_hf.compression.sap_arguments import parse_sap_arguments

GROCERY = str(Path(__file__).parents[2] / "recipes" / "grocery.yaml")


def test_defaults_are_the_papers():
    _, sap = parse_sap_arguments([])
    assert (sap.schedule, sap.scope, sap.after) == ("sap", "global", "rewind")
    assert (sap.p, sap.q, sap.eta, sap.gamma, sap.beta, sap.prune_share) == (0.5, 1.0, 0.0, 1.0, 0.9, 0.2)
    assert sap.num_prunings == 8


def test_a_recipe_of_training_serves_and_flags_win_over_it():
    arguments, sap = parse_sap_arguments(["--config", GROCERY, "--epochs", "3", "--rounds", "4", "--scope", "layer"])
    assert arguments.model.backbone_kwargs == '{"channels": [24, 48, 96, 192]}'
    assert arguments.train.epochs == 3
    assert (sap.num_prunings, sap.scope) == (4, "layer")


def test_the_loop_settles_method_and_capacities(tmp_path):
    flags = ["--config", GROCERY, "--method", "joint", "--capacities", "0.3", "0.4"]
    arguments, _ = parse_sap_arguments(flags)
    assert (arguments.train.method, arguments.train.capacities) == ("independent", [1.0])


def test_a_recipe_may_hold_the_pruning(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("schedule: one_shot\nkept_shares: [0.5, 0.2]\nafter: continue\nrounds: null\n", encoding="utf-8")
    _, sap = parse_sap_arguments(["--config", str(recipe)])
    assert (sap.schedule, sap.kept_shares, sap.after, sap.num_prunings) == ("one_shot", [0.2, 0.5], "continue", 2)
    assert [sap.pruned_round(number) for number in (1, 2)] == [0, 0]
    assert [SapArguments().pruned_round(number) for number in (1, 2)] == [0, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"p": 1.0, "q": 1.0}, r"p and q must satisfy .*; got p=1.0 and q=1.0"),
        ({"p": 0.0}, r"p and q must satisfy .*; got p=0.0"),
        ({"p": -0.5}, r"p and q must satisfy .*; got p=-0.5"),
        ({"eta": -0.1}, r"eta must be at least 0 and finite; got -0.1"),
        ({"gamma": -1.0}, r"gamma must be at least 0 and finite; got -1.0"),
        ({"gamma": math.inf}, r"gamma must be .*; got inf"),
        ({"beta": 1.5}, r"beta must be in \[0, 1\]; got 1.5"),
        ({"prune_share": 0.0}, r"prune_share must be in \(0, 1\); got 0.0"),
        ({"prune_share": 1.0}, r"prune_share must be in \(0, 1\); got 1.0"),
        ({"prune_share": math.nan}, r"prune_share must be in \(0, 1\); got nan"),
        ({"rounds": 0}, r"rounds must be at least 1; got 0"),
        ({"schedule": "slow"}, r"schedule must be one of sap, lottery_ticket, one_shot; got 'slow'"),
        ({"scope": "row"}, r"scope must be one of neuron, layer, global; got 'row'"),
        ({"after": "stop"}, r"after must be one of rewind, continue; got 'stop'"),
        ({"kept_shares": [0.5]}, r"kept_shares is for --schedule one_shot; --schedule sap finds its own"),
        ({"schedule": "one_shot"}, r"kept_shares must name what to cut to for --schedule one_shot"),
        ({"schedule": "one_shot", "kept_shares": [0.0]}, r"kept_shares must be in \(0, 1\].*; got 0.0"),
        ({"schedule": "one_shot", "kept_shares": [1.5]}, r"kept_shares must be in \(0, 1\].*; got 1.5"),
        ({"schedule": "one_shot", "kept_shares": [0.5], "rounds": 2}, r"rounds must be left out .*; got 2"),
    ],
)
def test_wrong_values_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        SapArguments(**options)


def test_evaluation_alone_is_refused():
    with pytest.raises(ValueError, match=r"eval_only must be left out"):
        parse_sap_arguments(["--eval_only"])
