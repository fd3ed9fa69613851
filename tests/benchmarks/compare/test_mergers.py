"""torchjd's mergers by arithmetic: both give a sum of gradients without conflicts."""

from __future__ import annotations

import pytest
import torch

from benchmarks.compare.mergers import PCGrad, UPGrad
from prunnet_hf.training.mergers import Merger

CONFLICT = torch.tensor([[[1.0, -0.5], [-0.5, 1.0]]], dtype=torch.float64)
"""Of two unit vectors at 120 degrees. Each, made orthogonal to the other, is itself and half of the other."""
MERGERS = pytest.mark.parametrize("merger", [UPGrad(), PCGrad()], ids=["UPGrad", "PCGrad"])


def coefficients(merger: Merger, gram: torch.Tensor, seed: int = 0) -> torch.Tensor:
    return merger.coefficients(gram, per_row=False, generator=torch.Generator().manual_seed(seed))


@MERGERS
def test_two_conflicting_gradients(merger: Merger) -> None:
    torch.testing.assert_close(coefficients(merger, CONFLICT).float(), torch.tensor([[1.5, 1.5]]), atol=1e-3, rtol=0)


@MERGERS
def test_without_conflict_it_is_the_sum(merger: Merger) -> None:
    gram = torch.tensor([[[1.0, 0.5, 0.0], [0.5, 2.0, 0.1], [0.0, 0.1, 3.0]]], dtype=torch.float64)
    torch.testing.assert_close(coefficients(merger, gram).float(), torch.ones(1, 3), atol=1e-3, rtol=0)


def test_the_order_comes_from_the_generator_alone() -> None:
    # All three at obtuse angles: the order of projections matters.
    gram = torch.tensor([[[1.0, -0.6, -0.3], [-0.6, 1.0, -0.2], [-0.3, -0.2, 1.0]]], dtype=torch.float64)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    results = [coefficients(PCGrad(), gram, seed) for seed in (0, *range(20))]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(results[0], results[1])
    assert any(not torch.equal(results[0], other) for other in results)
