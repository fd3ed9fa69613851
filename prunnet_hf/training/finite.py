"""Losses and gradients that are no numbers any more: noticed in the step where they begin, before they are saved."""

from __future__ import annotations

import torch
from torch import Tensor

from ..masking import format_capacity
from .capacities import PassCapacities

_NEVER = -1


class FiniteWatch:
    """Remembers the first step with a loss or gradient that isn't finite.

    What it remembers stays on the device until somebody asks, so that a GPU never waits for it.

    Args:
        capacities: Of the passes of each step.
        device: Where losses are.
    """

    def __init__(self, capacities: PassCapacities, device: torch.device) -> None:
        self.capacities = capacities
        self._step = torch.tensor(_NEVER, device=device)
        self._is_bad = torch.zeros(len(self.capacities) + 1, dtype=torch.bool, device=device)

    def note(self, step: int, losses: Tensor, norm: Tensor) -> None:
        """Look at one step.

        Args:
            step: Its number.
            losses: Of each pass, `(num_passes,)`.
            norm: Of the merged gradient, `()`.
        """
        is_bad = ~torch.isfinite(torch.cat([losses, norm.reshape(1)]))
        is_first = (self._step == _NEVER) & is_bad.any()
        self._step = torch.where(is_first, step, self._step)
        self._is_bad = torch.where(is_first, is_bad, self._is_bad)

    def check(self) -> None:
        """Stop a run that has diverged; a GPU waits here.

        Raises:
            FloatingPointError: If any step so far was not finite; the message names it and the capacities.
        """
        step = int(self._step)
        if step == _NEVER:
            return
        passes = zip(self.capacities.at(step), self._is_bad.tolist(), strict=False)  # the last is the gradient's
        bad = [format_capacity(round(capacity, 4)) for capacity, is_bad in passes if is_bad]
        what = f"The loss of capacity {', '.join(bad)}" if bad else "The merged gradient"
        raise FloatingPointError(
            f"{what} is no finite number in step {step}: the run has diverged, and nothing was saved since. Lower "
            "--learning_rate, add --warmup_epochs, or look for damaged images or labels; --resume goes on from the "
            "last checkpoint, --skip_nonfinite_steps leaves such steps out."
        )
