"""What subnetworks cost, exactly, found from the shapes of their tensors without cutting them out of the model."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..pruning.calibration import drop_statistics
from ..pruning.channel_rules import find_units
from ..pruning.layers import PrunableLayer
from ..pruning.masking import kept_count
from ..pruning.subnetworks import check_scores, plain_copy
from ..pruning.thinning import cut_units
from ..storage.packed import size_of_packed
from ..storage.tensor_file import size_of_file
from .multiply_adds import count_multiply_adds

PLAIN_METADATA = {"format": "pt"}
"""What transformers writes into the header of a plain file."""


class SubnetworkCosts:
    """What the subnetworks of a model cost, by their capacity.

    Args:
        model: A prunable model. What changes in it later doesn't count.

    Raises:
        ValueError: If a score isn't finite.
    """

    def __init__(self, model: Any) -> None:
        check_scores(model)
        self.granularity: str = model.config.granularity
        self._plain = without_scores(on_meta(model))
        self._image_size: int = model.config.image_size
        self._groups = find_units(self._plain) if self.granularity == "channel" else {}
        self._tensors: dict[str, Tensor] = self._plain.state_dict()
        self._zeros = {f"{name}.weight": _ranks_of_zeros(layer) for name, layer in model.prunable_layers().items()}
        whole = sum(tensor.nbytes for tensor in self._tensors.values())
        self._smallest_header: int = size_of_packed(self._tensors, {}) - whole

    def multiply_adds(self, capacity: float) -> int:
        """Multiply-adds that embedding one image takes, on dense kernels."""
        thin = cut(self._plain, capacity)
        return count_multiply_adds(thin.base_model, self._image_size).dense

    def file_bytes(self, capacity: float) -> int:
        """Size of the file of weights that `prune(capacity).save_pretrained` writes."""
        if self.granularity == "channel":
            return size_of_file(cut(self._plain, capacity).state_dict(), PLAIN_METADATA)
        if capacity == 1.0:
            return size_of_file(self._tensors, PLAIN_METADATA)
        return size_of_packed(self._tensors, self._kept(capacity))

    def least_file_bytes(self, capacity: float) -> int:
        """At most `file_bytes`, and never less for a larger capacity.

        `file_bytes` itself is now and then: near 1 the file of a larger capacity can be a little smaller, because a
        tensor that is no longer packed takes less of the header.
        """
        if self.granularity == "channel":
            return self.file_bytes(capacity)
        size, kept = self._smallest_header, self._kept(capacity)
        for name, tensor in self._tensors.items():
            plain: int = tensor.nbytes
            packed = -(-tensor.numel() // 8) + kept[name] * tensor.itemsize if name in kept else plain
            size += min(packed, plain)
        return size

    def _kept(self, capacity: float) -> dict[str, int]:
        """How many elements of each prunable weight a subnetwork stores: those that are kept and aren't zero."""
        counts = {name: kept_count(capacity, self._tensors[name].numel()) for name in self._zeros}
        return {name: count - int(np.searchsorted(self._zeros[name], count)) for name, count in counts.items()}


def on_meta(model: Any) -> Any:
    """A copy of a model without data: on the meta device, with the same types and shapes."""
    parameters = {
        id(own): nn.Parameter(torch.empty_like(own, device="meta"), requires_grad=own.requires_grad)
        for own in model.parameters()
    }
    buffers = {id(own): torch.empty_like(own, device="meta") for own in model.buffers()}
    return copy.deepcopy(model, {**parameters, **buffers})


def without_scores(model: Any) -> Any:
    """A copy of a prunable model as plain as a subnetwork is, with all of its units and weights."""
    layers = model.prunable_layers().items()
    plain = plain_copy(model, {name: torch.ones_like(layer.weight, dtype=torch.bool) for name, layer in layers})
    drop_statistics(plain)
    plain.config.prunable = False
    plain.config.statistics_capacities = []
    return plain.eval()  # training, a batch norm would refuse a batch of one image


def cut(plain: Any, capacity: float) -> Any:
    """A copy of a plain model with as many of its units as `capacity` keeps, but the first ones instead of the best.

    With single weights, all subnetworks have the shapes of the dense network.
    """
    thin = copy.deepcopy(plain)
    if plain.config.granularity == "channel":
        groups = find_units(thin)
        counts = {name: torch.arange(group.kept(capacity), device=thin.device) for name, group in groups.items()}
        cut_units(thin, groups, counts)
    return thin


def _ranks_of_zeros(layer: PrunableLayer) -> NDArray[np.int64]:
    """At which places in the order by score the weights of a layer are zero, `(zeros,)`, ascending."""
    zeros = (layer.weight.detach() == 0).flatten()
    if not zeros.any():
        return np.empty(0, dtype=np.int64)
    order = layer.scores.detach().abs().flatten().sort(descending=True, stable=True).indices
    ranks: NDArray[np.int64] = zeros[order].nonzero().flatten().cpu().numpy()
    return ranks
