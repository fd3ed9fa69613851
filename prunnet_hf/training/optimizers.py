"""The optimiser of a run, and the learning rate of each step."""

from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_cosine_schedule_with_warmup

from ..pruning.channels import UnitScores
from ..runs.arguments import TrainArguments

MULTISTEP_FACTOR = 0.1


def create_optimizer(model: nn.Module, options: TrainArguments) -> torch.optim.Optimizer:
    """SGD or AdamW over all parameters.

    Weight decay applies to scores of weights as to weights (the paper's recipe), and not to scores of units.
    """
    parameters = parameter_groups(model)
    if options.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=options.learning_rate, weight_decay=options.weight_decay)
    return torch.optim.SGD(
        parameters, lr=options.learning_rate, momentum=options.momentum, weight_decay=options.weight_decay
    )


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """All parameters, those that don't decay in a second group."""
    undecayed = [module.scores for module in model.modules() if isinstance(module, UnitScores)]
    rest = [parameter for parameter in model.parameters() if all(parameter is not other for other in undecayed)]
    groups: list[dict[str, Any]] = [{"params": rest}]
    return [*groups, {"params": undecayed, "weight_decay": 0.0}] if undecayed else groups


def create_schedule(optimizer: torch.optim.Optimizer, options: TrainArguments, steps_per_epoch: int) -> LambdaLR:
    """The learning rate of each step: a linear rise during warm-up, then half a cosine, or steps by 0.1.

    Both are a `LambdaLR`, whose place a resumed run can set. torch's MultiStepLR multiplies the last rate instead.
    """
    warmup = options.warmup_epochs * steps_per_epoch  # with fractions of a step
    if options.lr_schedule == "cosine":
        total = options.epochs * steps_per_epoch
        cosine: LambdaLR = get_cosine_schedule_with_warmup(optimizer, warmup, total)  # type: ignore[arg-type]
        return cosine

    def share(step: int) -> float:
        if step < warmup:
            return step / warmup
        return MULTISTEP_FACTOR ** sum(step >= milestone * steps_per_epoch for milestone in options.milestones)

    return LambdaLR(optimizer, share)


def resume_schedule(schedule: LambdaLR, options: TrainArguments, step: int) -> None:
    """Continue from `step` with the settings in `options`, in place of those that the checkpoint has restored."""
    for group, is_undecayed in zip(schedule.optimizer.param_groups, (False, True), strict=False):
        group.update(initial_lr=options.learning_rate, weight_decay=0.0 if is_undecayed else options.weight_decay)
        if "momentum" in group:
            group["momentum"] = options.momentum
    schedule.base_lrs = [options.learning_rate] * len(schedule.base_lrs)
    schedule.last_epoch = step - 1
    schedule.step()
