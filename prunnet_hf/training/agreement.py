"""What processes tell each other between steps, on the CPU, so that no GPU has to be waited for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch import distributed


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
