"""The optimiser of a run, and the learning rate of each step."""

from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_cosine_schedule_with_warmup

from ..pruning.layers import scored_modules
from ..runs.arguments import TrainArguments
from .objectives import norm_parameters

MULTISTEP_FACTOR = 0.1
ADAMW_EPS, PAPER_ADAMW_EPS = 1e-8, 1e-6


def create_optimizer(model: nn.Module, options: TrainArguments) -> torch.optim.Optimizer:
    """SGD or AdamW over all parameters; see `parameter_groups`."""
    groups = parameter_groups(model, options)
    if options.optimizer == "adamw":
        return torch.optim.AdamW(groups, eps=PAPER_ADAMW_EPS if options.method == "paper" else ADAMW_EPS)
    return torch.optim.SGD(groups, momentum=options.momentum)


def parameter_groups(model: nn.Module, options: TrainArguments) -> list[dict[str, Any]]:
    """All parameters, in groups of one highest learning rate and one weight decay.

    The paper's AdamW lets neither biases nor norms decay.
    """
    rate, decay = options.learning_rate, options.weight_decay
    of_scores = (options.score_learning_rate, options.score_weight_decay)
    scores = {module.scores for module in scored_modules(model)}
    undecayed = _biases_and_norms(model) if (options.method, options.optimizer) == ("paper", "adamw") else set()
    groups: dict[tuple[float, ...], list[nn.Parameter]] = {(rate, decay): []}  # the rest first, as in checkpoints
    for parameter in model.parameters():
        settings = of_scores if parameter in scores else (rate, 0.0 if parameter in undecayed else decay)
        groups.setdefault(settings, []).append(parameter)
    return [
        {"params": members, "lr": lr, "weight_decay": weight_decay}
        for (lr, weight_decay), members in groups.items()
        if members
    ]


def _biases_and_norms(model: nn.Module) -> set[nn.Parameter]:
    biases = {parameter for name, parameter in model.named_parameters() if name.rpartition(".")[2] == "bias"}
    return biases | norm_parameters(model)


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
