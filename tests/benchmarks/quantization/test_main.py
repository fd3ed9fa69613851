"""The command of the quantisation benchmark: a trial's rows don't come among those of the report."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.quantization.__main__ import RESULTS, parse

COMMON = ["--set", "omniglot", "--data_dir", "data", "--runs", "out", "--work_dir", "work"]


def test_a_short_trial_has_results_of_its_own(tmp_path: Path) -> None:
    for short in (["--steps", "10"], ["--images", "1000"]):
        with pytest.raises(ValueError, match=f"{short[0]} {short[1]} .*--results"):
            parse([*COMMON, *short])
        assert parse([*COMMON, *short, "--results", str(tmp_path)]).results == tmp_path
    assert parse(COMMON).results == RESULTS


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ValueError, match=r"^--runs, --work_dir must be given; only --report"):
        parse(COMMON[:4])
    assert parse(["--report"]).report
