from __future__ import annotations

import math

import pytest
import torch

from prunnet_hf.training.capacities import pass_capacities
from prunnet_hf.training.finite import FiniteWatch

ONE = torch.tensor(1.0)


def watch() -> FiniteWatch:
    return FiniteWatch(pass_capacities("prunnet", [0.2, 0.5]), torch.device("cpu"))


def test_finite_steps_pass() -> None:
    found = watch()
    for step in range(3):
        found.note(step, torch.tensor([3.0, 1e30, 0.0]), ONE)
    found.check()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_loss_is_named_with_its_step_and_capacity(value: float) -> None:
    found = watch()
    found.note(6, torch.ones(3), ONE)
    found.note(7, torch.tensor([1.0, value, 1.0]), torch.tensor(value))
    with pytest.raises(FloatingPointError, match=r"The loss of capacity 0\.20 is no finite number in step 7"):
        found.check()


def test_first_bad_step_is_the_one_remembered() -> None:
    found = watch()
    found.note(0, torch.tensor([math.nan, math.nan, 1.0]), ONE)
    found.note(1, torch.tensor([1.0, 1.0, math.nan]), ONE)
    found.note(2, torch.ones(3), ONE)
    with pytest.raises(FloatingPointError, match=r"capacity 1\.00, 0\.20 is no finite number in step 0"):
        found.check()


def test_gradient_alone() -> None:
    found = watch()
    found.note(4, torch.ones(3), torch.tensor(math.inf))
    with pytest.raises(
        FloatingPointError, match=r"The merged gradient is no finite number in step 4.*--learning_rate"
    ):
        found.check()
