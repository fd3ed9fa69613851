"""JSON that may come from anywhere: of bounded size and depth, and every fault of it a ValueError."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NoReturn

LARGEST_JSON = 64 * 2**20
"""In characters. The longest that this package writes are indices of bands, of some 100 kB."""
DEEPEST_JSON = 64
"""So many objects and lists may be inside each other. Python's reader and many of its users work recursively."""


def load_json(
    text: str | bytes, *, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None, finite: bool = False
) -> Any:
    """Parse JSON.

    Args:
        text: In UTF-8 if it is bytes.
        pairs: Makes an object of its members; a dict if not given.
        finite: Refuse NaN and Infinity, which Python writes although JSON has none.

    Raises:
        ValueError: If it isn't JSON, or is larger or deeper than any that is needed.
    """
    if len(text) > LARGEST_JSON:
        raise ValueError(f"{len(text)} characters of JSON; allowed are {LARGEST_JSON}")
    constant = _refuse_constant if finite else None
    try:
        content = json.loads(text, object_pairs_hook=pairs, parse_constant=constant)
    except RecursionError as error:
        raise ValueError(_too_deep()) from error
    level, depth = [content], 0
    while level:
        if depth > DEEPEST_JSON:
            raise ValueError(_too_deep())
        inner = [value for value in level if isinstance(value, dict | list)]
        level = [part for value in inner for part in (value.values() if isinstance(value, dict) else value)]
        depth += 1
    return content


def _too_deep() -> str:
    return f"more than {DEEPEST_JSON} objects and lists are inside each other"


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")
