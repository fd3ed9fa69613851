"""What the rows say: tables in docs/results.md, and pictures of quality over bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from prunnet_hf.retrieval.plots import draw_grid, new_figure, save_png
from prunnet_hf.runs.run_directory import write_text

from ..compare.figures import Figure
from ..compare.pages import NO_ROW, fill
from .trials import ASKING, BOUND, CAPACITIES, EXACT, METHODS, QUERIES, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROOT = Path(__file__).parents[2]
PAGE = Path("docs", "results.md")
PICTURES = Path("docs", "pictures")
FAMILY = "quantised"
SETS = {"omniglot": "Omniglot", "grocery": "Grocery"}
KINDS = ("weights", "units")
COLOURS = {"PQ": "#6b6b6b", "OPQ": "#31688e", "centroids": "#2a9d5c", BOUND: "#a8d5ba", QUERIES: "#d1742e"}
NAMES = {BOUND: "centroids, knowing the queries", QUERIES: "centroids and queries"}
"""What the legend calls a method, where one word says too little."""
OTHERS, OWN, OWN_EXACT = "capacities", "own", "own exact"
"""What a row measured: queries by the run's networks, by the one that learned, and by that one in exact search."""
PARTS = {OTHERS: "", OWN: ", asked by them", OWN_EXACT: ", asked by them, exact search"}
DENSE, ASKED = "1.00", f"{ASKING:.2f}"
LARGE_LOSS = 1.0
"""Of mAP, in percent."""


def write_report(results: Path, root: Path = ROOT) -> list[Path]:
    """Write what all rows say into the page of the repository, with a picture of each set.

    Args:
        results: Where the rows are.
        root: The repository.

    Returns:
        The files that were written.
    """
    found = {name: read_rows(results, name) for name in SETS}
    page = root / PAGE
    write_text(page, fill(page.read_text(encoding="utf-8"), blocks_of(found), FAMILY))
    (root / PICTURES).mkdir(parents=True, exist_ok=True)
    pictures = [draw(name, rows, root / PICTURES / f"{name}-quantised.png") for name, rows in found.items() if rows]
    return [page, *pictures]


def read_rows(results: Path, name: str) -> list[Row]:
    """All rows of a data set, in the order of their seeds."""
    return [json.loads(file.read_text(encoding="utf-8")) for file in sorted(results.glob(f"{name}-*.json"))]


def blocks_of(found: Mapping[str, Sequence[Row]]) -> dict[str, list[str]]:
    """The lines of every table by its name, such as `"quantised: omniglot quality"`."""
    tables: dict[str, Callable[[Sequence[Row]], list[str]]] = {
        "quality": quality_table,
        "targets": target_table,
        "cost": cost_table,
    }
    return {
        f"{FAMILY}: {name} {table}": (make(rows) if rows else []) or [NO_ROW]
        for name, rows in found.items()
        for table, make in tables.items()
    }


def selected(rows: Sequence[Row], kind: str, method: str, ratio: int) -> list[Row]:
    """The rows of all seeds of one method, in one index size."""
    return [
        row for row in rows if row["case"].split("-")[1] == kind and (row["method"], row["ratio"]) == (method, ratio)
    ]


def ratios_of(rows: Sequence[Row], method: str) -> list[int]:
    """The ratios that a method was measured at."""
    return sorted({row["ratio"] for row in rows if row["method"] == method})


def figure_of(rows: Sequence[Row], part: str, capacity: str, metric: str = "mAP") -> Figure | None:
    """In percent, over seeds."""
    return Figure.of([100 * row[part][capacity][metric] for row in rows if capacity in row.get(part, {})])


def paired(rows: Sequence[Row], part: str, others: Sequence[Row], other_part: str, capacity: str) -> Figure | None:
    """By how much mAP rows are ahead of others, in percent, over the seeds that both have."""
    base = {row["case"]: row[other_part] for row in others}
    return Figure.of(
        [
            100 * (row[part][capacity]["mAP"] - base[row["case"]][capacity]["mAP"])
            for row in rows
            if row["case"] in base
        ]
    )


def parts_of(method: str) -> Sequence[str]:
    """What the rows of a method measured."""
    return tuple(PARTS) if method == QUERIES else (OTHERS,)


def quality_table(rows: Sequence[Row]) -> list[str]:
    """Mean average precision and recall@1 of queries of both capacities, by method and bytes an image."""
    columns = [(capacity, metric) for capacity in (DENSE, ASKED) for metric in ("mAP", "recall@1")]
    lines = [f"| network | index | bytes | seeds | {' | '.join(f'{float(c):g}: {m}' for c, m in columns)} |"]
    lines.append("|---|---|" + "---:|" * (2 + len(columns)))
    for kind, method in product(KINDS, METHODS):
        for ratio in ratios_of(rows, method):
            same = selected(rows, kind, method, ratio)
            for part in parts_of(method) if same else ():
                size = same[0]["bytes"] * (ratio if part == OWN_EXACT else 1)
                cells = " | ".join(_cell(figure_of(same, part, *column)) for column in columns)
                lines.append(f"| {kind} | {method}{PARTS[part]} | {size} | {len(same)} | {cells} |")
    return lines


def target_table(rows: Sequence[Row]) -> list[str]:
    """What was wanted of the indices that learn, and what came."""
    lines = ["| network | target | measured | met |", "|---|---|---:|---|"]
    for kind, ratio in product(KINDS, ratios_of(rows, "OPQ")):
        exact, start, learned, bound, asked = (
            selected(rows, kind, method, 1 if method == EXACT else ratio)
            for method in (EXACT, "OPQ", "centroids", BOUND, QUERIES)
        )
        for capacity in (DENSE, ASKED):
            lost = paired(exact, OTHERS, start, OTHERS, capacity)
            if lost is not None and lost.mean >= LARGE_LOSS:
                where = f"{kind} | {ratio}x, queries of {float(capacity):g}, OPQ loses {lost}:"
                lines += regained(f"{where} centroids", paired(learned, OTHERS, start, OTHERS, capacity), lost, 0.2)
                known = f"{where} centroids, knowing the queries,"
                lines += regained(known, paired(bound, OTHERS, start, OTHERS, capacity), lost)
                if capacity == ASKED:
                    lines += regained(f"{where} queries", paired(asked, OWN, start, OTHERS, capacity), lost, 0.5)
        short = paired(asked, OWN_EXACT, asked, OWN, ASKED)
        if ratio == 32 and short is not None:
            answer = "yes" if short.mean <= LARGE_LOSS else "no"
            lines.append(
                f"| {kind} | 32x, less than exact search by the same learned queries: at most 1 | {short} | {answer} |"
            )
    return lines if len(lines) > 2 else []


def regained(text: str, gain: Figure | None, lost: Figure, share: float | None = None) -> list[str]:
    """The line of a gain, which should be this share of what was lost; None if no share is wanted."""
    if gain is None:
        return []
    measured = f"{gain} ({gain.mean / lost.mean:.0%})"
    if share is None:
        return [f"| {text} regain | {measured} | - |"]
    answer = "yes" if gain.mean >= share * lost.mean else "no"
    return [f"| {text} regain at least {share:.0%} of it | {measured} | {answer} |"]


def cost_table(rows: Sequence[Row]) -> list[str]:
    """Bytes of the index, time of a query beside exact search, and what learning costs; means over all networks."""
    lines = ["| index | bytes an image | MB of the index | ms a query | of exact search | ms a step | search in it |"]
    lines.append("|---|" + "---:|" * 6)
    for method in METHODS:
        for ratio in ratios_of(rows, method):
            same = [row for row in rows if (row["method"], row["ratio"]) == (method, ratio)]
            shares = [row["latency_ms"] / row["exact_latency_ms"] for row in same if "latency_ms" in row]
            cells = [
                f"{same[0]['index_bytes'] / 1e6:.1f}",
                _mean([row["latency_ms"] for row in same if "latency_ms" in row], "{:.2f}"),
                _mean(shares, "{:.2f}"),
                _mean([row["step_ms"] for row in same if "step_ms" in row], "{:.0f}"),
                _mean([row["search_share"] for row in same if "search_share" in row], "{:.0%}"),
            ]
            lines.append(f"| {method} | {same[0]['bytes']} | {' | '.join(cells)} |")
    return lines if rows else []


def _mean(values: Sequence[float], form: str) -> str:
    return form.format(sum(values) / len(values)) if values else "-"


def _cell(figure: Figure | None) -> str:
    return "-" if figure is None else str(figure)


def draw(name: str, rows: Sequence[Row], path: Path) -> Path:
    """Draw mAP over bytes, a panel for each granularity and capacity; exact search is a line across."""
    figure = new_figure(13, 9)
    figure.suptitle(f"{SETS[name]}: a gallery of {rows[0]['images']:,} images, quantised", fontsize=12)
    panels = figure.subplots(len(KINDS), len(CAPACITIES), sharey="row", sharex=True)
    sizes = sorted({row["bytes"] for row in rows if row["method"] != EXACT})
    for (kind, capacity), axes in zip(product(KINDS, (DENSE, ASKED)), panels.flat, strict=True):
        for method in METHODS:
            draw_method(axes, rows, kind, method, capacity)
        axes.set_xscale("log")
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
        axes.set_title(f"capacities of {kind}, queries of {float(capacity):g}", fontsize=11)
        axes.set_xlabel("bytes an image")
        axes.set_ylabel("mAP (%)")
        draw_grid(axes)
    handles, names = panels[0][-1].get_legend_handles_labels()  # all methods have queries of the subnetwork
    figure.legend(handles, names, loc="outside lower center", ncols=len(METHODS), fontsize=10)
    return save_png(figure, path)


def draw_method(axes: Axes, rows: Sequence[Row], kind: str, method: str, capacity: str) -> None:
    """Draw the means over seeds of one method, with bars of a standard error."""
    part = OWN if method == QUERIES else OTHERS
    found = {
        ratio: figure_of(selected(rows, kind, method, ratio), part, capacity) for ratio in ratios_of(rows, method)
    }
    points = [(row["bytes"], found[row["ratio"]]) for row in rows if row["method"] == method]
    known = sorted({size: figure for size, figure in points if figure is not None}.items())
    if not known:
        return
    means = [figure.mean for _, figure in known]
    if method == EXACT:
        axes.axhline(means[0], color="#1b1b1b", linestyle="--", label=f"exact, {known[0][0]} bytes")
        return
    errors = [figure.error or 0.0 for _, figure in known]
    style = {"marker": "o", "color": COLOURS[method], "capsize": 3}
    axes.errorbar([size for size, _ in known], means, yerr=errors, label=NAMES.get(method, method), **style)
