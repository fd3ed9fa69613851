"""Plain weights, `model.safetensors`: transformers writes and reads them, in one file or in several."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from .form import Form, Source, Weights
from .tensor_file import CheckpointFormatError


def _read(source: Source, capacity: float | None) -> Weights | None:
    if source.variant is not None:
        return None
    # Downloaded here, because transformers says of a Hub that refuses the file that it doesn't exist.
    found = source.find(SAFE_WEIGHTS_NAME)
    if found is None:
        return None
    _refuse_rank16(found)
    return Weights(None)


def untied(model: Any, state_dict: Mapping[str, Tensor] | None) -> dict[str, Tensor] | None:
    """The tensors to save of a model in which layers have several names, such as timm's CoaT: a copy for each name.

    Args:
        model: A PrunNet model.
        state_dict: Tensors to save in place of the model's own.

    Returns:
        None if every tensor has one name, and transformers can save what it would.
    """
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    if len({id(tensor) for _, tensor in named}) == len(named):
        return None if state_dict is None else dict(state_dict)
    tensors = model.state_dict() if state_dict is None else state_dict
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def _refuse_rank16(file: str) -> None:
    """Refuse the form `scores="rank16"` of early versions, which bands have replaced."""
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
    except SafetensorError:
        return  # transformers reads it, and says what is wrong
    if metadata.get("scores") == "rank16":
        raise CheckpointFormatError(
            f"{file} stores scores in the form 'rank16', which this prunnet_hf no longer reads. Load the checkpoint "
            "with prunnet_hf at commit 4281916 and save it plain, or with bands=model.config.capacities, which is "
            "smaller."
        )


PLAIN = Form(
    name="plain",
    files=(SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, "model-*-of-*.safetensors"),
    suits=lambda config: True,
    read=_read,
)
