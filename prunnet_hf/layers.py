"""Layers whose weights carry scores: `PrunableConv2d` and `PrunableLinear`.

A prunable layer is the plain layer plus one parameter, `scores`, of its weight's shape. Its own forward stays the plain,
dense one. A subnetwork is never a state of the layer: it is a set of tensors that stand in for the layer's weight during
one call (`torch.func.functional_call`), which also serves backbones that read `layer.weight` without calling the layer.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch import nn

from .masking import StraightThrough
from .masking import kept_mask


class PrunableConv2d(nn.Conv2d):
    """`torch.nn.Conv2d` with a score for each weight.

    Attributes:
        scores: Parameter of the weight's shape; the weights with the largest `|scores|` are kept.
    """

    scores: nn.Parameter

    @classmethod
    def from_dense(cls, conv: nn.Conv2d) -> "PrunableConv2d":
        """Take over the parameters of `conv` (not copies of them) and add scores, not yet initialised."""
        layer = cls(**_conv_arguments(conv))
        _take_over(layer, conv.weight, conv.bias, conv.training)
        layer.scores = nn.Parameter(torch.empty_like(conv.weight))
        return layer

    def to_dense(self, weight: Tensor) -> nn.Conv2d:
        """A plain `Conv2d` with `weight` and a copy of this layer's bias."""
        conv = nn.Conv2d(**_conv_arguments(self))
        _take_over(conv, nn.Parameter(weight), _copied(self.bias), self.training)
        return conv


class PrunableLinear(nn.Linear):
    """`torch.nn.Linear` with a score for each weight.

    Attributes:
        scores: Parameter of the weight's shape; the weights with the largest `|scores|` are kept.
    """

    scores: nn.Parameter

    @classmethod
    def from_dense(cls, linear: nn.Linear) -> "PrunableLinear":
        """Take over the parameters of `linear` (not copies of them) and add scores, not yet initialised."""
        layer = cls(**_linear_arguments(linear))
        _take_over(layer, linear.weight, linear.bias, linear.training)
        layer.scores = nn.Parameter(torch.empty_like(linear.weight))
        return layer

    def to_dense(self, weight: Tensor) -> nn.Linear:
        """A plain `Linear` with `weight` and a copy of this layer's bias."""
        linear = nn.Linear(**_linear_arguments(self))
        _take_over(linear, nn.Parameter(weight), _copied(self.bias), self.training)
        return linear


PrunableLayer = PrunableConv2d | PrunableLinear


def is_prunable_type(module: nn.Module) -> bool:
    """Whether a plain module can be made prunable: its type is exactly Conv2d or Linear, not a subclass."""
    return type(module) in (nn.Conv2d, nn.Linear)


def make_prunable(network: nn.Module) -> nn.Module:
    """Replace every exact Conv2d and Linear inside `network`, in place, by its prunable counterpart.

    Subclasses stay as they are: they may use their weight in ways a mask does not survive. A layer registered under two
    names stays one layer. Scores are left uninitialised.

    Returns:
        The same `network`.
    """
    replaced: dict[nn.Module, PrunableLayer] = {}
    for name, module in list(network.named_modules(remove_duplicate=False)):
        if not is_prunable_type(module):
            continue
        if module not in replaced:
            convert = PrunableConv2d.from_dense if isinstance(module, nn.Conv2d) else PrunableLinear.from_dense
            replaced[module] = convert(module)  # type: ignore[arg-type]
        network.set_submodule(name, replaced[module])
    return network


def prunable_layers(network: nn.Module) -> dict[str, PrunableLayer]:
    """The prunable layers inside `network` by qualified name, in the order of registration."""
    return {name: module for name, module in network.named_modules() if isinstance(module, PrunableLayer)}


@torch.no_grad()
def init_scores(layer: PrunableLayer, score_init: str) -> None:
    """Fill the scores of `layer`: `"kaiming"` (random, the paper's) or `"magnitude"` (the weights' magnitudes)."""
    if score_init == "magnitude":
        layer.scores.copy_(layer.weight.abs())
    else:
        nn.init.kaiming_uniform_(layer.scores, a=math.sqrt(5))


def find_masks(network: nn.Module, capacity: float) -> dict[str, Tensor]:
    """The mask of every prunable layer of `network` at `capacity`, by the layer's name."""
    return {name: kept_mask(layer.scores, capacity) for name, layer in prunable_layers(network).items()}


def masked_weights(network: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Effective weights under `masks`, named as parameters, differentiable straight through to weights and scores."""
    return {
        f"{name}.weight": StraightThrough.apply(layer.weight, layer.scores, masks[name])
        for name, layer in prunable_layers(network).items()
    }


def _take_over(layer: nn.Conv2d | nn.Linear, weight: nn.Parameter, bias: nn.Parameter | None, training: bool) -> None:
    layer.weight = weight
    layer.bias = bias
    layer.train(training)


def _copied(bias: nn.Parameter | None) -> nn.Parameter | None:
    return None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=bias.requires_grad)


def _conv_arguments(conv: nn.Conv2d) -> dict[str, object]:
    # On the meta device, so that nothing is allocated or drawn at random before the real tensors take their place.
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    return {name: getattr(conv, name) for name in names} | {"bias": conv.bias is not None, "device": "meta"}


def _linear_arguments(linear: nn.Linear) -> dict[str, object]:
    names = ("in_features", "out_features")
    return {name: getattr(linear, name) for name in names} | {"bias": linear.bias is not None, "device": "meta"}
