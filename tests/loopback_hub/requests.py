"""Requests to the Hub of `tests/hub_server.py`, its answers, and which function answers which request."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from email.message import Message
from typing import Any

from tests.loopback_hub.store import Account, HubError, Repo, Store, repo_key

KINDS = ("model", "dataset", "space")
REPO = r"/api/(models|datasets|spaces)/([^/]+/[^/]+)"
REVISION = r"([^/]+)"


@dataclass(frozen=True)
class Request:
    """One question: `query` holds what the address or a form says, `account` is None without a token."""

    store: Store
    endpoint: str
    storage_endpoint: str
    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Message
    body: bytes
    account: Account | None

    def json(self, required: Set[str], allowed: Set[str] = frozenset()) -> dict[str, Any]:
        """The body, which must be an object with all `required` fields and no others except the `allowed`."""
        try:
            value = json.loads(self.body)
        except ValueError as error:
            raise HubError(400, f"the body can't be read as JSON: {error}") from error
        if not isinstance(value, dict) or not required <= set(value) <= required | allowed:
            raise HubError(400, f"the body must have {sorted(required)} and may have {sorted(allowed)}: {value!r}")
        return value

    def signed_in(self) -> Account:
        """The account whose token was sent."""
        if self.account is None:
            raise HubError(401, "Invalid username or password.")
        return self.account

    def writer(self, namespace: str) -> Account:
        """The account that asks, which must have the right to change what belongs to `namespace`."""
        account = self.signed_in()
        if not account.may_write:
            raise HubError(403, f"the token of {account.name} may read, and not write")
        if not account.belongs_to(namespace):
            raise HubError(403, f"{account.name} has no rights under the namespace {namespace}")
        return account

    def repo(self, kind: str, repo_id: str, *, write: bool = False) -> Repo:
        """A repository, which the account must be allowed to see, and with `write` to change."""
        repo = self.store.repos.get(repo_key(kind, repo_id))
        owns = repo is not None and self.account is not None and self.account.belongs_to(repo.namespace)
        if repo is None or (repo.private and not owns):
            if self.account is None:  # the Hub hides from strangers which repositories exist
                raise HubError(401, "Invalid username or password.", "RepoNotFound")
            raise HubError(404, "Repository not found", "RepoNotFound")
        if write:
            self.writer(repo.namespace)
        return repo


@dataclass(frozen=True)
class Reply:
    """One answer."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


def as_json(value: object, status: int = 200, kind: str = "application/json; charset=utf-8") -> Reply:
    """An answer in JSON, of the content type `kind`."""
    return Reply(status, json.dumps(value).encode(), {"Content-Type": kind})


Handler = Callable[..., Reply]
Routes = list[tuple[str, re.Pattern[str], Handler]]


def route(routes: Routes, method: str, pattern: str) -> Callable[[Handler], Handler]:
    """Add the function to `routes`: it answers `method` requests for addresses that match `pattern` from end to end.

    It takes the request and the groups of `pattern`.
    """

    def register(handler: Handler) -> Handler:
        routes.append((method, re.compile(pattern), handler))
        return handler

    return register
