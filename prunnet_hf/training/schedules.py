"""Optimiser and learning rate of a run."""

import math

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from ..runs.arguments import TrainArguments

MULTISTEP_FACTOR = 0.1


def create_optimizer(model: nn.Module, options: TrainArguments) -> torch.optim.Optimizer:
    """SGD or AdamW over all parameters; weight decay applies to scores as to weights (the paper's recipe)."""
    parameters = list(model.parameters())
    if options.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=options.learning_rate, weight_decay=options.weight_decay)
    return torch.optim.SGD(
        parameters, lr=options.learning_rate, momentum=options.momentum, weight_decay=options.weight_decay
    )


def create_schedule(optimizer: torch.optim.Optimizer, options: TrainArguments, steps_per_epoch: int) -> LambdaLR:
    """The learning rate of each step: a linear rise over the warm-up, then half a cosine or steps by 0.1."""

    def share_of_rate(step: int) -> float:
        return learning_rate_share(step / steps_per_epoch, options)

    return LambdaLR(optimizer, share_of_rate)


def resume_schedule(schedule: LambdaLR, options: TrainArguments, step: int) -> None:
    """Go on from `step` with the settings in `options`: a checkpoint has brought back those of its run."""
    for group in schedule.optimizer.param_groups:
        group.update(initial_lr=options.learning_rate, weight_decay=options.weight_decay)
        if "momentum" in group:
            group["momentum"] = options.momentum
    schedule.base_lrs = [options.learning_rate] * len(schedule.base_lrs)
    schedule.last_epoch = step - 1
    schedule.step()


def learning_rate_share(epoch: float, options: TrainArguments) -> float:
    """Learning rate at a point of training, as a share of the highest one.

    Args:
        epoch: Epochs done so far, with fractions.
        options: Gives `epochs`, `warmup_epochs`, `lr_schedule` and `milestones`.

    Returns:
        In [0, 1]. Half-way through a cosine without warm-up it is 0.5.
    """
    if epoch < options.warmup_epochs:
        return epoch / options.warmup_epochs
    if options.lr_schedule == "multistep":
        return MULTISTEP_FACTOR ** sum(epoch >= milestone for milestone in options.milestones)
    progress = (epoch - options.warmup_epochs) / max(options.epochs - options.warmup_epochs, 1e-9)
    return 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))
