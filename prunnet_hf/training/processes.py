"""What processes tell each other between steps. They do so on the CPU, so that nobody waits for a GPU."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Any, Self

import torch
from accelerate import Accelerator
from torch import Tensor, distributed


class Agreement:
    """Lets processes exchange a few numbers. All of them must make one and use it in the same places.

    Args:
        accelerator: Knows the processes.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.num_processes = accelerator.num_processes
        # The group that gradients use may be one of GPUs, which answer only after all the work they were given before.
        self._group: Any = distributed.new_group(backend="gloo") if self.num_processes > 1 else None

    def gather(self, numbers: Sequence[int]) -> Tensor:
        """The numbers of all processes, by rank: `(num_processes, len(numbers))`. Each must give as many."""
        own = torch.tensor([numbers], dtype=torch.int64)
        if self._group is None:
            return own
        parts = [torch.empty_like(own) for _ in range(self.num_processes)]
        distributed.all_gather(parts, own, group=self._group)
        return torch.cat(parts)


EXIT_STATUS = 128 + signal.SIGTERM


class Interruption:
    """A context in which SIGTERM is only remembered, for the training loop to ask about after each step and epoch.

    Args:
        accelerator: Knows the processes; all must stop after the same step.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._agreement = Agreement(accelerator)
        self._was_asked = False
        self._handler_before: Any = None

    def __enter__(self) -> Self:
        """Handle the signal."""
        self._handler_before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore the handler from before."""
        signal.signal(signal.SIGTERM, self._handler_before)

    def is_due(self) -> bool:
        """Whether to save and stop now. All processes must ask, and get the same answer."""
        return bool(self._agreement.gather([self._was_asked]).any())

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._was_asked = True
