"""A few numbers exchanged between steps."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from accelerate import Accelerator

from prunnet_hf.training.processes import Agreement, Interruption
from tests.accelerate_state import reset_accelerate
from tests.processes import run_processes


def exchanged() -> list[list[int]]:
    accelerator = Accelerator(cpu=True)
    rank = accelerator.process_index
    return Agreement(accelerator).gather([rank, 10 * rank + 1, 2**40]).tolist()


def exchanged_and_stopped() -> tuple[list[list[int]], int]:
    found = exchanged()
    reset_accelerate()
    return found, steps_until_stopped()


def test_each_process_gets_the_numbers_of_all_by_rank_and_all_stop_after_the_same_step(tmp_path: Path) -> None:
    expected = [[0, 1, 2**40], [1, 11, 2**40], [2, 21, 2**40]]
    assert run_processes(3, exchanged_and_stopped, folder=tmp_path) == [(expected, 3)] * 3


def test_alone_a_process_gets_its_own() -> None:
    assert exchanged() == [[0, 1, 2**40]]


def test_signal_is_noted_and_given_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Interruption(Accelerator(cpu=True)) as interruption:
        assert not interruption.is_due()
        os.kill(os.getpid(), signal.SIGTERM)
        assert interruption.is_due()
    assert signal.getsignal(signal.SIGTERM) is before


def steps_until_stopped() -> int:
    """Only rank 1 is asked to stop, in step 3."""
    accelerator = Accelerator(cpu=True)
    with Interruption(accelerator) as interruption:
        for step in range(1, 100):
            if step == 3 and accelerator.process_index == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            if interruption.is_due():
                return step
    return 0
