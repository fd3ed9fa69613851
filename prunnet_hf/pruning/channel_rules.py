"""Where the units of each kind of block lie: a rule for every block of timm that `granularity="channel"` knows.

A rule looks at one block only. It finds no group if something in the block ties its units together in a way that it
doesn't know, such as a norm over all of them. `channel_guard` makes sure that the rules are right about a network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from timm.layers import Attention, Mlp
from timm.models import _efficientnet_blocks as efficientnet
from timm.models import resnet, swin_transformer
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from .channels import Axis, UnitGroup


def find_units(network: nn.Module) -> dict[str, UnitGroup]:
    """The groups of units inside `network`, by the name of the module that produces them."""
    groups: dict[str, UnitGroup] = {}
    for name, block in network.named_modules():
        rule = RULES.get(type(block))
        for group in rule(f"{name}." if name else "", block) if rule else ():
            groups[group.name] = group
    return groups


def _basic_block(prefix: str, block: Any) -> Iterator[UnitGroup]:
    """ResNet's basic block: conv1 -> bn1 -> conv2."""
    if _are_layers(block.conv1, block.conv2) and _are_batch_norms(block.bn1) and _are_identities(block.aa):
        yield _group(prefix, block, block.conv1.out_channels, produced=["conv1"], norms=["bn1"], consumed=["conv2"])


def _bottleneck(prefix: str, block: Any) -> Iterator[UnitGroup]:
    """ResNet's bottleneck: conv1 -> bn1 -> conv2 -> bn2 -> conv3. If conv2 is grouped (ResNeXt), a group is a unit."""
    are_known = _are_layers(block.conv1, block.conv2, block.conv3) and _are_batch_norms(block.bn1, block.bn2)
    if not (are_known and _are_identities(block.aa)):
        return
    if block.conv2.groups > 1:
        yield _group(
            prefix,
            block,
            block.conv2.groups,
            produced=["conv1"],
            grouped=["conv2"],
            norms=["bn1", "bn2"],
            consumed=["conv3"],
        )
        return
    yield _group(prefix, block, block.conv1.out_channels, produced=["conv1"], norms=["bn1"], consumed=["conv2"])
    yield _group(prefix, block, block.conv2.out_channels, produced=["conv2"], norms=["bn2"], consumed=["conv3"])


def _inverted_residual(prefix: str, block: Any) -> Iterator[UnitGroup]:
    """MobileNet's block: conv_pw -> bn1 -> depthwise conv_dw -> bn2 -> (squeeze-excite) -> conv_pwl."""
    if not _are_layers(block.conv_pw, block.conv_dw, block.conv_pwl):
        return
    is_depthwise = block.conv_dw.groups == block.conv_dw.in_channels == block.conv_dw.out_channels
    has_se = type(block.se) is efficientnet.SqueezeExcite
    if not (is_depthwise and _are_batch_norms(block.bn1, block.bn2) and _are_identities(block.aa)):
        return
    if has_se or _are_identities(block.se):
        yield _group(
            prefix,
            block,
            block.conv_dw.groups,
            produced=["conv_pw", "se.conv_expand"] if has_se else ["conv_pw"],
            grouped=["conv_dw"],
            norms=["bn1", "bn2"],
            consumed=["se.conv_reduce", "conv_pwl"] if has_se else ["conv_pwl"],
        )


def _mlp(prefix: str, block: Any) -> Iterator[UnitGroup]:
    """The MLP of ConvNeXt, ViT and Swin: fc1 -> (batch norm) -> fc2."""
    has_norm = _are_batch_norms(block.norm)
    if _are_layers(block.fc1, block.fc2) and (has_norm or _are_identities(block.norm)):
        yield _group(
            prefix,
            block,
            len(block.fc1.weight),
            produced=["fc1"],
            norms=["norm"] if has_norm else [],
            consumed=["fc2"],
        )


def _attention(prefix: str, block: Any) -> Iterator[UnitGroup]:
    """Attention: a unit is the same dimension in every head, rows of qkv and a column of proj.

    Zero columns of proj leave out a value, and zero rows of the queries leave out the key.
    """
    others = [getattr(block, name, None) for name in ("q_norm", "k_norm", "norm", "gate")]
    if not (_are_layers(block.qkv, block.proj) and _are_identities(*others)):
        return
    heads, name = block.num_heads, prefix.removesuffix(".")
    rows = {"outer": 3 * heads, "masked": heads, "scaled": True}
    axes = [Axis(f"{prefix}qkv.{key}", 0, **rows) for key, _ in block.qkv.named_parameters(recurse=False)]
    axes.append(Axis(f"{prefix}proj.weight", 1, outer=heads, masked=heads))
    sizes = {(f"{prefix}qkv", "out_features"): 3 * heads, (f"{prefix}proj", "in_features"): heads}
    if hasattr(block, "head_dim"):
        sizes |= {(name, "head_dim"): 1, (name, "attn_dim"): heads}
    yield UnitGroup(f"{prefix}qkv", block.proj.in_features // heads, tuple(axes), sizes, scale=name)


RULES: Mapping[type[nn.Module], Callable[[str, Any], Iterator[UnitGroup]]] = {
    resnet.BasicBlock: _basic_block,
    resnet.Bottleneck: _bottleneck,
    efficientnet.InvertedResidual: _inverted_residual,
    Mlp: _mlp,
    Attention: _attention,
    swin_transformer.WindowAttention: _attention,
}
"""The rule of each type of block. A subclass may compute something else, so it has none."""


def _are_layers(*modules: nn.Module) -> bool:
    """Whether all are convolutions or linear layers, or a kind of these; timm also has some with several inside."""
    return all(isinstance(module, nn.Conv2d | nn.Linear) for module in modules)


def _are_batch_norms(*modules: nn.Module | None) -> bool:
    return all(isinstance(module, _BatchNorm) for module in modules)


def _are_identities(*modules: nn.Module | None) -> bool:
    return all(module is None or type(module) is nn.Identity for module in modules)


def _group(
    prefix: str,
    block: nn.Module,
    num_units: int,
    *,
    produced: Sequence[str],
    consumed: Sequence[str],
    norms: Sequence[str] = (),
    grouped: Sequence[str] = (),
) -> UnitGroup:
    """A group from the names, in its block, of the layers that compute its units, read them, and lie between."""
    axes: list[Axis] = []
    for name in (*produced, *norms, *grouped):
        module = block.get_submodule(name)
        for key, parameter in module.named_parameters(recurse=False):
            axes.append(Axis(f"{prefix}{name}.{key}", 0, inner=len(parameter) // num_units))
        for key, buffer in module.named_buffers(recurse=False):
            if buffer.ndim:  # all but the number of batches that a norm has seen
                # Statistics of several subnetworks have a row for each, in which the units lie.
                axes.append(Axis(f"{prefix}{name}.{key}", buffer.ndim - 1, inner=buffer.shape[-1] // num_units))
    for name in consumed:
        width = block.get_parameter(f"{name}.weight").shape[1]
        axes.append(Axis(f"{prefix}{name}.weight", 1, inner=width // num_units, masked=1))
    sizes = {
        **_sizes(prefix, block, [*produced, *grouped], ("out_channels", "out_features"), num_units),
        **_sizes(prefix, block, norms, ("num_features",), num_units),
        **_sizes(prefix, block, [*consumed, *grouped], ("in_channels", "in_features"), num_units),
        **{(prefix + name, "groups"): 1 for name in grouped},
    }
    return UnitGroup(prefix + produced[0], num_units, tuple(axes), sizes)


def _sizes(
    prefix: str, block: nn.Module, names: Sequence[str], attributes: Sequence[str], num_units: int
) -> dict[tuple[str, str], int]:
    """What those of the `attributes` that a layer has count for one unit."""
    modules = {name: block.get_submodule(name) for name in names}
    return {
        (prefix + name, attribute): getattr(module, attribute) // num_units
        for name, module in modules.items()
        for attribute in attributes
        if hasattr(module, attribute)
    }
