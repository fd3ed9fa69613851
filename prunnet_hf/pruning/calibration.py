"""Running statistics of subnetworks.

A batch norm normalises with means and variances of the activations it has seen in training. Those of a subnetwork are
not the dense network's, so every subnetwork needs its own (EagleEye, arXiv 2007.02491). They are measured once, at the
end of training, for a grid of capacities, and stored beside the dense ones in two buffers of each batch norm,
`statistics_mean` and `statistics_var`, `(len(capacities), num_features)` each. Between stored capacities they are
interpolated linearly, so that pruning needs no data; the dense network's own statistics are the entry for capacity 1.
"""

import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from transformers.utils.logging import tqdm

from .allocation import UNIFORM
from .masking import format_capacity

logger = logging.getLogger(__name__)

DENSE = 1.0
COARSE_BELOW = 0.2
"""Below this capacity statistics change too fast to be interpolated well on the default grid."""
BAR_DELAY = 3.0
"""Seconds that a calibration must take before it shows a bar."""
MEAN = "statistics_mean"
VARIANCE = "statistics_var"
OWN_AND_STORED = (("running_mean", MEAN), ("running_var", VARIANCE))
"""Names of a batch norm's own buffers and of those that hold a row for each stored capacity."""


def batch_norms(network: nn.Module) -> dict[str, _BatchNorm]:
    """The batch norms of `network` that keep running statistics, by qualified name."""
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }


def add_statistics(network: nn.Module, num_capacities: int) -> None:
    """Add buffers for statistics of `num_capacities` subnetworks to every batch norm (mean 0, variance 1)."""
    if num_capacities == 0:
        drop_statistics(network)  # safetensors would take two empty buffers for one tensor and keep one of them
        return
    for norm in batch_norms(network).values():
        template = norm.get_buffer("running_mean").expand(num_capacities, -1)
        norm.register_buffer(MEAN, torch.zeros_like(template, memory_format=torch.contiguous_format))
        norm.register_buffer(VARIANCE, torch.ones_like(template, memory_format=torch.contiguous_format))


def has_statistics(network: nn.Module) -> bool:
    """Whether every batch norm has statistics of subnetworks; `convert_sync_batchnorm` leaves them behind."""
    return all(hasattr(norm, name) for norm in batch_norms(network).values() for name in (MEAN, VARIANCE))


def drop_statistics(network: nn.Module) -> None:
    """Remove the statistics of subnetworks; each batch norm keeps its own."""
    for norm in batch_norms(network).values():
        for name in (MEAN, VARIANCE):
            if hasattr(norm, name):
                delattr(norm, name)


def select_statistics(network: nn.Module, rows: Sequence[int]) -> None:
    """Keep only these rows of the stored statistics, in this order."""
    if not rows:
        drop_statistics(network)
        return
    for norm in batch_norms(network).values():
        for name in (MEAN, VARIANCE):
            norm.register_buffer(name, norm.get_buffer(name)[list(rows)].clone())


def scratch_statistics(network: nn.Module) -> dict[str, Tensor]:
    """Copies of the running statistics, by name, for a pass in train mode that must not change the real ones."""
    return {
        f"{name}.{key}": buffer.clone()
        for name, norm in batch_norms(network).items()
        for key, buffer in norm.named_buffers(recurse=False)
        if key not in (MEAN, VARIANCE)
    }


def interpolation(stored: Sequence[float], capacity: float) -> list[tuple[int | None, float]]:
    """How statistics at `capacity` are mixed from the stored ones.

    Args:
        stored: Capacities with stored statistics, ascending, below 1. The dense network always has its own.
        capacity: Wanted capacity, in (0, 1].

    Returns:
        Pairs of (index into `stored`, or None for the dense network; share of the mixture). Shares add up to 1.

    Example:
        >>> interpolation([0.2, 0.4], 0.25)
        [(0, 0.75), (1, 0.25)]
    """
    grid = [*stored, DENSE]
    rows: list[int | None] = [*range(len(stored)), None]
    right = next(place for place, at in enumerate(grid) if at >= capacity)
    if grid[right] == capacity or right == 0:
        return [(rows[right], 1.0)]
    # Rounded so that the mixture of 0.2 and 0.4 at 0.25 is a quarter, not 0.24999999999999994.
    share = round((capacity - grid[right - 1]) / (grid[right] - grid[right - 1]), 12)
    return [(rows[right - 1], 1.0 - share), (rows[right], share)]


def warn_if_coarse(stored: Sequence[float], capacity: float) -> None:
    """Log a warning if statistics at a low `capacity` are interpolated; see `interpolation`."""
    mixture = interpolation(stored, capacity)
    if capacity < COARSE_BELOW and len(mixture) > 1:
        neighbours = [DENSE if row is None else stored[row] for row, _ in mixture]
        logger.warning(
            "Running statistics at capacity %s are interpolated between those stored for %s, which is inaccurate at "
            "low capacities. Pass `calibration=` (an iterable of pixel_values) to prune() for exact ones, or train "
            "with %s among --capacities, which stores them.",
            format_capacity(capacity),
            " and ".join(map(format_capacity, neighbours)),
            format_capacity(capacity),
        )


def warn_if_not_uniform(network: nn.Module, capacity: float, allocation: str) -> None:
    """Log a warning if statistics of uniform subnetworks are used for another `allocation`."""
    if allocation != UNIFORM and capacity < DENSE and batch_norms(network):
        logger.warning(
            "The stored running statistics are those of subnetworks that keep the same share of every layer, not of "
            "allocation=%r. Pass `calibration=` (an iterable of pixel_values) for exact ones.",
            allocation,
        )


def running_statistics(network: nn.Module, stored: Sequence[float], capacity: float) -> dict[str, Tensor]:
    """Running statistics of the subnetwork of `capacity`, named like the batch norms' own buffers; always copies.

    Warns:
        UserWarning: If `capacity` is below the smallest stored one, whose statistics are then used unchanged.
    """
    norms = batch_norms(network)
    stored = stored if has_statistics(network) else []
    if norms:
        warn_if_below(stored, capacity, stacklevel=5)  # the line that called `prune`
    mixture = interpolation(stored, capacity)
    statistics = scratch_statistics(network)
    for name, norm in norms.items():
        for own, rows in OWN_AND_STORED:
            of_row: dict[int | None, Tensor] = {None: norm.get_buffer(own)}
            if stored:
                of_row.update(enumerate(norm.get_buffer(rows)))
            statistics[f"{name}.{own}"] = mix(of_row, mixture)
    return statistics


def warn_if_below(stored: Sequence[float], capacity: float, stacklevel: int) -> None:
    """Warn if `capacity` is below the smallest with statistics. For `stacklevel` see `warnings.warn`."""
    smallest = min([*stored, DENSE])
    if capacity < smallest:
        warnings.warn(
            f"No running statistics are stored below capacity {format_capacity(smallest)}; those of that capacity are "
            f"used for {format_capacity(capacity)}. Pass `calibration=` (an iterable of pixel_values) to prune() for "
            f"exact ones, or train with {format_capacity(capacity)} among --capacities, which stores them.",
            stacklevel=stacklevel,
        )


def mix(of_row: Mapping[int | None, Tensor], mixture: Sequence[tuple[int | None, float]]) -> Tensor:
    """Mix the statistics of each row (None: the dense network's) as `interpolation` says."""
    return torch.stack([share * of_row[row] for row, share in mixture]).sum(0)


@torch.no_grad()
def measure_statistics(
    network: nn.Module,
    subnetworks: Sequence[Mapping[str, Tensor]],
    images: Iterable[Tensor],
    *,
    progress: bool = False,
    add_up: Callable[[Tensor], Tensor] | None = None,
) -> list[dict[str, Tensor]]:
    """Measure running statistics: weights frozen, statistics reset, a cumulative average over `images`.

    The mean is the average of the batches' means and the variance that of their unbiased variances, as torch's batch
    norm defines both. Each batch is weighted by its number of images.

    Args:
        network: Called as `network(pixel_values)`; left unchanged.
        subnetworks: For each subnetwork the tensors that replace the network's own (an empty mapping: none).
        images: Batches of pixel values `(batch, channels, height, width)` of at least 2 images each, read once.
        progress: Show a bar once the work has taken some seconds.
        add_up: For several processes that share the batches: returns the sum of their tensors. Each calls it once,
            and all get the statistics of all batches.

    Returns:
        For each subnetwork its running statistics, named like the batch norms' own buffers. Those of a half-precision
        network are float32, the type in which they were averaged; `write_statistics` rounds them.

    Raises:
        TypeError: If `images` is not an iterable of tensors.
        ValueError: If `images` is empty or a batch holds fewer than 2.
    """
    _check_iterable(images)
    measured = [_reset(scratch_statistics(network)) for _ in subnetworks]
    wide = _wide_affines(network)
    parameter = next(network.parameters())
    num_images = 0
    with _train_mode_of_batch_norms(network) as norms:
        batches = tqdm(images, desc="calibrate", unit="batch", delay=BAR_DELAY, disable=not progress)
        for index, pixel_values in enumerate(batches):
            _check_batch(index, pixel_values)
            num_images += len(pixel_values)
            for norm in norms:
                norm.momentum = len(pixel_values) / num_images
            placed = pixel_values.to(parameter.device, parameter.dtype)
            for tensors, statistics in zip(subnetworks, measured, strict=True):
                functional_call(network, {**wide, **tensors, **statistics}, (placed,))
    if add_up is not None:
        num_images = _average_over_processes(measured, num_images, add_up)
    if num_images == 0:
        raise ValueError(
            "calibration images are empty: pass at least one batch of pixel_values (a few hundred images)."
        )
    return measured


def _average_over_processes(
    measured: Sequence[Mapping[str, Tensor]], num_images: int, add_up: Callable[[Tensor], Tensor]
) -> int:
    """Replace each process's averages by those over all processes' images, and return the number of images."""
    averages = [tensor for statistics in measured for tensor in statistics.values() if tensor.is_floating_point()]
    # One message for all, in float64, so that the number of processes changes float32 results in the last bit at most.
    flat = torch.cat([tensor.flatten().double() for tensor in averages]) if averages else torch.empty(0)
    total = add_up(torch.cat([num_images * flat, flat.new_tensor([num_images])]))
    num_images = int(total[-1])
    parts = (total[:-1] / max(num_images, 1)).split([tensor.numel() for tensor in averages])
    for tensor, part in zip(averages, parts, strict=True):
        tensor.copy_(part.view_as(tensor))
    return num_images


def write_statistics(network: nn.Module, row: int | None, statistics: Mapping[str, Tensor]) -> None:
    """Store measured `statistics` in `row` of the stored ones, or as the dense network's own (None)."""
    for name, norm in batch_norms(network).items():
        mean, variance = statistics[f"{name}.running_mean"], statistics[f"{name}.running_var"]
        if row is None:
            norm.get_buffer("running_mean").copy_(mean)
            norm.get_buffer("running_var").copy_(variance)
        else:
            norm.get_buffer(MEAN)[row].copy_(mean)
            norm.get_buffer(VARIANCE)[row].copy_(variance)


def _check_iterable(images: Iterable[Tensor]) -> None:
    if isinstance(images, Tensor):
        raise TypeError(
            f"calibration images must be an iterable of batches; got one Tensor of shape {tuple(images.shape)}. Pass "
            "a list of it."
        )
    if not hasattr(images, "__iter__") and not hasattr(images, "__getitem__"):
        raise TypeError(
            f"calibration images must be an iterable of batches of pixel_values; got {type(images).__name__}. Pass a "
            "list of them, or a loader that yields them."
        )


def _check_batch(index: int, pixel_values: Tensor) -> None:
    if not isinstance(pixel_values, Tensor):
        raise TypeError(
            f"calibration images must be tensors of pixel_values; batch {index} is a {type(pixel_values).__name__}. "
            "If it comes from an image processor, pass batch['pixel_values']."
        )
    if pixel_values.ndim == 0 or len(pixel_values) < 2:
        raise ValueError(
            "calibration images must come in batches of at least 2 images, because one image has no variance; got a "
            f"batch of shape {tuple(pixel_values.shape)}. Drop the last batch if it is too small."
        )


def _reset(statistics: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same buffers at mean 0 and variance 1; half-precision ones become float32."""
    return {
        name: torch.full_like(tensor, 1 if name.endswith("running_var") else 0, dtype=_wide(tensor.dtype))
        for name, tensor in statistics.items()
    }


def _wide_affines(network: nn.Module) -> dict[str, Tensor]:
    """Batch norms' weights and biases in the type of their statistics; torch allows no other mixture in one call."""
    return {
        f"{name}.{key}": parameter.to(_wide(parameter.dtype))
        for name, norm in batch_norms(network).items()
        for key, parameter in norm.named_parameters(recurse=False)
    }


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32) if dtype.is_floating_point else dtype


@contextmanager
def _train_mode_of_batch_norms(network: nn.Module) -> Iterator[list[_BatchNorm]]:
    """Put only the batch norms in train mode while the block runs. The block may set their momenta."""
    modes = {module: module.training for module in network.modules()}
    momenta = {norm: norm.momentum for norm in batch_norms(network).values()}
    network.eval()
    for norm in momenta:
        norm.train()
    try:
        yield list(momenta)
    finally:
        for module, mode in modes.items():
            module.training = mode
        for norm, momentum in momenta.items():
            norm.momentum = momentum
