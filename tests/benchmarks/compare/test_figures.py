"""Means, standard errors, differences and costs, with values that can be checked by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.compare.figures import CROSS, MEAN, SELF, Figure, Rows, passes_of, read_rows, stored_bytes
from benchmarks.compare.methods import CAPACITIES, DEFAULT, DENSE_ALONE, find_entry
from benchmarks.compare.pages import NO_ROW, fill
from benchmarks.compare.plan import COMPARED, RECIPES, RESULTS
from benchmarks.compare.report import PAGES, ROOT, TABLES, beside, blocks_of, write_report
from benchmarks.compare.tables import cost_table, difference_table, quality_table, short_table, summary

ROUND = {0.05: 0.5, 0.1: 0.6, 0.2: 0.7, 0.4: 0.7, 0.6: 0.8, 1.0: 0.9}
"""Its mean is 0.7."""


def row(name: str, seed: int, cells: dict[float, float], *, minutes: float = 2.0, **recipe: Any) -> dict[str, Any]:
    """A row whose self-tests are `cells`, and whose cross-tests are a tenth lower."""
    return {
        "entry": name,
        "seed": seed,
        "flags": {},
        "self": {f"{capacity:g}": value for capacity, value in cells.items()},
        "cross": {f"{capacity:g}": value - 0.1 for capacity, value in cells.items()},
        "cpu_seconds": 60 * minutes,
        "record": {
            "recipe": {"capacity_sampling": "sandwich", "capacity_draws": 2, "capacities": [0.1, 0.2], **recipe},
            "capacities": [{"capacity": c, "file_bytes": 1e6 * c, "latency_ms": c} for c in cells],
        },
    }


def rows_of(name: str, *cells: dict[float, float], **recipe: Any) -> Rows:
    return Rows(find_entry(name), tuple(row(name, seed, each, **recipe) for seed, each in enumerate(cells)))


def shifted(by: float) -> dict[float, float]:
    return {capacity: value + by for capacity, value in ROUND.items()}


@pytest.fixture
def every() -> dict[str, Rows]:
    rows = [
        rows_of(DEFAULT, shifted(0.0), shifted(0.02), shifted(0.04)),
        rows_of(DENSE_ALONE, {1.0: 0.90}, {1.0: 0.92}, {1.0: 0.94}),
        rows_of("thin, alone 0.2", {0.2: 0.75}),
        rows_of("regression 0.2", {0.2: 0.75}),
        rows_of("regression 0.1", {0.1: 0.7}),
    ]
    return {each.entry.name: each for each in rows}


def test_a_standard_error_is_that_of_the_mean() -> None:
    figure = Figure.of([1.0, 2.0, 6.0])  # mean 3, squares 4 + 1 + 9 = 14, variance 7
    assert (figure.mean, figure.count) == (3.0, 3)
    assert figure.error == pytest.approx((7 / 3) ** 0.5)
    assert str(figure) == "3.0 ± 1.5"
    assert str(Figure.of([70.04])) == "70.0"
    assert Figure.of([]) is None


def test_errors_of_a_difference_add_up_as_squares() -> None:
    difference = Figure(5.0, 0.3, 3).minus(Figure(3.5, 0.4, 2))
    assert (difference.mean, difference.count) == (1.5, 2)
    assert difference.error == pytest.approx(0.5)
    assert Figure(5.0, 0.3, 3).minus(Figure(3.5, None, 1)).error is None


def test_figures_are_in_percent_over_seeds(every: dict[str, Rows]) -> None:
    assert str(every[DEFAULT].figure(SELF, 0.2)) == "72.0 ± 1.2"  # 70, 72, 74: deviation 2, by the root of 3
    assert str(every[DEFAULT].figure(CROSS, 0.2)) == "62.0 ± 1.2"
    assert str(every[DEFAULT].figure(SELF, MEAN)) == "72.0 ± 1.2"
    assert every[DENSE_ALONE].figure(SELF, MEAN) is None
    assert every[DENSE_ALONE].figure(SELF, 0.2) is None


def test_the_quality_table(every: dict[str, Rows]) -> None:
    assert quality_table({name: every[name] for name in (DEFAULT, DENSE_ALONE)}) == [
        "| method | seeds | test | 0.05 | 0.1 | 0.2 | 0.4 | 0.6 | dense | mean |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|---:|",
        "| default, weights | 3 | self | 52.0 ± 1.2 | 62.0 ± 1.2 | 72.0 ± 1.2 | 72.0 ± 1.2 | 82.0 ± 1.2 | "
        "92.0 ± 1.2 | 72.0 ± 1.2 |",
        "|  | | cross | 42.0 ± 1.2 | 52.0 ± 1.2 | 62.0 ± 1.2 | 62.0 ± 1.2 | 72.0 ± 1.2 | 82.0 ± 1.2 | 62.0 ± 1.2 |",
        "| alone, dense | 3 | self | - | - | - | - | - | 92.0 ± 1.2 | - |",
    ]


def test_the_difference_table(every: dict[str, Rows]) -> None:
    lines = difference_table(every)
    assert not any(line.startswith(f"| {DEFAULT} ") for line in lines)
    # A network alone, at 75, against 72 and 62; one that searches another's gallery at 65 against the default's 62.
    assert lines[4:8] == [
        "| thin, alone 0.2 | 1 | self | - | - | 3.0 | - | - | - | - |",
        "|  | | cross | - | - | 13.0 | - | - | - | - |",
        "| regression 0.2 | 1 | self | - | - | 3.0 | - | - | - | - |",
        "|  | | cross | - | - | 3.0 | - | - | - | - |",
    ]
    assert lines[2].split(" | ")[8] == "0.0 ± 1.6"  # twice 1.155, as squares
    assert difference_table({DENSE_ALONE: every[DENSE_ALONE]}) == []


@pytest.mark.parametrize(
    ("name", "recipe", "passes"),
    [
        (DEFAULT, {}, "4"),
        ("paper", {"capacity_sampling": "fixed", "capacities": [0.2, 0.4, 0.6, 0.8]}, "5"),
        ("paper", {"capacity_sampling": "fixed", "capacities": [0.2, 1.0]}, "2"),
        (DENSE_ALONE, {}, "1"),
        ("bct 0.1", {}, "1, and 1 forward"),
        ("post hoc, magnitude", {}, "0"),
    ],
)
def test_passes_of_a_step(name: str, recipe: dict[str, Any], passes: str) -> None:
    assert passes_of(rows_of(name, ROUND, **recipe)) == passes


def test_networks_for_one_capacity_are_stored_side_by_side(every: dict[str, Rows]) -> None:
    assert stored_bytes(every, every[DEFAULT], (0.1, 0.2, 1.0)) == 1e6  # one file
    assert stored_bytes(every, every["regression 0.2"], (0.1, 0.2, 1.0)) == pytest.approx(1.3e6)
    assert stored_bytes(every, every["thin, alone 0.2"], (0.1, 0.2, 1.0)) is None  # 0.1 isn't there
    assert stored_bytes(every, every["thin, alone 0.2"], (0.2, 1.0)) == pytest.approx(1.2e6)
    assert cost_table(every)[2:4] == [
        "| default, weights | 4 | 2.0 ± 0.0 | 1.00 |",
        "| alone, dense | 1 | 2.0 ± 0.0 | - |",
    ]


def test_the_summary_has_what_the_tables_have(every: dict[str, Rows]) -> None:
    found = summary(every)[DEFAULT]
    assert found["seeds"] == [0, 1, 2]
    assert found["cross"]["0.2"]["mean"] == pytest.approx(62.0)
    assert set(found["self"]) == {*(f"{capacity:g}" for capacity in CAPACITIES[:-1]), "dense", "mean"}


def test_a_report_is_written_from_the_rows_that_are_there(every: dict[str, Rows], tmp_path: Path) -> None:
    folder = tmp_path / "grocery" / "main"
    folder.mkdir(parents=True)
    for rows in every.values():
        for each in rows.rows:
            (folder / f"{each['entry'].replace(' ', '-')}-{each['seed']}.json").write_text(json.dumps(each))
    assert [*read_rows(tmp_path, "grocery", "main")] == [*every]
    page = tmp_path / "docs" / "results.md"
    page.parent.mkdir()
    names = [f"grocery main {table}" for table in TABLES["main"]]
    others = "".join(f"<!-- {name} -->\n<!-- /{name} -->\n" for name in ("short", *names[1:]))
    page.write_text(f"Before\n<!-- {names[0]} -->\nold\n<!-- /{names[0]} -->\nAfter\n{others}")
    files = {str(file.relative_to(tmp_path)) for file in write_report(tmp_path, tmp_path)}
    pictures = {f"docs/pictures/grocery-{name}.png" for name in ("capacity", "cost")}
    assert files == {"docs/results.md", "summary.json", *pictures}
    table = "\n".join(quality_table(every))
    expected = f"Before\n<!-- grocery main quality -->\n\n{table}\n\n<!-- /grocery main quality -->\nAfter\n"
    written = page.read_text()
    assert written.startswith(expected)
    assert NO_ROW not in written
    assert [*json.loads((tmp_path / "summary.json").read_text())] == ["grocery main"]
    write_report(tmp_path, tmp_path)
    assert page.read_text() == written
    page.write_text("Only words\n")
    with pytest.raises(ValueError, match=r"have no place for the tables 'short', 'grocery main quality', "):
        write_report(tmp_path, tmp_path)


def test_rows_of_several_settings_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "grocery" / "main"
    folder.mkdir(parents=True)
    for seed, rate in enumerate((0.1, 0.15)):
        content = {**row("paper", seed, ROUND), "flags": {"learning_rate": rate}}
        (folder / f"{seed}.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"rows of 'paper' with several settings.*remove them"):
        read_rows(tmp_path, "grocery", "main")


def test_a_table_without_rows_says_so_in_its_place() -> None:
    page = "<!-- omniglot side cost -->\n<!-- /omniglot side cost -->\n"
    blocks = blocks_of({}, Path("nowhere"))
    assert fill(page, blocks) == f"<!-- omniglot side cost -->\n\n{NO_ROW}\n\n<!-- /omniglot side cost -->\n"


def test_side_rows_stand_beside_main_ones_of_the_same_seeds() -> None:
    main = {
        "prunnet, units": Rows(find_entry("prunnet, units"), tuple(row("prunnet, units", s, ROUND) for s in (0, 1, 2)))
    }
    side = {"merger: sum": Rows(find_entry("merger: sum"), tuple(row("merger: sum", s, ROUND) for s in (0, 2)))}
    assert [each["seed"] for each in beside(main, side)["prunnet, units"].rows] == [0, 2]
    assert beside({}, side) == {}


def test_the_short_table_has_cross_tests_of_the_default() -> None:
    found = {"omniglot": {DEFAULT: rows_of(DEFAULT, shifted(0.0)), "paper": rows_of("paper", ROUND)}}
    assert short_table(found)[2:] == ["| Omniglot | weights | 40.0 | 50.0 | 60.0 | 70.0 | 80.0 |"]
    assert short_table({"omniglot": {"paper": rows_of("paper", ROUND)}}) == []


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_pages_have_what_the_rows_say(page: Path) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    rows = {(recipe, phase): read_rows(RESULTS, recipe, phase) for recipe in RECIPES for phase in COMPARED}
    blocks = blocks_of({key: found for key, found in rows.items() if found}, RESULTS)
    assert re.search(r"<!-- /[a-z ]+ -->", text)
    assert fill(text, blocks) == text, "run python -m benchmarks.compare --recipe omniglot --report"
