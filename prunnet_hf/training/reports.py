"""What a training says while it runs: to the bar, to accelerate's trackers, in a line for each epoch."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from ..runs.arguments import RunArguments

MEASURED_STEPS = 5
"""After so many steps the duration of a training is foretold; the first of them is left out, as it warms up."""
LONG = 3600.0
"""Seconds from which a training is long enough to say so."""
SHORT = 1800.0
"""Seconds that remain if advice is followed."""


def start_trackers(accelerator: Accelerator, arguments: RunArguments) -> None:
    """Start the trackers of `--report_to`, with the arguments of the run."""
    config = {
        name: value if isinstance(value, (int, float, str, bool)) else str(value)
        for name, value in arguments.as_dict().items()
    }
    accelerator.init_trackers("prunnet", config=config)


class TrainingReport:
    """Collects the losses of steps, and reports them.

    Args:
        accelerator: Has the trackers; only its main process prints.
        arguments: Those of the run.
        names: Names of the passes of a step, the dense one first.
        steps_per_epoch: Number of optimiser steps in an epoch.
        phase: What the training is called if it is only a part of the run; the lines of epochs begin with it.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        arguments: RunArguments,
        names: Sequence[str],
        steps_per_epoch: int,
        phase: str | None = None,
    ) -> None:
        self.accelerator = accelerator
        self.arguments = arguments
        self.names = names
        self.steps_per_epoch = steps_per_epoch
        self._phase = f"{phase}, " if phase else ""
        self._sums = torch.zeros(len(names), device=accelerator.device)
        self._counts = torch.zeros_like(self._sums)
        self._steps, self._measured_from = 0, 0.0
        self.begin()

    def begin(self) -> None:
        """Count the seconds of an epoch from here, not from when the training was made ready."""
        self._epoch_began = time.perf_counter()

    def step(self, losses: Tensor, steps_left: int) -> None:
        """Note the losses of one step; after the first steps, say it if hours are left.

        Args:
            losses: One for each pass.
            steps_left: Number of steps until the training ends.
        """
        is_finite = losses.isfinite()  # steps that were left out may be in it
        self._sums += losses.detach().nan_to_num(0.0, 0.0, 0.0)
        self._counts += is_finite
        self._steps += 1
        if self._steps not in (1, MEASURED_STEPS):
            return
        self._counts.tolist()  # waits for a GPU
        if self._steps == 1:
            self._measured_from = time.perf_counter()
            return
        seconds = (time.perf_counter() - self._measured_from) / (MEASURED_STEPS - 1)
        self._print(long_training(seconds, steps_left, self.steps_per_epoch, self.arguments, losses.device.type))

    def log(self, losses: Tensor, rate: float, step: int, epoch: int, bar: tqdm[None]) -> None:
        """Show the losses of a step on the bar, and log them with the learning rate."""
        values = losses.tolist()
        bar.set_postfix(epoch=epoch, loss=f"{values[0]:.3f}", smallest=f"{values[min(1, len(values) - 1)]:.3f}")
        entries = {f"loss/{name}": value for name, value in zip(self.names, values, strict=True)}
        self.accelerator.log({**entries, "learning_rate": rate}, step=step)

    def epoch(self, rate: float, step: int, epoch: int) -> None:
        """Log and print the mean losses since the last call, and start again from nothing.

        Args:
            rate: The learning rate.
            step: Number of steps so far.
            epoch: Number of epochs that are done.
        """
        means = (self._sums / self._counts.clamp(min=1)).tolist()
        seconds = time.perf_counter() - self._epoch_began
        entries = {f"epoch_loss/{name}": value for name, value in zip(self.names, means, strict=True)}
        self.accelerator.log({**entries, "learning_rate": rate, "epoch": epoch}, step=step)
        losses = ", ".join(f"{name} {mean:.3f}" for name, mean in zip(self.names, means, strict=True))
        epochs = self.arguments.train.epochs
        line = f"epoch {epoch} of {epochs}: loss {losses}; learning rate {rate:.3g}; {seconds:.0f} s"
        self._print(self._phase + line)
        self._sums.zero_()
        self._counts.zero_()
        self.begin()

    def _print(self, line: str | None) -> None:
        if line is not None and self.accelerator.is_main_process:
            tqdm.write(line)


def long_training(
    seconds: float, steps_left: int, steps_per_epoch: int, arguments: RunArguments, device: str
) -> str | None:
    """A line that says how many hours are left and what would make it minutes; None if it is less than one.

    Args:
        seconds: Duration of a step.
        steps_left: Number of steps until the training ends.
        steps_per_epoch: Number of steps in an epoch.
        arguments: Those of the run.
        device: torch's name of the kind of device, such as `"cpu"`.
    """
    left = seconds * steps_left
    if left < LONG:
        return None
    advice = ["a GPU" if device == "cpu" else "more GPUs"]
    if arguments.data.image_size > 64:
        advice.append("smaller images (--image_size 64; a step takes about the square of it)")
    if arguments.model.model_name_or_path is None and arguments.model.backbone != "resnet10t":
        advice.append("a smaller network (--backbone resnet10t)")
    epochs = int(SHORT / (seconds * steps_per_epoch))
    if epochs >= 1:
        advice.append(f"fewer epochs (--epochs {epochs})")
    return (
        f"At {seconds:.2g} s a step, the {steps_left:,} steps that are left take about {left / 3600:.1f} hours on "
        f"this {'CPU' if device == 'cpu' else 'GPU'}. What makes it minutes: {', or '.join(advice)}."
    )
