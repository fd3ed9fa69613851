"""Layers whose weights carry scores: `PrunableConv2d` and `PrunableLinear`.

A prunable layer is the plain layer plus one parameter, `scores`, of its weight's shape. Its own forward stays the
plain, dense one. A subnetwork is never a state of the layer: it is a set of tensors that stand in for the layer's
weight during one call (`torch.func.functional_call`), which also serves backbones that read `layer.weight` without
calling the layer.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal, Self, cast

import torch
from torch import Tensor, nn

from .masking import StraightThrough, check_finite, kept_masks

ScoreInit = Literal["kaiming", "magnitude"]


class Scored(nn.Module):
    """A module with scores, which stay at least float32 in every cast, because rounded ones would choose otherwise.

    Attributes:
        scores: What is kept are the weights or units with the largest `|scores|`.
    """

    scores: nn.Parameter

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move or cast the module."""
        kept = [tensor for tensor in (self.scores, self.scores.grad) if tensor is not None]

        def without_cast(tensor: Tensor) -> Tensor:
            applied = fn(tensor)
            if applied.dtype.itemsize >= torch.float32.itemsize or not any(tensor is own for own in kept):
                return applied
            return torch.empty_like(applied, dtype=tensor.dtype).copy_(tensor)

        applied: Self = super()._apply(without_cast, recurse)  # type: ignore[no-untyped-call]
        return applied


class PrunableLayer(Scored):
    """What prunable layers have in common.

    Attributes:
        scores: Of the weight's shape.
        plain_type: The type of the plain layer.
        settings: The arguments of its constructor, which are its attributes too.
    """

    weight: Tensor
    bias: Tensor | None
    plain_type: ClassVar[type[nn.Module]]
    settings: ClassVar[tuple[str, ...]]

    @classmethod
    def from_dense(cls, dense: nn.Module) -> Self:
        """Take over the parameters of a plain layer (not copies of them) and add scores, not yet initialised."""
        layer = cast(Self, cls._made(cls, dense, dense.weight, dense.bias))
        wide = torch.promote_types(layer.weight.dtype, torch.float32)
        layer.scores = nn.Parameter(torch.empty_like(layer.weight, dtype=wide))
        return layer

    def to_dense(self, weight: Tensor) -> nn.Module:
        """A plain layer with `weight` and a copy of this layer's bias."""
        bias = self.bias
        if bias is not None:
            bias = nn.Parameter(bias.detach().clone(), requires_grad=bias.requires_grad)
        return self._made(self.plain_type, self, nn.Parameter(weight), bias)

    @classmethod
    def _made(cls, kind: type[nn.Module], like: nn.Module, weight: Any, bias: Any) -> nn.Module:
        """A layer of type `kind` with the settings of `like` and these two parameters (not copies of them)."""
        settings = {name: getattr(like, name) for name in cls.settings}
        # On the meta device nothing is allocated or drawn at random before the real parameters take their place.
        layer = kind(**settings, bias=bias is not None, device="meta")
        layer.weight, layer.bias = weight, bias
        return layer.train(like.training)


class PrunableConv2d(PrunableLayer, nn.Conv2d):
    """`torch.nn.Conv2d` with a score for each weight."""

    plain_type = nn.Conv2d
    settings = (
        "in_channels",
        "out_channels",
        "kernel_size",
        "stride",
        "padding",
        "dilation",
        "groups",
        "padding_mode",
    )


class PrunableLinear(PrunableLayer, nn.Linear):  # type: ignore[misc]  # torch forgets that bias may be None
    """`torch.nn.Linear` with a score for each weight."""

    plain_type = nn.Linear
    settings = ("in_features", "out_features")


PRUNABLE_TYPES: dict[type[nn.Module], type[PrunableLayer]] = {
    kind.plain_type: kind for kind in (PrunableConv2d, PrunableLinear)
}
"""For each type of plain layer the type that replaces it."""


def is_prunable_type(module: nn.Module) -> bool:
    """Whether a plain module can be made prunable: its type is exactly Conv2d or Linear, not a subclass."""
    return type(module) in PRUNABLE_TYPES


def make_prunable(network: nn.Module) -> nn.Module:
    """Replace every exact Conv2d and Linear inside `network`, in place, by its prunable counterpart.

    Subclasses stay as they are: they may use their weight in ways a mask does not survive. A layer registered under
    two names stays one layer. Scores are left uninitialised.

    Returns:
        The same `network`.
    """
    replaced: dict[nn.Module, PrunableLayer] = {}
    for name, module in list(network.named_modules(remove_duplicate=False)):
        if is_prunable_type(module) and module not in replaced:
            replaced[module] = PRUNABLE_TYPES[type(module)].from_dense(module)
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


def scored_modules(network: nn.Module) -> list[Scored]:
    """All modules inside `network` that have scores."""
    return [module for module in network.modules() if isinstance(module, Scored)]


def find_masks(network: nn.Module, capacities: Sequence[float]) -> list[dict[str, Tensor]]:
    """The masks of all prunable layers at several capacities, each the same share of every layer, found together.

    Args:
        network: Has prunable layers with finite scores. They aren't checked here, as a GPU would wait for that in
            every training step; see `check_scores`.
        capacities: Kept shares, each in (0, 1].

    Returns:
        For each capacity the masks by the layers' names.
    """
    masks: list[dict[str, Tensor]] = [{} for _ in capacities]
    for name, layer in prunable_layers(network).items():
        for of_capacity, mask in zip(masks, kept_masks(layer.scores, capacities), strict=True):
            of_capacity[name] = mask
    return masks


def check_scores(network: nn.Module) -> None:
    """Raise a ValueError that names the layer unless all scores of `network` are finite. Not in compiled models."""
    if torch.compiler.is_compiling():  # reading values would break the graph in two
        return
    for name, layer in prunable_layers(network).items():
        with naming_layer(name):
            check_finite("scores", layer.scores)


@contextmanager
def naming_layer(name: str) -> Iterator[None]:
    """Put a layer's name before the message of a ValueError about its tensors."""
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
