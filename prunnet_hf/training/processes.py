"""What processes tell each other between steps. They do so on the CPU, so that nobody waits for a GPU."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

import torch
from accelerate import Accelerator
from torch import Tensor, distributed
from tqdm import tqdm


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


_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_LAUNCHED = ("ACCELERATE_MIXED_PRECISION", "LOCAL_RANK")
"""Variables that accelerate's and torch's launchers set."""
_parents = {os.getpid(): os.getppid()}
"""The parent of each process as early as it is known: a launcher may be gone before the first step."""
NOTHING_LOST = "no step is lost; give the same command again."
"""What to do if a run is stopped before its first step."""


class Interruption:
    """A context in which SIGINT and SIGTERM lose nothing: the process leaves at once, and says how to go on.

    Inside `held` a signal is only remembered, for the training loop to ask about after each step and to save first.
    The exit status is 128 and the signal's number, as a shell has it.

    Args:
        advice: The sentence that says what to do after leaving; it may change as the work goes on.
        note: Called with the message that the user sees.
        is_main_process: Whether this process tells it.
    """

    def __init__(
        self, advice: str, *, note: Callable[[str], None] | None = None, is_main_process: bool = True
    ) -> None:
        self.advice = advice
        self.note = note or (lambda line: None)
        self.is_main_process = is_main_process
        self._number: int | None = None
        self._is_orphan = False
        self._is_held = False
        self._process = os.getpid()
        self._parent = _watched_parent()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        """Handle the signals."""
        self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore the handlers from before, and tell why the process leaves if it was asked to."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if isinstance(error, Stopped) and not error.is_told:
            error.is_told = True
            if self.is_main_process:
                reason = "as the process that started it is gone" if self._is_orphan else "by " + error.signal_name
                message = f"Stopped {reason}: {self.advice}"
                tqdm.write(message, file=sys.stderr)
                self.note(message)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Remember signals instead of leaving at once; leave at the end of the block if one came too late for it."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False
        self.leave_if_asked()

    @contextmanager
    def released(self) -> Iterator[None]:
        """Inside `held`: leave at once again, for work that can be done again."""
        self._is_held = False
        try:
            self.leave_if_asked()
            yield
        finally:
            self._is_held = True

    def is_due(self, agreement: Agreement) -> bool:
        """Whether to save and stop now. All processes must ask, and get the same answer.

        It is also time if the process that started this one is gone: `accelerate launch` hands no signal on.
        """
        if self._parent is not None and os.getppid() != self._parent:
            self._is_orphan, self._number = True, self._number or signal.SIGTERM
        asked = int(agreement.gather([self._number or 0]).max())
        self._number = asked or None
        return bool(asked)

    def leave_if_asked(self) -> None:
        """Leave if a signal has come.

        Raises:
            SystemExit: If one has.
        """
        if self._number is not None:
            raise Stopped(self._number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a worker that doesn't ignore signals yet
            return
        self._number = self._number or number
        if not self._is_held:
            raise Stopped(self._number)


class Stopped(SystemExit):
    """A signal ends this process.

    Args:
        number: The signal's.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.signal_name = signal.Signals(number).name
        self.is_told = False


def _watched_parent() -> int | None:
    """The process whose end stops this one; None if it was started to outlive its parent, by nohup."""
    is_launched = any(name in os.environ for name in _LAUNCHED)
    is_to_stay = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    parent = _parents.setdefault(os.getpid(), os.getppid())
    return parent if is_launched or not is_to_stay else None
