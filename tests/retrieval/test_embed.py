"""One batch through one network."""

from __future__ import annotations

import numpy as np
import torch

from prunnet_hf import PrunNetConfig, PrunNetModel
from prunnet_hf.retrieval.embed import embed


def test_a_batch_is_embedded_in_eval_mode_and_comes_back_as_float32() -> None:
    torch.manual_seed(0)
    config = PrunNetConfig(
        backbone="resnet10t",
        backbone_kwargs={"channels": [4, 4, 8, 8], "stem_width": 4},
        image_size=32,
        embedding_dim=6,
    )
    model, images = PrunNetModel(config).train(), torch.rand(3, 3, 32, 32)
    found = embed(model, images)
    assert found.dtype == np.float32
    with torch.no_grad():
        np.testing.assert_array_equal(found, model.eval()(images).pooler_output.numpy())
    half = embed(model.bfloat16(), images)
    assert half.dtype == np.float32
    np.testing.assert_allclose(half, found, atol=0.1 * np.abs(found).max())
