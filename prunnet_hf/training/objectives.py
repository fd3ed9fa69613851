"""What one training step runs, and how the gradients of its passes become one.

A step runs the dense network and its subnetworks on the same images, one pass each. With effective weights
`V_i = mask_i * W`, all that pass i contributes to a prunable layer is the one tensor `mask_i * dL_i/dV_i`: the
gradient of its weights, from which that of its scores follows. So a pass leaves behind an ordinary gradient of the
parameters that are no scores.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from ..modeling_prunnet import PrunNetForImageClassification
from ..pruning.layers import PrunableConv2d, PrunableLayer
from ..pruning.masking import score_gradient
from .gradients import integrate, integrate_weight_and_scores, projection_orders

Method = Literal["prunnet", "joint", "independent"]
Gradients = dict[Tensor, Tensor]
"""Of parameters, by parameter."""


class Objective(ABC):
    """The merging of the gradients of a step's passes.

    Args:
        model: The network in training; its scores get their gradients here, not from autograd.
    """

    def __init__(self, model: PrunNetForImageClassification) -> None:
        self.layers: list[PrunableLayer] = list(model.prunable_layers().values())
        of_layers = {parameter for layer in self.layers for parameter in (layer.weight, layer.scores)}
        self.other_parameters = [p for p in model.parameters() if p.requires_grad and p not in of_layers]

    @abstractmethod
    def merge(self, passes: Sequence[Gradients], generator: torch.Generator) -> None:
        """Set `.grad` of every parameter from the gradients of each pass.

        Args:
            passes: The gradients that each pass left, without those of scores.
            generator: Source of random orders, in the same state on all processes.
        """


class SumObjective(Objective):
    """The plain sum of the losses: joint training, and with a single pass that of one network alone."""

    @torch.no_grad()
    def merge(self, passes: Sequence[Gradients], generator: torch.Generator) -> None:
        """Add up the gradients of the passes."""
        for layer in self.layers:
            layer.weight.grad = _sum(layer.weight, passes)
            layer.scores.grad = score_gradient(layer.weight.grad, layer.weight, layer.scores)
        for parameter in self.other_parameters:
            parameter.grad = _sum(parameter, passes)


class KeptObjective(Objective):
    """One network alone, some of whose weights are pruned for good: they get no gradient, and scores none either.

    A weight that is zero, with a gradient and a momentum of zero, stays exactly zero in SGD and AdamW, weight decay
    included.

    Args:
        model: The network in training.
        kept: Which weights are trained, boolean and of the weight's shape, by the name of each prunable weight.

    Raises:
        ValueError: If `kept` names other weights than the prunable ones, or a mask has another shape.
    """

    def __init__(self, model: PrunNetForImageClassification, kept: Mapping[str, Tensor]) -> None:
        super().__init__(model)
        weights = prunable_weights(model)
        check_kept(weights, kept)
        # Laid out and placed as the weights are, whose gradients they multiply in every step.
        self.masks = {weight: torch.empty_like(weight).copy_(kept[name]) for name, weight in weights.items()}

    @torch.no_grad()
    def merge(self, passes: Sequence[Gradients], generator: torch.Generator) -> None:
        """Add up the gradients of the passes, and leave none to what is pruned."""
        for weight, mask in self.masks.items():
            weight.grad = _sum(weight, passes) * mask
        for parameter in self.other_parameters:
            parameter.grad = _sum(parameter, passes)


class ConflictAwareObjective(Objective):
    """PrunNet: conflict-aware integration of the gradients (arXiv 2504.11879, section 3.3).

    Classifier, projector and normalisation are trained by the dense pass alone, which must come first.

    Args:
        model: The network in training.
        alpha: See `gradients.integrate`.
        projection: See `gradients.integrate`.
        scale_dense_gradients: Multiply what the dense pass alone trains by the number of passes, as integration does
            with everything else, so that one learning rate fits both. The paper leaves it as it is.
    """

    def __init__(
        self,
        model: PrunNetForImageClassification,
        *,
        alpha: float = 0.5,
        projection: Literal["last", "sequential"] = "last",
        scale_dense_gradients: bool = False,
    ) -> None:
        super().__init__(model)
        self.scale_dense_gradients = scale_dense_gradients
        self.alpha = alpha
        self.projection = projection
        dense_only = dense_pass_parameters(model)
        self.dense_parameters = [p for p in self.other_parameters if p in dense_only]
        self.integrated_parameters = [p for p in self.other_parameters if p not in dense_only]

    @torch.no_grad()
    def merge(self, passes: Sequence[Gradients], generator: torch.Generator) -> None:
        """Integrate the gradients layer by layer."""
        for layer in self.layers:
            self._merge_layer(layer, [gradients[layer.weight] for gradients in passes], generator)
        for parameter in self.integrated_parameters:
            gradients = [gradients[parameter] for gradients in passes]
            orders = projection_orders(len(passes), per_row=False, generator=generator)
            parameter.grad = integrate(gradients, orders, per_row=False, alpha=self.alpha, projection=self.projection)
        dense_scale = len(passes) if self.scale_dense_gradients else 1
        for parameter in self.dense_parameters:
            parameter.grad = dense_scale * passes[0][parameter]

    def _merge_layer(self, layer: PrunableLayer, gradients: list[Tensor], generator: torch.Generator) -> None:
        per_row = isinstance(layer, PrunableConv2d)
        weight_orders, score_orders = (
            projection_orders(len(gradients), per_row=per_row, generator=generator) for _ in range(2)
        )
        layer.weight.grad, layer.scores.grad = integrate_weight_and_scores(
            gradients,
            layer.weight,
            layer.scores,
            weight_orders,
            score_orders,
            per_row=per_row,
            alpha=self.alpha,
            projection=self.projection,
        )


def dense_pass_parameters(model: PrunNetForImageClassification) -> set[nn.Parameter]:
    """Parameters that only the dense pass trains: classifier, projector, and the affines of normalisation layers."""
    shared = {*model.classifier.parameters(), *model.prunnet.projector.parameters()}
    for module in model.modules():
        if _normalises(module):
            shared.update(module.parameters(recurse=False))
    return shared


def _normalises(module: nn.Module) -> bool:
    """Whether `module` is a norm: torch's, or another's by the name of its class and vectors for parameters.

    timm and others build norms from nn.Module alone (RmsNorm2d, EvoNorm2dS0, GlobalResponseNorm). The name would not
    do: NormFreeBlock of timm has one parameter of its own, a scalar.
    """
    if isinstance(module, (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)):
        return True
    named = any("norm" in kind.__name__.lower() for kind in type(module).__mro__)
    return named and all(parameter.ndim == 1 for parameter in module.parameters(recurse=False))


def create_objective(
    method: Method,
    model: PrunNetForImageClassification,
    *,
    alpha: float = 0.5,
    projection: Literal["last", "sequential"] = "last",
    scale_dense_gradients: bool = False,
    kept: Mapping[str, Tensor] | None = None,
) -> Objective:
    """The objective of a training method.

    Args:
        method: `"prunnet"`, `"joint"` (the plain sum of the same N+1 losses) or `"independent"` (one network alone).
        model: The network in training.
        alpha: See `gradients.integrate`.
        projection: See `gradients.integrate`.
        scale_dense_gradients: See `ConflictAwareObjective`.
        kept: See `KeptObjective`; for `"independent"` only.

    Raises:
        ValueError: If `method` is unknown, or doesn't go with `kept`.
    """
    if method not in get_args(Method):
        raise ValueError(f"method must be one of {', '.join(get_args(Method))}; got {method!r}.")
    if kept is not None:
        if method != "independent":
            raise ValueError(
                f"method must be 'independent' where kept says which weights are trained; got {method!r}."
            )
        return KeptObjective(model, kept)
    if method == "prunnet":
        return ConflictAwareObjective(
            model, alpha=alpha, projection=projection, scale_dense_gradients=scale_dense_gradients
        )
    return SumObjective(model)


def _sum(parameter: Tensor, passes: Sequence[Gradients]) -> Tensor:
    gradients = [gradients[parameter] for gradients in passes]
    return torch.stack(gradients).sum(dim=0) if len(gradients) > 1 else gradients[0]


def prunable_weights(model: PrunNetForImageClassification) -> dict[str, Tensor]:
    """The weights of the prunable layers, by the name of the parameter."""
    return {f"{name}.weight": layer.weight for name, layer in model.prunable_layers().items()}


def check_kept(weights: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> None:
    """Make sure that there is one mask for each weight, of its shape.

    Raises:
        ValueError: If not.
    """
    strange = sorted(weights.keys() ^ kept.keys())
    if strange:
        raise ValueError(f"kept must have a mask for each prunable weight and no others; these differ: {strange}.")
    for name, weight in weights.items():
        if kept[name].shape != weight.shape:
            raise ValueError(f"kept[{name!r}] must have shape {tuple(weight.shape)}; got {tuple(kept[name].shape)}.")


@torch.no_grad()
def leave_out(model: PrunNetForImageClassification, kept: Mapping[str, Tensor]) -> None:
    """Set prunable weights to zero in place, but for those that `kept` holds, masks by name.

    Raises:
        ValueError: If there isn't one mask for each prunable weight, of its shape.
    """
    weights = prunable_weights(model)
    check_kept(weights, kept)
    for name, weight in weights.items():
        weight.masked_fill_(~kept[name].to(weight.device), 0.0)
