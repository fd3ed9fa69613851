"""What the rows of quantised galleries say, with values that can be checked by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.compare.pages import NO_ROW, fill
from benchmarks.quantization.__main__ import RESULTS
from benchmarks.quantization.report import FAMILY, PAGE, ROOT, SETS, blocks_of, read_rows, write_report

COST = {"index_bytes": 2_000_000, "latency_ms": 1.0, "exact_latency_ms": 4.0}
STEP = {"step_ms": 50.0, "search_share": 0.25}


def quality(mean: float) -> dict[str, float]:
    return {"mAP": mean, "recall@1": mean + 0.1}


def row(method: str, ratio: int, dense: float, fifth: float, seed: int = 0, **more: Any) -> dict[str, Any]:
    """A row of units."""
    capacities = {"1.00": quality(dense), "0.20": quality(fifth)}
    common = {"case": f"omniglot-units-seed{seed}", "images": 1000, "bytes": 1024 // ratio, **COST, **more}
    return {**common, "method": method, "ratio": ratio, "capacities": capacities}


ROWS = [
    row("exact", 1, 0.70, 0.60),
    row("OPQ", 32, 0.695, 0.56),
    row("centroids", 32, 0.70, 0.57, **STEP),
    row("bound", 32, 0.70, 0.58, **STEP),
    row("queries", 32, 0.70, 0.57, own={"0.20": quality(0.575)}, **{"own exact": {"0.20": quality(0.59)}}, **STEP),
]


def test_targets_are_shares_of_what_opq_loses() -> None:
    lines = blocks_of({"omniglot": ROWS})["quantised: omniglot targets"][2:]
    assert lines == [  # queries of 1.0 lose 0.5 only, too little for a share of it to say anything
        "| units | 32x, queries of 0.2, OPQ loses 4.0: centroids regain at least 20% of it | 1.0 (25%) | yes |",
        "| units | 32x, queries of 0.2, OPQ loses 4.0: centroids, knowing the queries, regain | 2.0 (50%) | - |",
        "| units | 32x, queries of 0.2, OPQ loses 4.0: queries regain at least 50% of it | 1.5 (37%) | no |",
        "| units | 32x, less than exact search by the same learned queries: at most 1 | 1.5 | no |",
    ]


def test_quality_has_a_line_for_each_network_that_asks() -> None:
    lines = blocks_of({"omniglot": ROWS})["quantised: omniglot quality"][2:]
    assert lines[0] == "| units | exact | 1024 | 1 | 70.0 | 80.0 | 60.0 | 70.0 |"
    assert lines[-2] == "| units | queries, asked by them | 32 | 1 | - | - | 57.5 | 67.5 |"
    assert lines[-1] == "| units | queries, asked by them, exact search | 1024 | 1 | - | - | 59.0 | 69.0 |"


def test_seeds_have_a_standard_error_and_differences_are_taken_seed_by_seed() -> None:
    later = [
        row(each["method"], each["ratio"], 0.90, value, seed=1)
        for each, value in zip(ROWS, (0.64, 0.58, 0.60), strict=False)
    ]
    blocks = blocks_of({"omniglot": [*ROWS[:3], *later]})
    assert (
        "| units | OPQ | 32 | 2 | 79.8 ± 10.2 | 89.8 ± 10.2 | 57.0 ± 1.0 | 67.0 ± 1.0 |"
        in blocks["quantised: omniglot quality"]
    )
    assert any("OPQ loses 5.0 ± 1.0: centroids" in line for line in blocks["quantised: omniglot targets"])


def test_costs_are_means_over_all_networks() -> None:
    lines = blocks_of({"omniglot": ROWS})["quantised: omniglot cost"][2:]
    assert lines[2] == "| centroids | 32 | 2.0 | 1.00 | 0.25 | 50 | 25% |"


def test_a_report_fills_the_page_and_draws_a_picture(tmp_path: Path) -> None:
    results, page = tmp_path / "results", tmp_path / PAGE
    results.mkdir()
    for place, each in enumerate(ROWS):
        (results / f"omniglot-units-seed0-{place}.json").write_text(json.dumps(each))
    page.parent.mkdir()
    page.write_text("<!-- quantised: grocery cost -->\n<!-- /quantised: grocery cost -->\n")
    written = write_report(results, tmp_path)
    assert NO_ROW in page.read_text()
    assert written == [page, tmp_path / "docs/pictures/omniglot-quantised.png"]
    assert written[1].stat().st_size > 10_000


@pytest.mark.parametrize("name", SETS)
def test_the_page_has_what_the_rows_say(name: str) -> None:
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    blocks = blocks_of({each: read_rows(RESULTS, each) for each in SETS})
    assert f"<!-- {FAMILY}: {name} quality -->" in text
    assert fill(text, blocks, FAMILY) == text, "run python -m benchmarks.quantization --report"
