"""Whether a model's weights are still those whose embedding space its configuration names.

`config.embedding_space` is the id of a space, and `config.weights_digest` says for which weights it holds: it has
digests of this checkpoint's own parameters (scores aside) as float32, float16 and bfloat16. A loop of one's own, or
transformers' Trainer, changes the weights and neither of the two. So digests are compared before the id is used: if
the weights are none of the three, their space is a new one. A cast to a shorter type isn't a change.

A digest is the start of the SHA-256 of the parameters' names and bytes, widened to float32. The one in float32 is also
how ids of spaces are made.
"""

import hashlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
DIGITS = 16
SCORES = ".scores"


@torch.no_grad()
def digest_weights(
    model: Any, dtype: torch.dtype = torch.float32, state_dict: Mapping[str, Tensor] | None = None
) -> str:
    """The digest of a model's parameters as they are after a cast to `dtype`: 16 hexadecimal digits.

    Args:
        model: A PrunNet model. A classifier doesn't count, so it may be new.
        dtype: To which to cast.
        state_dict: Tensors that take the place of the model's own of the same name.
    """
    digest = hashlib.sha256()
    for name, parameter in _embedding_parameters(model, state_dict or {}):
        digest.update(name.encode())
        values = parameter.to(dtype).float().cpu().contiguous()
        digest.update(values.reshape(-1).numpy().data)
    return digest.hexdigest()[:DIGITS]


def digest_tensors(tensors: Mapping[str, Tensor]) -> str:
    """The digest of tensors as they are: their names, types, shapes and bytes; 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:DIGITS]


def _embedding_parameters(model: Any, state_dict: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The parameters that make the embeddings, by name, whichever class holds the network."""
    prefix = "" if model.base_model is model else f"{model.base_model_prefix}."
    for name, parameter in sorted(model.base_model.named_parameters()):
        if not name.endswith(SCORES):
            yield name, state_dict.get(prefix + name, parameter).detach()


def set_space(model: Any, space: str, state_dict: Mapping[str, Tensor] | None = None) -> None:
    """Write into the configuration that these weights have the embedding space of this id.

    What was measured in another space goes.
    """
    if model.config.embedding_space != space:
        model.config.compatible_with = None
    model.config.embedding_space = space
    if (model.config.measured or {}).get("space") != space:
        model.config.measured = None
    model.config.weights_digest = {
        str(dtype).removeprefix("torch."): digest_weights(model, dtype, state_dict) for dtype in DTYPES
    }


def settle_space(model: Any, state_dict: Mapping[str, Tensor] | None = None) -> None:
    """Keep the id of the embedding space if the weights are still its, else give them a new one, with a warning.

    The digests are then those of the weights as they are now. A model without an id gets none.

    Args:
        model: A PrunNet model, whose configuration is changed.
        state_dict: Tensors that are saved in place of the model's own.

    Warns:
        UserWarning: If the weights have changed, or an earlier version wrote no digests to compare with.
    """
    space = model.config.embedding_space
    if space is None:
        model.config.weights_digest = model.config.measured = model.config.compatible_with = None
        return
    now, known = digest_weights(model, state_dict=state_dict), model.config.weights_digest
    if known is None:
        known = {"float32": space if now == space else _believed(model, space, now)}
    if now not in known.values():
        _warn(
            f"The weights have changed since config.embedding_space was set to {space!r}, so they have a new space, "
            f"{now!r}. Embeddings of the old one can't be compared with theirs: embed galleries again. Call "
            "model.renew_embedding_space() after training to do this without a warning."
        )
        set_space(model, now, state_dict)
    elif model.config.weights_digest is None or now != known["float32"]:
        set_space(model, space, state_dict)


def _believed(model: Any, space: str, now: str) -> str:
    """Which digest an earlier version would have written, as far as that is known; warns if it isn't."""
    is_cast = any(parameter.dtype != torch.float32 for _, parameter in _embedding_parameters(model, {}))
    if model.config.prunable and not is_cast:
        return space
    _warn(
        f"This checkpoint has no config.weights_digest, as an earlier version wrote it, so config.embedding_space "
        f"{space!r} is believed: whether the weights were changed since it was set is not known. If they were, call "
        "model.renew_embedding_space()."
    )
    return now


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=5)  # the line that called `save_pretrained` or `prune`, or near it
