"""Image encoders that this package didn't make: timm's, transformers', or any function in Python.

They embed galleries as our networks do, each with its own processing of images. Their embedding space has an id: a
digest of the encoder's weights, or of the name and revision that somebody states.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch import Tensor, nn
from transformers import AutoImageProcessor, AutoModel, PreTrainedModel
from transformers.utils import logging

from ..image_encoding import embed_batches
from ..prunable_model import PrunNetPreTrainedModel
from ..storage.weights_digest import DIGITS, digest_tensors

TIMM, TRANSFORMERS = "timm:", "transformers:"
"""What names of models begin with."""
FOREIGN_NAMES = f"{TIMM}NAME or {TRANSFORMERS}NAME for a model of these libraries"
Function = Callable[[list[Image.Image]], Any]
"""From RGB images to their vectors `(batch, dim)`, an array or a tensor."""
_IMAGE_FEATURES = "get_image_features"
"""The method of transformers' models of images and text."""
_GREY = Image.new("RGB", (224, 224), (127, 127, 127))
_FAILURES = (TypeError, ValueError, RuntimeError, AttributeError, LookupError)
"""What a model raises that needs more than an image."""


@dataclass(frozen=True)
class ForeignConfig:
    """What there is to say about a foreign encoder, under the names that our configurations have.

    Attributes:
        name_or_path: The model, for people.
        embedding_space: Id of its space.
        embedding_dim: Length of a vector.
        capacity: 1.0, unless a network of ours is inside.
    """

    name_or_path: str
    embedding_space: str
    embedding_dim: int
    capacity: float = 1.0


class ForeignEncoder:
    """An image encoder that this package didn't make; from `load_foreign_encoder` or `foreign_encoder`.

    Args:
        network: From what `image_processor` gives to vectors `(batch, dim)`: a torch module, or a function.
        image_processor: From RGB images to a mapping with `pixel_values`; it can be sent to other processes.
        name: The model, for people.
        embedding_space: Id of its space.
        capacity: Of a network of ours that something is done to, in (0, 1].

    Attributes:
        config: Its name, its space, and how long its vectors are.

    Raises:
        ValueError: If it can't embed a grey image, or gives no vector for it.
    """

    def __init__(
        self,
        network: Callable[[Any], Any],
        image_processor: Callable[..., Mapping[str, Any]],
        *,
        name: str,
        embedding_space: str,
        capacity: float = 1.0,
    ) -> None:
        self.network, self.image_processor = network, image_processor
        self.config = ForeignConfig(name, embedding_space, 0, capacity)
        try:
            shape = self._vectors(self._processed([_GREY])).shape
        except _FAILURES as error:
            raise ValueError(
                f"model {name!r} can't embed an image alone ({error}). Give an image encoder, or a function of images "
                "in Python (foreign_encoder)."
            ) from error
        if len(shape) != 2 or shape[0] != 1 or shape[1] < 1:
            raise ValueError(f"model {name!r} must give vectors (batch, dim); for one image it gives {tuple(shape)}.")
        self.config = ForeignConfig(name, embedding_space, shape[1], capacity)

    def __repr__(self) -> str:
        config = self.config
        return (
            f"ForeignEncoder({config.name_or_path!r}, {config.embedding_dim} dimensions, "
            f"embedding_space={config.embedding_space!r})"
        )

    @property
    def plan(self) -> dict[str, str]:
        """What must stay the same between two sittings, besides the space and how images are processed."""
        return {"dtype": str(_place(self.network)[1]).removeprefix("torch."), "weights": self.config.embedding_space}

    def to(self, device: torch.device | str) -> Self:
        """Move the network, if it is a torch module."""
        if isinstance(self.network, nn.Module):
            self.network.to(device)
        return self

    def embed(self, pixel_values: Any) -> NDArray[np.float32]:
        """Embed a batch.

        Args:
            pixel_values: From `image_processor`.

        Returns:
            `(batch, embedding_dim)`, as the network gives them, not normalised.

        Raises:
            ValueError: If it gives another number of vectors, or of another length.
        """
        found: NDArray[np.float32] = self._vectors(pixel_values).numpy()
        wanted = len(pixel_values), self.config.embedding_dim
        if found.shape != wanted:
            raise ValueError(
                f"model {self.config.name_or_path!r} must give vectors of the shape {wanted}; got {found.shape}."
            )
        return found

    def encode(
        self, images: Any, batch_size: int = 32, normalize: bool = True, *, progress: bool | None = None
    ) -> NDArray[np.float32]:
        """Embed images of any kind, as `PrunNetModel.encode` does.

        Args:
            images: An iterable of paths, PIL images or arrays; or one of these.
            batch_size: Number of images in a forward pass.
            normalize: Give every vector unit length.
            progress: Whether to show a bar; by default on a terminal, if it takes some seconds.

        Returns:
            `(num_images, embedding_dim)`.

        Raises:
            TypeError: If an image is of another kind.
            ValueError: If an image can't be decoded, or a vector isn't finite.
        """
        return embed_batches(
            lambda batch: torch.from_numpy(self.embed(self._processed(batch))),
            images,
            self.config.embedding_dim,
            batch_size=batch_size,
            normalize=normalize,
            progress=progress,
        )

    def _processed(self, images: list[Image.Image]) -> Any:
        return self.image_processor(images, return_tensors="pt")["pixel_values"]

    @torch.inference_mode()
    def _vectors(self, pixel_values: Any) -> Tensor:
        if isinstance(pixel_values, Tensor):
            pixel_values = pixel_values.to(*_place(self.network))
        vectors = self.network(pixel_values)
        tensor = vectors if isinstance(vectors, Tensor) else torch.from_numpy(np.asarray(vectors))
        return tensor.detach().float().cpu()


def is_foreign(source: str) -> bool:
    """Whether a model that a command names is one of timm's or transformers'."""
    return source.startswith((TIMM, TRANSFORMERS))


def load_foreign_encoder(
    source: str, *, revision: str | None = None, dtype: torch.dtype = torch.float32
) -> ForeignEncoder:
    """Load an image encoder of timm or transformers, on the CPU, with its own processing.

    timm's is the network without its classifier. Of transformers' models it is what `get_image_features` gives, for
    models of images and text such as CLIP; else the pooled output; else, if the checkpoint has no weights for pooling,
    the class token.

    Args:
        source: `timm:NAME`, also `timm:hf-hub:ORG/NAME` or `timm:local-dir:FOLDER`; or `transformers:NAME_OR_FOLDER`.
        revision: Branch, tag or commit of a repository, for transformers.
        dtype: Precision of the network. The id of the space is that of the weights in float32.

    Raises:
        OSError: If there is no such model, or it can't be fetched.
        ValueError: If there is no such model in timm, or it isn't an image encoder.

    Example:
        >>> load_foreign_encoder("timm:vit_small_patch14_dinov2.lvd142m")  # doctest: +SKIP
        ForeignEncoder('timm:vit_small_patch14_dinov2.lvd142m', 384 dimensions, embedding_space='...')
    """
    if source.startswith(TIMM):
        if revision not in (None, "main"):
            raise ValueError(f"revision={revision!r}: timm takes it in the name: timm:hf-hub:ORG/NAME@{revision}.")
        network, processing, output = _from_timm(source)
    elif source.startswith(TRANSFORMERS):
        network, processing, output = _from_transformers(source, revision)
    else:
        raise ValueError(f"source must begin with {TIMM} or {TRANSFORMERS}; got {source!r}.")
    space = _hashed(output, *_digests(network))
    return ForeignEncoder(network.to(dtype), processing, name=_shown(source), embedding_space=space)


def foreign_encoder(function: Function, *, name: str, revision: str) -> ForeignEncoder:
    """An image encoder that is a function in Python.

    Args:
        function: From a list of upright RGB images to their vectors `(batch, dim)`.
        name: Names the model. The id of its space is made of name and revision, as its weights can't be seen.
        revision: Must change whenever the function's vectors do: a commit, a version, a date.

    Raises:
        ValueError: If name or revision is empty, or the function can't embed an image.

    Example:
        >>> colours = foreign_encoder(lambda images: [i.resize((1, 1)).getpixel((0, 0)) for i in images],
        ...                           name="mean-colour", revision="1")
        >>> colours.encode(Image.new("RGB", (8, 8), (3, 0, 4))).round(2).tolist()
        [[0.6, 0.0, 0.8]]
    """
    return ForeignEncoder(function, _AsTheyAre(), name=name, embedding_space=stated_space(name, revision))


def stated_space(name: str, revision: str) -> str:
    """The id of the space of a model whose weights aren't at hand.

    Args:
        name: Names the model.
        revision: Which of its versions.

    Raises:
        ValueError: If one is empty.
    """
    for argument, text in (("name", name), ("revision", revision)):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(
                f"{argument} must say which model made the embeddings, as its id is made of name and revision (a "
                f"commit, a version or a date); got {text!r}."
            )
    return _hashed("stated", name.strip(), revision.strip())


def _from_timm(source: str) -> tuple[nn.Module, Callable[..., Mapping[str, Tensor]], str]:
    name = source.removeprefix(TIMM)
    try:
        network = timm.create_model(name, pretrained=True, num_classes=0)
    except RuntimeError as error:
        raise ValueError(
            f"model {source!r}: timm has no weights of that name ({error}). timm.list_pretrained() lists what it has."
        ) from error
    transform = create_transform(**resolve_data_config({}, model=network), is_training=False)
    return network.eval(), _TimmProcessing(transform), "pooled"


def _from_transformers(source: str, revision: str | None) -> tuple[nn.Module, Callable[..., Mapping[str, Any]], str]:
    place, kwargs = source.removeprefix(TRANSFORMERS), {"revision": revision or "main"}
    if Path(place).is_absolute() and not Path(place).is_dir():
        raise FileNotFoundError(f"model {source!r}: there is no such folder.")
    with _quiet():  # its report of what wasn't loaded; what matters of it is an error below
        model, loaded = AutoModel.from_pretrained(place, output_loading_info=True, dtype=torch.float32, **kwargs)
    if isinstance(model, PrunNetPreTrainedModel):
        raise ValueError(f"model {source!r} is one of this package: give it without {TRANSFORMERS}.")
    missing = sorted(loaded["missing_keys"])
    if not all("pooler" in key for key in missing):
        raise ValueError(
            f"model {source!r} lacks weights, such as {missing[0]!r}, which would be random. Use a whole checkpoint."
        )
    output = "pooler_output" if not missing else "class token"
    output = "image features" if hasattr(model, _IMAGE_FEATURES) else output
    for name in missing:  # random, and not used: they are no part of what makes the space
        model.get_parameter(name).data.zero_()
    return _ImageOutput(model, output).eval(), AutoImageProcessor.from_pretrained(place, **kwargs), output


@contextmanager
def _quiet() -> Iterator[None]:
    """Only errors of transformers are printed."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


class _ImageOutput(nn.Module):
    """The vector that a model of transformers gives for an image."""

    def __init__(self, model: PreTrainedModel, output: str) -> None:
        super().__init__()
        self.model, self.output = model, output
        self.get_image_features: Callable[..., Any] = getattr(model, _IMAGE_FEATURES, model.forward)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """From pixels `(batch, 3, height, width)` to vectors `(batch, dim)`."""
        if self.output == "image features":
            features = self.get_image_features(pixel_values=pixel_values)
            wanted: Tensor = features if isinstance(features, Tensor) else features.pooler_output
            return wanted
        found = self.model(pixel_values=pixel_values)
        pooled = getattr(found, "pooler_output", None) if self.output == "pooler_output" else None
        vectors: Tensor = found.last_hidden_state[:, 0] if pooled is None else pooled.flatten(1)
        return vectors


class _TimmProcessing:
    """timm's transform of one image, as processors of transformers are called."""

    def __init__(self, transform: Callable[[Image.Image], Tensor]) -> None:
        self.transform = transform

    def __call__(self, images: Sequence[Image.Image], return_tensors: str = "pt") -> dict[str, Tensor]:
        return {"pixel_values": torch.stack([self.transform(image) for image in images])}

    def to_dict(self) -> dict[str, str]:
        """What is done."""
        return {"transform": str(self.transform)}


class _AsTheyAre:
    """No processing: the function takes images."""

    def __call__(self, images: Sequence[Image.Image], return_tensors: str = "pt") -> dict[str, list[Image.Image]]:
        return {"pixel_values": list(images)}

    def to_dict(self) -> dict[str, str]:
        """What is done."""
        return {}


def _place(network: Callable[[Any], Any]) -> tuple[torch.device, torch.dtype]:
    parameter = next(network.parameters(), None) if isinstance(network, nn.Module) else None
    return (torch.device("cpu"), torch.float32) if parameter is None else (parameter.device, parameter.dtype)


def _digests(network: nn.Module) -> list[str]:
    """A digest of each of a network's tensors. Names don't count, as they differ between versions of a library."""
    tensors = network.state_dict().values()
    return sorted(digest_tensors({"": tensor}) for tensor in tensors if tensor.is_floating_point())


def _hashed(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:DIGITS]


def _shown(source: str) -> str:
    """The name of a model, of a local folder only the last part, as its path would mean nothing to others."""
    kind, _, place = source.rpartition(":")
    return f"{kind}:{Path(place).name}" if Path(place).is_absolute() else source
