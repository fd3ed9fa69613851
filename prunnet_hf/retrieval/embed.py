"""One batch of images through one network."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..modeling_prunnet import PrunNetModel


@torch.inference_mode()
def embed(model: PrunNetModel, pixel_values: Tensor) -> NDArray[np.float32]:
    """Embed a batch on the model's device and in its precision; the model is put into eval mode.

    Args:
        model: Any subnetwork.
        pixel_values: `(batch, 3, height, width)`, from the image processor.

    Returns:
        `(batch, embedding_dim)`, not normalised.
    """
    model.train(False)
    parameter = next(model.parameters())
    inputs = pixel_values.to(parameter.device, parameter.dtype)
    embeddings: NDArray[np.float32] = model(pixel_values=inputs).pooler_output.float().cpu().numpy()
    return embeddings
