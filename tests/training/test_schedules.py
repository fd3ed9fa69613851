"""Optimiser and learning rate."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from prunnet_hf.runs.arguments import TrainArguments
from prunnet_hf.training.schedules import create_optimizer, create_schedule, learning_rate_share


def test_cosine_is_half_way_down_half_way_through() -> None:
    options = TrainArguments(epochs=10, lr_schedule="cosine")
    shares = [learning_rate_share(epoch, options) for epoch in (0, 5, 10, 11)]
    assert shares == pytest.approx([1.0, 0.5, 0.0, 0.0])


def test_warm_up_rises_linearly_and_the_cosine_fills_the_rest() -> None:
    options = TrainArguments(epochs=10, warmup_epochs=2)
    shares = [learning_rate_share(epoch, options) for epoch in (0, 1, 2, 6, 10)]
    assert shares == pytest.approx([0.0, 0.5, 1.0, 0.5, 0.0])


def test_multistep_multiplies_by_a_tenth_after_each_milestone() -> None:
    options = TrainArguments(epochs=30, lr_schedule="multistep", milestones=[5, 10, 20])
    shares = [learning_rate_share(epoch, options) for epoch in (0, 4.99, 5, 10, 29)]
    assert shares == pytest.approx([1.0, 1.0, 0.1, 0.01, 0.001])


def test_warm_up_as_long_as_training_divides_by_nothing() -> None:
    options = TrainArguments(epochs=2, warmup_epochs=2)
    assert learning_rate_share(1, options) == 0.5
    assert learning_rate_share(2, options) == pytest.approx(1.0)


def test_schedule_moves_by_steps() -> None:
    options = TrainArguments(epochs=2, learning_rate=0.4)
    optimizer = create_optimizer(nn.Linear(2, 2), options)
    schedule = create_schedule(optimizer, options, steps_per_epoch=2)
    rates = []
    for _ in range(4):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    # 0.2 (1 + cos) at 0, 45, 90 and 135 degrees
    assert rates == pytest.approx([0.4, 0.2 + 0.2 * 0.5**0.5, 0.2, 0.2 - 0.2 * 0.5**0.5])


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_optimizer_decays_all_parameters_alike(name: str, kind: type[torch.optim.Optimizer]) -> None:
    model = nn.Linear(2, 2)
    model.scores = nn.Parameter(torch.ones(2, 2), requires_grad=False)
    optimizer = create_optimizer(model, TrainArguments(optimizer=name, weight_decay=0.25, learning_rate=0.5))
    assert isinstance(optimizer, kind)
    (group,) = optimizer.param_groups
    assert {id(p) for p in group["params"]} == {id(p) for p in model.parameters()}
    assert (group["lr"], group["weight_decay"]) == (0.5, 0.25)
