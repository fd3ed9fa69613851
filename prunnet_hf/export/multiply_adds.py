"""Multiply-adds of embedding one image: torch's count for the dense network, and what a subnetwork saves.

A prunable weight is used once at every output position of its layer, so leaving it out saves as many multiply-adds as
the layer has positions. This is a count on paper: dense kernels still multiply by the zeros. A network without some of
its units (`granularity="channel"`) is really smaller, and its count is that of the work it does. As is usual, only
convolutions and matrix products are counted; norms, activations and pooling are not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from ..modeling_prunnet import PrunNetModel
from ..pruning.masking import kept_count

FLOPS_OF_A_MULTIPLY_ADD = 2
"""`FlopCounterMode` counts a multiply-add as two."""
_USES = (torch.conv2d, torch.nn.functional.linear)


@dataclass(frozen=True)
class MultiplyAdds:
    """The multiply-adds of embedding one image.

    Attributes:
        dense: The count of the whole dense network, with layers that aren't prunable.
        positions: The number of output positions at which each element of a prunable weight is used, by its name.
        sizes: The number of elements of each prunable weight, by its name.
    """

    dense: int
    positions: Mapping[str, int]
    sizes: Mapping[str, int]

    def __repr__(self) -> str:
        return f"MultiplyAdds({self.dense:,} in the dense network, {len(self.sizes)} prunable weights)"

    def at(self, capacity: float) -> int:
        """Multiply-adds of the subnetwork that keeps a capacity in (0, 1] of every layer."""
        return self.keeping({name: kept_count(capacity, size) for name, size in self.sizes.items()})

    def keeping(self, kept: Mapping[str, int]) -> int:
        """Multiply-adds of the subnetwork that keeps this many elements of each prunable weight, by its name."""
        return self.dense - sum((size - kept[name]) * self.positions[name] for name, size in self.sizes.items())


@torch.no_grad()
def count_multiply_adds(model: PrunNetModel, image_size: int) -> MultiplyAdds:
    """Count the multiply-adds of embedding one image of `image_size` by `image_size` pixels.

    Args:
        model: A network or a subnetwork, on any device, also "meta". With single weights left out its capacity
            doesn't matter, as dense kernels do the same work for each.
        image_size: Side of the image in pixels.
    """
    weights = {name: model.get_parameter(name) for name in model.packable_weights()}
    image = torch.zeros(1, 3, image_size, image_size, device=model.device, dtype=model.dtype)
    # The counter doesn't know what attention is on a CPU, and counts the matrix products of its mathematical form.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, _Positions(weights) as watch:
        model(image)
    sizes = {name: weight.numel() for name, weight in weights.items()}
    return MultiplyAdds(counter.get_total_flops() // FLOPS_OF_A_MULTIPLY_ADD, watch.found, sizes)


class _Positions(TorchFunctionMode):
    """Sees every call of a convolution or linear map, also in backbones that read a layer's weight themselves."""

    def __init__(self, weights: Mapping[str, nn.Parameter]) -> None:
        super().__init__()
        self._names = {id(weight): name for name, weight in weights.items()}
        self.found = dict.fromkeys(weights, 0)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _USES and isinstance(result, Tensor):
            weight = args[1] if len(args) > 1 else (kwargs or {})["weight"]
            name = self._names.get(id(weight))
            if name is not None:
                self.found[name] += result.numel() // weight.shape[0]
        return result
