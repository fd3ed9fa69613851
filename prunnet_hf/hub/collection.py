"""The collection on the Hub that shows the repositories of one run together."""

from __future__ import annotations

import re
from collections.abc import Sequence

from huggingface_hub import HfApi

from .errors import explained

SLUG = re.compile(r"[\w.-]+/[\w.-]+-[0-9a-f]{24}")
"""How the Hub names a collection; anything else is a title."""


def check_collection(api: HfApi, title_or_slug: str) -> None:
    """See to it, before anything is uploaded, that a collection named by its slug exists.

    Raises:
        PublishError: If it doesn't, or the Hub can't be reached.
    """
    if SLUG.fullmatch(title_or_slug):
        with explained(f"the collection {title_or_slug}"):
            api.get_collection(title_or_slug)


def collect(api: HfApi, title_or_slug: str, repositories: Sequence[str], *, private: bool) -> str:
    """Put repositories into a collection, where they aren't yet.

    Args:
        api: With a token that may write.
        title_or_slug: A slug, or the title of a collection that is made where its owner has none of that title.
        repositories: `org/name` of models; the first one's owner gets a new collection.
        private: Whether a new collection is private.

    Returns:
        Its address.

    Raises:
        PublishError: If the Hub refuses or can't be reached.
    """
    with explained(f"the collection {title_or_slug}"):
        slug = title_or_slug
        if not SLUG.fullmatch(slug):
            owner = repositories[0].partition("/")[0]
            slug = api.create_collection(title_or_slug, namespace=owner, private=private, exists_ok=True).slug
        for repo_id in repositories:
            api.add_collection_item(slug, repo_id, "model", exists_ok=True)
    return f"{api.endpoint}/collections/{slug}"
