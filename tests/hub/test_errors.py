"""What the Hub's client raises, told to whoever publishes: what happened, what to do, and never the token."""

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
        (403, "The token may not write there"),
        (404, "doesn't exist, or the token may not see it"),
        (409, "Somebody else is changing it"),
        (418, "The Hub refused the request. Status 418"),
        (429, "Too many requests: wait some minutes"),
        (503, "a problem of its own, status 503"),
    ],
)
def test_refusals_are_explained(hub: HubServer, status: int, message: str) -> None:
    hub.fail_next("*", f"/api/models/{REPO}", status, times=100)
    with pytest.raises(PublishError, match=message) as raised, explained(REPO):
        HfApi().create_branch(REPO, branch="b")
    assert str(raised.value).startswith(f"Publishing to {REPO} failed. ")
    assert hub.token not in str(raised.value)


def test_cause_is_found_behind_other_errors(hub: HubServer) -> None:
    with pytest.raises(PublishError, match=r"Status 404"), explained(REPO):  # noqa: PT012 - as in a pool of threads
        try:
            HfApi().repo_info(REPO)
        except OSError as error:
            raise RuntimeError("Error while uploading") from error


def test_other_errors_of_the_client_are_shown() -> None:
    with pytest.raises(PublishError, match=r"The client says: out of threads Run the same"), explained(REPO):
        raise RuntimeError("out of threads")


def test_offline(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(PublishError, match=r"HF_HUB_OFFLINE is set\. Unset it"), explained(REPO):
        HfApi().whoami()


def test_what_has_nothing_to_do_with_the_hub_passes() -> None:
    with pytest.raises(FileNotFoundError, match="gone"), explained(REPO):
        raise FileNotFoundError("gone")
