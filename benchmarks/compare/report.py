"""Everything that the rows say, written beside them: tables, figures as JSON, and pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from prunnet_hf.runs.run_directory import write_json, write_text

from .figures import Rows, read_rows
from .methods import DEFAULT, MAIN, SIDE, VALIDATION
from .plan import CHOSEN
from .plots import plot_capacities, plot_costs
from .tables import cost_table, difference_table, quality_table, summary
from .targets import target_table

TABLES = "tables.md"
SUMMARY = "summary.json"
RECIPES = ("omniglot", "grocery")


def write_report(results: Path) -> list[Path]:
    """Write tables, summary and pictures of all rows that are there, and return their files."""
    rows = {(recipe, phase): read_rows(results, recipe, phase) for recipe in RECIPES for phase in (MAIN, SIDE)}
    lines = [
        "mAP (%) on unseen classes, means over seeds with their standard errors. `python -m benchmarks.compare",
        "--recipe omniglot --report` writes this page from the rows beside it.",
        *chosen_table(results),
    ]
    files = []
    for (recipe, phase), found in rows.items():
        if not found:
            continue
        every = found if phase == MAIN else {**_default(rows[recipe, MAIN]), **found}
        lines += _page(recipe, phase, every)
        files += [
            plot_capacities(every, results / f"{recipe}-{phase}-capacity.png", f"{recipe.title()}, {phase}"),
            plot_costs(every, results / f"{recipe}-{phase}-cost.png", f"{recipe.title()}, {phase}"),
        ]
    write_text(results / TABLES, "\n".join(lines) + "\n")
    write_json(results / SUMMARY, {f"{recipe} {phase}": summary(found) for (recipe, phase), found in rows.items()})
    return [results / TABLES, results / SUMMARY, *files]


def _default(main: Mapping[str, Rows]) -> dict[str, Rows]:
    return {DEFAULT: main[DEFAULT]} if DEFAULT in main else {}


def _page(recipe: str, phase: str, every: Mapping[str, Rows]) -> list[str]:
    name = f"{recipe.title()}, {phase}"
    lines = ["", f"## {name}", "", *quality_table(every)]
    if differences := difference_table(every):
        lines += ["", f"{name}: what each has more than `{DEFAULT}`", "", *differences]
    if phase == MAIN and (targets := target_table(every)):
        lines += ["", f"{name}: what was wanted of `{DEFAULT}`", "", *targets]
    return [*lines, "", f"{name}: what it costs", "", *cost_table(every)]


def chosen_table(results: Path) -> list[str]:
    """What was tried on validation classes, and what was chosen."""
    file = results / CHOSEN
    if not file.is_file():
        return []
    lines = [
        "",
        f"## Settings, from {VALIDATION} classes",
        "",
        "| method | tried | mean mAP | chosen |",
        "|---|---|---:|---|",
    ]
    for name, choice in json.loads(file.read_text(encoding="utf-8")).items():
        for trial in choice["trials"] or [{"settings": choice["settings"], "mean": "-"}]:
            chosen = "yes" if trial["settings"] == choice["settings"] else ""
            lines.append(f"| {name} | `{json.dumps(trial['settings'])}` | {trial['mean']} | {chosen} |")
    return lines
