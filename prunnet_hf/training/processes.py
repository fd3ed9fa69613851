"""What processes tell each other between steps, on the CPU, so that no GPU has to be waited for."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Any, Self

import torch
from accelerate import Accelerator
from torch import Tensor, distributed


class Agreement:
    """Lets processes exchange a few numbers; made and used by all of them alike.

    Args:
        accelerator: Knows the processes.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.num_processes = accelerator.num_processes
        # The group that gradients use may be one of GPUs, whose answers are behind everything they were told before.
        self._group: Any = distributed.new_group(backend="gloo") if self.num_processes > 1 else None

    def gather(self, numbers: Sequence[int]) -> Tensor:
        """The numbers of all processes, `(num_processes, len(numbers))`, by rank; each gives as many."""
        own = torch.tensor([numbers], dtype=torch.int64)
        if self._group is None:
            return own
        parts = [torch.empty_like(own) for _ in range(self.num_processes)]
        distributed.all_gather(parts, own, group=self._group)
        return torch.cat(parts)


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
