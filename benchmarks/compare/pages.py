"""Tables in pages of the documentation, which benchmarks write into their places."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

NO_ROW = "There is no row yet."


def fill(page: str, blocks: Mapping[str, Sequence[str]], family: str = "") -> str:
    r"""A page with the tables of one benchmark in their places.

    Args:
        page: Its text, with lines `<!-- NAME -->` and `<!-- /NAME -->`, between which the table stands.
        blocks: The lines of each table by its name.
        family: What the names begin with and a colon, where a page has tables of several benchmarks.

    Raises:
        ValueError: If it has a place of this family for a table that there isn't.

    Example:
        >>> fill("<!-- a -->\nold\n<!-- /a -->\n", {"a": ["| new |"]})
        '<!-- a -->\n\n| new |\n\n<!-- /a -->\n'
    """

    def filled(place: re.Match[str]) -> str:
        name = place["name"]
        if name not in blocks:
            raise ValueError(f"A page has a place for the table {name!r}, which must be one of {', '.join(blocks)}.")
        return "\n".join([f"<!-- {name} -->", "", *blocks[name], "", f"<!-- /{name} -->"])

    prefix = re.escape(f"{family}: ") if family else ""
    return re.sub(rf"<!-- (?P<name>{prefix}[a-z ]+) -->\n.*?<!-- /(?P=name) -->", filled, page, flags=re.DOTALL)
