"""The storage of the Hub of `tests/hub_server.py`: large files by signed address, without tokens."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

from tests.loopback_hub.requests import Reply, Request
from tests.loopback_hub.store import HubError


def answer_storage(request: Request) -> Reply:
    """Take a large file, or hand one out."""
    if "Authorization" in request.headers:
        raise HubError(400, "a signed address takes no token, which must not leave the Hub")
    if request.method == "PUT" and (found := re.fullmatch(r"/upload/(\w+)/[^/]+/[^/]+", request.path)):
        return _receive(request, found[1])
    found = re.fullmatch(r"/download/(\w+)/.+", request.path)
    file = request.store.downloads.get(found[1]) if found else None
    if file is None or request.method not in ("GET", "HEAD"):
        raise HubError(403, "the signature of this address is not valid")
    return _part_of(file.content, request.headers.get("Range"), {"ETag": f'"{file.etag}"', "Accept-Ranges": "bytes"})


def _receive(request: Request, signature: str) -> Reply:
    upload = request.store.uploads.get(signature)
    if upload is None:
        raise HubError(403, "the signature of this address is not valid")
    upload.receive(request.body)
    return Reply(200, headers={"ETag": f'"{hashlib.md5(request.body).hexdigest()}"'})


def _part_of(content: bytes, asked: str | None, headers: Mapping[str, str]) -> Reply:
    if asked is None:
        return Reply(200, content, headers)
    size = len(content)
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", asked)
    if found is None or found[0] == "bytes=-":
        raise HubError(400, f"only one range of bytes is understood, got {asked!r}")
    first = int(found[1]) if found[1] else max(size - int(found[2]), 0)
    last = min(int(found[2]), size - 1) if found[1] and found[2] else size - 1
    if first > last:
        return Reply(416, b"", {**headers, "Content-Range": f"bytes */{size}"})
    return Reply(206, content[first : last + 1], {**headers, "Content-Range": f"bytes {first}-{last}/{size}"})
