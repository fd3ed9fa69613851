"""Work that is handed out in its order, where some of it waits for other work; several do it at a time."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class WaitingQueue(ABC, Generic[T]):
    """Hands out work in its order; what can't begin yet waits.

    Args:
        waiting: In the order of its importance.
    """

    def __init__(self, waiting: Iterable[T]) -> None:
        self.waiting = list(waiting)
        self.active: list[T] = []
        self.changed = threading.Condition()

    @abstractmethod
    def can_begin(self, work: T) -> bool:
        """Whether all that it needs is there."""

    def take(self) -> T | None:
        """What is next; None if none is left, or none that can ever begin. Waits for what is being done."""
        with self.changed:
            while True:
                ready = next((work for work in self.waiting if self.can_begin(work)), None)
                if ready is not None:
                    self.waiting.remove(ready)
                    self.active.append(ready)
                    return ready
                if not self.active:
                    return None
                self.changed.wait()

    def finish(self, work: T) -> None:
        """Say that something ended, well or not."""
        with self.changed:
            self.active.remove(work)
            self.changed.notify_all()

    def clear(self) -> None:
        """Hand out no more."""
        with self.changed:
            self.waiting.clear()
            self.changed.notify_all()


def empty(queue: WaitingQueue[T], do: Callable[[T], None], jobs: int, stop: Callable[[], None]) -> None:
    """Do all work of a queue that can begin.

    Args:
        queue: Holds it.
        do: Does it.
        jobs: How much is done at a time.
        stop: Ends what is being done, if something raises.
    """

    def work() -> None:
        while (taken := queue.take()) is not None:
            try:
                do(taken)
            finally:
                queue.finish(taken)

    with ThreadPoolExecutor(jobs) as pool:
        workers = [pool.submit(work) for _ in range(jobs)]
        try:
            for worker in workers:
                worker.result()
        except BaseException:
            queue.clear()
            stop()
            raise
