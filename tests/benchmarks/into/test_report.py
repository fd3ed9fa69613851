"""What rows say, with values that can be checked by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.compare.pages import NO_ROW, fill
from benchmarks.into.__main__ import RESULTS
from benchmarks.into.plan import SETS
from benchmarks.into.report import LABELS, PAGE, ROOT, blocks_of, read_rows, write_report


def row(name: str, measure: str, seed: int = 0, cpu: float = 60.0, **figures: Any) -> dict[str, Any]:
    """A row of the step `name-seedN`; figures besides `values` stay as they are."""
    more = {key: figures.pop(key) for key in ("itself", "criterion", "kept") if key in figures}
    values = figures.pop("values")
    return {
        "step": name,
        "measure": measure,
        "label": LABELS[name],
        "seed": seed,
        "cpu_seconds": cpu,
        "values": values,
        **more,
    }


def into(name: str, seed: int = 0, cpu: float = 60.0, **values: float) -> dict[str, Any]:
    named = {key.replace("at_", "").replace("_", "."): value for key, value in values.items()}
    return row(name, "teacher", seed, cpu, values=named, itself=0.8)


ROWS = [
    row("teacher", "teacher", cpu=120.0, values={"1": 0.8}),
    into("into", at_1=0.7, at_0_4=0.69, at_0_2=0.68, at_0_1=0.66),
    into("into", seed=1, at_1=0.72, at_0_4=0.7, at_0_2=0.7, at_0_1=0.68),
    into("alone-0.2", cpu=30.0, at_0_2=0.7),
    into("alone-0.1", cpu=30.0, at_0_1=0.65),
    into("alone-0.2", seed=1, cpu=30.0, at_0_2=0.71),
    {**row("usual", "teacher", values={"1": 0.9}), "label": LABELS["usual"]},
]


def test_networks_alone_share_a_line_and_their_minutes_add_up() -> None:
    lines = blocks_of({"omniglot": ROWS})["into: omniglot teacher"]
    assert lines[0] == "| queries by | seeds | 1 | 0.4 | 0.2 | 0.1 | CPU minutes |"
    assert lines[2] == "| the teacher itself | 1 | 80.0 | 80.0 | 80.0 | 80.0 | 2.0 |"
    # 68 and 70: 69.0, with a standard error of 1.0.
    assert "| 71.0 ± 1.0 | 69.5 ± 0.5 | 69.0 ± 1.0 | 67.0 ± 1.0 | 1.0 ± 0.0 |" in lines[3]
    # Seed 0 has two trainings of half a minute, seed 1 one.
    assert lines[4].endswith("| 2 | - | - | 70.5 ± 0.5 | 65.0 | 0.8 ± 0.2 |")
    assert lines[5:] == ["", "![mAP of queries in a teacher's gallery on Omniglot](pictures/omniglot-into.png)"]
    # That is all: the usual training is in a space of its own.


def test_targets_are_taken_seed_by_seed() -> None:
    lines = blocks_of({"omniglot": ROWS})["into: omniglot targets"]
    # 68 - 70 = -2 and 70 - 71 = -1: -1.5, with a standard error of 0.5.
    assert lines[2] == "| one for all, without labels, less one alone at 0.2: at least -2 | -1.50 ± 0.50 | yes |"
    assert len(lines) == 3
    one = blocks_of({"omniglot": [*ROWS[:2], into("alone-0.2", at_0_2=0.71)]})["into: omniglot targets"]
    assert one[2].endswith("| -3.00 | no, by one seed |")


def test_gains_are_over_the_subnetwork_as_it_was_cut() -> None:
    rows = [
        row("phone", "shift", values={"clean": 0.7, "shifted": 0.5}),
        row("tuned", "shift", values={"clean": 0.694, "shifted": 0.6}),
    ]
    blocks = blocks_of({"omniglot": rows})
    assert blocks["into: omniglot shift"][2] == "| as it was cut | 1 | 50.0 | 70.0 | - | - |"
    assert blocks["into: omniglot shift"][3].endswith("| 1 | 60.0 | 69.4 | 10.0 | -0.6 |")
    assert [line.split(" | ")[1:] for line in blocks["into: omniglot targets"][2:]] == [
        ["10.00", "yes, by one seed |"],
        ["-0.60", "no, by one seed |"],
    ]


def test_the_criterion_holds_within_one_standard_error() -> None:
    held = {"1": {"old": 0.6, "new": 0.7, "error": 0.01}, "0.2": {"old": 0.6, "new": 0.595, "error": 0.01}}
    failed = {"1": {"old": 0.6, "new": 0.7, "error": 0.01}, "0.2": {"old": 0.6, "new": 0.585, "error": 0.01}}
    rows = [
        row("new", "upgrade", values={"1": 0.7}, itself=0.6, criterion=held, kept=True),
        row("new", "upgrade", seed=1, values={"1": 0.7}, itself=0.6, criterion=failed, kept=False),
        row("upgrade-map", "upgrade", values={"1": 0.5, "0.2": 0.4}),
    ]
    blocks = blocks_of({"omniglot": rows})
    assert blocks["into: omniglot upgrade"][2:] == [
        "| 1 | 2 | 60.0 ± 0.0 | 70.0 ± 0.0 | 10.0 ± 0.0 | 2 of 2 | 50.0 |",
        "| 0.2 | 2 | 60.0 ± 0.0 | 59.0 ± 0.5 | -1.0 ± 0.5 | 1 of 2 | 40.0 |",
    ]
    assert (
        blocks["into: omniglot targets"][2]
        == "| the upgrade stays in its space, at every capacity | 1 of 2 seeds | no |"
    )


def test_losses_are_compared_on_validation_classes() -> None:
    rows = [
        row(f"trial-{name}", "validation", seed=seed, values={"0.2": value}, itself=0.8)
        for name, seed, value in (("csd", 0, 0.5), ("csd", 1, 0.6), ("regression", 0, 0.6))
    ]
    assert blocks_of({"omniglot": rows})["into: losses"][2:] == [
        "| regression | 1 | 60.0 |",
        "| csd | 2 | 55.0 ± 5.0 |",
    ]


def test_rows_become_tables_in_their_places_and_a_picture(tmp_path: Path) -> None:
    (tmp_path / "rows/omniglot").mkdir(parents=True)
    for place, each in enumerate(ROWS):
        (tmp_path / f"rows/omniglot/{place}.json").write_text(json.dumps(each))
    (tmp_path / "docs").mkdir()
    page = tmp_path / PAGE
    page.write_text("<!-- into: omniglot teacher -->\nold\n<!-- /into: omniglot teacher -->\n")
    files = write_report(tmp_path / "rows", tmp_path)
    assert files == [page, tmp_path / "docs/pictures/omniglot-into.png"]
    assert "| the teacher itself | 1 | 80.0 |" in page.read_text()
    assert files[1].stat().st_size > 10_000


def test_the_page_says_what_the_rows_say() -> None:
    found = {name: read_rows(RESULTS / name) for name in SETS}
    text, blocks = (ROOT / PAGE).read_text(encoding="utf-8"), blocks_of(found)
    assert fill(text, blocks, "into") == text
    for name, lines in blocks.items():
        assert lines == [NO_ROW] or f"<!-- {name} -->" in text, name
    assert "<!-- into: omniglot teacher -->" in text


@pytest.mark.parametrize("rows", [[], [ROWS[0]]])
def test_tables_without_rows_say_so(rows: list[dict[str, Any]]) -> None:
    blocks = blocks_of({"omniglot": rows})
    assert blocks["into: omniglot shift"] == blocks["into: losses"] == [NO_ROW]
