"""What the rows say, written where it is read: tables in pages of the documentation, pictures, and figures as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from prunnet_hf.runs.run_directory import write_json, write_text

from .figures import Rows, read_rows
from .methods import DEFAULT, MAIN, VALIDATION, WIDE
from .plan import CHOSEN, COMPARED
from .plots import plot_capacities, plot_costs
from .tables import cost_table, difference_table, quality_table, short_table, summary
from .targets import target_table

SUMMARY = "summary.json"
RECIPES = ("omniglot", "grocery")
ROOT = Path(__file__).parents[2]
PAGES = (Path("docs", "results.md"), Path("README.md"))
"""Pages with places for tables: lines `<!-- NAME -->` and `<!-- /NAME -->`, NAME as in `blocks_of`."""
PICTURES = Path("docs", "pictures")


def write_report(results: Path, root: Path = ROOT) -> list[Path]:
    """Write what all rows that are there say into the pages of the repository, with pictures, and a summary.

    Args:
        results: Where the rows are, and the summary goes.
        root: The repository.

    Returns:
        The files that were written.

    Raises:
        ValueError: If a page has a place for a table that there isn't.
    """
    every = {(recipe, phase): read_rows(results, recipe, phase) for recipe in RECIPES for phase in COMPARED}
    found = {key: rows for key, rows in every.items() if rows}
    blocks = blocks_of(found, results)
    pages = [page for page in PAGES if (root / page).is_file()]
    for page in pages:
        write_text(root / page, fill((root / page).read_text(encoding="utf-8"), blocks))
    write_json(results / SUMMARY, {f"{recipe} {phase}": summary(rows) for (recipe, phase), rows in found.items()})
    (root / PICTURES).mkdir(parents=True, exist_ok=True)
    pictures = [
        draw(rows, root / PICTURES / f"{recipe}-{name}.png", recipe.title())
        for (recipe, phase), rows in found.items()
        if phase == MAIN
        for name, draw in (("capacity", plot_capacities), ("cost", plot_costs))
    ]
    return [*(root / page for page in pages), results / SUMMARY, *pictures]


def blocks_of(found: Mapping[tuple[str, str], Mapping[str, Rows]], results: Path) -> dict[str, list[str]]:
    """The lines of every table by its name, such as `"omniglot main quality"`; tables without a line are left out.

    Args:
        found: The rows by recipe and phase.
        results: Where the choice of settings is.
    """
    blocks = {"short": short_table({recipe: rows for (recipe, phase), rows in found.items() if phase == MAIN})}
    blocks["settings"] = chosen_table(results)
    for (recipe, phase), rows in found.items():
        name = f"{recipe} {phase}"
        default = None if phase == WIDE else found.get((recipe, MAIN), {}).get(DEFAULT)
        compared = rows if default is None else {DEFAULT: default, **rows}
        blocks[f"{name} quality"] = quality_table(compared)
        blocks[f"{name} differences"] = difference_table(compared)
        blocks[f"{name} targets"] = target_table(compared) if phase == MAIN else []
        blocks[f"{name} cost"] = cost_table(compared)
    return {name: lines for name, lines in blocks.items() if lines}


def fill(page: str, blocks: Mapping[str, Sequence[str]]) -> str:
    r"""A page with the tables in their places.

    Raises:
        ValueError: If it has a place for a table that there isn't.

    Example:
        >>> fill("<!-- a -->\nold\n<!-- /a -->\n", {"a": ["| new |"]})
        '<!-- a -->\n\n| new |\n\n<!-- /a -->\n'
    """

    def filled(place: re.Match[str]) -> str:
        name = place["name"]
        if name not in blocks:
            raise ValueError(f"A page has a place for the table {name!r}, which must be one of {', '.join(blocks)}.")
        return "\n".join([f"<!-- {name} -->", "", *blocks[name], "", f"<!-- /{name} -->"])

    return re.sub(r"<!-- (?P<name>[a-z ]+) -->\n.*?<!-- /(?P=name) -->", filled, page, flags=re.DOTALL)


def chosen_table(results: Path) -> list[str]:
    """What was tried on validation classes, and what was chosen."""
    file = results / CHOSEN
    if not file.is_file():
        return []
    lines = [f"| method | tried | mean mAP on {VALIDATION} classes | chosen |", "|---|---|---:|---|"]
    for name, choice in json.loads(file.read_text(encoding="utf-8")).items():
        for trial in choice["trials"] or [{"settings": choice["settings"], "mean": "-"}]:
            chosen = "yes" if trial["settings"] == choice["settings"] else ""
            lines.append(f"| {name} | {_words(trial['settings'])} | {trial['mean']} | {chosen} |")
    return lines


def _words(settings: Mapping[str, object]) -> str:
    """Settings as flags; the list of capacities by its smallest."""
    words = [
        f"capacities from {min(value)}" if isinstance(value, list) else f"`{name} {value}`"
        for name, value in settings.items()
    ]
    return ", ".join(words) or "as it is"
