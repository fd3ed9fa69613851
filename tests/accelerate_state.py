"""Accelerate's state, which is one for the whole process."""

from __future__ import annotations

from accelerate.state import AcceleratorState, GradientState


def reset_accelerate() -> None:
    """Forget the process's state, so that the next run or test begins as in a new process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
