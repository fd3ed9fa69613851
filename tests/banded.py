"""A small prunable model as tensors alone, its progressive checkpoint, and what pruning it means, written plainly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from prunnet_hf.pruning.calibration import interpolation
from prunnet_hf.storage.band_index import INDEX_NAME, read_index
from prunnet_hf.storage.band_reader import load_bands
from prunnet_hf.storage.bands import save_bands
from tests.tiny_models import kept_mask, same_bits

LAYERS = ["conv", "fc"]
STORED = (0.1, 0.2, 0.5, 0.6, 0.9)
EDGES = (0.2, 0.6)


def model_tensors(
    dtype: torch.dtype = torch.float32,
    stored: Sequence[float] = STORED,
    shape: tuple[int, ...] = (5, 2, 3),
    seed: int = 0,
    tied: bool = False,
) -> dict[str, Tensor]:
    """Two prunable layers, one of them with one weight, a batch norm, and a bias."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    scores = draw(*shape).round() if tied else draw(*shape)
    tensors = {
        "conv.weight": draw(*shape),
        "conv.scores": scores,
        "fc.weight": draw(1, 1),
        "fc.scores": draw(1, 1),
        "fc.bias": draw(1),
        "norm.running_mean": draw(3),
        "norm.running_var": draw(3).abs(),
        "norm.statistics_mean": draw(len(stored), 3),
        "norm.statistics_var": draw(len(stored), 3).abs(),
    }
    counted = {"norm.num_batches_tracked": torch.tensor(7)}
    return {name: tensor.to(dtype) for name, tensor in tensors.items()} | counted


def saved(
    directory: Path, tensors: dict[str, Tensor], edges: Sequence[float] = EDGES, stored: Sequence[float] = STORED
) -> Path:
    directory.mkdir(exist_ok=True)
    save_bands(directory, tensors, LAYERS, edges, stored)
    return directory


def loaded(directory: Path, capacity: float | None = None) -> dict[str, Tensor]:
    """What is in the files. Only those that are needed are opened."""
    index = read_index(directory / INDEX_NAME)
    return load_bands(index, {name: directory / name for name in index.needed_files(capacity)}, capacity)


def pruned(tensors: dict[str, Tensor], capacity: float, stored: Sequence[float] = STORED) -> dict[str, Tensor]:
    """The subnetwork of `capacity`, layer by layer and norm by norm."""
    result = {"fc.bias": tensors["fc.bias"], "norm.num_batches_tracked": tensors["norm.num_batches_tracked"]}
    for layer in LAYERS:
        mask = kept_mask(tensors[f"{layer}.scores"], capacity)
        result[f"{layer}.weight"] = tensors[f"{layer}.weight"] * mask + 0.0
    for own, rows in (("running_mean", "statistics_mean"), ("running_var", "statistics_var")):
        mixed = torch.zeros_like(tensors[f"norm.{own}"])
        for row, share in interpolation(stored, capacity):
            mixed += share * (tensors[f"norm.{own}"] if row is None else tensors[f"norm.{rows}"][row])
        result[f"norm.{own}"] = mixed
    return result


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], what: str = "") -> None:
    """Bit for bit, NaN and the sign of zero included; a failure also names `what` was done."""
    assert found.keys() == expected.keys(), what
    for name, tensor in expected.items():
        assert same_bits(found[name], tensor), f"{name} {what}"
