"""Accelerate's state, which is one for the whole process."""

from __future__ import annotations

import os

from accelerate.state import AcceleratorState, GradientState

MEETING_PLACES: list[int] = []
"""In a process of `run_processes`: ports at which the processes can meet again, since a server remembers who came."""


def reset_accelerate() -> None:
    """Forget the process's state, so that the next run or test begins as in a new process."""
    if MEETING_PLACES:
        os.environ["MASTER_PORT"] = str(MEETING_PLACES.pop(0))
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
