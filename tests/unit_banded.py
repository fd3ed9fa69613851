"""A small model of units as tensors alone, its progressive checkpoint, and what pruning it means, written plainly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunnet_hf.pruning.calibration import interpolation
from prunnet_hf.pruning.channels import Axis, UnitGroup
from prunnet_hf.storage.band_index import INDEX_NAME, read_index
from prunnet_hf.storage.unit_band_reader import load_unit_bands
from prunnet_hf.storage.unit_bands import save_unit_bands

STORED = (0.1, 0.2, 0.5, 0.6, 0.9)
EDGES = (0.2, 0.6)
CHANNELS, HEADS = 5, 3
BLOCKS: dict[str, dict[str, Any]] = {
    "basic": {"backbone": "resnet18", "backbone_kwargs": {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 136]}},
    "bottleneck": {
        "backbone": "resnet50",
        "backbone_kwargs": {"layers": [1, 1, 1, 3], "channels": [4, 4, 4, 32], "stem_width": 4},
    },
    "resnext": {
        "backbone": "resnext50_32x4d",
        "backbone_kwargs": {
            "layers": [1, 1, 1, 3],
            "channels": [8, 8, 8, 8],
            "cardinality": 4,
            "base_width": 64,
            "stem_width": 8,
        },
    },
    "mobilenetv2": {"backbone": "mobilenetv2_035", "backbone_kwargs": {}},
    "convnext": {
        "backbone": "convnext_atto",
        "backbone_kwargs": {"depths": [1, 1, 1, 1], "dims": [4, 8, 8, 16]},
    },
    "vit": {
        "backbone": "vit_tiny_patch16_224",
        "backbone_kwargs": {"depth": 2, "embed_dim": 24, "num_heads": 3, "patch_size": 8},
    },
    "swin": {
        "backbone": "swin_tiny_patch4_window7_224",
        "backbone_kwargs": {"depths": [1, 1], "embed_dim": 12, "num_heads": [2, 3], "window_size": 4},
    },
}
"""Arguments of `tiny_config` for a network of each kind of block, most of whose parameters lie in units."""


def groups(first: int, second: int) -> dict[str, UnitGroup]:
    """Channels between `a` and `b`, and then, in each of the heads, dimensions between `b` and `c`.

    `b` has the units of both groups, as the middle layer of a bottleneck; its first head is scaled as queries are.
    """
    names = ("weight", "bias", "running_mean", "running_var")
    channels = [
        Axis("a.weight", 0),
        *(Axis(f"norm.{name}", 0) for name in names),
        *(Axis(f"norm.{name}", 1) for name in ("statistics_mean", "statistics_var")),
        Axis("b.weight", 1, masked=1),
    ]
    heads = [
        Axis("b.weight", 0, outer=HEADS, inner=2, masked=1, scaled=True),
        Axis("c.weight", 1, outer=HEADS, inner=2, masked=1),
    ]
    return {"a": UnitGroup("a", first, tuple(channels), {}), "b": UnitGroup("b", second, tuple(heads), {})}


def model_tensors(
    dtype: torch.dtype = torch.float32,
    stored: Sequence[float] = STORED,
    sizes: tuple[int, int] = (7, 4),
    seed: int = 0,
    tied: bool = False,
) -> dict[str, Tensor]:
    """Three layers with two groups of units, a batch norm in between, and one without units."""
    generator = torch.Generator().manual_seed(seed)
    first, second = sizes

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    tensors = {
        "a.weight": draw(first, CHANNELS),
        "b.weight": draw(HEADS * second * 2, first),
        "c.weight": draw(2, HEADS * second * 2),
        "c.bias": draw(2),
        "norm.weight": draw(first),
        "norm.bias": draw(first),
    }
    for norm, size in (("norm", first), ("last", 2)):
        tensors |= {f"{norm}.running_mean": draw(size), f"{norm}.running_var": draw(size).abs()}
        if stored:
            rows = {"mean": draw(len(stored), size), "var": draw(len(stored), size).abs()}
            tensors |= {f"{norm}.statistics_{name}": tensor for name, tensor in rows.items()}
    scores = {"a.units.scores": draw(first), "b.units.scores": draw(second)}
    counted = {"norm.num_batches_tracked": torch.tensor(7)}
    return {
        **{name: tensor.to(dtype) for name, tensor in tensors.items()},
        **{name: tensor.round() if tied else tensor for name, tensor in scores.items()},
        **counted,
    }


def groups_of(tensors: dict[str, Tensor]) -> dict[str, UnitGroup]:
    """The groups of `model_tensors`, from the sizes that these have; without statistics of subnetworks if so."""
    found = groups(len(tensors["a.units.scores"]), len(tensors["b.units.scores"]))
    return {
        name: UnitGroup(name, group.num_units, tuple(axis for axis in group.axes if axis.tensor in tensors), {})
        for name, group in found.items()
    }


def saved(
    directory: Path, tensors: dict[str, Tensor], edges: Sequence[float] = EDGES, stored: Sequence[float] = STORED
) -> Path:
    directory.mkdir(exist_ok=True)
    save_unit_bands(directory, tensors, groups_of(tensors), edges, stored)
    return directory


def loaded(directory: Path, capacity: float | None = None) -> dict[str, Tensor]:
    """What is in the files. Only those that are needed are opened."""
    index = read_index(directory / INDEX_NAME)
    return load_unit_bands(index, {name: directory / name for name in index.needed_files(capacity)}, capacity)


def pruned(tensors: dict[str, Tensor], capacity: float, stored: Sequence[float] = STORED) -> dict[str, Tensor]:
    """The thin subnetwork of `capacity`, tensor by tensor."""
    kept = {}
    for name, group in groups_of(tensors).items():
        order = torch.argsort(tensors[f"{name}.units.scores"].abs(), descending=True, stable=True)
        kept[name] = order[: group.kept(capacity)].sort().values
    in_heads = torch.arange(HEADS * len(tensors["b.units.scores"]) * 2).view(HEADS, -1, 2)[:, kept["b"]].flatten()
    factor = torch.ones(HEADS, len(kept["b"]), 2, dtype=tensors["b.weight"].dtype)
    if len(kept["b"]) < len(tensors["b.units.scores"]):
        factor[0] = math.sqrt(len(kept["b"]) / len(tensors["b.units.scores"]))
    result = {
        "a.weight": tensors["a.weight"][kept["a"]],
        "b.weight": tensors["b.weight"][in_heads][:, kept["a"]] * factor.reshape(-1, 1),
        "c.weight": tensors["c.weight"][:, in_heads],
    }
    result |= {name: tensors[name][kept["a"]] for name in ("norm.weight", "norm.bias")}
    result |= {name: tensors[name] for name in ("c.bias", "norm.num_batches_tracked")}
    for norm in ("norm", "last"):
        for own, rows in (("running_mean", "statistics_mean"), ("running_var", "statistics_var")):
            mixed = torch.zeros_like(tensors[f"{norm}.{own}"])
            for row, share in interpolation(stored, capacity):
                mixed += share * (tensors[f"{norm}.{own}"] if row is None else tensors[f"{norm}.{rows}"][row])
            result[f"{norm}.{own}"] = mixed[kept["a"]] if norm == "norm" else mixed
    return result
