"""Whole runs, published to the Hub on loopback by the real client, downloaded again, and refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi, ModelCard, constants
from transformers import AutoModel

from prunnet_hf import PrunNetImageProcessor, PrunNetModel
from prunnet_hf.hub.errors import PublishError
from prunnet_hf.hub.publish import PublishedRun, check_collection, collect, publish_run
from prunnet_hf.hub.staging import Publication
from tests.hub_server import HubServer

IMAGES = torch.linspace(-2, 2, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)

pytestmark = pytest.mark.usefixtures("snippets_run_here")


def publish(
    run: Path, repo_id: str = "org/name", *, options: dict[str, Any] | None = None, **kwargs: Any
) -> PublishedRun:
    return publish_run(run, Publication(repo_id, **(options or {})), **kwargs)


def embed(model: PrunNetModel) -> torch.Tensor:
    return model.eval()(IMAGES).pooler_output


def same_weights(found: PrunNetModel, expected: PrunNetModel) -> bool:
    """Whether all bits are the same, except for scores, which bands store as their order."""
    state, wanted = found.state_dict(), expected.state_dict()
    names = [name for name in wanted if not name.endswith(".scores")]
    return state.keys() == wanted.keys() and all(torch.equal(state[name], wanted[name]) for name in names)


def nothing_was_uploaded(hub: HubServer) -> bool:
    return not hub.uploaded() and not hub.asked("POST", "/commit/")


def test_published_downloaded_and_published_again(hub: HubServer, finished_run: Path) -> None:
    trained = PrunNetModel.from_pretrained(finished_run / "model")
    first = publish(finished_run)
    page = f"{hub.endpoint}/org/name"
    assert [folder.url for folder in first.folders] == [
        *(f"{page}/tree/capacity-0.20", f"{page}/tree/capacity-0.50"),
        page,
    ]
    assert (first.collection, first.remarks) == (None, ())
    assert [line.partition(": ")[2] for line in first.describe().splitlines()][:2] == ["3 files uploaded"] * 2

    phone = PrunNetModel.from_pretrained("org/name", capacity=0.2)
    assert same_weights(phone, trained.prune(0.2))
    assert hub.downloaded("band-00002") == hub.downloaded("band-00003") == hub.downloaded(".ranks.") == 0
    ready = PrunNetModel.from_pretrained("org/name", revision="capacity-0.50")
    assert same_weights(ready, trained.prune(0.5))
    whole = PrunNetModel.from_pretrained("org/name")
    assert same_weights(whole, trained)
    torch.testing.assert_close(embed(whole), embed(trained))
    assert PrunNetImageProcessor.from_pretrained("org/name").crop_size["height"] == 32

    uploaded, asked = hub.uploaded(), len(hub.requests)
    second = publish(finished_run)
    assert [folder.uploaded + folder.deleted for folder in second.folders] == [(), (), ()]
    assert [folder.commit for folder in second.folders] == [folder.commit for folder in first.folders]
    assert hub.uploaded() == uploaded
    assert not [one for one in hub.requests[asked:] if "/commit/" in one.path or "/branch/" in one.path]
    assert second.describe().splitlines()[-1] == f"{page}: nothing had changed"

    fewer = publish(finished_run, options={"capacities": [0.2]})
    assert len(fewer.remarks) == 1
    assert "capacity-0.50" in fewer.remarks[0]
    assert "hf repos branch delete org/name capacity-0.50" in fewer.remarks[0]
    assert "capacity-0.50" in hub.repos["org/name"].branches


def test_repositories_of_their_own_in_a_private_collection(hub: HubServer, finished_run: Path) -> None:
    published = publish(
        finished_run, options={"layout": "repos", "capacities": [0.2]}, collection="My nets", private=True
    )
    assert [folder.url.removeprefix(hub.endpoint) for folder in published.folders] == [
        *("/org/name-capacity-0.20", "/org/name"),
    ]
    assert all(hub.repos[repo].private for repo in ("org/name", "org/name-capacity-0.20"))
    card = ModelCard.load("org/name-capacity-0.20").data
    assert card.base_model in ("org/name", ["org/name"])
    ((slug, _),) = hub.collections.items()
    assert published.collection == f"{hub.endpoint}/collections/{slug}"
    shown = HfApi().get_collection(slug)
    assert [item.item_id for item in shown.items] == ["org/name", "org/name-capacity-0.20"]
    again = publish(finished_run, options={"layout": "repos", "capacities": [0.2]}, collection=slug, private=True)
    assert again.collection == published.collection
    assert [folder.uploaded for folder in again.folders] == [(), ()]
    assert len(hub.collections) == 1


@pytest.mark.parametrize(
    ("layout", "path", "place"),
    [
        ("branches", "org/name", {"revision": "capacity-0.20"}),
        ("subfolders", "org/name", {"subfolder": "capacity-0.20"}),
        ("repos", "org/name-capacity-0.20", {}),
    ],
)
def test_networks_of_whole_units_in_every_layout(
    hub: HubServer, run_of_units: Path, layout: str, path: str, place: dict[str, str]
) -> None:
    trained = PrunNetModel.from_pretrained(run_of_units / "model")
    publish(run_of_units, options={"layout": layout, "capacities": [0.2]})
    for phone in (AutoModel.from_pretrained(path, **place), AutoModel.from_pretrained("org/name", capacity=0.2)):
        assert same_weights(phone, trained.prune(0.2))
        assert phone.config.embedding_space == trained.config.embedding_space
    assert same_weights(AutoModel.from_pretrained("org/name"), trained)
    assert "kept units |" in ModelCard.load("org/name").text


def test_an_interrupted_publication_goes_on(hub: HubServer, finished_run: Path) -> None:
    options = {"layout": "subfolders", "capacities": [0.2]}
    hub.fail_next("POST", "/commit/main", 500, times=20)
    with pytest.raises(PublishError, match=r"org/name.*500.*again"):
        publish(finished_run, options=options)
    assert set(hub.repos["org/name"].branches["main"].files) == {".gitattributes"}
    hub.stop_failing()
    uploaded = hub.uploaded()
    publish(finished_run, options=options)
    assert hub.uploaded() == uploaded > 0
    part = PrunNetModel.from_pretrained("org/name", subfolder="capacity-0.20")
    assert same_weights(part, PrunNetModel.from_pretrained(finished_run / "model").prune(0.2))


@pytest.mark.parametrize(
    "repo_id",
    ["", "name", "org/name/more", "org name/x", "https://huggingface.co/org/name", "datasets/org/name", "org/na--me"],
)
def test_names_that_are_no_repository(hub: HubServer, finished_run: Path, repo_id: str) -> None:
    with pytest.raises(ValueError, match="repo_id must"):
        publish(finished_run, repo_id)
    assert hub.requests == []


def test_unfinished_runs_are_refused_before_the_hub_is_asked(hub: HubServer, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"model/config\.json.*--eval_only"):
        publish(tmp_path)
    assert hub.requests == []


def test_capacity_that_was_never_evaluated(hub: HubServer, finished_run: Path) -> None:
    with pytest.raises(ValueError, match=r"capacities.*0\.40"):
        publish(finished_run, options={"capacities": [0.4]})
    assert hub.repos == {}


def test_no_token(hub: HubServer, finished_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(PublishError, match=r"org/name.*hf auth login"):
        publish(finished_run)


def test_wrong_token(hub: HubServer, finished_run: Path) -> None:
    with pytest.raises(PublishError, match=r"hf auth login.*401") as raised:
        publish(finished_run, token="hf_wrong")
    assert "hf_wrong" not in str(raised.value)


@pytest.mark.parametrize("name", ["read_token", "foreign_token"])
def test_no_rights(hub: HubServer, finished_run: Path, name: str) -> None:
    HfApi().create_repo("org/name")
    with pytest.raises(PublishError, match=r"token.*write access.*403"):
        publish(finished_run, token=getattr(hub, name))
    assert nothing_was_uploaded(hub)


def test_offline(hub: HubServer, finished_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(PublishError, match=r"HF_HUB_OFFLINE.*Unset"):
        publish(finished_run)


def test_no_network(hub: HubServer, finished_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(PublishError, match=r"ConnectError.*again"):
        publish(finished_run)


def test_private_publication_to_a_public_repository(hub: HubServer, finished_run: Path) -> None:
    HfApi().create_repo("org/name")
    with pytest.raises(PublishError, match=r"org/name.*public.*private=True"):
        publish(finished_run, private=True)
    assert nothing_was_uploaded(hub)


@pytest.mark.parametrize(
    ("config", "model_type"),
    [(b'{"model_type": "bert"}', "bert"), (b"{}", "None"), (b"{", "unknown"), (b"[1]", "unknown")],
)
def test_repository_of_another_model(hub: HubServer, finished_run: Path, config: bytes, model_type: str) -> None:
    HfApi().create_repo("org/name")
    HfApi().upload_file(path_or_fileobj=config, path_in_repo="config.json", repo_id="org/name")
    before = len(hub.asked("POST", "/commit/"))
    with pytest.raises(PublishError, match=f"org/name.*'{model_type}'.*another repository"):
        publish(finished_run)
    assert len(hub.asked("POST", "/commit/")) == before


def test_collection_that_does_not_exist(hub: HubServer, finished_run: Path) -> None:
    with pytest.raises(PublishError, match=r"org/nets-0123456789abcdef01234567.*404"):
        publish(finished_run, collection="org/nets-0123456789abcdef01234567")
    assert hub.repos == {}


REPOS = ["org/name", "org/name-capacity-0.20"]


def test_made_by_its_title_and_found_by_title_and_slug(hub: HubServer) -> None:
    api = HfApi()
    for repo_id in REPOS:
        api.create_repo(repo_id)
    address = collect(api, "My nets", REPOS, private=True)
    (slug,) = hub.collections
    assert address == f"{hub.endpoint}/collections/{slug}"
    check_collection(api, slug)
    assert {collect(api, "My nets", REPOS, private=True), collect(api, slug, REPOS, private=True)} == {address}
    found = api.get_collection(slug)
    assert (found.title, found.owner["name"], found.private) == ("My nets", "org", True)
    assert [item.item_id for item in found.items] == REPOS


def test_title_needs_no_check_and_unknown_slug_is_refused(hub: HubServer) -> None:
    check_collection(HfApi(), "A title / of words")
    assert hub.requests == []
    with pytest.raises(PublishError, match=r"org/nets-0123456789abcdef01234567.*404"):
        check_collection(HfApi(), "org/nets-0123456789abcdef01234567")
