"""What the rows say: tables in docs/into-a-space.md, and a picture of each data set."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prunnet_hf.pruning.masking import format_capacity
from prunnet_hf.retrieval.plots import draw_grid, new_figure, save_png
from prunnet_hf.runs.run_directory import write_text

from ..compare.figures import Figure
from ..compare.pages import NO_ROW, fill
from .measures import CLEAN, SHIFTED
from .plan import ASKING, CAPACITIES, SETS, SHIFT, TEACHER, UPGRADE, VALIDATED, VALIDATION, steps_of

Row = Mapping[str, Any]

ROOT = Path(__file__).parents[2]
PAGE = Path("docs", "into-a-space.md")
PICTURES = Path("docs", "pictures")
FAMILY = "into"
LOSSES = f"{FAMILY}: losses"
LABELS = {step.name.removesuffix("-seed0"): step.label for step in steps_of(VALIDATED, [0])}
"""What tables call a row, by its step without the seed."""
INTO, WITH_LABELS, ALONE, MAPPED = (LABELS[name] for name in ("into", "into-labels", "alone-0.2", "map"))
LONGER = LABELS["into-labels-longer"]
CUT, TUNED, TUNED_BY_LABELS = (LABELS[name] for name in ("phone", "tuned", "tuned-labels"))
COLOURS = {INTO: "#31688e", WITH_LABELS: "#2a9d5c", ALONE: "#d1742e", MAPPED: "#6b6b6b"}
BEHIND, LOST_ON_CLEAN = 2.0, 0.5
"""How much less, in percent, one network for all may find at 0.2 than one alone, and a tuned one on clean queries."""


def write_report(results: Path, root: Path = ROOT) -> list[Path]:
    """Write what all rows say into the page of the repository, with a picture of each set.

    Args:
        results: Where the rows are.
        root: The repository.

    Returns:
        The files that were written.
    """
    found = {name: read_rows(results / name) for name in SETS}
    page = root / PAGE
    write_text(page, fill(page.read_text(encoding="utf-8"), blocks_of(found), FAMILY))
    (root / PICTURES).mkdir(parents=True, exist_ok=True)
    drawn = {name: of(rows, TEACHER) for name, rows in found.items() if has_picture(rows)}
    return [page, *(draw(name, rows, root / PICTURES / picture_of(name)) for name, rows in drawn.items())]


def read_rows(folder: Path) -> list[Row]:
    """All rows of a data set."""
    return [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))]


def has_picture(rows: Iterable[Row]) -> bool:
    """Whether there is something to draw."""
    return any(row["label"] == INTO for row in rows)


def picture_of(name: str) -> str:
    """The file of a data set's picture."""
    return f"{name}-into.png"


def blocks_of(found: Mapping[str, Sequence[Row]]) -> dict[str, list[str]]:
    """The lines of every table by its name, such as `"into: omniglot teacher"`; under that one stands the picture."""
    tables: dict[str, Callable[[Sequence[Row]], list[str]]] = {
        "teacher": teacher_table,
        "shift": shift_table,
        "upgrade": upgrade_table,
        "targets": target_table,
    }
    blocks = {
        f"{FAMILY}: {name} {table}": make(rows) or [NO_ROW]
        for name, rows in found.items()
        for table, make in tables.items()
    }
    for name in (name for name, rows in found.items() if has_picture(rows)):
        line = f"![mAP of queries in a teacher's gallery on {name.title()}](pictures/{picture_of(name)})"
        blocks[f"{FAMILY}: {name} {TEACHER}"] += ["", line]
    return {**blocks, LOSSES: loss_table(found.get(VALIDATED, ())) or [NO_ROW]}


def of(rows: Iterable[Row], measure: str, label: str | None = None) -> list[Row]:
    """The rows of one table, or of one line of it."""
    return [row for row in rows if row["measure"] == measure and label in (None, row["label"])]


def figure_of(rows: Iterable[Row], name: str) -> Figure | None:
    """One of their values in percent, over seeds."""
    return Figure.of([100 * row["values"][name] for row in rows if name in row["values"]])


def paired(rows: Iterable[Row], others: Iterable[Row], name: str) -> Figure | None:
    """By how much rows are ahead of others in one value, in percent, over the seeds that both have."""
    base = {row["seed"]: row["values"][name] for row in others if name in row["values"]}
    return Figure.of(
        [
            100 * (row["values"][name] - base[row["seed"]])
            for row in rows
            if name in row["values"] and row["seed"] in base
        ]
    )


def teacher_table(rows: Sequence[Row]) -> list[str]:
    """What queries of each capacity find in the teacher's gallery, and what their training costs."""
    names = [f"{capacity:g}" for capacity in CAPACITIES]
    lines = [f"| queries by | seeds | {' | '.join(names)} | CPU minutes |", f"|---|---:|{'---:|' * (len(names) + 1)}"]
    for label, same in by_label(of(rows, TEACHER), but=LABELS["teacher"]).items():
        if label == LABELS["teacher"]:
            figure = figure_of(same, "1")
            cells = [cell(figure)] * len(names)
        else:
            cells = [cell(figure_of(same, name)) for name in names]
        lines.append(f"| {label} | {len(seeds(same))} | {' | '.join(cells)} | {cell(minutes(same))} |")
    return lines if len(lines) > 2 else []


def by_label(rows: Iterable[Row], but: str) -> dict[str, list[Row]]:
    """Rows by their label, in the order of the plan; those in a space of their own are left out, but one."""
    found: dict[str, list[Row]] = {label: [] for label in LABELS.values()}
    for row in rows:
        if "itself" in row or row["label"] in (but, MAPPED):
            found[row["label"]].append(row)
    return {label: same for label, same in found.items() if same}


def seeds(rows: Iterable[Row]) -> set[int]:
    """Which seeds there are."""
    return {row["seed"] for row in rows}


def minutes(rows: Sequence[Row]) -> Figure | None:
    """CPU minutes of all trainings of a seed."""
    return Figure.of([sum(row["cpu_seconds"] for row in rows if row["seed"] == seed) / 60 for seed in seeds(rows)])


def shift_table(rows: Sequence[Row]) -> list[str]:
    """What clean and shifted queries find in the untouched gallery of the parent."""
    cut = of(rows, SHIFT, CUT)
    lines = ["| subnetwork of 0.2 | seeds | shifted queries | clean queries | gain on shifted | gain on clean |"]
    lines.append("|---|" + "---:|" * 5)
    for label in dict.fromkeys(row["label"] for row in sorted(of(rows, SHIFT), key=lambda row: order(row["label"]))):
        same = of(rows, SHIFT, label)
        cells = [cell(figure_of(same, name)) for name in (SHIFTED, CLEAN)]
        cells += [cell(paired(same, cut, name)) if label != CUT else "-" for name in (SHIFTED, CLEAN)]
        lines.append(f"| {label} | {len(same)} | {' | '.join(cells)} |")
    return lines if len(lines) > 2 else []


def order(label: str) -> int:
    """The place of a label in the plan."""
    return list(LABELS.values()).index(label)


def upgrade_table(rows: Sequence[Row]) -> list[str]:
    """BCT's criterion at each capacity: what the old network's queries and the new one's find in the old gallery."""
    new = [row for row in of(rows, UPGRADE) if "criterion" in row]
    mapped = of(rows, UPGRADE, MAPPED)
    lines = ["| capacity | seeds | old queries | new queries | new less old | holds | usual training, mapped |"]
    lines.append("|---|" + "---:|" * 6)
    names = sorted({name for row in new for name in row["criterion"]}, key=float, reverse=True)
    for name in names:
        found = [row["criterion"][name] for row in new]
        holds = sum(each["new"] >= each["old"] - each["error"] for each in found)
        cells = [cell(Figure.of([100 * each[key] for each in found])) for key in ("old", "new")]
        cells.append(cell(Figure.of([100 * (each["new"] - each["old"]) for each in found])))
        cells += [f"{holds} of {len(found)}", cell(figure_of(mapped, name))]
        lines.append(f"| {name} | {len(found)} | {' | '.join(cells)} |")
    return lines if names else []


def target_table(rows: Sequence[Row]) -> list[str]:
    """What was wanted, and what came."""
    asked = f"{ASKING:g}"
    alone, cut = of(rows, TEACHER, ALONE), of(rows, SHIFT, CUT)
    without = paired(of(rows, TEACHER, INTO), alone, asked)
    lines = ["| target | measured | met |", "|---|---:|---|"]
    lines += line(f"{INTO}, less one alone at {asked}: at least -{BEHIND:g}", without, -BEHIND)
    for label in (WITH_LABELS, LONGER):
        ahead = paired(of(rows, TEACHER, label), alone, asked)
        lines += line(f"{label}, less one alone at {asked}: at least 0", ahead, 0.0)
    for label in (TUNED, TUNED_BY_LABELS):
        tuned = of(rows, SHIFT, label)
        lines += line(f"{label}: gains on shifted queries", paired(tuned, cut, SHIFTED), 0.0)
        lines += line(
            f"{label}: loses at most {LOST_ON_CLEAN} on clean ones", paired(tuned, cut, CLEAN), -LOST_ON_CLEAN
        )
    new = [row for row in of(rows, UPGRADE) if "kept" in row]
    if new:
        kept = sum(row["kept"] for row in new)
        lines.append(
            f"| the upgrade stays in its space, at every capacity | {kept} of {len(new)} seeds | "
            f"{'yes' if kept == len(new) else 'no'} |"
        )
    return lines if len(lines) > 2 else []


def line(text: str, figure: Figure | None, least: float) -> list[str]:
    """The line of a figure that should be at least so large; one seed, which has no standard error, can't say much."""
    if figure is None:
        return []
    answer = "yes" if figure.mean >= least else "no"
    if figure.error is None:
        return [f"| {text} | {figure.mean:.2f} | {answer}, by one seed |"]
    return [f"| {text} | {figure.mean:.2f} ± {figure.error:.2f} | {answer} |"]


def loss_table(rows: Sequence[Row]) -> list[str]:
    """What each choice of losses gives on validation classes."""
    labels = sorted({row["label"] for row in of(rows, VALIDATION) if "itself" in row}, key=order)
    figures = {label: figure_of(of(rows, VALIDATION, label), f"{ASKING:g}") for label in labels}
    lines = ["| `--into_loss` | seeds | mAP at 0.2 on validation classes |", "|---|---:|---:|"]
    for label, figure in figures.items():
        lines.append(f"| {label} | {len(seeds(of(rows, VALIDATION, label)))} | {cell(figure)} |")
    return lines if figures else []


def cell(figure: Figure | None) -> str:
    """A figure, or a dash without one."""
    return "-" if figure is None else str(figure)


def draw(name: str, rows: Sequence[Row], path: Path) -> Path:
    """Draw mAP in the teacher's gallery over the capacity of the queries; the teacher is a line across."""
    figure = new_figure(8, 5)
    axes = figure.subplots()
    teacher = figure_of(of(rows, TEACHER, LABELS["teacher"]), "1")
    if teacher is not None:
        axes.axhline(teacher.mean, color="#1b1b1b", linestyle="--", label="the teacher itself")
    for label, colour in COLOURS.items():
        found = {capacity: figure_of(of(rows, TEACHER, label), f"{capacity:g}") for capacity in sorted(CAPACITIES)}
        known = {capacity: each for capacity, each in found.items() if each is not None}
        if known:
            means = [each.mean for each in known.values()]
            errors = [each.error or 0.0 for each in known.values()]
            axes.errorbar(list(known), means, yerr=errors, label=label, color=colour, marker="o", capsize=3)
    axes.set_xscale("log")
    axes.set_xticks(sorted(CAPACITIES), [*map(format_capacity, sorted(CAPACITIES))])
    axes.minorticks_off()
    axes.set_title(f"{name.title()}: queries in the gallery of a wider teacher", fontsize=11)
    axes.set_xlabel("capacity of the query network")
    axes.set_ylabel("mAP (%)")
    draw_grid(axes)
    figure.legend(loc="outside lower center", ncols=2, fontsize=9)
    return save_png(figure, path)
