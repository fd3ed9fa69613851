"""A few numbers exchanged between steps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.state import GradientState

from prunnet_hf.training.agreement import Agreement
from tests.processes import run_processes


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def exchanged() -> list[list[int]]:
    accelerator = Accelerator(cpu=True)
    rank = accelerator.process_index
    return Agreement(accelerator).gather([rank, 10 * rank + 1, 2**40]).tolist()


def test_each_process_gets_the_numbers_of_all_by_rank(tmp_path: Path) -> None:
    expected = [[0, 1, 2**40], [1, 11, 2**40], [2, 21, 2**40]]
    assert run_processes(3, exchanged, folder=tmp_path) == [expected] * 3


def test_alone_a_process_gets_its_own() -> None:
    assert exchanged() == [[0, 1, 2**40]]
