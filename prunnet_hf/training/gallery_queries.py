"""Who asks a gallery that is learned: networks that stay, that learn their projector, or that learn whole.

What doesn't learn is computed once: the embeddings by networks that stay, and what a projector that learns is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor

from ..data.reading import read_image, stored_images
from ..modeling_prunnet import PrunNetModel
from ..retrieval.dataset_encoding import pixel_batches
from ..retrieval.product_quantizer import unit
from .joint_quantization import Queries, Rows

QuerySide = Literal["projector", "backbone"]


def queries_of(
    query_side: QuerySide | None,
    networks: Sequence[PrunNetModel],
    embeddings: Sequence[NDArray[np.float32]],
    images: Dataset,
) -> Queries:
    """What embeds the training images of a step.

    Args:
        query_side: What of the networks learns.
        networks: Those that learn.
        embeddings: Of those that stay, each `(n, dim)`, of unit length.
        images: The training images.
    """
    if query_side == "backbone":
        return Reading(networks, images)
    if query_side == "projector":
        return Projecting(networks, [projector_inputs(network, images) for network in networks])
    return Known([torch.from_numpy(each) for each in embeddings])


@torch.no_grad()
def projector_inputs(network: PrunNetModel, images: Dataset) -> Tensor:
    """What the backbone says of images and the projector is given, `(n, features)`."""
    network.train(False)
    backbone = network.backbone
    batches = pixel_batches(images, network.image_processor)
    return torch.cat([backbone.forward_head(backbone.forward_features(each.to(network.device))) for each in batches])


class Known:
    """Queries of networks that stay: embedded before."""

    def __init__(self, queries: Sequence[Tensor]) -> None:
        self.queries = queries

    def __call__(self, network: int, images: Rows) -> Tensor:
        """Embed images by a network, `(batch, dim)`."""
        return self.queries[network][torch.from_numpy(images)]


class Projecting:
    """Queries of networks whose projector learns; its running statistics stay."""

    def __init__(self, networks: Sequence[PrunNetModel], features: Sequence[Tensor]) -> None:
        self.networks, self.features = networks, features

    def __call__(self, network: int, images: Rows) -> Tensor:
        """Embed images by a network, `(batch, dim)`."""
        model = self.networks[network].train(False)
        return unit(model.projector(self.features[network][torch.from_numpy(images)]))


class Reading:
    """Queries of networks that learn whole; their running statistics stay."""

    def __init__(self, networks: Sequence[PrunNetModel], images: Dataset) -> None:
        self.networks, self.images = networks, stored_images(images)

    def __call__(self, network: int, images: Rows) -> Tensor:
        """Embed images by a network, `(batch, dim)`."""
        model = self.networks[network].train(False)
        pixels = [read_image(self.images[int(image)]) for image in images]
        inputs = model.image_processor(pixels, return_tensors="pt")["pixel_values"].to(model.device)
        return unit(model(pixel_values=inputs).pooler_output)


class WithKnown:
    """Queries of a step: training images, and images of the gallery itself, whose embeddings are known.

    Args:
        training: Embeds training images.
        num_training: How many of these there are; larger rows are of the gallery.
        known: `(n, dim)`, the embeddings of those.
        device: Where queries shall be.
    """

    def __init__(self, training: Queries, num_training: int, known: Tensor, device: torch.device) -> None:
        self.training, self.num_training = training, num_training
        self.known, self.device = known, device

    def __call__(self, network: int, images: Rows) -> Tensor:
        """Embed images by a network, `(batch, dim)`."""
        is_training = images < self.num_training
        others = torch.from_numpy(images[~is_training] - self.num_training)
        asked = self.training(network, images[is_training]).to(self.device)
        return torch.cat([asked, self.known[others].to(asked)])
