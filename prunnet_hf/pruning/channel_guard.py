"""Makes sure that the rules for units are right about a backbone, and that there is enough for them to leave out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .channels import UnitGroup
from .thinning import cut_units

Run = Callable[[nn.Module, Tensor], Tensor]
"""Runs a network on images."""
SMALLEST_SHARE = 0.5
"""The least share of a backbone's parameters that must lie in units."""
TOLERANCE = 1e-4
"""The largest difference, relative to the largest output, between a masked and a thin network."""
WORKING = (
    "ResNet, ResNeXt, Wide ResNet, MobileNetV2, EfficientNet and its V2, ConvNeXt, ViT, DeiT, DINOv2, Swin and "
    "MLP-Mixer work; with granularity='weight' any backbone of Conv2d and Linear layers does"
)


def share_in_units(network: nn.Module, groups: Mapping[str, UnitGroup]) -> float:
    """The share of the network's parameters that lie in tensors from which units are cut."""
    sizes = {name: parameter.numel() for name, parameter in network.named_parameters()}
    in_units = {axis.tensor for group in groups.values() for axis in group.axes} & sizes.keys()
    return sum(sizes[name] for name in in_units) / max(sum(sizes.values()), 1)


def check_units(
    name: str,
    network: nn.Module,
    groups: Mapping[str, UnitGroup],
    run: Run,
    size: int,
) -> None:
    """Make sure that leaving out units of `network` is exactly what the rules say.

    Args:
        name: The backbone's name in timm.
        network: The backbone, without scores.
        groups: What the rules found in it.
        run: Runs a network on an image `(1, 3, size, size)`.
        size: Side of the image in pixels.

    Raises:
        ValueError: If under half of the parameters lie in units, or a masked network isn't the thin one. Nothing is
            computed with a network on the meta device.
    """
    share = share_in_units(network, groups)
    if share < SMALLEST_SHARE:
        raise ValueError(
            f"backbone={name!r} can't have granularity='channel': {share:.0%} of its parameters lie in units that can "
            f"be left out, and at least {SMALLEST_SHARE:.0%} must. {WORKING}."
        )
    if any(parameter.is_meta for parameter in network.parameters()):
        return
    try:
        masked, thin = _both_ways(network, groups, run, size)
    except (RuntimeError, ValueError, IndexError) as error:  # what torch raises for shapes that don't fit
        raise ValueError(_disagreement(name)) from error
    if masked.shape != thin.shape or not (masked - thin).abs().max() <= TOLERANCE * masked.abs().max():
        raise ValueError(_disagreement(name))


def _disagreement(name: str) -> str:
    return (
        f"backbone={name!r} can't have granularity='channel': without some of its units it computes something else "
        f"than the rules for its blocks say. {WORKING}."
    )


@torch.no_grad()
def _both_ways(network: nn.Module, groups: Mapping[str, UnitGroup], run: Run, size: int) -> tuple[Tensor, Tensor]:
    """What a copy with random weights gives with masked consumers, and what it gives without the same units."""
    generator = torch.Generator().manual_seed(0)
    network = _redrawn(copy.deepcopy(network).cpu().float().eval(), generator)
    image = _random((1, 3, size, size), generator)
    kept = {
        # An uneven choice, at least one: every second unit, and the first.
        key: torch.tensor([0, *range(1, group.num_units, 2)], device="cpu")
        for key, group in groups.items()
    }
    tensors = dict(network.named_parameters())
    masked: dict[str, Tensor] = {}
    for key, group in groups.items():
        mask = torch.zeros(group.num_units, dtype=torch.bool, device="cpu").index_fill(0, kept[key], True)
        for axis in group.axes:
            if axis.masked:
                masked[axis.tensor] = tensors[axis.tensor] * axis.factor(mask, tensors[axis.tensor])
    stand_ins = {f"network.{key}": tensor for key, tensor in masked.items()}
    with torch.autocast("cpu", enabled=False):
        with_masks = functional_call(_Running(network, run), stand_ins, (image,))
        cut_units(network, groups, kept)
        return with_masks, run(network, image)


def _redrawn(network: nn.Module, generator: torch.Generator) -> nn.Module:
    """The network with weights and running statistics that let every part of it matter; some start at zero."""
    for parameter in network.parameters():
        drawn = _random(parameter.shape, generator)
        if parameter.ndim < 2:
            parameter.copy_(1.0 + drawn)
        else:
            parameter.copy_(drawn * (12 / parameter[0].numel()) ** 0.5)
    for name, buffer in network.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.copy_(_random(buffer.shape, generator) + name.endswith("running_var"))
    return network


def _random(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Numbers from -0.5 to 0.5, whatever the default device and type are."""
    return torch.rand(shape, generator=generator, device="cpu", dtype=torch.float32) - 0.5


class _Running(nn.Module):
    """A network called in the way that `run` says."""

    def __init__(self, network: nn.Module, run: Run) -> None:
        super().__init__()
        self.network, self.run = network, run

    def forward(self, image: Tensor) -> Tensor:
        return self.run(self.network, image)
