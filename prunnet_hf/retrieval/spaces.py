"""Embedding spaces: whether embeddings of two networks can be compared."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from ..prunable_model import PrunNetPreTrainedModel
from ..storage.weights_digest import settle_space


@runtime_checkable
class HasEmbeddingSpace(Protocol):
    """A config, or `embedding_table.Embeddings`: they know the id of their embedding space."""

    @property
    def embedding_space(self) -> str | None:
        """The id; None until training ends."""


@runtime_checkable
class HasConfig(Protocol):
    """A model, whose config knows the id of its embedding space."""

    @property
    def config(self) -> HasEmbeddingSpace:
        """The config."""


Embedder = HasConfig | HasEmbeddingSpace | str | None
"""A model, its config, embeddings, or the id of an embedding space; None is an id that was never set."""


def check_compatible(a: Embedder, b: Embedder) -> None:
    """Refuse to compare embeddings of two spaces.

    Args:
        a: A model, a config, embeddings (`embedding_table.Embeddings`) or an embedding-space id.
        b: The same for the other side.

    Raises:
        TypeError: If an argument is none of these.
        ValueError: If the ids differ, or one was never set.
    """
    spaces = {"a": space_of(a, "a"), "b": space_of(b, "b")}
    for argument, space in spaces.items():
        if not space:
            raise ValueError(
                f"the embedding space of {argument} is unknown (embedding_space is {space!r}). It is set when "
                "training ends: finish training this model, or use the checkpoint of a finished run"
            )
    if spaces["a"] != spaces["b"]:
        raise ValueError(
            f"embeddings of space {spaces['a']!r} and of space {spaces['b']!r} can't be compared: they come from "
            "different trainings, so their similarities mean nothing, even if the dimensions agree. Use subnetworks "
            "pruned from one dense model, or embed the gallery again"
        )


def check_known_space(embedding_space: str | None) -> str:
    """Return the id of an embedding space; raise a ValueError if there is none."""
    if not isinstance(embedding_space, str) or not embedding_space:
        raise ValueError(
            f"embedding_space must be the id of a trained model's space, got {embedding_space!r}. It is set when "
            "training ends: use the checkpoint of a finished run. Embeddings of a model that isn't ours get one by "
            "describe_space."
        )
    return embedding_space


def space_of(item: Embedder, argument: str = "item") -> str | None:
    """The id of an embedding space; None if it was never set.

    Args:
        item: As in `check_compatible`.
        argument: What error messages call it.

    Raises:
        TypeError: If it is something else.
    """
    if item is None or isinstance(item, str):
        return item
    if isinstance(item, PrunNetPreTrainedModel):
        settle_space(item)  # a loop of one's own may have changed its weights since the id was set
    config = item.config if isinstance(item, HasConfig) else item
    if not isinstance(config, HasEmbeddingSpace):
        raise TypeError(
            f"{argument} must be a PrunNet model, its config, Embeddings or the id of an embedding space, "
            f"got {type(item).__name__}"
        )
    return config.embedding_space
