from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.state import GradientState

from prunnet_hf.training.interruption import Interruption
from tests.processes import run_processes


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


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


def test_all_processes_stop_after_the_same_step(tmp_path: Path) -> None:
    assert run_processes(2, steps_until_stopped, folder=tmp_path) == [3, 3]
