"""How the gradients of the passes of one training step become one gradient.

A step runs the dense network and its subnetworks on the same images, one pass each. With effective weights
`V_i = mask_i * W`, pass i contributes to a prunable layer only the tensor `mask_i * dL_i/dV_i`: the gradient of its
weights, from which the gradient of its scores follows. So a pass leaves ordinary gradients of all parameters except
the scores.

A new training method is a subclass of `Objective`, an entry in `OBJECTIVES`, and one in `runs/methods.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from ..modeling_prunnet import PrunNetClassifierOutput, PrunNetForImageClassification
from ..pruning.channels import Axis, unit_gradient, unit_scores
from ..pruning.layers import PrunableConv2d, PrunableLayer, scored_modules
from ..pruning.masking import score_gradient
from ..pruning.subnetworks import scored_units
from ..runs.arguments import TrainArguments
from ..runs.methods import Projection, find_method
from .gradients import integrate, integrate_weight_and_scores, projection_orders

Gradients = dict[Tensor, Tensor]
"""The gradient of each parameter, by the parameter."""


class Objective(ABC):
    """The loss of each pass of a step, and how their gradients are merged.

    Args:
        model: The network in training. Its scores get their gradients here, not from autograd.

    Attributes:
        noted: What `loss` has noted in this step for `merge`, if anything.
    """

    noted: Tensor | None = None

    def __init__(self, model: PrunNetForImageClassification) -> None:
        self.layers: list[PrunableLayer] = list(model.prunable_layers().values())
        self.units = [
            UnitsToTrain(
                unit_scores(model, group),
                [(model.get_parameter(axis.tensor), axis) for axis in group.axes if axis.masked],
            )
            for group in scored_units(model).values()
        ]
        set_here = {layer.weight for layer in self.layers} | {module.scores for module in scored_modules(model)}
        self.other_parameters = [p for p in model.parameters() if p.requires_grad and p not in set_here]

    def loss(self, outputs: PrunNetClassifierOutput, inputs: Mapping[str, Tensor], index: int, step: int) -> Tensor:
        """The loss of one pass over one batch: the model's own, unless a subclass has another.

        Args:
            outputs: What the network gave.
            inputs: What it was given: `pixel_values` and `labels`.
            index: Number of the pass within the step; the dense pass comes first.
            step: Number of the step.

        Returns:
            The mean over the batch, `()`.
        """
        return cast("Tensor", outputs.loss)  # never None, as labels are given

    def agree(self, mean: Callable[[Tensor], Tensor]) -> None:
        """Before `merge`: average `noted` over all processes, so that all merge alike.

        Args:
            mean: Gives the mean of a tensor over the processes, which all must call.
        """
        if self.noted is not None:
            self.noted = mean(self.noted)

    @abstractmethod
    def merge(self, passes: Sequence[Gradients], generator: torch.Generator) -> None:
        """Set `.grad` of every parameter from the gradients of each pass.

        Args:
            passes: The gradients of each pass, without those of scores.
            generator: Source of random numbers, in the same state on all processes.
        """


@dataclass(frozen=True)
class UnitsToTrain:
    """A group of units in training.

    Attributes:
        scores: `(num_units,)`.
        consumers: The tensors that a mask sets to zero without a unit, and where it lies in them.
    """

    scores: nn.Parameter
    consumers: list[tuple[nn.Parameter, Axis]]

    def gradient(self, gradients: Gradients) -> Tensor:
        """The gradient of the scores, `(num_units,)`, that follows from those of the consumers."""
        parts = [unit_gradient(gradients[weight], weight, self.scores, axis) for weight, axis in self.consumers]
        return torch.stack(parts).sum(dim=0)


class SumObjective(Objective):
    """The plain sum of the losses: joint training, or with a single pass the training of one network alone.

    A single pass leaves the scores of units as they are. The network is then a thin one from the start.
    """

    @torch.no_grad()
    def merge(self, passes: Sequence[Gradients], generator: torch.Generator) -> None:
        """Add up the gradients of the passes."""
        for layer in self.layers:
            layer.weight.grad = _sum(layer.weight, passes)
            layer.scores.grad = score_gradient(layer.weight.grad, layer.weight, layer.scores)
        for parameter in self.other_parameters:
            parameter.grad = _sum(parameter, passes)
        for units in self.units if len(passes) > 1 else ():
            units.scores.grad = torch.stack([units.gradient(gradients) for gradients in passes]).sum(dim=0)


class KeptObjective(Objective):
    """One network alone, with some weights pruned for good: these get a gradient of zero, and scores get none.

    In SGD and AdamW, a weight of zero with a gradient and a momentum of zero stays exactly zero, also with weight
    decay.

    Args:
        model: The network in training.
        kept: Masks of the weights to train, by the name of each prunable weight: boolean, of the weight's shape.

    Raises:
        ValueError: If the names in `kept` aren't those of the prunable weights, or a mask has another shape.
    """

    def __init__(self, model: PrunNetForImageClassification, kept: Mapping[str, Tensor]) -> None:
        super().__init__(model)
        weights = prunable_weights(model)
        check_kept(weights, kept)
        # With the memory layout and device of the weights, whose gradients they multiply in every step.
        self.masks = {weight: torch.empty_like(weight).copy_(kept[name]) for name, weight in weights.items()}

    @torch.no_grad()
    def merge(self, passes: Sequence[Gradients], generator: torch.Generator) -> None:
        """Add up the gradients of the passes, and set those of pruned weights to zero."""
        for weight, mask in self.masks.items():
            weight.grad = _sum(weight, passes) * mask
        for parameter in self.other_parameters:
            parameter.grad = _sum(parameter, passes)


class ConflictAwareObjective(Objective):
    """PrunNet: conflict-aware integration of the gradients (arXiv 2504.11879, section 3.3).

    Only the dense pass, which must come first, trains classifier, projector and normalisation layers.

    Args:
        model: The network in training.
        alpha: See `gradients.integrate`.
        projection: See `gradients.integrate`.
        scale_dense_gradients: Multiply the gradients that only the dense pass trains by the number of passes, as
            integration does with all others, so that one learning rate suits both. The paper doesn't do this.
    """

    def __init__(
        self,
        model: PrunNetForImageClassification,
        *,
        alpha: float = 0.5,
        projection: Projection = "last",
        scale_dense_gradients: bool = False,
    ) -> None:
        super().__init__(model)
        self.scale_dense_gradients = scale_dense_gradients
        self.alpha = alpha
        self.projection = projection
        dense_only = dense_pass_parameters(model)
        self.dense_parameters = [p for p in self.other_parameters if p in dense_only]
        self.integrated_parameters = [p for p in self.other_parameters if p not in dense_only]
        # What would be prunable convolutions with single weights is projected row by row with units, too.
        self.by_rows = _convolutions(model) if model.config.granularity == "channel" else set()

    @torch.no_grad()
    def merge(self, passes: Sequence[Gradients], generator: torch.Generator) -> None:
        """Integrate the gradients layer by layer."""
        for layer in self.layers:
            self._merge_layer(layer, [gradients[layer.weight] for gradients in passes], generator)
        for parameter in self.integrated_parameters:
            of_passes = [gradients[parameter] for gradients in passes]
            parameter.grad = self._integrated(of_passes, generator, per_row=parameter in self.by_rows)
        for units in self.units:
            of_passes = [units.gradient(gradients) for gradients in passes]
            units.scores.grad = self._integrated(of_passes, generator, per_row=False)
        dense_scale = len(passes) if self.scale_dense_gradients else 1
        for parameter in self.dense_parameters:
            parameter.grad = dense_scale * passes[0][parameter]

    def _integrated(self, gradients: list[Tensor], generator: torch.Generator, *, per_row: bool) -> Tensor:
        orders = projection_orders(len(gradients), per_row=per_row, generator=generator)
        return integrate(gradients, orders, per_row=per_row, alpha=self.alpha, projection=self.projection)

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
    """Parameters that only the dense pass trains: those of classifier, projector and normalisation layers."""
    shared = {*model.classifier.parameters(), *model.prunnet.projector.parameters()}
    for module in model.modules():
        if _normalises(module):
            shared.update(module.parameters(recurse=False))
    return shared


def _convolutions(model: PrunNetForImageClassification) -> set[Tensor]:
    """The weights of the convolutions in the backbone."""
    return {module.weight for module in model.prunnet.backbone.modules() if isinstance(module, nn.Conv2d)}


def _normalises(module: nn.Module) -> bool:
    """Whether `module` is a norm of torch, or a class with "norm" in its name whose own parameters are all vectors.

    timm and others build norms from nn.Module alone (RmsNorm2d, EvoNorm2dS0, GlobalResponseNorm). The name alone isn't
    enough: timm's NormFreeBlock has one parameter of its own, a scalar.
    """
    if isinstance(module, (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)):
        return True
    named = any("norm" in kind.__name__.lower() for kind in type(module).__mro__)
    return named and all(parameter.ndim == 1 for parameter in module.parameters(recurse=False))


OBJECTIVES: dict[str, Callable[[PrunNetForImageClassification, TrainArguments], Objective]] = {
    "prunnet": lambda model, options: ConflictAwareObjective(
        model,
        alpha=options.alpha,
        projection=options.projection,
        scale_dense_gradients=options.scale_dense_gradients,
    ),
    "joint": lambda model, options: SumObjective(model),
    "independent": lambda model, options: SumObjective(model),
}
"""The objective of each method in `METHODS`, made from the network in training and the arguments of the run."""


def create_objective(
    model: PrunNetForImageClassification, options: TrainArguments, *, kept: Mapping[str, Tensor] | None = None
) -> Objective:
    """The objective of the method that `options` name.

    Args:
        model: The network in training.
        options: The method, and what its objective needs to know.
        kept: See `KeptObjective`; only for a method that trains one network alone.

    Raises:
        ValueError: If `kept` is given with a method that trains subnetworks.
    """
    if kept is None:
        return OBJECTIVES[options.method](model, options)
    if find_method(options.method).has_subnetworks:
        raise ValueError(f"method must be 'independent' if kept says which weights to train; got {options.method!r}.")
    return KeptObjective(model, kept)


def _sum(parameter: Tensor, passes: Sequence[Gradients]) -> Tensor:
    gradients = [gradients[parameter] for gradients in passes]
    return torch.stack(gradients).sum(dim=0) if len(gradients) > 1 else gradients[0]


def prunable_weights(model: PrunNetForImageClassification) -> dict[str, Tensor]:
    """The weights of the prunable layers, by the name of the parameter."""
    return {f"{name}.weight": layer.weight for name, layer in model.prunable_layers().items()}


def check_kept(weights: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> None:
    """Make sure that there is one mask of the right shape for each weight.

    Raises:
        ValueError: If there isn't.
    """
    strange = sorted(weights.keys() ^ kept.keys())
    if strange:
        raise ValueError(f"kept must have a mask for each prunable weight and no others; these differ: {strange}.")
    for name, weight in weights.items():
        if kept[name].shape != weight.shape:
            raise ValueError(f"kept[{name!r}] must have shape {tuple(weight.shape)}; got {tuple(kept[name].shape)}.")


@torch.no_grad()
def leave_out(model: PrunNetForImageClassification, kept: Mapping[str, Tensor]) -> None:
    """Set to zero, in place, the prunable weights that `kept` leaves out.

    Raises:
        ValueError: If there isn't one mask of the right shape for each prunable weight.
    """
    weights = prunable_weights(model)
    check_kept(weights, kept)
    for name, weight in weights.items():
        weight.masked_fill_(~kept[name].to(weight.device), 0.0)
