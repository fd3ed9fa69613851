"""Networks that verbs name: a run, a directory or a repository, at a capacity."""

from __future__ import annotations

import torch
from transformers.utils.logging import disable_progress_bar

from ..commands import model_directory
from ..modeling_prunnet import PrunNetModel


def load_network(source: str, capacity: float | None = None) -> PrunNetModel:
    """The network of a run, a directory or a Hub repository, on the GPU if there is one.

    Args:
        source: Where it is.
        capacity: Prune it to this kept share, in (0, 1].
    """
    disable_progress_bar()  # transformers shows one for loading weights
    model: PrunNetModel = PrunNetModel.from_pretrained(model_directory(source), capacity=capacity)
    torch.nn.Module.to(model, "cuda" if torch.cuda.is_available() else "cpu")
    model.train(False)
    return model
