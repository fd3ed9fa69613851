"""Layers whose weights carry scores: `PrunableConv2d` and `PrunableLinear`.

A prunable layer is the plain layer plus one parameter, `scores`, of its weight's shape. Its own forward stays the
plain, dense one. A subnetwork is never a state of the layer: it is a set of tensors that stand in for the layer's
weight during one call (`torch.func.functional_call`), which also serves backbones that read `layer.weight` without
calling the layer.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from .masking import StraightThrough, kept_mask

ConvType = TypeVar("ConvType", bound=nn.Conv2d)
LinearType = TypeVar("LinearType", bound=nn.Linear)


class PrunableConv2d(nn.Conv2d):
    """`torch.nn.Conv2d` with a score for each weight.

    Attributes:
        scores: Parameter of the weight's shape; the weights with the largest `|scores|` are kept.
    """

    scores: nn.Parameter

    @classmethod
    def from_dense(cls, conv: nn.Conv2d) -> "PrunableConv2d":
        """Take over the parameters of `conv` (not copies of them) and add scores, not yet initialised."""
        layer = _conv(cls, conv, conv.weight, conv.bias)
        layer.scores = nn.Parameter(torch.empty_like(conv.weight))
        return layer

    def to_dense(self, weight: Tensor) -> nn.Conv2d:
        """A plain `Conv2d` with `weight` and a copy of this layer's bias."""
        return _conv(nn.Conv2d, self, nn.Parameter(weight), _copied(self.bias))


class PrunableLinear(nn.Linear):
    """`torch.nn.Linear` with a score for each weight.

    Attributes:
        scores: Parameter of the weight's shape; the weights with the largest `|scores|` are kept.
    """

    scores: nn.Parameter

    @classmethod
    def from_dense(cls, linear: nn.Linear) -> "PrunableLinear":
        """Take over the parameters of `linear` (not copies of them) and add scores, not yet initialised."""
        layer = _linear(cls, linear, linear.weight, linear.bias)
        layer.scores = nn.Parameter(torch.empty_like(linear.weight))
        return layer

    def to_dense(self, weight: Tensor) -> nn.Linear:
        """A plain `Linear` with `weight` and a copy of this layer's bias."""
        return _linear(nn.Linear, self, nn.Parameter(weight), _copied(self.bias))


PrunableLayer = PrunableConv2d | PrunableLinear


def is_prunable_type(module: nn.Module) -> bool:
    """Whether a plain module can be made prunable: its type is exactly Conv2d or Linear, not a subclass."""
    return type(module) in (nn.Conv2d, nn.Linear)


def make_prunable(network: nn.Module) -> nn.Module:
    """Replace every exact Conv2d and Linear inside `network`, in place, by its prunable counterpart.

    Subclasses stay as they are: they may use their weight in ways a mask does not survive. A layer registered under
    two names stays one layer. Scores are left uninitialised.

    Returns:
        The same `network`.
    """
    replaced: dict[nn.Module, PrunableLayer] = {}
    for name, module in list(network.named_modules(remove_duplicate=False)):
        if type(module) is nn.Conv2d and module not in replaced:
            replaced[module] = PrunableConv2d.from_dense(module)
        elif type(module) is nn.Linear and module not in replaced:
            replaced[module] = PrunableLinear.from_dense(module)
        if module in replaced:
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
    """The mask of every prunable layer of `network` at `capacity`, the same share of each, by the layer's name.

    Raises:
        ValueError: If a score isn't finite; the message names the layer.
    """
    masks = {}
    for name, layer in prunable_layers(network).items():
        with naming_layer(name):
            masks[name] = kept_mask(layer.scores, capacity)
    return masks


@contextmanager
def naming_layer(name: str) -> Iterator[None]:
    """Put the name of a layer before what a ValueError says of its tensors."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"layer {name!r}: {error}") from error


def masked_weights(network: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Effective weights under `masks`, named as parameters, differentiable straight through to weights and scores."""
    return {
        f"{name}.weight": StraightThrough.apply(layer.weight, layer.scores, masks[name])
        for name, layer in prunable_layers(network).items()
    }


def _conv(kind: type[ConvType], like: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> ConvType:
    """A convolution of type `kind` with the settings of `like`, made of these two parameters (not copies of them)."""
    layer = kind(
        like.in_channels,
        like.out_channels,
        _pair(like.kernel_size),
        stride=_pair(like.stride),
        padding=like.padding if isinstance(like.padding, str) else _pair(like.padding),
        dilation=_pair(like.dilation),
        groups=like.groups,
        bias=bias is not None,
        padding_mode=like.padding_mode,
        device="meta",  # nothing is allocated or drawn at random before the real parameters take their place
    )
    layer.weight, layer.bias = weight, bias
    return layer.train(like.training)


def _linear(kind: type[LinearType], like: nn.Linear, weight: Tensor, bias: Tensor | None) -> LinearType:
    """A linear layer of type `kind` with the settings of `like`, made of these two parameters (not copies of them)."""
    layer = kind(like.in_features, like.out_features, bias=bias is not None, device="meta")
    layer.weight, layer.bias = weight, bias  # type: ignore[assignment]  # torch's stub forgets that bias may be None
    return layer.train(like.training)


def _pair(sizes: tuple[int, ...]) -> tuple[int, int]:
    height, width = sizes
    return height, width


def _copied(bias: Tensor | None) -> nn.Parameter | None:
    return None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=bias.requires_grad)
