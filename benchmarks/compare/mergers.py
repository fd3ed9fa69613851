"""Mergers of torchjd, on the dot products over the whole network: `--merger benchmarks.compare.mergers:UPGrad`.

Both are scaled as the plain sum is, so that one learning rate suits all.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchjd.aggregation import PCGradWeighting, UPGradWeighting

from prunnet_hf.training.mergers import Merger

_LARGEST_SEED = 2**31


class UPGrad(Merger):
    """The sum of the gradients, each projected so that it conflicts with none (arXiv 2406.16232)."""

    sees = "network"

    def coefficients(self, gram: Tensor, *, per_row: bool, generator: torch.Generator) -> Tensor:
        """See `Merger`."""
        return torch.stack([UPGradWeighting(pref_vector=torch.ones_like(each[0]))(each) for each in gram])


class PCGrad(Merger):
    """The sum of the gradients, each projected on the others that it conflicts with, in random order (2001.06782)."""

    sees = "network"

    def coefficients(self, gram: Tensor, *, per_row: bool, generator: torch.Generator) -> Tensor:
        """See `Merger`."""
        seed = int(torch.randint(_LARGEST_SEED, (), generator=generator))
        with torch.random.fork_rng(devices=[]):  # torchjd draws the order from torch's global generator
            torch.manual_seed(seed)
            return torch.stack([PCGradWeighting()(each) for each in gram])
