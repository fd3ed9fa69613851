"""Errors of the Hub's client as a user reads them: what happened, what to do, and never the token."""

from __future__ import annotations

import pytest
from huggingface_hub import HfApi, constants

from prunnet_hf.hub.errors import PublishError, explained
from tests.hub_server import HubServer

REPO = "org/name"


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "hf auth login"),
        (403, "token.*write access"),
        (404, "hf auth whoami"),
        (409, "Somebody else.*again"),
        (412, "overwritten.*again"),
        (413, "large"),
        (418, "refused.*418"),
        (429, "wait"),
        (503, "503.*again"),
    ],
)
def test_refusals_are_explained(hub: HubServer, status: int, message: str) -> None:
    hub.fail_next("*", f"/api/models/{REPO}", status, times=100)
    with pytest.raises(PublishError, match=message) as raised, explained(REPO):
        HfApi().create_branch(REPO, branch="b")
    assert REPO in str(raised.value)
    assert hub.token not in str(raised.value)


def test_cause_is_found_behind_other_errors(hub: HubServer) -> None:
    with pytest.raises(PublishError, match=r"Status 404"), explained(REPO):  # noqa: PT012 - as in a pool of threads
        try:
            HfApi().repo_info(REPO)
        except OSError as error:
            raise RuntimeError("Error while uploading") from error


def test_other_errors_of_the_client_are_shown() -> None:
    with pytest.raises(PublishError, match=r"out of threads.*again"), explained(REPO):
        raise RuntimeError("out of threads")


def test_offline(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(PublishError, match=r"HF_HUB_OFFLINE.*Unset"), explained(REPO):
        HfApi().whoami()


def test_what_has_nothing_to_do_with_the_hub_passes() -> None:
    with pytest.raises(FileNotFoundError, match="gone"), explained(REPO):
        raise FileNotFoundError("gone")
