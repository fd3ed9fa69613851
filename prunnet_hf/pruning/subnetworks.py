"""The subnetworks of a network, whichever it chooses by scores: single weights (`layers`) or units (`channels`)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from .channel_rules import find_units
from .channels import UNITS, UnitGroup, UnitScores, check_unit_scores, drop_units, find_unit_masks, masked_consumers
from .layers import check_scores as check_layer_scores
from .layers import find_masks as find_layer_masks
from .layers import masked_weights as masked_layers
from .layers import prunable_layers

Network = TypeVar("Network", bound=nn.Module)


def scored_units(network: nn.Module) -> dict[str, UnitGroup]:
    """The groups of units that have scores; none in a network of single weights, or once pruned.

    Raises:
        ValueError: If there are scores of units that can't be found any more, which would silently all be kept, or
            that can't be cut.
    """
    scored = [name for name, module in network.named_modules() if isinstance(module, UnitScores)]
    if not scored:
        return {}
    groups = find_units(network)
    names = [name.removesuffix(UNITS).removesuffix(".") for name in scored]
    lost = [name for name in names if name not in groups]
    if lost:
        raise ValueError(
            f"capacity can't be chosen: modules beside {lost[0]!r} and {len(lost) - 1} more have been replaced since "
            "this model was made, for example by frozen batch norms or adapters, so that their units aren't found. "
            "Undo that, or prune first and then change the network that prune() returns."
        )
    found = {name: groups[name] for name in names}
    _refuse_computed_tensors(network, found)
    return found


def _refuse_computed_tensors(network: nn.Module, groups: Mapping[str, UnitGroup]) -> None:
    """Raise a ValueError if a tensor in which units lie isn't the layer's own, but computed from others."""
    layers = {name for group in groups.values() for name, _ in group.sizes}
    computed = sorted(name for name in layers if is_parametrized(network.get_submodule(name)))
    if computed:
        raise ValueError(
            f"capacity can't be chosen: {computed[0]!r} and {len(computed) - 1} more have parametrizations, such as "
            "weight_norm, from which units can't be cut. Remove them by "
            "torch.nn.utils.parametrize.remove_parametrizations."
        )


def refuse_recomputing(network: nn.Module) -> None:
    """Refuse gradients of a subnetwork whose backbone computes activations a second time in the backward pass.

    A subnetwork's tensors stand in for the network's own in its forward only, so the second time would be the dense
    network's, and the gradients wrong.

    Raises:
        ValueError: If the backbone does that, and gradients are computed.
    """
    recomputes = any(getattr(module, "grad_checkpointing", False) for module in network.modules())
    if recomputes and torch.is_grad_enabled():
        raise ValueError(
            "grad_checkpointing must be off for gradients of subnetworks, which would be wrong: call "
            "backbone.set_grad_checkpointing(False), and use smaller batches if memory is short."
        )


def find_masks(network: nn.Module, capacities: Sequence[float]) -> list[dict[str, Tensor]]:
    """The masks at several capacities, each the same share of every layer or group of units, found together.

    Args:
        network: Has finite scores. They aren't checked here, as a GPU would wait for that in every training step; see
            `check_scores`.
        capacities: Kept shares, each in (0, 1].

    Returns:
        For each capacity the masks by the names of layers or groups.
    """
    groups = scored_units(network)
    return find_unit_masks(network, groups, capacities) if groups else find_layer_masks(network, capacities)


def check_scores(network: nn.Module) -> None:
    """Raise a ValueError that names where they are unless all scores are finite. Not in compiled models."""
    check_layer_scores(network)
    check_unit_scores(network, scored_units(network))


def masked_weights(network: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Effective weights under `masks`, named as parameters, differentiable straight through to weights and scores."""
    groups = scored_units(network)
    return masked_consumers(network, groups, masks) if groups else masked_layers(network, masks)


def plain_copy(network: Network, masks: Mapping[str, Tensor]) -> Network:
    """A copy of `network` without scores. Weights that `masks` leave out are zero; units are all still there."""
    groups = scored_units(network)
    if groups:
        copied = copy.deepcopy(network)
        drop_units(copied, groups)
        return copied
    weights = masked_layers(network, masks)
    # Layers that are in the memo aren't copied: the copy has the plain layers instead.
    # Masking turns negative weights into -0.0, and adding 0.0 turns that into 0.0.
    plain = {
        id(layer): layer.to_dense(weights[f"{name}.weight"] + 0.0) for name, layer in prunable_layers(network).items()
    }
    return copy.deepcopy(network, plain)


def unit_weights(network: nn.Module) -> dict[str, Tensor]:
    """The weights in `network` that lie in units, by name; once pruned, what is left of them."""
    names = {axis.tensor for group in find_units(network).values() for axis in group.axes}
    return {name: weight for name, weight in network.named_parameters() if name in names and weight.ndim > 1}


def dense_twin(model: Any) -> Any:
    """The dense network of a model of granularity `"channel"`, for its names and shapes.

    Args:
        model: A PrunNet model, prunable or pruned.

    Returns:
        The model itself if it is prunable; else a network on the meta device, which has no data.
    """
    if model.config.prunable:
        return model
    before = {"prunable": True, "capacity": 1.0, "kept_units": None, "statistics_capacities": None}
    with torch.device("meta"):
        return type(model)(type(model.config)(**{**model.config.to_dict(), **before}))
