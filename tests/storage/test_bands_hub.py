"""Progressive checkpoints on a Hub on loopback: which bytes travel for which capacity, and what breaks the journey."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from huggingface_hub import CommitOperationAdd, HfApi, constants

from prunnet_hf import PrunNetForImageClassification, PrunNetModel
from prunnet_hf.storage.tensor_file import CheckpointFormatError
from tests.hub_server import HubServer
from tests.tiny_models import same_state, tiny

REPO = "org/name"
EDGES = [0.2, 0.4, 0.6, 0.8]
ALWAYS = {"config.json", "preprocessor_config.json", "bands.index.json"}
BANDS = [f"band-0000{number}-of-00005.safetensors" for number in range(1, 6)]
RANKS = [f"band-0000{number}-of-00005.ranks.safetensors" for number in range(1, 6)]


@pytest.fixture(scope="module")
def model() -> PrunNetModel:
    """Not to be changed."""
    return tiny(capacities=EDGES).prunnet


@pytest.fixture
def published(hub: HubServer, model: PrunNetModel, tmp_path: Path) -> HubServer:
    """A Hub with the model in bands."""
    HfApi().create_repo(REPO)
    model.save_pretrained(tmp_path / "bands", bands=EDGES)
    HfApi().upload_folder(repo_id=REPO, folder_path=tmp_path / "bands")
    hub.requests.clear()
    return hub


@pytest.fixture
def whole(model: PrunNetModel, tmp_path: Path) -> PrunNetModel:
    """The model as it comes back from bands in a directory, with scores of the same order."""
    model.save_pretrained(tmp_path / "local", bands=EDGES)
    return PrunNetModel.from_pretrained(tmp_path / "local")


def fetched(hub: HubServer) -> set[str]:
    """Names of the files from which bytes were sent since the last call."""
    names = {one.path.split("/")[-1] for one in hub.requests if hub.downloaded(one.path)}
    hub.requests.clear()
    return names


def size(hub: HubServer, *paths: str) -> int:
    return sum(len(hub.repos[REPO].files()[path]) for path in paths)


def test_a_capacity_fetches_its_bands_and_nothing_else(published: HubServer, whole: PrunNetModel) -> None:
    small = PrunNetModel.from_pretrained(REPO, capacity=0.2)
    assert same_state(small, whole.prune(0.2))
    assert (small.config.capacity, small.config.prunable) == (0.2, False)
    assert published.downloaded() == size(published, *ALWAYS, BANDS[0])
    assert fetched(published) == ALWAYS | {BANDS[0]}


def test_growing_fetches_the_difference(published: HubServer, whole: PrunNetModel) -> None:
    for edge, band in zip([*EDGES, 1.0], BANDS, strict=True):
        published.requests.clear()
        grown = PrunNetModel.from_pretrained(REPO, capacity=edge)
        assert same_state(grown, whole.prune(edge))
        assert published.downloaded("band-") == size(published, band)
        assert fetched(published) - ALWAYS == {band}


def test_between_edges_the_ranks_of_one_band_come_along(published: HubServer, whole: PrunNetModel) -> None:
    assert same_state(PrunNetModel.from_pretrained(REPO, capacity=0.3), whole.prune(0.3))
    assert fetched(published) == ALWAYS | {BANDS[0], BANDS[1], RANKS[1]}
    assert same_state(PrunNetModel.from_pretrained(REPO, capacity=0.35), whole.prune(0.35))
    assert fetched(published) == set()


def test_the_whole_is_the_dense_model(published: HubServer, model: PrunNetModel, whole: PrunNetModel) -> None:
    PrunNetModel.from_pretrained(REPO, capacity=0.2)
    published.requests.clear()
    loaded = PrunNetModel.from_pretrained(REPO)
    assert fetched(published) == {*BANDS[1:], *RANKS}
    assert same_state(loaded, whole)
    scores = [name for name in model.state_dict() if name.endswith(".scores")]
    for name, tensor in model.state_dict().items():
        assert name in scores or torch.equal(loaded.state_dict()[name], tensor), name
    for edge in EDGES:
        assert same_state(loaded.prune(edge), model.prune(edge))


def test_a_band_that_is_cut_goes_on_where_it_stopped(
    published: HubServer, whole: PrunNetModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # the client keeps whole chunks
    published.fail_next("GET", BANDS[1], after_bytes=2_000)
    assert same_state(PrunNetModel.from_pretrained(REPO, capacity=0.4), whole.prune(0.4))
    assert published.downloaded("band-") == size(published, BANDS[0], BANDS[1])
    assert [one.range for one in published.asked("GET", BANDS[1])] == [None, "bytes=2000-"]


def test_the_cache_serves_every_capacity_it_covers(published: HubServer, whole: PrunNetModel) -> None:
    PrunNetModel.from_pretrained(REPO, capacity=0.4)
    published.requests.clear()
    for edge in (0.2, 0.4):
        loaded = PrunNetModel.from_pretrained(REPO, capacity=edge, local_files_only=True)
        assert same_state(loaded, whole.prune(edge))
    for capacity, missing in ((0.3, RANKS[1]), (0.6, BANDS[2])):
        with pytest.raises(OSError, match=rf"{missing}.*with access to the Hub"):
            PrunNetModel.from_pretrained(REPO, capacity=capacity, local_files_only=True)
    assert published.requests == []


def test_offline_with_a_warm_cache(published: HubServer, whole: PrunNetModel, monkeypatch: pytest.MonkeyPatch) -> None:
    PrunNetModel.from_pretrained(REPO, capacity=0.4)
    published.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert same_state(PrunNetModel.from_pretrained(REPO, capacity=0.2), whole.prune(0.2))
    assert published.requests == []


def test_bands_in_a_subfolder_of_a_branch(hub: HubServer, model: PrunNetModel, whole: PrunNetModel) -> None:
    HfApi().create_repo(REPO)
    HfApi().create_branch(REPO, branch="trial")
    HfApi().upload_folder(
        repo_id=REPO, folder_path=whole.config.name_or_path, path_in_repo="progressive", revision="trial"
    )
    loaded = PrunNetModel.from_pretrained(REPO, capacity=0.4, revision="trial", subfolder="progressive")
    assert same_state(loaded, whole.prune(0.4))


def test_a_classifier_is_new_beside_bands_of_embeddings(published: HubServer, whole: PrunNetModel) -> None:
    loaded = PrunNetForImageClassification.from_pretrained(REPO, capacity=0.2, num_labels=5)
    assert same_state(loaded.prunnet, whole.prune(0.2))
    assert loaded.classifier.out_features == 5


def test_a_band_that_is_not_on_the_hub_is_named(published: HubServer) -> None:
    HfApi().delete_file(BANDS[1], REPO)
    PrunNetModel.from_pretrained(REPO, capacity=0.2)
    with pytest.raises(OSError, match=rf"org/name.*{BANDS[1]}.*with access to the Hub"):
        PrunNetModel.from_pretrained(REPO, capacity=0.4)


@pytest.mark.parametrize("name", [BANDS[1], RANKS[1]])
def test_a_band_of_another_model_is_refused(published: HubServer, tmp_path: Path, name: str) -> None:
    tiny(seed=1, capacities=EDGES).prunnet.save_pretrained(tmp_path / "other", bands=EDGES)
    HfApi().create_commit(REPO, [CommitOperationAdd(name, tmp_path / "other" / name)], commit_message="a mistake")
    with pytest.raises(CheckpointFormatError, match=rf"{name}: .*SHA-256.*another model"):
        PrunNetModel.from_pretrained(REPO, capacity=0.3)


def test_a_band_that_the_hub_refuses_is_not_called_missing(published: HubServer) -> None:
    published.fail_next("*", BANDS[1], 403, times=9)
    with pytest.raises(OSError, match=rf"{BANDS[1]} of org/name .*the Hub did not send it: 403"):
        PrunNetModel.from_pretrained(REPO, capacity=0.4)


def test_all_files_of_a_load_come_from_one_commit(published: HubServer) -> None:
    PrunNetModel.from_pretrained(REPO, capacity=0.4)
    commits = {one.path.split("/")[4] for one in published.asked("HEAD", "/resolve/")}
    assert commits == {published.repos[REPO].at("main").oid}
