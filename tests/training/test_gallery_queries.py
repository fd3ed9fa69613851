"""Who asks a gallery that is learned: each kind of asker gives what the network itself gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import Dataset

from prunnet_hf import PrunNetModel
from prunnet_hf.configuration_prunnet import Granularity
from prunnet_hf.data.loading import load_splits
from prunnet_hf.retrieval.dataset_encoding import encode
from prunnet_hf.retrieval.product_quantizer import unit
from prunnet_hf.training.gallery_queries import QuerySide, WithKnown, queries_of
from tests.tiny_models import tiny, tiny_of_units
from tests.training.tiny_run import make_photos


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return load_splits("image_folder", str(make_photos(tmp_path_factory.mktemp("data") / "photos"))).train


def subnetworks(granularity: Granularity) -> list[PrunNetModel]:
    model = (tiny if granularity == "weight" else tiny_of_units)().prunnet
    model.renew_embedding_space()
    return [model.prune(0.2), model.prune(1.0)]


@pytest.mark.parametrize("granularity", ["weight", "channel"])
@pytest.mark.parametrize("query_side", [None, "projector", "backbone"])
def test_a_query_is_what_the_network_embeds(
    query_side: QuerySide | None, granularity: Granularity, images: Dataset
) -> None:
    networks = subnetworks(granularity)
    embedded = [unit(torch.from_numpy(each)) for each in encode(dict(enumerate(networks)), images).values()]
    ask = queries_of(query_side, networks, [each.numpy() for each in embedded], images)
    rows = np.array([3, 0, 2])
    for place, expected in enumerate(embedded):
        torch.testing.assert_close(ask(place, rows).detach(), expected[[3, 0, 2]], rtol=0, atol=1e-5)


def test_a_projector_that_has_moved_moves_the_queries(images: Dataset) -> None:
    """What is kept is what the projector gets, not what it gave; gradients reach it and nothing else."""
    networks = subnetworks("channel")
    ask = queries_of("projector", networks, [], images)
    before = ask(0, np.array([1])).detach()
    ask(0, np.array([1])).sum().backward()
    assert {name.partition(".")[0] for name, p in networks[0].named_parameters() if p.grad is not None} == {
        "projector"
    }
    with torch.no_grad():
        networks[0].get_parameter("projector.0.weight").mul_(-1)
    assert (ask(0, np.array([1])) - before).abs().max() > 0.01


def test_rows_after_the_training_images_are_images_of_the_gallery() -> None:
    known = torch.tensor([[10.0], [11.0]])
    ask = WithKnown(lambda _, images: torch.from_numpy(images).float()[:, None], 5, known, torch.device("cpu"))
    assert ask(0, np.array([4, 2, 6, 5])).tolist() == [[4.0], [2.0], [11.0], [10.0]]
