"""The arguments of the pruning loop: flags, recipes, and clear errors."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

import pytest

from prunnet_hf.compression.sap_arguments import WITHOUT_EFFECT, SapArguments, differences, parse_sap_arguments

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


def test_the_loop_sets_method_and_capacities(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("method: joint\ncapacities: [0.3, 0.4]\n", encoding="utf-8")
    for flags in ([], ["--method", "independent", "--capacities", "1"]):
        arguments, _ = parse_sap_arguments(["--config", str(recipe), *flags])
        assert (arguments.train.method, arguments.train.capacities) == ("independent", [1.0])


@pytest.mark.parametrize("flags", [["--method", "joint"], ["--method=prunnet"], ["--capacities", "0.3", "0.4"]])
def test_flags_for_what_the_loop_sets_are_refused(flags):
    with pytest.raises(ValueError, match=r"(method|capacities) must be left out.*got ('|\[0.3, 0.4\])"):
        parse_sap_arguments(["--config", GROCERY, *flags])


def test_networks_of_units_are_refused():
    with pytest.raises(ValueError, match=r"^granularity must be 'weight'.*got 'channel'.*train_accelerate.py"):
        parse_sap_arguments(["--config", GROCERY, "--granularity", "channel"])
    arguments, _ = parse_sap_arguments(["--config", GROCERY, "--granularity", "weight"])
    assert arguments.model.granularity == "weight"


@pytest.mark.parametrize(("flags", "classifier"), [([], "softmax"), (["--classifier", "arcface"], "arcface")])
def test_a_new_network_has_single_weights_and_softmax_unless_asked(flags: list[str], classifier: str) -> None:
    arguments, _ = parse_sap_arguments(["--config", GROCERY, *flags])
    assert (arguments.model.granularity, arguments.model.classifier) == ("weight", classifier)


def test_a_network_to_fine_tune_keeps_its_own() -> None:
    arguments, _ = parse_sap_arguments(["--config", GROCERY, "--model_name_or_path", "out/run"])
    assert (arguments.model.granularity, arguments.model.classifier) == (None, None)


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
        ({"p": 1.0, "q": 1.0}, r"got p=1.0 and q=1.0"),
        ({"p": 0.0}, r"got p=0.0"),
        ({"p": -0.5}, r"got p=-0.5"),
        ({"eta": -0.1}, r"^eta .*got -0.1"),
        ({"gamma": -1.0}, r"^gamma .*got -1.0"),
        ({"gamma": math.inf}, r"^gamma .*got inf"),
        ({"beta": 1.5}, r"^beta .*\[0, 1\].*got 1.5"),
        ({"prune_share": 0.0}, r"^prune_share .*\(0, 1\).*got 0.0"),
        ({"prune_share": 1.0}, r"^prune_share .*\(0, 1\).*got 1.0"),
        ({"prune_share": math.nan}, r"^prune_share .*\(0, 1\).*got nan"),
        ({"rounds": 0}, r"^rounds .*at least 1.*got 0"),
        ({"schedule": "slow"}, r"^schedule .*sap, lottery_ticket, one_shot.*'slow'"),
        ({"scope": "row"}, r"^scope .*neuron, layer, global.*'row'"),
        ({"after": "stop"}, r"^after .*rewind, continue.*'stop'"),
        ({"kept_shares": [0.5]}, r"^kept_shares .*one_shot.*got \[0.5\]. Leave it out"),
        ({"schedule": "lottery_ticket", "eta": 0.1}, r"^eta .*--schedule sap.*got 0.1. Leave it out"),
        ({"schedule": "lottery_ticket", "gamma": 2.0}, r"^gamma .*--schedule sap.*got 2.0"),
        ({"schedule": "one_shot", "kept_shares": [0.5], "beta": 0.5}, r"^beta .*--schedule sap.*got 0.5"),
        ({"prune_share": 0.3}, r"^prune_share .*lottery_ticket.*got 0.3"),
        (
            {"schedule": "one_shot", "kept_shares": [0.5], "prune_share": 0.3},
            r"^prune_share .*lottery_ticket.*got 0.3",
        ),
        ({"schedule": "one_shot"}, r"^kept_shares .*one_shot.*got none"),
        ({"schedule": "one_shot", "kept_shares": [0.0]}, r"^kept_shares .*\(0, 1\].*got 0.0"),
        ({"schedule": "one_shot", "kept_shares": [1.5]}, r"^kept_shares .*\(0, 1\].*got 1.5"),
        ({"schedule": "one_shot", "kept_shares": [0.5], "rounds": 2}, r"^rounds must be left out.*got 2"),
    ],
)
def test_wrong_values_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        SapArguments(**options)


@pytest.mark.parametrize("rounds", [2.5, 2.0, "2", True])
def test_rounds_are_whole_numbers(rounds):
    with pytest.raises(TypeError, match=rf"rounds.*whole number.*got {rounds!r}"):
        SapArguments(rounds=rounds)


def test_differences_are_those_that_change_the_result_of_a_round():
    before = {"epochs": 2, "seed": 0, "rounds": 3, "data_dir": "a", "old": 1}
    now = {"epochs": 3, "seed": 1, "rounds": 4, "data_dir": "b", "new": 1}
    assert differences(before, now) == ["epochs 2 -> 3", "seed 0 -> 1"]
    assert differences(before, now, ignored=["seed"]) == ["epochs 2 -> 3"]


def test_what_has_no_effect_is_this_and_nothing_more():
    assert sorted(WITHOUT_EFFECT) == [
        *("checkpoint_every", "checkpoint_steps", "data_dir", "eval_batch_size", "keep_checkpoints", "log_every"),
        *("num_workers", "output_dir", "report_to", "rounds", "skip_corrupt_images"),
    ]
    arguments, sap = parse_sap_arguments([])
    assert set(WITHOUT_EFFECT) <= {*arguments.as_dict(), *asdict(sap)}


def test_evaluation_alone_is_refused():
    with pytest.raises(ValueError, match=r"eval_only must be left out"):
        parse_sap_arguments(["--eval_only"])


@pytest.mark.parametrize("name", ["into", "teacher"])
def test_the_loop_trains_into_no_space_that_exists(name):
    with pytest.raises(ValueError, match=rf"{name} must be left out.*got 'gallery'.*--{name}"):
        parse_sap_arguments([f"--{name}", "gallery"])
