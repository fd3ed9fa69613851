"""The small trained model in model_cards/glyphs, which README and docs load: it finds characters it never saw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from prunnet_hf import PrunNetImageProcessor, PrunNetModel
from prunnet_hf.data.sets.glyphs import load_glyphs
from prunnet_hf.retrieval.dataset_encoding import encode
from prunnet_hf.retrieval.metrics import chance_mean_average_precision
from prunnet_hf.retrieval.protocols import Side, leave_one_out

FOLDER = Path(__file__).parents[1] / "model_cards" / "glyphs"
LARGEST_TOTAL = 1_700_000
"""Bytes of all weight files together: they are in every clone."""
NUM_CLASSES, IMAGES_PER_CLASS = 20, 9


@pytest.fixture(scope="module")
def tables() -> dict[str, NDArray[np.float32]]:
    """Test characters in each of the nine faces, embedded by the dense network and by two copies of the subnetwork."""
    server = PrunNetModel.from_pretrained(FOLDER / "model")
    networks = {
        "dense": server,
        "0.1": server.prune(0.1),
        "0.1 from its file": PrunNetModel.from_pretrained(FOLDER / "subnetworks" / "capacity-0.10"),
    }
    images = load_glyphs(2, NUM_CLASSES, IMAGES_PER_CLASS).gallery
    processor = PrunNetImageProcessor.from_pretrained(FOLDER / "model")
    return encode(networks, images, processor, progress=False)


def mean_average_precision(queries: NDArray[np.float32], gallery: NDArray[np.float32]) -> float:
    columns = {"label": np.repeat(np.arange(NUM_CLASSES), IMAGES_PER_CLASS).tolist()}
    return leave_one_out(Side(queries, columns), Side(gallery, columns))["mAP"]


@pytest.mark.parametrize(("query", "at_least"), [("dense", 0.9), ("0.1", 0.85)])
def test_finds_unseen_characters_in_the_dense_gallery(
    query: str, at_least: float, tables: dict[str, NDArray[np.float32]]
) -> None:
    labels = np.repeat(np.arange(NUM_CLASSES), IMAGES_PER_CLASS)
    assert chance_mean_average_precision(labels, labels, exclude=np.arange(len(labels))) < 0.1
    assert mean_average_precision(tables[query], tables["dense"]) > at_least


def test_the_subnetwork_is_the_one_in_its_own_file(tables: dict[str, NDArray[np.float32]]) -> None:
    np.testing.assert_allclose(tables["0.1 from its file"], tables["0.1"], rtol=0, atol=1e-4)


def test_weight_files_are_small() -> None:
    files = list(FOLDER.rglob("*.safetensors"))
    assert files
    assert sum(file.stat().st_size for file in files) <= LARGEST_TOTAL
