"""A few numbers exchanged between steps."""

from __future__ import annotations

import os
import signal
import time
from contextlib import ExitStack, suppress
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator

from prunnet_hf.data.workers import STOPPING
from prunnet_hf.training.processes import Agreement, Interruption
from tests.accelerate_state import reset_accelerate
from tests.processes import run_processes, start_process


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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_held_signal_is_noted_and_the_handlers_given_back(number: int) -> None:
    before, agreement = [signal.getsignal(each) for each in STOPPING], Agreement(Accelerator(cpu=True))
    asked = []

    def work() -> None:
        with Interruption("go on.") as interruption, interruption.held():
            asked.append(interruption.is_due(agreement))
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), signal.SIGTERM)  # as torchrun sends after a terminal's SIGINT
            asked.append(interruption.is_due(agreement))

    with pytest.raises(SystemExit) as stop:
        work()
    assert asked == [False, True]
    assert stop.value.code == 128 + number
    assert [signal.getsignal(each) for each in STOPPING] == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("is_released", [False, True])
def test_another_signal_leaves_at_once_and_says_how_to_go_on(
    number: int, is_released: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    reached = []

    def work() -> None:
        with ExitStack() as stack:
            stack.enter_context(Interruption("outer"))
            interruption = stack.enter_context(Interruption("go on with --resume."))
            if is_released:
                stack.enter_context(interruption.held())
                stack.enter_context(interruption.released())
            os.kill(os.getpid(), number)
            reached.append("the rest of the work")

    with pytest.raises(SystemExit) as stop:
        work()
    assert stop.value.code == 128 + number
    assert reached == []
    assert capsys.readouterr().err == f"Stopped by {signal.Signals(number).name}: go on with --resume.\n"


def orphaned(is_launched: bool, is_to_stay: bool, told: Connection) -> None:
    """A child that is asked before and after its parent has ended."""
    if is_launched:
        os.environ["ACCELERATE_MIXED_PRECISION"] = "no"
    # Not as it was inherited: the tests themselves may run under nohup.
    signal.signal(signal.SIGHUP, signal.SIG_IGN if is_to_stay else signal.SIG_DFL)
    agreement = Agreement(Accelerator(cpu=True))
    with suppress(SystemExit), Interruption("go on.") as interruption, interruption.held():
        parent, first = os.getppid(), interruption.is_due(agreement)
        told.send("ready")
        while os.getppid() == parent:
            time.sleep(0.01)
        told.send((first, interruption.is_due(agreement)))


def start_orphan(*given: Any) -> None:
    child = get_context("fork").Process(target=orphaned, args=given)
    child.start()
    time.sleep(60)


@pytest.mark.parametrize(
    ("is_launched", "is_to_stay", "stops"), [(True, False, True), (False, False, True), (False, True, False)]
)
def test_a_process_stops_when_the_one_that_started_it_is_gone_unless_nohup_started_it(
    is_launched: bool, is_to_stay: bool, stops: bool
) -> None:
    heard, told = Pipe()
    parent = start_process(start_orphan, is_launched, is_to_stay, told)
    assert heard.recv() == "ready"
    parent.kill()
    assert heard.recv() == (False, stops)


def steps_until_stopped() -> int:
    """Only rank 1 is asked to stop, in step 3."""
    accelerator = Accelerator(cpu=True)
    agreement, stopped = Agreement(accelerator), 0
    with suppress(SystemExit), Interruption("go on.") as interruption, interruption.held():
        for step in range(1, 100):
            if step == 3 and accelerator.process_index == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            if interruption.is_due(agreement):
                stopped = step
                break
    return stopped
