"""What the Hub of `tests/hub_server.py` answers about collections."""

from __future__ import annotations

import re
import secrets
from typing import Any

from tests.loopback_hub.requests import KINDS, Reply, Request, Routes, as_json, route
from tests.loopback_hub.store import Collection, HubError

ROUTES: Routes = []


@route(ROUTES, "POST", "/api/collections")
def create_collection(request: Request) -> Reply:
    asked = request.json({"title", "namespace", "private"}, {"description"})
    title, owner = asked["title"], asked["namespace"]
    if not isinstance(title, str) or not 0 < len(title) < 60 or not isinstance(asked["private"], bool):
        raise HubError(400, f"a title has 1 to 59 characters and private is true or false: {asked!r}")
    request.writer(owner)
    for collection in request.store.collections.values():
        if (collection.owner, collection.title) == (owner, title):
            raise HubError(409, "This collection exists already", slug=collection.slug)
    slug = f"{owner}/{re.sub('[^a-z0-9]+', '-', title.lower()).strip('-')}-{secrets.token_hex(12)}"
    collection = Collection(slug, title, owner, asked["private"], asked.get("description"))
    request.store.collections[slug] = collection
    return as_json(_collection(collection))


@route(ROUTES, "GET", "/api/collections/([^/]+/[^/]+)")
def get_collection(request: Request, slug: str) -> Reply:
    return as_json(_collection(_find_collection(request, slug)))


@route(ROUTES, "POST", "/api/collections/([^/]+/[^/]+)/items?")
def add_collection_item(request: Request, slug: str) -> Reply:
    collection = _find_collection(request, slug)
    request.writer(collection.owner)
    item = request.json({"item"}, {"note"})["item"]
    if not isinstance(item, dict) or set(item) != {"id", "type"} or item["type"] not in KINDS:
        raise HubError(400, f"an item has an id and a type, one of {KINDS}: {item!r}")
    request.repo(item["type"], item["id"])
    if (item["type"], item["id"]) in collection.items:
        raise HubError(409, "This item is in the collection already")
    collection.items.append((item["type"], item["id"]))
    return as_json(_collection(collection))


def _may_see(request: Request, collection: Collection) -> bool:
    return not collection.private or (request.account is not None and request.account.belongs_to(collection.owner))


def _find_collection(request: Request, slug: str) -> Collection:
    collection = request.store.collections.get(slug)
    if collection is None or not _may_see(request, collection):
        raise HubError(404, f"no collection {slug}")
    return collection


def _collection(collection: Collection) -> dict[str, Any]:
    items = [
        {"_id": f"{position:024d}", "id": item_id, "type": kind, "position": position}
        for position, (kind, item_id) in enumerate(collection.items)
    ]
    return {
        **{"slug": collection.slug, "title": collection.title, "owner": {"name": collection.owner, "type": "org"}},
        **{"description": collection.description, "private": collection.private, "items": items},
        **{"lastUpdated": "2026-01-01T00:00:00.000Z", "position": 0, "theme": "blue", "upvotes": 0},
    }
