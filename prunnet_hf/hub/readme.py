"""A generated card and what people wrote around it, in one README.md.

The generated text is between two HTML comments, which a reader doesn't see. What is outside them belongs to people,
and stays where it was each time the card is generated again.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from ..runs.run_directory import CARD_BEGINS as BEGIN
from ..runs.run_directory import CARD_ENDS as END
from ..runs.yaml_text import load_yaml

OF_THE_CARD = ("base_model", "base_model_relation", "metrics", "model-index")
"""Metadata that only cards write: an entry that an earlier card had and this one hasn't is out of date."""
FRONT_MATTER = re.compile(r"\A---[ \t]*\r?\n(.*?)^---[ \t]*(?:\r?\n|\Z)", flags=re.DOTALL | re.MULTILINE)


def merge_readme(generated: str, existing: str | None) -> str:
    """Put a newly generated card into the README that is there.

    Args:
        generated: A card with metadata and both marks.
        existing: The README to put it into. If it has no marks, it is kept whole, below the card. None if there is no
            README.

    Returns:
        The README. Metadata that the card doesn't generate are kept; the tags of both are joined. Merging the same
        card again changes nothing.

    Raises:
        ValueError: If the metadata of `existing` are not a YAML mapping, or its marks aren't one pair in order.
    """
    metadata, body = split_front_matter(generated)
    card = _block(body)
    if existing is None:
        return _join(metadata, body)
    kept, theirs = split_front_matter(existing)
    merged = {**metadata, **{key: kept[key] for key in kept if key not in metadata and key not in OF_THE_CARD}}
    if isinstance(metadata.get("tags"), list) and isinstance(kept.get("tags"), list):
        merged["tags"] = list(dict.fromkeys([*metadata["tags"], *kept["tags"]]))
    if not theirs.strip():
        return _join(merged, body)
    if BEGIN not in theirs and END not in theirs:
        return _join(merged, f"\n{card}\n\n{theirs.lstrip()}")
    _block(theirs)
    before, after = theirs.split(BEGIN)[0], theirs.split(END)[1]
    return _join(merged, f"{before}{card}{after}")


class _Loader(yaml.SafeLoader):
    """Reads YAML as the Hub does: `no` means Norwegian, and only `true` and `false` are truth values."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"true|false", re.IGNORECASE), list("tTfF"))


def split_front_matter(readme: str) -> tuple[dict[str, Any], str]:
    """Metadata and text of a README.

    Raises:
        ValueError: If the metadata are not a YAML mapping.
    """
    found = FRONT_MATTER.match(readme)
    if found is None:
        return {}, readme
    try:
        metadata = load_yaml(found[1], _Loader)
    except ValueError as error:
        raise ValueError(f"The metadata of README.md can't be read as YAML ({error}). Correct them.") from error
    if metadata is not None and not isinstance(metadata, dict):
        raise ValueError(f"The metadata of README.md must be `key: value`; got {metadata!r}. Correct them.")
    return metadata or {}, readme[found.end() :]


def _block(body: str) -> str:
    """The generated card with its marks."""
    begin, end = body.find(BEGIN), body.find(END)
    if (body.count(BEGIN), body.count(END)) != (1, 1) or end < begin:
        raise ValueError(
            f"README.md must have {BEGIN!r} and, after it, {END!r}, once each, or neither; it has "
            f"{body.count(BEGIN)} and {body.count(END)}. Correct them by hand: what is between them is generated, and "
            "what is outside is kept."
        )
    return body[begin : end + len(END)]


def _join(metadata: dict[str, Any], body: str) -> str:
    return f"---\n{yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True, width=1000)}---\n{body}"
