"""The optimiser of a run, and the learning rate of each step."""

from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_cosine_schedule_with_warmup

from ..pruning.channels import UnitScores
from ..pruning.layers import scored_modules
from ..runs.arguments import TrainArguments

MULTISTEP_FACTOR = 0.1
UNIT_RATE = 5.0
"""How many times the learning rate the scores of units have by default."""


def create_optimizer(model: nn.Module, options: TrainArguments) -> torch.optim.Optimizer:
    """SGD or AdamW over all parameters; see `parameter_groups`."""
    groups = parameter_groups(model, options)
    if options.optimizer == "adamw":
        return torch.optim.AdamW(groups)
    return torch.optim.SGD(groups, momentum=options.momentum)


def parameter_groups(model: nn.Module, options: TrainArguments) -> list[dict[str, Any]]:
    """All parameters with their highest learning rate and their weight decay; scores are a group if theirs differ.

    By default scores of weights are trained as weights are (the paper's recipe). Scores of units, which are few, have
    `UNIT_RATE` times the learning rate and no decay.
    """
    scored = scored_modules(model)
    rate, decay = options.learning_rate, options.weight_decay
    usual = (UNIT_RATE * rate, 0.0) if any(isinstance(module, UnitScores) for module in scored) else (rate, decay)
    given = (options.score_learning_rate, options.score_weight_decay)
    own_rate, own_decay = (value if other is None else other for value, other in zip(usual, given, strict=True))
    if not scored or (own_rate, own_decay) == (rate, decay):
        return [{"params": list(model.parameters()), "lr": rate, "weight_decay": decay}]
    scores = {module.scores: None for module in scored}
    rest = [parameter for parameter in model.parameters() if parameter not in scores]
    return [
        {"params": rest, "lr": rate, "weight_decay": decay},
        {"params": list(scores), "lr": own_rate, "weight_decay": own_decay},
    ]


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


def resume_schedule(schedule: LambdaLR, model: nn.Module, options: TrainArguments, step: int) -> None:
    """Continue from `step` with the settings in `options`, in place of those that the checkpoint has restored."""
    groups = parameter_groups(model, options)
    for group, now in zip(schedule.optimizer.param_groups, groups, strict=True):
        group.update(initial_lr=now["lr"], weight_decay=now["weight_decay"])
        if "momentum" in group:
            group["momentum"] = options.momentum
    schedule.base_lrs = [now["lr"] for now in groups]
    schedule.last_epoch = step - 1
    schedule.step()
