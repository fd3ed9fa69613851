"""`prunnet page`: what it asks for, and what it knows of a run. What it makes is in tests/export/page."""

from __future__ import annotations

from pathlib import Path

import pytest

from prunnet_hf import PrunNetModel
from prunnet_hf.cli.main import main
from prunnet_hf.cli.page import known_capacities, matrix_of
from prunnet_hf.runs.record import RunRecord

GLYPHS = Path(__file__).parents[2] / "model_cards" / "glyphs"


@pytest.fixture(scope="module")
def record() -> RunRecord:
    return RunRecord.read(GLYPHS / "metrics.json")


def test_capacities_are_those_that_were_evaluated_or_else_trained(record: RunRecord) -> None:
    dense = PrunNetModel.from_pretrained(GLYPHS / "model")
    assert known_capacities(dense, record) == [0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8]
    assert known_capacities(dense, None) == [0.1, 0.2, 0.4, 0.6, 0.8]


def test_the_matrix_is_that_of_the_headline_metric(record: RunRecord) -> None:
    matrix = matrix_of(record)
    assert matrix is not None
    assert matrix.metric == "mAP"
    assert matrix.queries == matrix.galleries == record.evaluated_capacities
    assert matrix.values[1][-1] == record.value("mAP", 0.1, 1.0)
    assert matrix_of(None) is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--output", "site"], "a model and --gallery must be given"),
        (["model", "--output", "site"], "gallery=None"),
        (["--output", "site", "--serve"], "must be the folder of a page, which prunnet page makes"),
        ([str(GLYPHS), "--gallery", "nowhere", "--output", "site"], "nowhere"),
    ],
)
def test_errors_are_one_line(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["page", *words]) == 1
    printed = capsys.readouterr().err.splitlines()
    assert [line for line in printed if line.startswith("prunnet page: error: ") and said in line]
    assert not (tmp_path / "site").exists()
