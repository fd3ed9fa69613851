"""What the Hub of `tests/hub_server.py` answers about accounts, repositories, and their files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, unquote

import yaml

from tests.loopback_hub.requests import KINDS, REPO, REVISION, Reply, Request, Routes, as_json, route
from tests.loopback_hub.store import Commit, HubError, StoredFile, check_name, repo_key

ROUTES: Routes = []


@route(ROUTES, "GET", "/api/whoami-v2")
def whoami(request: Request) -> Reply:
    account = request.signed_in()
    organisations = [{"type": "org", "name": name, "roleInOrg": "write"} for name in account.organisations]
    role = "write" if account.may_write else "read"
    token = {"type": "access_token", "accessToken": {"displayName": "test", "role": role}}
    return as_json({"type": "user", "name": account.name, "orgs": organisations, "auth": token})


@route(ROUTES, "POST", "/api/validate-yaml")
def validate_yaml(request: Request) -> Reply:
    content = request.json({"content", "repoType"})["content"]
    try:
        metadata = card_metadata(content)
    except yaml.YAMLError as error:
        return as_json({"errors": [{"message": f"the metadata can't be read as YAML: {error}"}], "warnings": []}, 400)
    if not isinstance(metadata, dict):
        return as_json({"errors": [{"message": "the metadata must be a mapping"}], "warnings": []}, 400)
    warnings = [] if metadata else [{"message": "empty or missing yaml metadata in repo card"}]
    return as_json({"errors": [], "warnings": warnings})


@route(ROUTES, "GET", "/api/agent-harnesses")
def agent_harnesses(request: Request) -> Reply:
    """How the client recognises programs that control it, for statistics."""
    return as_json({"standardEnvVars": [], "harnesses": {}})


def card_metadata(content: str) -> Any:
    """The YAML between the two lines of dashes at the beginning of a card; empty if there are no such lines."""
    found = re.match(r"---[ \t]*\r?\n(.*?)^---[ \t]*$", content, re.DOTALL | re.MULTILINE)
    return yaml.safe_load(found[1]) if found else {}


@route(ROUTES, "POST", "/api/repos/create")
def create_repo(request: Request) -> Reply:
    allowed = {"organization", "type", "visibility", "private", "sdk"}
    asked = request.json({"name"}, allowed)
    kind = asked.get("type") or "model"
    if kind not in KINDS or asked.get("visibility", "public") not in ("public", "private"):
        raise HubError(400, f"no such type or visibility: {asked!r}")
    namespace = asked.get("organization") or request.signed_in().name
    repo_id = f"{namespace}/{check_name(asked['name'])}"
    request.writer(namespace)
    url = f"{request.endpoint}/{repo_key(kind, repo_id)}"
    if repo_key(kind, repo_id) in request.store.repos:
        raise HubError(409, f"You already created this {kind} repo", url=url)
    if (kind == "space") != ("sdk" in asked):
        raise HubError(400, f"a Space needs an sdk, and nothing else has one: {asked!r}")
    private = asked.get("visibility") == "private" or bool(asked.get("private"))
    request.store.create_repo(kind, repo_id, private=private, sdk=asked.get("sdk"))
    return as_json({"url": url, "name": repo_id})


@route(ROUTES, "GET", REPO)
def repo_info(request: Request, kinds: str, repo_id: str) -> Reply:
    return revision_info(request, kinds, repo_id, "main")


@route(ROUTES, "GET", f"{REPO}/revision/{REVISION}")
def revision_info(request: Request, kinds: str, repo_id: str, revision: str) -> Reply:
    repo = request.repo(kinds[:-1], repo_id)
    commit = repo.at(unquote(revision))
    siblings = [{"rfilename": path} for path in sorted(commit.files)]
    card = card_metadata(commit.files["README.md"].content.decode()) if "README.md" in commit.files else {}
    return as_json(
        {
            **{"_id": "0" * 24, "id": repo_id, "modelId": repo_id, "author": repo.namespace, "sha": commit.oid},
            **{"private": repo.private, "gated": "manual" if repo.gated else False, "disabled": False},
            **{
                "lastModified": commit.date,
                "createdAt": commit.date,
                "downloads": 0,
                "likes": 0,
                "siblings": siblings,
            },
            **{"tags": card.get("tags", []), "cardData": card, "library_name": card.get("library_name")},
            "pipeline_tag": card.get("pipeline_tag"),
            **({"sdk": repo.sdk} if repo.sdk else {}),
        }
    )


@route(ROUTES, "GET", f"{REPO}/auth-check(/write)?")
def auth_check(request: Request, kinds: str, repo_id: str, write: str | None) -> Reply:
    request.repo(kinds[:-1], repo_id, write=write is not None)
    return Reply()


@route(ROUTES, "GET", f"{REPO}/refs")
def list_refs(request: Request, kinds: str, repo_id: str) -> Reply:
    branches = request.repo(kinds[:-1], repo_id).branches
    listed = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": at.oid} for name, at in branches.items()]
    return as_json({"branches": listed, "converts": [], "tags": []})


@route(ROUTES, "GET", f"{REPO}/commits/{REVISION}")
def list_commits(request: Request, kinds: str, repo_id: str, revision: str) -> Reply:
    history = request.repo(kinds[:-1], repo_id).history(unquote(revision))
    return as_json(
        [
            {
                **{"id": commit.oid, "title": commit.summary, "message": commit.description},
                **{"authors": [{"user": commit.author}], "date": commit.date},
            }
            for commit in history
        ]
    )


@route(ROUTES, "POST", f"{REPO}/branch/{REVISION}")
def create_branch(request: Request, kinds: str, repo_id: str, branch: str) -> Reply:
    repo = request.repo(kinds[:-1], repo_id, write=True)
    name = unquote(branch)
    if not re.fullmatch(r"(?!refs/)[\w.-]+(/[\w.-]+)*", name) or re.fullmatch("[0-9a-f]{40}", name):
        raise HubError(400, f"Invalid reference for a branch: {name!r}")
    if name in repo.branches:
        raise HubError(409, f"Reference already exists: refs/heads/{name}")
    repo.branches[name] = repo.at(request.json(set(), {"startingPoint"}).get("startingPoint", "main"))
    return Reply()


@route(ROUTES, "GET", f"{REPO}/tree/{REVISION}(?:/(.+))?")
def list_tree(request: Request, kinds: str, repo_id: str, revision: str, folder: str | None) -> Reply:
    commit = request.repo(kinds[:-1], repo_id).at(unquote(revision))
    start = f"{unquote(folder)}/" if folder else ""
    inside = {path for path in commit.files if path.startswith(start)}
    if folder and not inside:
        raise HubError(404, f"{unquote(folder)} does not exist on {unquote(revision)}", "EntryNotFound")
    entries = inside | {f"{start}{name}" for path in inside for name in _folders(path.removeprefix(start))}
    if request.query.get("recursive") != ["true"]:
        entries = {path for path in entries if "/" not in path.removeprefix(start)}
    return as_json([_entry(commit, path) for path in sorted(entries)])


def _folders(path: str) -> Iterator[str]:
    parts = path.split("/")[:-1]
    return ("/".join(parts[: depth + 1]) for depth in range(len(parts)))


def _entry(commit: Commit, path: str) -> dict[str, Any]:
    file = commit.files.get(path)
    if file is None:
        return {"type": "directory", "path": path, "oid": commit.oid, "size": 0}
    return {"type": "file", "path": path, "oid": file.blob, "size": len(file.content), **_large(file)}


def _large(file: StoredFile) -> dict[str, Any]:
    if not file.large:
        return {}
    size = len(file.content)
    return {"lfs": {"oid": file.sha256, "sha256": file.sha256, "size": size, "pointerSize": len(file.pointer)}}


@route(ROUTES, "GET", rf"/(datasets/|spaces/|)([^/]+/[^/]+)/resolve/{REVISION}/(.+)")
def resolve(request: Request, kinds: str, repo_id: str, revision: str, path: str) -> Reply:
    repo = request.repo(kinds[:-2] or "model", repo_id)
    member = request.account is not None and request.account.belongs_to(repo.namespace)
    if repo.gated and not member and unquote(path) not in ("README.md", ".gitattributes"):
        raise HubError(401 if request.account is None else 403, f"Access to {repo_id} is restricted", "GatedRepo")
    commit = repo.at(unquote(revision))
    file = commit.files.get(unquote(path))
    if file is None:
        raise HubError(404, "Entry not found", "EntryNotFound", commit=commit.oid)
    about = {"X-Repo-Commit": commit.oid, "ETag": f'"{file.blob}"', "Accept-Ranges": "bytes"}
    if not file.large:
        return Reply(200, file.content, {**about, "Content-Type": "text/plain; charset=utf-8"})
    signature = request.store.sign_download(file)
    location = f"{request.storage_endpoint}/download/{signature}/{repo_id}/{quote(unquote(path))}"
    linked = {"X-Linked-Etag": f'"{file.etag}"', "X-Linked-Size": str(len(file.content))}
    return Reply(302, f"Found. Redirecting to {location}".encode(), {**about, **linked, "Location": location})
