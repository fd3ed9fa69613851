"""Optimiser and learning rate."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

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
    after = create_schedule(create_optimizer(nn.Linear(2, 2), changed), changed, 3)
    after.load_state_dict(state)
    after.optimizer.load_state_dict(state_of_optimizer)
    resume_schedule(after, changed, 5)
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
