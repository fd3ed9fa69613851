"""Optimiser and learning rate."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from prunnet_hf.pruning.channels import UNITS, UnitScores
from prunnet_hf.pruning.layers import make_prunable
from prunnet_hf.runs.arguments import TrainArguments
from prunnet_hf.training.optimizers import create_optimizer, create_schedule, resume_schedule


def rates(options: TrainArguments, steps: int, steps_per_epoch: int = 10) -> list[float]:
    """The learning rate of each step."""
    optimizer = create_optimizer(nn.Linear(2, 2), options)
    schedule = create_schedule(optimizer, options, steps_per_epoch)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize("warmup_epochs", [0, 0.01, 0.25, 1, 2.5, 4, 6])
@pytest.mark.parametrize("steps_per_epoch", [1, 3, 10])
def test_cosine_fills_what_a_linear_warm_up_leaves(warmup_epochs: float, steps_per_epoch: int) -> None:
    options = TrainArguments(epochs=4, learning_rate=0.3, warmup_epochs=warmup_epochs)
    for step, rate in enumerate(rates(options, 4 * steps_per_epoch, steps_per_epoch)):
        epoch = step / steps_per_epoch
        if epoch < warmup_epochs:
            expected = 0.3 * epoch / warmup_epochs
        else:
            expected = 0.3 * 0.5 * (1 + math.cos(math.pi * (epoch - warmup_epochs) / (4 - warmup_epochs)))
        assert rate == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_cosine_by_hand() -> None:
    # 0.2 (1 + cos) at 0, 45, 90 and 135 degrees, and 0 after the last step
    expected = [0.4, 0.2 + 0.2 * 0.5**0.5, 0.2, 0.2 - 0.2 * 0.5**0.5, 0.0]
    assert rates(TrainArguments(epochs=2, learning_rate=0.4), 5, steps_per_epoch=2) == pytest.approx(expected)


def test_multistep_multiplies_by_a_tenth_at_each_milestone_and_warms_up_too() -> None:
    options = TrainArguments(epochs=8, learning_rate=0.5, lr_schedule="multistep", milestones=[2, 3, 6])
    found = rates(options, 80)
    assert found == pytest.approx([0.5] * 20 + [0.05] * 10 + [0.005] * 30 + [0.0005] * 20, rel=1e-12)
    options.warmup_epochs = 2.5
    rise = [0.5 * step / 25 for step in range(25)]
    assert rates(options, 80) == pytest.approx([*rise, *found[25:]], rel=1e-12)


@pytest.mark.parametrize("kind", ["cosine", "multistep"])
def test_resumed_schedule_has_the_rates_of_one_never_stopped_and_new_settings(kind: str) -> None:
    options = TrainArguments(epochs=4, learning_rate=0.2, lr_schedule=kind, milestones=[1, 2], warmup_epochs=0.5)
    before = create_schedule(create_optimizer(nn.Linear(2, 2), options), options, 3)
    for _ in range(5):
        before.optimizer.step()
        before.step()
    state, state_of_optimizer = before.state_dict(), before.optimizer.state_dict()

    changed = TrainArguments(**{**vars(options), "learning_rate": 0.4, "weight_decay": 0.25, "momentum": 0.5})
    network = nn.Linear(2, 2)
    after = create_schedule(create_optimizer(network, changed), changed, 3)
    after.load_state_dict(state)
    after.optimizer.load_state_dict(state_of_optimizer)
    resume_schedule(after, network, changed, 5)
    (group,) = after.optimizer.param_groups
    assert (group["weight_decay"], group["momentum"]) == (0.25, 0.5)
    found = []
    for _ in range(7):
        found.append(group["lr"])
        after.optimizer.step()
        after.step()
    assert found == pytest.approx([2 * rate for rate in rates(options, 12, 3)[5:]], rel=1e-12)


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_optimizer_decays_all_parameters_alike(name: str, kind: type[torch.optim.Optimizer]) -> None:
    model = nn.Linear(2, 2)
    model.scores = nn.Parameter(torch.ones(2, 2), requires_grad=False)
    optimizer = create_optimizer(model, TrainArguments(optimizer=name, weight_decay=0.25, learning_rate=0.5))
    assert isinstance(optimizer, kind)
    (group,) = optimizer.param_groups
    assert {id(p) for p in group["params"]} == {id(p) for p in model.parameters()}
    assert (group["lr"], group["weight_decay"]) == (0.5, 0.25)


def units() -> nn.Module:
    """A network with a weight of 4 numbers and a group of 3 units."""
    network = nn.Sequential(nn.Linear(2, 2, bias=False))
    network[0].add_module(UNITS, UnitScores(3))
    return network


def test_scores_of_units_have_five_times_the_rate_and_do_not_decay() -> None:
    network = units()
    rest, scores = create_optimizer(network, TrainArguments(learning_rate=0.5, weight_decay=0.25)).param_groups
    assert [p.shape for p in rest["params"]] == [(2, 2)]
    assert (rest["lr"], rest["weight_decay"]) == (0.5, 0.25)
    assert [p.shape for p in scores["params"]] == [(3,)]
    assert (scores["lr"], scores["weight_decay"]) == (2.5, 0.0)


@pytest.mark.parametrize("network", [units(), make_prunable(nn.Sequential(nn.Linear(2, 2)))], ids=["units", "weights"])
def test_scores_have_the_rate_and_the_decay_that_are_asked_for(network: nn.Module) -> None:
    options = TrainArguments(
        learning_rate=0.5, score_learning_rate=0.125, score_weight_decay=0.0625, optimizer="adamw"
    )
    rest, scores = create_optimizer(network, options).param_groups
    assert (rest["lr"], rest["weight_decay"]) == (0.5, 5e-4)
    assert (scores["lr"], scores["weight_decay"]) == (0.125, 0.0625)
    assert all(p.shape in ((3,), (2, 2)) for p in scores["params"])
    assert len(rest["params"]) + len(scores["params"]) == len(list(network.parameters()))


def test_a_resumed_schedule_has_the_rates_of_both_groups() -> None:
    network, options = units(), TrainArguments(epochs=2, learning_rate=0.4, weight_decay=0.25)
    schedule = create_schedule(create_optimizer(network, options), options, 2)
    resume_schedule(schedule, network, options, 2)  # half of a cosine: half of the rate
    assert [group["lr"] for group in schedule.optimizer.param_groups] == pytest.approx([0.2, 1.0])
    assert [group["weight_decay"] for group in schedule.optimizer.param_groups] == [0.25, 0.0]


@pytest.mark.parametrize("name", ["score_learning_rate", "score_weight_decay"])
def test_a_negative_rate_or_decay_of_scores_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be a number of at least 0; got -0.1"):
        TrainArguments(**{name: -0.1})


def test_scores_of_units_stay_where_no_gradient_moves_them() -> None:
    for name in ("sgd", "adamw"):
        network = units()
        for parameter in network.parameters():
            nn.init.ones_(parameter)
            parameter.grad = torch.zeros_like(parameter)
        create_optimizer(network, TrainArguments(optimizer=name, weight_decay=0.25, learning_rate=0.5)).step()
        weight, scores = network.parameters()
        assert weight.tolist() == [[0.875, 0.875], [0.875, 0.875]]  # 1 - 0.5 * 0.25
        assert scores.tolist() == [1.0, 1.0, 1.0]


def test_resumed_groups_have_new_settings_in_place_of_the_checkpoints() -> None:
    network, options = units(), TrainArguments(epochs=4, learning_rate=0.2, weight_decay=0.5)
    before = create_schedule(create_optimizer(network, options), options, 3)
    changed = TrainArguments(epochs=4, learning_rate=0.4, weight_decay=0.25, momentum=0.5)
    after = create_schedule(create_optimizer(network, changed), changed, 3)
    after.load_state_dict(before.state_dict())
    after.optimizer.load_state_dict(before.optimizer.state_dict())
    after.optimizer.step()  # without gradients nothing moves; torch asks for this order
    resume_schedule(after, network, changed, 6)  # half of 12 steps: half of the rates
    found = [(group["lr"], group["weight_decay"], group["momentum"]) for group in after.optimizer.param_groups]
    assert found == [(pytest.approx(0.2), 0.25, 0.5), (pytest.approx(1.0), 0.0, 0.5)]
