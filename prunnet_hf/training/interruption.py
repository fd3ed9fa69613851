"""SIGTERM, by which schedulers announce that a machine is taken away: save first, then go."""

from __future__ import annotations

import signal
from types import FrameType
from types import TracebackType
from typing import Self

from accelerate import Accelerator

from .agreement import Agreement

EXIT_STATUS = 128 + signal.SIGTERM


class Interruption:
    """While entered, SIGTERM is only noted, for the training loop to ask about after each step and epoch.

    Args:
        accelerator: Knows the processes; all must stop after the same step.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._agreement = Agreement(accelerator)
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

    def is_due(self) -> bool:
        """Whether to save and stop now; alike on all processes, which must all ask."""
        return bool(self._agreement.gather([self._was_asked]).any())

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._was_asked = True
