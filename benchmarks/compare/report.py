"""What the rows say, written where it is read: tables in pages of the documentation, pictures, and figures as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from prunnet_hf.runs.run_directory import write_json, write_text

from .figures import Rows, read_rows
from .latency import read_latencies
from .methods import BESIDE, MAIN, SIDE, VALIDATION, WIDE
from .pages import NO_ROW, fill
from .plan import CHOSEN, COMPARED, RECIPES, is_compared
from .plots import plot_capacities, plot_costs
from .tables import cost_table, difference_table, quality_table, short_table, summary
from .targets import target_table

SUMMARY = "summary.json"
ROOT = Path(__file__).parents[2]
PAGES = (Path("docs", "results.md"), Path("README.md"))
"""Pages with places for tables: lines `<!-- NAME -->` and `<!-- /NAME -->`, NAME as in `blocks_of`."""
PICTURES = Path("docs", "pictures")
TABLES = {
    MAIN: ("quality", "differences", "targets", "cost"),
    SIDE: ("quality", "cost"),
    WIDE: ("quality", "cost"),
}
PLACED = [(recipe, phase) for recipe in RECIPES for phase in TABLES if is_compared(recipe, phase)]
NAMES = ("short", "settings", *(f"{recipe} {phase} {table}" for recipe, phase in PLACED for table in TABLES[phase]))
"""Of all tables."""


def write_report(results: Path, root: Path = ROOT) -> list[Path]:
    """Write what all rows that are there say into the pages of the repository, with pictures, and a summary.

    Args:
        results: Where the rows are, and the summary goes.
        root: The repository.

    Returns:
        The files that were written.

    Raises:
        ValueError: If a page has a place for a table that can't be, or no page has one for a table.
    """
    every = {(recipe, phase): read_rows(results, recipe, phase) for recipe in RECIPES for phase in COMPARED}
    found = {key: rows for key, rows in every.items() if rows}
    blocks = blocks_of(found, results)
    pages = {page: (root / page).read_text(encoding="utf-8") for page in PAGES if (root / page).is_file()}
    check_places("\n".join(pages.values()), blocks)
    for page, text in pages.items():
        write_text(root / page, fill(text, blocks))
    write_json(results / SUMMARY, {f"{recipe} {phase}": summary(rows) for (recipe, phase), rows in found.items()})
    (root / PICTURES).mkdir(parents=True, exist_ok=True)
    pictures = []
    for recipe, rows in ((recipe, rows) for (recipe, phase), rows in found.items() if phase == MAIN):
        capacity, cost = (root / PICTURES / f"{recipe}-{name}.png" for name in ("capacity", "cost"))
        pictures.append(plot_capacities(rows, capacity, recipe.title()))
        pictures.append(plot_costs(rows, cost, recipe.title(), read_latencies(results, recipe)))
    return [*(root / page for page in pages), results / SUMMARY, *pictures]


def blocks_of(found: Mapping[tuple[str, str], Mapping[str, Rows]], results: Path) -> dict[str, list[str]]:
    """The lines of every table by its name, such as `"omniglot main quality"`; tables without a line say so.

    Args:
        found: The rows by recipe and phase.
        results: Where the choice of settings is.
    """
    blocks = {"short": short_table({recipe: rows for (recipe, phase), rows in found.items() if phase == MAIN})}
    blocks["settings"] = chosen_table(results)
    for (recipe, phase), rows in found.items():
        name = f"{recipe} {phase}"
        compared = {**beside(found.get((recipe, MAIN), {}), rows), **rows} if phase == SIDE else rows
        blocks[f"{name} quality"] = quality_table(compared)
        blocks[f"{name} differences"] = difference_table(compared)
        blocks[f"{name} targets"] = target_table(compared) if phase == MAIN else []
        blocks[f"{name} cost"] = cost_table(compared)
    return {name: blocks.get(name) or [NO_ROW] for name in NAMES}


def beside(main: Mapping[str, Rows], rows: Mapping[str, Rows]) -> dict[str, Rows]:
    """The rows of the main comparison that side ones are compared with, of the same seeds only."""
    seeds = {row["seed"] for own in rows.values() for row in own.rows}
    chosen = {name: [row for row in main[name].rows if row["seed"] in seeds] for name in BESIDE if name in main}
    return {name: Rows(main[name].entry, tuple(own)) for name, own in chosen.items() if own}


def check_places(text: str, blocks: Mapping[str, Sequence[str]]) -> None:
    """Make sure that each table that has rows is read somewhere.

    Raises:
        ValueError: If there is no place for one.
    """
    lost = [name for name, lines in blocks.items() if lines != [NO_ROW] and f"<!-- {name} -->" not in text]
    if lost:
        raise ValueError(f"{', '.join(map(str, PAGES))} have no place for the tables {', '.join(map(repr, lost))}.")


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
