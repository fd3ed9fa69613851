"""Collections on the Hub on loopback: made once, found again, filled without repetition, refused early."""

from __future__ import annotations

import pytest
from huggingface_hub import HfApi

from prunnet_hf.hub.collection import check_collection
from prunnet_hf.hub.collection import collect
from prunnet_hf.hub.errors import PublishError
from tests.hub_server import HubServer

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
    with pytest.raises(PublishError, match=r"the collection org/nets-0123456789abcdef01234567 failed"):
        check_collection(HfApi(), "org/nets-0123456789abcdef01234567")
