"""Batch norms that normalise by the images of all processes instead of each process's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from timm.layers import convert_sync_batchnorm
from torch import nn

from ..calibration import MEAN
from ..calibration import VARIANCE
from ..calibration import batch_norms


class SyncedBatchNorms:
    """Puts torch's SyncBatchNorm in the place of every batch norm of a network, and can put these back.

    Both share their parameters and buffers, so names, optimiser and checkpoints don't notice.

    Args:
        network: On its device already, as moving it would part the buffers.

    Raises:
        ValueError: If `network` is on a CPU, where SyncBatchNorm doesn't run.
    """

    def __init__(self, network: nn.Module) -> None:
        device = next(network.parameters()).device
        if device.type == "cpu":
            raise ValueError(
                "sync_batchnorm=True needs GPUs: torch's SyncBatchNorm doesn't run on a CPU, which this process "
                "uses. Leave --sync_batchnorm out; batch norms then see the --batch_size images of their own process."
            )
        self.network = network
        self.plain: dict[str, nn.Module] = dict(batch_norms(network))
        self.synced = {name: _synced(norm) for name, norm in self.plain.items()}
        self._place(self.synced)

    def undo(self) -> None:
        """Put the plain batch norms back."""
        self._place(self.plain)

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Plain batch norms while the block runs, for work that processes don't do in step, such as calibration."""
        self.undo()
        try:
            yield
        finally:
            self._place(self.synced)

    def _place(self, norms: dict[str, nn.Module]) -> None:
        for name, norm in norms.items():
            norm.train(self.network.get_submodule(name).training)
            self.network.set_submodule(name, norm)


def _synced(norm: nn.Module) -> nn.Module:
    synced: nn.Module = convert_sync_batchnorm(norm)  # timm's knows norms with activations, torch's would lose these
    for name in (MEAN, VARIANCE):
        buffer: torch.Tensor = norm.get_buffer(name)
        synced.register_buffer(name, buffer)
    return synced
