"""Arguments that nothing would use are refused; their defaults, which recipes of finished runs state, aren't."""

from __future__ import annotations

import pytest

from prunnet_hf.runs.arguments import parse_arguments
from prunnet_hf.runs.methods import METHODS
from prunnet_hf.runs.recipes import recipe_flags

ONE = ["--capacities", "0.2"]


@pytest.mark.parametrize(
    ("given", "name", "reason"),
    [
        ("--method joint --alpha 1", "alpha", "--method prunnet with --merger integration, and --method paper"),
        ("--method prunnet --merger sum --alpha 1", "alpha", "--merger integration"),
        ("--method distilled --projection sequential", "projection", "--method paper"),
        ("--method joint --scale_dense_gradients false", "scale_dense_gradients", "--method prunnet and paper"),
        ("--method paper --distillation_weight 3", "distillation_weight", "--method distilled with a first phase"),
        ("--dense_epochs 0 --distillation_temperature 9", "distillation_temperature", "--dense_epochs above 0"),
        ("--method paper --capacity_draws 3", "capacity_draws", "--capacity_sampling sandwich"),
        ("--capacity_sampling fixed --shrink_share 0.1", "shrink_share", "--capacity_sampling sandwich"),
        ("--method independent --capacities 0.2 --shrink_share 0.1", "shrink_share", "sandwich"),
        ("--into found.parquet --augmentation crop --distillation_weight 3", "distillation_weight", "without --into"),
        ("--teacher out/dense --augmentation crop --margin 0.4", "margin", "only for --into_loss classifier"),
        ("--classifier softmax --margin 0.4", "margin", "--classifier cosface and arcface"),
        ("--method paper --logit_scale 30", "logit_scale", "--classifier cosface and arcface"),
    ],
)
def test_what_nothing_would_use_is_refused(given: str, name: str, reason: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name} is only for .*{reason}.*; got .*Leave --{name} out\.$"):
        parse_arguments(["--dataset", "glyphs", *given.split()])


@pytest.mark.parametrize(
    "given",
    [
        "--method prunnet --alpha 1 --projection sequential --scale_dense_gradients false",
        "--method paper --alpha 1 --scale_dense_gradients true",
        "--distillation_weight 3 --distillation_temperature 9 --capacity_draws 3 --shrink_share 0.1",
        "--margin 0.4 --logit_scale 30",
        "--method joint --capacity_draws 3",
        "--into found.parquet --into_loss classifier --augmentation crop --margin 0.4",
    ],
)
def test_what_is_used_is_taken(given: str) -> None:
    parse_arguments(["--dataset", "glyphs", *given.split()])


@pytest.mark.parametrize("method", METHODS)
def test_a_recipe_that_states_all_defaults_is_taken(method: str) -> None:
    teacher = ["--teacher", "out/dense"] if METHODS[method].needs_teacher else []
    single = [] if METHODS[method].has_subnetworks else ONE
    first = parse_arguments(["--dataset", "glyphs", "--method", method, *teacher, *single])
    stated = {name: value for name, value in first.as_dict().items() if value is not None}
    assert parse_arguments(recipe_flags(stated)).as_dict() == first.as_dict()
