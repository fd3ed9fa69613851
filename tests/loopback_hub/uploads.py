"""How files reach the Hub of `tests/hub_server.py`: which are large, sending those, then one commit."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from tests.loopback_hub.requests import REPO, REVISION, Reply, Request, Routes, as_json, route
from tests.loopback_hub.store import HubError, Repo, StoredFile, Upload, check_path, is_ignored, is_large

SAMPLE_SIZE = 512
SHA256 = re.compile("[0-9a-f]{64}")
ROUTES: Routes = []


@route(ROUTES, "POST", f"{REPO}/preupload/{REVISION}")
def preupload(request: Request, kinds: str, repo_id: str, revision: str) -> Reply:
    """Say how each file is to be sent, and what is there under its name now."""
    repo = request.repo(kinds[:-1], repo_id, write=True)
    present = repo.at(unquote(revision)).files
    asked = request.json({"files"}, {"gitIgnore"})
    ignored = asked.get("gitIgnore") or (present[".gitignore"].content.decode() if ".gitignore" in present else "")
    answers = []
    for item in asked["files"]:
        if set(item) != {"path", "sample", "size"}:
            raise HubError(400, f"a file has path, sample and size: {item!r}")
        path, sample = check_path(item["path"]), _decode(item["sample"])
        if len(sample) != min(item["size"], SAMPLE_SIZE):
            raise HubError(400, f"the sample of {path} has {len(sample)} bytes, of a file of {item['size']}")
        mode = "lfs" if is_large(path, item["size"], sample) else "regular"
        answer = {"path": path, "uploadMode": mode, "shouldIgnore": is_ignored(path, ignored)}
        answers.append(answer | ({"oid": present[path].etag} if path in present else {}))
    return as_json({"files": answers, "commitOid": repo.at(unquote(revision)).oid})


def _decode(text: object) -> bytes:
    if not isinstance(text, str):
        raise HubError(400, f"expected base64, got {text!r}")
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise HubError(400, f"base64 is damaged: {error}") from error


@route(ROUTES, "POST", r"/(datasets/|spaces/|)([^/]+/[^/]+)\.git/info/lfs/objects/batch")
def lfs_batch(request: Request, kinds: str, repo_id: str) -> Reply:
    """Say where to send each large file, or that it is here already."""
    repo = request.repo(kinds[:-2] or "model", repo_id, write=True)
    asked = request.json({"operation", "transfers", "objects", "hash_algo"}, {"ref"})
    if asked["operation"] != "upload" or asked["hash_algo"] != "sha256" or "basic" not in asked["transfers"]:
        raise HubError(422, f"only uploads by sha256 and basic transfer are understood: {asked!r}")
    if "ref" in asked:
        repo.at(asked["ref"]["name"])
    objects = [_how_to_send(request, repo, item) for item in asked["objects"]]
    return as_json({"transfer": "basic", "objects": objects}, kind="application/vnd.git-lfs+json")


def _how_to_send(request: Request, repo: Repo, item: dict[str, Any]) -> dict[str, Any]:
    oid, size = item.get("oid"), item.get("size")
    if not isinstance(oid, str) or not SHA256.fullmatch(oid) or not isinstance(size, int) or size < 1:
        raise HubError(422, f"an object has the SHA-256 and the size of a file that isn't empty: {item!r}")
    if oid in repo.objects:
        return {"oid": oid, "size": size}
    signature = request.store.sign_upload(Upload(repo, oid, size))
    send = {"href": f"{request.storage_endpoint}/upload/{signature}/{repo.repo_id}"}
    verify = {"href": f"{request.endpoint}/api/lfs-verify/{repo.repo_id}"}
    return {"oid": oid, "size": size, "actions": {"upload": send, "verify": verify}}


@route(ROUTES, "POST", "/api/lfs-verify/([^/]+/[^/]+)")
def verify_upload(request: Request, repo_id: str) -> Reply:
    """Confirm that a large file has arrived."""
    asked = request.json({"oid", "size"})
    for repo in request.store.repos.values():
        if repo.repo_id == repo_id and len(repo.objects.get(asked["oid"], b"")) == asked["size"]:
            request.writer(repo.namespace)
            return Reply()
    raise HubError(404, f"the object {asked['oid']} has not arrived")


@route(ROUTES, "POST", f"{REPO}/commit/{REVISION}")
def commit(request: Request, kinds: str, repo_id: str, revision: str) -> Reply:
    """Put all changes on top of a branch, or none."""
    repo = request.repo(kinds[:-1], repo_id, write=True)
    branch = unquote(revision)
    if branch not in repo.branches:
        raise HubError(404, f"Invalid rev id: {branch}", "RevisionNotFound")
    (first, header), *changes = _lines(request)
    if first != "header" or not {"summary"} <= set(header) <= {"summary", "description", "parentCommit"}:
        raise HubError(400, f"a commit begins with a header that has a summary: {header!r}")
    if header.get("parentCommit") not in (None, repo.at(branch).oid):
        raise HubError(412, "A commit has happened since. Please refresh and try again.")
    files = dict(repo.at(branch).files)
    for key, value in changes:
        _change(repo, files, key, value)
    author = request.signed_in().name
    made = repo.add_commit(branch, files, header["summary"], header.get("description", ""), author)
    url = f"{request.endpoint}/{repo_id}/commit/{made.oid}"
    return as_json({"success": True, "commitOid": made.oid, "commitUrl": url, "hookOutput": ""})


def _lines(request: Request) -> Iterator[tuple[str, dict[str, Any]]]:
    if request.headers.get("Content-Type") != "application/x-ndjson" or not request.body:
        raise HubError(400, "a commit is sent as lines of JSON, of type application/x-ndjson")
    for line in request.body.splitlines():
        try:
            item = json.loads(line)
        except ValueError as error:
            raise HubError(400, f"a line of the commit can't be read as JSON: {error}") from error
        if not isinstance(item, dict) or set(item) != {"key", "value"} or not isinstance(item["value"], dict):
            raise HubError(400, f"a line of a commit has key and value: {item!r}")
        yield item["key"], item["value"]


def _change(repo: Repo, files: dict[str, StoredFile], key: str, value: dict[str, Any]) -> None:
    path = check_path(value.get("path"))
    if key == "file":
        files[path] = _regular_file(path, value)
    elif key == "lfsFile":
        files[path] = _large_file(repo, path, value)
    elif key == "deletedFile" and path in files:
        del files[path]
    elif key == "deletedFile":
        raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
    else:
        raise HubError(400, f"a commit has no such operation: {key!r}")


def _regular_file(path: str, value: dict[str, Any]) -> StoredFile:
    if set(value) != {"path", "content", "encoding"} or value["encoding"] != "base64":
        raise HubError(400, f"a file has path, content and the encoding base64; got {sorted(value)}")
    content = _decode(value["content"])
    if is_large(path, len(content), content[:SAMPLE_SIZE]):
        raise HubError(400, f"Your push was rejected because {path} is large or binary and was sent as text")
    return StoredFile(content, large=False)


def _large_file(repo: Repo, path: str, value: dict[str, Any]) -> StoredFile:
    if not {"path", "algo", "oid"} <= set(value) <= {"path", "algo", "oid", "size"} or value["algo"] != "sha256":
        raise HubError(400, f"a large file has path, oid, size and the algo sha256: {value!r}")
    content = repo.objects.get(value["oid"])
    if content is None or len(content) != value.get("size", len(content)):
        raise HubError(400, f"Your push was rejected because the large file {path} was never uploaded")
    return StoredFile(content, large=True)
