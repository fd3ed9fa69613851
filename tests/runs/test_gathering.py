"""What several processes embedded together is what one would have embedded alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PILImage

from prunnet_hf import PrunNetConfig, PrunNetImageProcessor, PrunNetModel
from prunnet_hf.data.streams import as_stream
from prunnet_hf.retrieval.dataset_encoding import Encoded
from prunnet_hf.runs.gathering import encode_together
from tests.processes import run_processes

SIZE = 32
RELEVANT = [["x"], [], ["y", "z"], ["x", "y"], ["q"], ["w"], ["v"]]


def images(count: int) -> Dataset:
    rng = np.random.default_rng(0)
    columns = {
        "image": [PILImage.fromarray(rng.integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)) for _ in range(count)],
        "id": [f"image-{row}" for row in range(count)],
        "relevant": RELEVANT[:count],
    }
    features = Features({"image": Image(), "id": Value("string"), "relevant": List(Value("string"))})
    return Dataset.from_dict(columns, features=features)


def encode_all() -> list[Encoded[float] | None]:
    """Two networks' embeddings of a data set, of a stream of uneven shards, and of fewer images than processes."""
    torch.manual_seed(0)
    backbone_kwargs = {"channels": [4, 4, 8, 8], "stem_width": 4}
    model = PrunNetModel(
        PrunNetConfig(backbone="resnet10t", backbone_kwargs=backbone_kwargs, image_size=SIZE, embedding_dim=6)
    )
    networks = {capacity: model.prune(capacity) for capacity in (0.5, 1.0)}
    processor = PrunNetImageProcessor(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})
    accelerator = Accelerator(cpu=True)
    sources = (images(7), as_stream(images(7), 4), images(2))
    return [
        encode_together(accelerator, networks, source, processor, batch_size=2, progress=False) for source in sources
    ]


@pytest.mark.parametrize("world_size", [2, 3])
def test_together_as_alone(world_size: int, tmp_path: Path) -> None:
    ranks: list[Any] = run_processes(world_size, encode_all, folder=tmp_path)
    assert all(found is None for rank in ranks[1:] for found in rank)
    for found, expected, count in zip(ranks[0], encode_all(), (7, 7, 2), strict=True):
        assert found.rows.tolist() == list(range(count))
        assert found.columns == {"id": [f"image-{row}" for row in range(count)], "relevant": RELEVANT[:count]}
        assert found.columns == expected.columns
        for capacity in (0.5, 1.0):
            np.testing.assert_allclose(found.embeddings[capacity], expected.embeddings[capacity], rtol=1e-4, atol=1e-5)
