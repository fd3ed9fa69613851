"""How text from data, such as names of folders and models, goes into Markdown: as that text, and never as markup.

Results, cards and reports are read by people on pages that render them, and what they name was chosen by others: a
folder called `x`, a class with a line feed, an id that is a link. These functions are the only way in.
"""

from __future__ import annotations

import re

_MARKUP = re.compile(r"([\\`*\[\]<>|~])|(?<!\w)(_)|(_)(?!\w)|^([#+-])(?=\s|#|$)|^(\d+)(?=[.)]\s)")
_HUB_ID = re.compile(r"[\w-][\w.-]*(?:/[\w-][\w.-]*)?", flags=re.ASCII)


def one_line(text: object) -> str:
    """Text without line feeds and other control characters, which are spaces, and without beginnings of comments."""
    # The card's own marks are comments, and code may hold them too.
    return "".join(c if c.isprintable() else " " for c in str(text)).strip().replace("<!--", "<! --")


def as_text(text: object) -> str:
    r"""One line of running text, of a heading or of a table's cell, in which nothing is markup.

    Example:
        >>> as_text("a|b [c](d)"), as_text("recall@1"), as_text("in_shop")
        ('a\\|b \\[c\\](d)', 'recall@1', 'in_shop')
    """
    return _MARKUP.sub(lambda found: f"\\{found[0]}" if not found[5] else f"{found[5]}\\", one_line(text))


def as_code(text: object) -> str:
    """One line of code within a text or a table's cell.

    Example:
        >>> as_code("resnet18"), as_code("a`b")
        ('`resnet18`', '`` a`b ``')
    """
    line = one_line(text).replace("|", "\N{BROKEN BAR}")  # a table ends its cell at a bar in code too
    fence = "`" * (_longest_run(line) + 1)
    space = " " if "`" in line or not line else ""
    return f"{fence}{space}{line}{space}{fence}"


def as_block(text: object, language: str) -> str:
    """A block of code, which no line of it can end.

    Example:
        >>> print(as_block("print(1)", "python"))
        ```python
        print(1)
        ```
    """
    code = str(text).replace("\r\n", "\n").replace("\r", "\n").replace("<!--", "<! --").removesuffix("\n")
    fence = "`" * max(3, _longest_run(code) + 1)
    return f"{fence}{language}\n{code}\n{fence}"


def hub_link(repo_id: object) -> str:
    """A link to a repository of the Hub; code if it isn't the id of one."""
    if _HUB_ID.fullmatch(str(repo_id)):
        return f"[{repo_id}](https://huggingface.co/{repo_id})"
    return as_code(repo_id)


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall(r"`+", text)), default=0)
