"""Models pushed to a Hub on loopback by the real client and loaded from there: by name, revision, subfolder, cache."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import HfApi, ModelCard, constants
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification

from prunnet_hf import PrunNetForImageClassification, PrunNetImageProcessor, PrunNetModel
from tests.hub_client import hub_environment, run_python
from tests.hub_server import HubServer
from tests.tiny_models import same_state, tiny

REPO = "org/name"
DENSE = "model.safetensors"
PACKED = "model.packed.safetensors"


@pytest.fixture(scope="module")
def model() -> PrunNetForImageClassification:
    """Not to be changed."""
    return tiny()


@pytest.fixture
def published(hub: HubServer, model: PrunNetForImageClassification, tmp_path: Path) -> HubServer:
    """A Hub with the dense model and its image processor, and the subnetwork of 0.2 on a branch and in a folder."""
    api = HfApi()
    api.create_repo(REPO)
    model.save_pretrained(tmp_path / "dense")
    PrunNetImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "dense")
    model.prune(0.2).save_pretrained(tmp_path / "packed")
    api.upload_folder(repo_id=REPO, folder_path=tmp_path / "dense")
    api.upload_folder(repo_id=REPO, folder_path=tmp_path / "packed", path_in_repo="capacity-0.20")
    api.create_branch(REPO, branch="capacity-0.20", revision=hub.repos[REPO].history()[-1].oid)
    api.upload_folder(repo_id=REPO, folder_path=tmp_path / "packed", revision="capacity-0.20")
    hub.requests.clear()
    return hub


def size(hub: HubServer, path: str, revision: str = "main") -> int:
    return len(hub.repos[REPO].files(revision)[path])


def test_the_dense_model_by_name(published: HubServer, model: PrunNetForImageClassification) -> None:
    loaded = PrunNetForImageClassification.from_pretrained(REPO)
    assert same_state(loaded, model)
    names = ("config.json", "preprocessor_config.json", DENSE)
    assert published.downloaded() == sum(size(published, name) for name in names)


@pytest.mark.parametrize("where", [{"revision": "capacity-0.20"}, {"subfolder": "capacity-0.20"}])
def test_a_ready_subnetwork_by_revision_and_by_subfolder(
    published: HubServer, model: PrunNetForImageClassification, where: dict[str, str]
) -> None:
    loaded = PrunNetForImageClassification.from_pretrained(REPO, **where)
    assert same_state(loaded, model.prune(0.2))
    assert loaded.config.capacity == 0.2
    assert published.downloaded(DENSE) == 0
    assert published.downloaded(PACKED) == size(published, PACKED, "capacity-0.20")


def test_a_subnetwork_is_cut_from_the_dense_model(published: HubServer, model: PrunNetForImageClassification) -> None:
    loaded = PrunNetForImageClassification.from_pretrained(REPO, capacity=0.6)
    assert same_state(loaded, model.prune(0.6))
    assert (loaded.config.capacity, loaded.config.prunable) == (0.6, False)


def test_the_auto_classes_find_everything(published: HubServer, model: PrunNetForImageClassification) -> None:
    assert same_state(AutoModel.from_pretrained(REPO), model.prunnet)
    assert isinstance(AutoModelForImageClassification.from_pretrained(REPO), PrunNetForImageClassification)
    processor = AutoImageProcessor.from_pretrained(REPO)
    assert isinstance(processor, PrunNetImageProcessor)
    assert processor.size == {"height": 32, "width": 32}


def test_what_is_in_the_cache_is_not_fetched_again(published: HubServer, model: PrunNetForImageClassification) -> None:
    PrunNetForImageClassification.from_pretrained(REPO)
    sent = published.downloaded()
    assert same_state(PrunNetForImageClassification.from_pretrained(REPO), model)
    assert published.downloaded() == sent


def test_a_new_commit_is_noticed(published: HubServer, tmp_path: Path) -> None:
    PrunNetForImageClassification.from_pretrained(REPO)
    other = tiny(seed=1)
    other.save_pretrained(tmp_path / "other")
    HfApi().upload_folder(repo_id=REPO, folder_path=tmp_path / "other")
    assert same_state(PrunNetForImageClassification.from_pretrained(REPO), other)


@pytest.mark.parametrize("where", [{}, {"revision": "capacity-0.20"}, {"subfolder": "capacity-0.20"}])
def test_local_files_only_needs_nothing_but_the_cache(
    published: HubServer, model: PrunNetForImageClassification, where: dict[str, str]
) -> None:
    first = PrunNetForImageClassification.from_pretrained(REPO, **where)
    published.requests.clear()
    again = PrunNetForImageClassification.from_pretrained(REPO, local_files_only=True, **where)
    assert same_state(again, first)
    assert published.requests == []


def test_a_cache_from_before_models_had_an_image_processor(
    published: HubServer, model: PrunNetForImageClassification, tmp_path: Path
) -> None:
    PrunNetForImageClassification.from_pretrained(REPO, cache_dir=tmp_path)
    for kept in [*tmp_path.rglob("preprocessor_config.json")]:
        kept.unlink()
    loaded = PrunNetForImageClassification.from_pretrained(REPO, cache_dir=tmp_path, local_files_only=True)
    assert same_state(loaded, model)
    assert loaded.base_model.own_image_processor is None


def test_local_files_only_with_an_empty_cache_says_so(published: HubServer) -> None:
    with pytest.raises(OSError, match="cache"):
        PrunNetModel.from_pretrained(REPO, local_files_only=True)
    assert published.requests == []


def test_offline_with_a_warm_cache(
    published: HubServer, model: PrunNetForImageClassification, monkeypatch: pytest.MonkeyPatch
) -> None:
    for where in ({}, {"revision": "capacity-0.20"}):
        PrunNetForImageClassification.from_pretrained(REPO, **where)
    published.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert same_state(PrunNetForImageClassification.from_pretrained(REPO), model)
    assert same_state(PrunNetForImageClassification.from_pretrained(REPO, capacity=0.3), model.prune(0.3))
    assert same_state(PrunNetForImageClassification.from_pretrained(REPO, revision="capacity-0.20"), model.prune(0.2))
    assert published.requests == []


def test_a_download_that_is_cut_goes_on_where_it_stopped(
    published: HubServer, model: PrunNetForImageClassification, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # the client keeps whole chunks
    published.fail_next("GET", DENSE, after_bytes=5_000)
    assert same_state(PrunNetForImageClassification.from_pretrained(REPO), model)
    assert published.downloaded(DENSE) == size(published, DENSE)
    assert [one.range for one in published.asked("GET", f"/{DENSE}")] == [None, "bytes=5000-"]


def test_another_process_uses_the_hub_of_its_environment(published: HubServer, tmp_path: Path) -> None:
    code = f"""
import json, torch
from prunnet_hf import PrunNetModel
model = PrunNetModel.from_pretrained({REPO!r}, capacity=0.2).eval()
with torch.no_grad():
    print(json.dumps(model(torch.ones(1, 3, 32, 32)).pooler_output.tolist()))
"""
    environment = hub_environment(published, tmp_path / "other_home")
    done = run_python(code, environment)
    assert done.returncode == 0, done.stderr
    cache = tmp_path / "other_home" / "hub"
    cached = PrunNetModel.from_pretrained(REPO, cache_dir=cache, local_files_only=True)
    assert same_state(cached, PrunNetModel.from_pretrained(REPO))
    with torch.no_grad():
        expected = PrunNetModel.from_pretrained(REPO).prune(0.2)(torch.ones(1, 3, 32, 32)).pooler_output
    torch.testing.assert_close(torch.tensor(json.loads(done.stdout)), expected)
    assert published.token not in done.stdout + done.stderr


def test_a_private_repository_needs_a_token_that_may_read_it(
    published: HubServer, model: PrunNetForImageClassification
) -> None:
    published.repos[REPO].private = True
    for token in (False, published.foreign_token):
        with pytest.raises(OSError, match=r"org/name is not(.|\n)*private repository(.|\n)*token") as caught:
            PrunNetModel.from_pretrained(REPO, token=token)
        assert published.foreign_token not in str(caught.value)
    loaded = PrunNetForImageClassification.from_pretrained(REPO, token=published.read_token)
    assert same_state(loaded, model)


def test_a_wrong_token_is_named_as_the_cause_and_not_shown(published: HubServer) -> None:
    with pytest.raises(OSError, match=r"401(.|\n)*Invalid credentials") as caught:
        PrunNetModel.from_pretrained(REPO, token="hf_wrong")
    assert "hf_wrong" not in str(caught.value)


def test_a_gated_repository_says_where_to_ask(published: HubServer) -> None:
    published.repos[REPO].gated = True
    with pytest.raises(OSError, match="gated repo"):
        PrunNetModel.from_pretrained(REPO, token=published.foreign_token)


def test_what_is_not_there_is_named(published: HubServer) -> None:
    with pytest.raises(OSError, match="org/unknown is not a local folder and is not a valid model identifier"):
        PrunNetModel.from_pretrained("org/unknown")
    with pytest.raises(OSError, match=r"capacity-0\.90 is not a valid git identifier"):
        PrunNetModel.from_pretrained(REPO, revision="capacity-0.90")
    with pytest.raises(OSError, match=r"org/name has no config\.json"):
        PrunNetModel.from_pretrained(REPO, subfolder="capacity-0.90")
    HfApi().delete_file(DENSE, REPO)
    with pytest.raises(OSError, match=r"does not appear to have a file named .*model\.safetensors"):
        PrunNetModel.from_pretrained(REPO)


def test_force_download_fetches_the_weights_once_more(hub: HubServer, model: PrunNetForImageClassification) -> None:
    model.push_to_hub(REPO)
    for times in (1, 2):
        PrunNetForImageClassification.from_pretrained(REPO, force_download=True)
        assert hub.downloaded(DENSE) == times * size(hub, DENSE)


def test_force_download_of_several_files(hub: HubServer, model: PrunNetForImageClassification) -> None:
    model.push_to_hub(REPO, max_shard_size="50KB")
    shards = [name for name in hub.repos[REPO].files() if name.startswith("model-")]
    assert len(shards) > 1
    for times in (1, 2):
        loaded = PrunNetForImageClassification.from_pretrained(REPO, force_download=True)
        assert same_state(loaded, model)
        assert [hub.downloaded(name) for name in shards] == [times * size(hub, name) for name in shards]


@pytest.mark.parametrize("status", [429, 500])
def test_what_fails_for_a_moment_is_asked_again(
    published: HubServer, model: PrunNetForImageClassification, status: int
) -> None:
    published.fail_next("HEAD", DENSE, status)
    assert same_state(PrunNetForImageClassification.from_pretrained(REPO), model)


def test_push_to_hub_of_the_dense_model(hub: HubServer, model: PrunNetForImageClassification) -> None:
    model.push_to_hub(REPO, private=True, commit_message="first", tags=["prunnet"])
    files = hub.repos[REPO].files()
    assert set(files) == {".gitattributes", "README.md", "config.json", "preprocessor_config.json", DENSE}
    assert hub.repos[REPO].private
    assert hub.repos[REPO].history()[0].summary == "first"
    card = ModelCard(files["README.md"].decode()).data
    assert card.library_name == "transformers"
    assert {"prunnet", "image-feature-extraction"} <= set(card.tags)
    assert same_state(PrunNetForImageClassification.from_pretrained(REPO), model)


def test_push_to_hub_of_a_subnetwork_sends_the_packed_file(
    hub: HubServer, model: PrunNetForImageClassification
) -> None:
    small = model.prune(0.2)
    small.push_to_hub(REPO, revision="capacity-0.20")
    files = set(hub.repos[REPO].files("capacity-0.20"))
    assert files == {".gitattributes", "README.md", "config.json", "preprocessor_config.json", PACKED}
    assert set(hub.repos[REPO].files()) == {".gitattributes"}
    assert same_state(PrunNetForImageClassification.from_pretrained(REPO, revision="capacity-0.20"), small)


def test_push_to_hub_twice_sends_the_weights_once(hub: HubServer, model: PrunNetForImageClassification) -> None:
    model.push_to_hub(REPO)
    sent, commits = hub.uploaded(), len(hub.repos[REPO].history())
    model.push_to_hub(REPO)
    assert (hub.uploaded(), len(hub.repos[REPO].history())) == (sent, commits)


def test_saving_with_push_to_hub(hub: HubServer, model: PrunNetForImageClassification, tmp_path: Path) -> None:
    model.prune(0.2).save_pretrained(tmp_path / "small", push_to_hub=True, repo_id="org/small")
    assert PACKED in hub.repos["org/small"].files()


@pytest.mark.parametrize("name", ["config.json", DENSE])
def test_a_file_that_the_hub_refuses_is_not_called_missing(published: HubServer, name: str) -> None:
    published.fail_next("*", f"/{name}", 403, times=9)
    with pytest.raises(OSError, match=rf"{name} of org/name .*the Hub did not send it: 403(.|\n)*this error"):
        PrunNetModel.from_pretrained(REPO)


def test_a_packed_file_that_the_hub_refuses_is_not_called_missing(published: HubServer) -> None:
    published.fail_next("*", f"/{PACKED}", 403, times=9)
    with pytest.raises(OSError, match=rf"{PACKED} of org/name .*the Hub did not send it: 403"):
        PrunNetModel.from_pretrained(REPO, revision="capacity-0.20")


def test_dense_weights_that_are_not_prunable_and_the_hub_refuses_are_not_called_missing(
    hub: HubServer, model: PrunNetForImageClassification
) -> None:
    model.prune(1.0).push_to_hub(REPO)
    hub.fail_next("*", f"/{DENSE}", 403, times=9)
    with pytest.raises(OSError, match=rf"{DENSE} of org/name .*the Hub did not send it: 403"):
        PrunNetModel.from_pretrained(REPO)


def test_a_hub_that_limits_rates_for_good_is_named_as_the_cause(published: HubServer) -> None:
    published.fail_next("HEAD", f"/{DENSE}", 429, times=9)
    with pytest.raises(OSError, match=r"model\.safetensors of org/name(.|\n)*429 Too Many Requests"):
        PrunNetModel.from_pretrained(REPO)


def test_a_hub_that_fails_for_good_is_named_as_the_cause(
    published: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.utils._http.time, "sleep", lambda seconds: None)  # the client waits 23 s
    published.fail_next("HEAD", f"/{DENSE}", 500, times=9)
    with pytest.raises(OSError, match=r"model\.safetensors of org/name(.|\n)*500 Internal Server Error"):
        PrunNetModel.from_pretrained(REPO)


def test_a_hub_that_is_down_is_named_as_the_cause(published: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        template = f"http://127.0.0.1:{nobody.getsockname()[1]}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(huggingface_hub.utils._http.time, "sleep", lambda seconds: None)  # the client waits 23 s
        with pytest.raises(OSError, match=r"config\.json of org/name is not in the cache.*refused"):
            PrunNetModel.from_pretrained(REPO)
