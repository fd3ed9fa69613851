"""Networks that verbs name: a run, a directory or a repository, at a capacity."""

from __future__ import annotations

import torch
from transformers.utils.logging import disable_progress_bar

from ..commands import model_directory
from ..modeling_prunnet import PrunNetModel
from ..retrieval.foreign_encoders import ForeignEncoder, is_foreign, load_foreign_encoder


def load_encoder(source: str, capacity: float | None = None) -> PrunNetModel | ForeignEncoder:
    """As `load_network`; `timm:NAME` and `transformers:NAME` are models that aren't ours.

    Raises:
        ValueError: If one of these is to be pruned.
    """
    if not is_foreign(source):
        return load_network(source, capacity)
    if capacity is not None:
        raise ValueError(f"--capacity {capacity} is for models of this package; {source} can't be pruned.")
    disable_progress_bar()
    return load_foreign_encoder(source).to("cuda" if torch.cuda.is_available() else "cpu")


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
