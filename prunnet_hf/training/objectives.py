"""How the gradients of the passes of one training step become one gradient.

A step runs the dense network and its subnetworks on the same images, one pass each. With effective weights
`V_i = mask_i * W`, pass i contributes to a prunable layer only the tensor `mask_i * dL_i/dV_i`: the gradient of its
weights, from which the gradient of its scores follows. So a pass leaves ordinary gradients of all parameters except
the scores.

A new training method is a subclass of `Objective`, an entry in `OBJECTIVES` of `methods.py`, and one in
`runs/methods.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from ..modeling_prunnet import PrunNetClassifierOutput, PrunNetForImageClassification
from ..pruning.channels import Axis, unit_gradient, unit_scores
from ..pruning.layers import PrunableConv2d, PrunableLayer, scored_modules
from ..pruning.masking import score_gradient
from ..pruning.subnetworks import scored_units
from .gram import Coefficients, gram_matrix, gram_matrix_with_scores, merge, merge_weight_and_scores
from .mergers import Integration, Merger

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
            layer.weight.grad = summed(layer.weight, passes)
            layer.scores.grad = score_gradient(layer.weight.grad, layer.weight, layer.scores)
        for parameter in self.other_parameters:
            parameter.grad = summed(parameter, passes)
        for units in self.units if len(passes) > 1 else ():
            units.scores.grad = torch.stack([units.gradient(gradients) for gradients in passes]).sum(dim=0)


def summed(parameter: Tensor, passes: Sequence[Gradients]) -> Tensor:
    """The sum of the gradients of a parameter."""
    gradients = [gradients[parameter] for gradients in passes]
    return torch.stack(gradients).sum(dim=0) if len(gradients) > 1 else gradients[0]


class MergingObjective(Objective):
    """A `Merger` makes one gradient of those of the passes, tensor by tensor or with the same weights for all.

    Args:
        model: The network in training.
        merger: How.
        dense_only: Parameters that only the dense pass trains, which must come first.
        by_rows: Weights that are merged row by row.
        scale_dense_gradients: Multiply the gradients that only the dense pass trains by the number of passes.
    """

    def __init__(
        self,
        model: PrunNetForImageClassification,
        merger: Merger,
        *,
        dense_only: Collection[Tensor] = (),
        by_rows: Collection[Tensor] = (),
        scale_dense_gradients: bool = False,
    ) -> None:
        super().__init__(model)
        self.merger = merger
        self.scale_dense_gradients = scale_dense_gradients
        self.dense_parameters = [p for p in self.other_parameters if p in dense_only]
        self.integrated_parameters = [p for p in self.other_parameters if p not in dense_only]
        self.by_rows = by_rows

    @torch.no_grad()
    def merge(self, passes: Sequence[Gradients], generator: torch.Generator) -> None:
        """Merge the gradients layer by layer."""
        fixed = self._fixed(passes, generator)
        for layer in self.layers:
            per_row = fixed is None and layer.weight in self.by_rows
            of_weight, of_scores = (self._coefficients(fixed, per_row, generator) for _ in range(2))
            gradients = [each[layer.weight] for each in passes]
            layer.weight.grad, layer.scores.grad = merge_weight_and_scores(
                gradients, layer.weight, layer.scores, of_weight, of_scores, per_row=per_row
            )
        for parameter in self.integrated_parameters:
            per_row = fixed is None and parameter in self.by_rows
            coefficients = self._coefficients(fixed, per_row, generator)
            parameter.grad = merge([each[parameter] for each in passes], coefficients, per_row=per_row)
        for units in self.units:
            coefficients = self._coefficients(fixed, False, generator)
            units.scores.grad = merge([units.gradient(each) for each in passes], coefficients, per_row=False)
        dense_scale = len(passes) if self.scale_dense_gradients else 1
        for parameter in self.dense_parameters:
            parameter.grad = dense_scale * passes[0][parameter]

    def _coefficients(self, fixed: Tensor | None, per_row: bool, generator: torch.Generator) -> Coefficients:
        if fixed is not None:
            return fixed
        return partial(self.merger.checked_coefficients, per_row=per_row, generator=generator)

    def _fixed(self, passes: Sequence[Gradients], generator: torch.Generator) -> Tensor | None:
        """The coefficients of the whole step, `(1, N+1)`, if the merger doesn't look at each tensor by itself."""
        if self.merger.sees == "tensor":
            return None
        device = next(iter(passes[0])).device
        gram = torch.zeros(1, len(passes), len(passes), dtype=torch.float64, device=device)
        if self.merger.sees == "network":
            gram += self._network_gram(passes)
        return self.merger.checked_coefficients(gram, per_row=False, generator=generator)

    def _network_gram(self, passes: Sequence[Gradients]) -> Tensor:
        grams = [
            gram_matrix_with_scores([each[layer.weight] for each in passes], layer.weight, layer.scores)
            for layer in self.layers
        ]
        grams += [gram_matrix([each[parameter] for each in passes]) for parameter in self.integrated_parameters]
        grams += [gram_matrix([units.gradient(each) for each in passes]) for units in self.units]
        return torch.stack(grams).sum(dim=0)


class ConflictAwareObjective(MergingObjective):
    """PrunNet: conflict-aware integration of the gradients (arXiv 2504.11879, section 3.3), or another merger.

    Only the dense pass, which must come first, trains classifier, projector and normalisation layers. Convolutions are
    merged output channel by output channel.

    Args:
        model: The network in training.
        merger: How gradients are merged; by default as the paper does.
        scale_dense_gradients: Multiply the gradients that only the dense pass trains by the number of passes, as
            integration does with all others, so that one learning rate suits both. The paper doesn't do this.
    """

    def __init__(
        self,
        model: PrunNetForImageClassification,
        merger: Merger | None = None,
        *,
        scale_dense_gradients: bool = False,
    ) -> None:
        super().__init__(
            model,
            merger or Integration(),
            dense_only=dense_pass_parameters(model),
            by_rows=_convolutions(model),
            scale_dense_gradients=scale_dense_gradients,
        )


def dense_pass_parameters(model: PrunNetForImageClassification) -> set[nn.Parameter]:
    """Parameters that only the dense pass trains: those of classifier, projector and normalisation layers."""
    return {*model.classifier.parameters(), *model.prunnet.projector.parameters(), *norm_parameters(model)}


def norm_parameters(network: nn.Module) -> set[nn.Parameter]:
    """The parameters of normalisation layers."""
    norms = [module for module in network.modules() if _normalises(module)]
    return {parameter for norm in norms for parameter in norm.parameters(recurse=False)}


def _convolutions(model: PrunNetForImageClassification) -> set[Tensor]:
    """The weights of the convolutions in the backbone that are prunable, or with single weights would be."""
    kind = nn.Conv2d if model.config.granularity == "channel" else PrunableConv2d
    return {module.weight for module in model.prunnet.backbone.modules() if isinstance(module, kind)}


def _normalises(module: nn.Module) -> bool:
    """Whether `module` is a norm of torch, or a class with "norm" in its name whose own parameters are all vectors.

    timm and others build norms from nn.Module alone (RmsNorm2d, EvoNorm2dS0, GlobalResponseNorm). The name alone isn't
    enough: timm's NormFreeBlock has one parameter of its own, a scalar.
    """
    if isinstance(module, (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)):
        return True
    named = any("norm" in kind.__name__.lower() for kind in type(module).__mro__)
    return named and all(parameter.ndim == 1 for parameter in module.parameters(recurse=False))
