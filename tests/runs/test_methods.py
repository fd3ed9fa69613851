"""Defaults that depend on the method: they fill in what nobody gave, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, fields

import pytest

from prunnet_hf.runs.arguments import DataArguments, ModelArguments, RunArguments, TrainArguments, parse_arguments
from prunnet_hf.runs.methods import METHODS, USUAL, Derived, Method, by_method, fill_defaults, find_method


@dataclass
class Few:
    """Arguments that a method can have defaults for."""

    rate: float | None = None
    score_rate: float | None = None
    is_scaled: bool | None = None
    epochs: int = 3


TWICE = Method(
    "", defaults={"score_rate": Derived("2 x rate", lambda given: 2 * given.rate), "rate": 0.25, "gamma": 7}
)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, Few(0.25, 0.5)),  # what follows from another argument comes after it, whatever their order
        ({"rate": 0.5}, Few(0.5, 1.0)),
        ({"score_rate": 0.0, "is_scaled": False}, Few(0.25, 0.0, is_scaled=False)),  # what was given stays, 0 too
    ],
)
def test_defaults_fill_in_what_was_not_given(given: dict[str, float], expected: Few) -> None:
    found = Few(**given)
    fill_defaults(found, TWICE)
    assert found == expected


@pytest.mark.parametrize("name", METHODS)
def test_no_method_leaves_an_argument_open_that_training_needs(name: str) -> None:
    # And each default is that of an argument, so that a misspelt one is found.
    assert METHODS[name].defaults.keys() >= USUAL.keys()
    assert METHODS[name].defaults.keys() <= {
        entry.name for kind in (TrainArguments, ModelArguments) for entry in fields(kind) if entry.default is None
    }


@pytest.mark.parametrize("name", sorted(METHODS.keys() - {"paper", "independent", "bct", "regression"}))
def test_methods_with_subnetworks_have_the_usual_defaults(name: str) -> None:
    options = TrainArguments(method=name)
    assert (options.capacity_sampling, options.learning_rate, options.weight_decay) == ("sandwich", 0.0375, 5e-4)
    assert (options.scale_dense_gradients, options.alpha) == (True, 0.5)
    assert (options.score_learning_rate, options.score_weight_decay) == (0.1875, 0.0)  # 5 x 0.0375
    network = RunArguments(ModelArguments(), DataArguments(), options).model
    assert (network.granularity, network.classifier) == ("weight", "softmax" if name == "sfsc" else "cosface")


@pytest.mark.parametrize(
    ("given", "epochs", "rate"),
    [
        ({"epochs": 6, "learning_rate": 0.03}, 6, 0.12),  # 4 times 0.03, as four passes add up
        ({"epochs": 6, "learning_rate": 0.03, "capacity_draws": 3}, 6, 0.15),
        # The dense network and three subnetworks.
        ({"learning_rate": 0.03, "capacity_sampling": "fixed", "capacities": [0.1, 0.2, 0.4]}, 30, 0.12),
        ({"epochs": 6, "learning_rate": 0.03, "optimizer": "adamw"}, 6, 0.03),
        ({"epochs": 6, "dense_epochs": 0, "dense_learning_rate": 0.5}, 0, 0.5),
    ],
)
def test_the_dense_network_alone_has_as_many_epochs_and_the_rate_of_one_pass(
    given: dict[str, object], epochs: int, rate: float
) -> None:
    options = TrainArguments(**given)
    assert options.method == "distilled"
    assert options.dense_epochs == epochs
    assert options.dense_learning_rate == pytest.approx(rate)


@pytest.mark.parametrize("name", ["independent", "bct", "regression"])
def test_methods_of_one_pass_have_the_rate_of_all_passes_together(name: str) -> None:
    options = TrainArguments(method=name, capacities=[0.2], teacher=None if name == "independent" else "out/dense")
    assert options.learning_rate == TrainArguments().dense_learning_rate == 0.15
    assert options.score_learning_rate == TrainArguments().score_learning_rate == 0.1875


@pytest.mark.parametrize("method", ["distilled", "paper"])
def test_adamw_has_no_rate_by_default(method: str) -> None:
    with pytest.raises(ValueError, match=r"learning_rate must be given with --optimizer adamw.*got None.*0\.00003"):
        TrainArguments(method=method, optimizer="adamw")
    assert TrainArguments(method=method, optimizer="adamw", learning_rate=0.001).learning_rate == 0.001


def test_flags_and_none_in_arguments() -> None:
    merging = ["--method", "prunnet"]
    assert parse_arguments([*merging, "--scale_dense_gradients", "false"]).train.scale_dense_gradients is False
    assert parse_arguments([*merging, "--scale_dense_gradients"]).train.scale_dense_gradients is True
    assert parse_arguments([*merging, "--no_scale_dense_gradients"]).train.scale_dense_gradients is False
    assert TrainArguments(alpha=None).alpha == 0.5
    with pytest.raises(ValueError, match=r"alpha must be a number of at least 0; got -1"):
        TrainArguments(alpha=-1)


def test_help_says_the_default_of_each_method(capsys: pytest.CaptureFixture[str]) -> None:
    assert by_method("alpha", "Share.").metadata["help"].startswith("Share. Default 0.5")
    assert by_method("score_learning_rate", "Rate.").metadata["help"].startswith("Rate.")
    with pytest.raises(SystemExit):
        parse_arguments(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "changes it. Default 0.5" in text
    assert "Highest learning rate. Default 0.0375; with paper: 0.1; with independent: 0.15; with bct: 0.15;" in text
    assert "rate of scores. Default 5 times learning_rate; with paper: learning_rate; with independent: 1.25" in text
    assert "keeps its own. Default weight." in text
    assert "with its subnetworks. 0: none, and no distillation. Default epochs." in text
    assert "(default: None)" not in text


def test_help_and_errors_list_every_method(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for name, method in METHODS.items():
        assert f"{name}: {method.description}" in text
    with pytest.raises(ValueError, match=f"method.*{', '.join(METHODS)}.*'best'"):
        find_method("best")
