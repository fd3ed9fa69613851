"""SIGTERM, by which schedulers announce that a machine is taken away: save first, then go."""

from __future__ import annotations

import signal
from types import FrameType
from types import TracebackType
from typing import Self

import torch
from accelerate import Accelerator

AGREED_EVERY = 10
"""Steps after which several processes tell each other whether one was asked to stop."""
EXIT_STATUS = 128 + signal.SIGTERM


class Interruption:
    """While entered, SIGTERM is only noted, for the training loop to ask about after each step.

    Args:
        accelerator: Knows the processes; all must stop after the same step.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self._was_asked = False

    def __enter__(self) -> Self:
        """Take over the signal."""
        self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the signal back."""
        signal.signal(signal.SIGTERM, self._before)

    def is_due(self, step: int) -> bool:
        """Whether to save and stop after this step; alike on all processes, which must all ask."""
        if self.accelerator.num_processes == 1:
            return self._was_asked
        if step % AGREED_EVERY:
            return False
        asked = torch.tensor(int(self._was_asked), device=self.accelerator.device)
        return bool(self.accelerator.reduce(asked, reduction="sum"))

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._was_asked = True
