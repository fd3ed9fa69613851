"""One training step: a pass for every capacity, their gradients merged, one move of the optimiser."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch._dynamo import OptimizedModule
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel

from ..modeling_prunnet import PrunNetClassifierOutput, PrunNetForImageClassification
from ..pruning.masking import format_capacity
from .capacities import PassCapacities
from .objectives import Gradients, Objective
from .passes import SubnetworkPasses, subnetwork_passes

MODEL_INPUTS = ("pixel_values", "labels")
"""What the network is given of a batch; objectives may need more."""
MOST_OVERFLOWS = 50
"""How many steps in a row loss scaling may leave out. Each halves the scale, which begins at 2**16."""


class TrainingStep:
    """Runs the network at several capacities on batches, and steps the optimiser on the merged gradients.

    It calls the wrapped module's forward, so data parallelism, mixed precision and compilation work as accelerate sets
    them up, and the gradients of each pass are averaged over the processes before they are merged. Scores never enter
    the graph.

    Args:
        model: The network itself.
        wrapped: What `accelerator.prepare` made of it.
        objective: Gives the loss of each pass and merges the gradients.
        capacities: The capacities of the passes.
        optimizer: Prepared by `accelerator`.
        accelerator: Decides on mixed precision, accumulation and processes.
        max_grad_norm: Largest norm of the merged gradient of all parameters.
        seed: With the step's number it decides the random orders of projection, which are the same on all processes.
        skip_nonfinite: Leave out steps whose loss or gradient isn't finite. A GPU then waits in each step.
        memory_format: The memory format of images, which should be that of the weights (see `networks.lay_out`).

    Attributes:
        watch: Notes whether losses and gradients have been finite so far.
        skipped: Number of steps that were left out.

    Raises:
        ValueError: If `wrapped` isn't the network itself, compiled, or in DistributedDataParallel.
    """

    def __init__(
        self,
        model: PrunNetForImageClassification,
        wrapped: nn.Module,
        objective: Objective,
        capacities: PassCapacities,
        optimizer: torch.optim.Optimizer,
        accelerator: Accelerator,
        *,
        max_grad_norm: float,
        seed: int,
        skip_nonfinite: bool = False,
        memory_format: torch.memory_format = torch.channels_last,
    ) -> None:
        self.model = model
        self.wrapped = wrapped
        self.objective = objective
        self.capacities = capacities
        self.optimizer = optimizer
        self.accelerator = accelerator
        self.max_grad_norm = max_grad_norm
        self.seed = seed
        self.skip_nonfinite = skip_nonfinite
        self.memory_format = memory_format
        self.skipped = 0
        self._overflows = 0
        self.watch = FiniteWatch(capacities, accelerator.device)
        self._losses = torch.zeros(len(capacities), device=accelerator.device)
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._prefix, is_compiled = _unwrapped(model, wrapped)
        self._make_passes = subnetwork_passes(model, is_compiled=is_compiled)
        self._passes: SubnetworkPasses | None = None
        self._gradients: list[Gradients] = [{} for _ in range(len(capacities))]

    def backward(self, batch: dict[str, Tensor], step: int, weight: float = 1.0) -> Tensor:
        """Run all passes on a batch, and add their gradients to those of earlier batches of the same step.

        Args:
            batch: `pixel_values` `(batch, 3, height, width)`, `labels` `(batch,)`, and what else the objective needs.
            step: Number of the step.
            weight: Weight of this batch's mean loss. Gradients are averaged over processes and accumulated batches.

        Returns:
            The loss of each pass, `(num_passes,)`, detached.
        """
        capacities = self.capacities.at(step)
        if self._passes is None:
            self._passes = self._make_passes([capacity for capacity in capacities if capacity < 1.0])
        inputs = {**batch, "pixel_values": batch["pixel_values"].contiguous(memory_format=self.memory_format)}
        losses = []
        for index, capacity in enumerate(capacities):
            for parameter in self.parameters:
                parameter.grad = self._gradients[index].get(parameter)
            loss = self.objective.loss(self._outputs(self._passes, capacity, inputs), inputs, index, step)
            self.accelerator.backward(weight * loss)
            self._gradients[index] = {parameter: _taken(parameter) for parameter in self.parameters}
            losses.append(loss.detach())
        stacked = torch.stack(losses)
        self._losses += stacked
        return stacked

    def update(self, step: int) -> None:
        """Merge the gradients, clip them, step the optimiser, and forget them."""
        generator = torch.Generator().manual_seed((self.seed << 32) + step)
        self.objective.agree(partial(self.accelerator.reduce, reduction="mean"))
        self.objective.merge(self._gradients, generator)
        # Free them now: optimisers need memory for their own copies.
        self._gradients = [{} for _ in range(len(self.capacities))]
        self._passes = None
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.max_grad_norm)
        # With loss scaling, gradients overflow at times. The scaler then leaves the step out and lowers the scale.
        scaler = self.accelerator.scaler
        is_left_out = self.skip_nonfinite and not bool(torch.isfinite(norm))
        self.skipped += is_left_out
        if not is_left_out:
            self.watch.note(step, self._losses, torch.zeros_like(norm) if scaler else norm)
        if scaler or not is_left_out:
            self.optimizer.step()
        if scaler:
            self._check_overflows(step)
        self.optimizer.zero_grad(set_to_none=True)
        self._losses = torch.zeros_like(self._losses)

    def _check_overflows(self, step: int) -> None:
        self._overflows = self._overflows + 1 if self.accelerator.optimizer_step_was_skipped else 0
        if self._overflows > MOST_OVERFLOWS:
            raise FloatingPointError(
                f"Gradients were not finite in {self._overflows} steps in a row, the last of them step {step}, "
                "however small losses were scaled: the run has diverged. Lower --learning_rate, or train with "
                "--mixed_precision bf16; --resume continues from the last checkpoint."
            )

    def _outputs(
        self, passes: SubnetworkPasses, capacity: float, inputs: dict[str, Tensor]
    ) -> PrunNetClassifierOutput:
        with passes.at(capacity) if capacity < 1.0 else nullcontext({}) as tensors:
            named = {f"{self._prefix}{name}": tensor for name, tensor in tensors.items()}
            own = {name: inputs[name] for name in MODEL_INPUTS}
            outputs: PrunNetClassifierOutput = functional_call(self.wrapped, named, kwargs=own)
        return outputs


def _unwrapped(model: nn.Module, wrapped: nn.Module) -> tuple[str, bool]:
    """The prefix of the names of the network's tensors in the wrapped module, and whether that is compiled."""
    prefix, inner, is_compiled = "", wrapped, False
    while inner is not model:
        if isinstance(inner, DistributedDataParallel):
            prefix, inner = f"{prefix}module.", inner.module
        elif isinstance(inner, OptimizedModule):
            prefix, inner, is_compiled = f"{prefix}_orig_mod.", inner._orig_mod, True
        else:
            raise ValueError(
                "A training step needs the network itself, compiled, or in DistributedDataParallel; accelerate "
                f"wrapped it in {type(inner).__name__}. Launch without FSDP, DeepSpeed and regional compilation."
            )
    return prefix, is_compiled


def _taken(parameter: Tensor) -> Tensor:
    gradient = parameter.grad
    parameter.grad = None
    # A parameter outside the graph of this pass contributes nothing. (DDP waits for it, says so and stops.)
    return torch.zeros_like(parameter) if gradient is None else gradient


_NEVER = -1


class FiniteWatch:
    """Remembers the first step with a loss or gradient that isn't finite.

    It stays on the device until somebody asks for it, so that no GPU waits.

    Args:
        capacities: The capacities of the passes.
        device: The device of the losses.
    """

    def __init__(self, capacities: PassCapacities, device: torch.device) -> None:
        self.capacities = capacities
        self._step = torch.tensor(_NEVER, device=device)
        self._is_bad = torch.zeros(len(self.capacities) + 1, dtype=torch.bool, device=device)

    def note(self, step: int, losses: Tensor, norm: Tensor) -> None:
        """Record one step.

        Args:
            step: Its number.
            losses: The loss of each pass, `(num_passes,)`.
            norm: The norm of the merged gradient, `()`.
        """
        is_bad = ~torch.isfinite(torch.cat([losses, norm.reshape(1)]))
        is_first = (self._step == _NEVER) & is_bad.any()
        self._step = torch.where(is_first, step, self._step)
        self._is_bad = torch.where(is_first, is_bad, self._is_bad)

    def check(self) -> None:
        """Stop a run that has diverged. A GPU waits here.

        Raises:
            FloatingPointError: If a step so far was not finite. The message names it and the capacities.
        """
        step = int(self._step)
        if step == _NEVER:
            return
        # Not strict: the last entry of `_is_bad` is the gradient's.
        passes = zip(self.capacities.at(step), self._is_bad.tolist(), strict=False)
        bad = [format_capacity(round(capacity, 4)) for capacity, is_bad in passes if is_bad]
        what = f"The loss of capacity {', '.join(bad)}" if bad else "The merged gradient"
        raise FloatingPointError(
            f"{what} is not finite in step {step}: the run has diverged, and nothing was saved since. Lower "
            "--learning_rate, add --warmup_epochs, or look for damaged images or labels. --resume continues from the "
            "last checkpoint; --skip_nonfinite_steps leaves such steps out."
        )
