"""The publishing script against the Hub on loopback: once run as a user runs it, else called in this process."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from prunnet_hf.cli.push import chosen_precisions
from push_to_hub import main, parse_arguments, push
from tests.hub_client import hub_environment
from tests.hub_server import HubServer

ROOT = Path(__file__).parents[1]
TIME_LIMIT = 1800
"""Seconds; only there so that a process that hangs ends some day."""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that temporary files go to."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.mark.usefixtures("snippets_run_here")
def test_dry_run_needs_no_hub_and_leaves_the_files_to_look_at(
    hub: HubServer, finished_run: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    words = [str(finished_run), "--repo_id", "org/name", "--capacities", "0.2", "--with_examples", "--dry_run"]
    lines = push(parse_arguments(words)).splitlines()
    assert lines[0] == "org/name, branch capacity-0.20:"
    assert "org/name, branch main:" in lines
    staged = re.search(r"The files are in (\S+);", lines[-1])
    assert staged is not None
    assert Path(staged[1]).is_relative_to(temporary)
    assert (Path(staged[1]) / "org" / "name" / "bands.index.json").is_file()
    assert (Path(staged[1]) / "org" / "name" / "examples.png").is_file()
    assert hub.requests == []


def test_a_dry_run_that_fails_leaves_nothing_behind(hub: HubServer, tmp_path: Path, temporary: Path) -> None:
    assert main([str(tmp_path / "nowhere"), "--repo_id", "org/name", "--dry_run"]) == 1
    assert list(temporary.iterdir()) == []


def test_an_error_is_one_line_and_a_status(hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nowhere"), "--repo_id", "org/name"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert re.fullmatch(r"push_to_hub\.py: error: .*nowhere.*--output_dir.*", line)


def test_push_says_where_everything_is(hub: HubServer, finished_run: Path, tmp_path: Path) -> None:
    words = [str(finished_run), "--repo_id", "org/name", "--capacities", "0.2", "--license", "mit"]
    result = subprocess.run(
        [sys.executable, "push_to_hub.py", *words],
        cwd=ROOT,
        env=hub_environment(hub, tmp_path / "home"),
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert [line.split(": ")[0] for line in result.stdout.splitlines()] == [
        f"{hub.endpoint}/org/name/tree/capacity-0.20",
        f"{hub.endpoint}/org/name",
    ]
    assert hub.token not in result.stdout + result.stderr
    assert set(hub.repos["org/name"].branches) == {"main", "capacity-0.20"}
    readme = hub.repos["org/name"].branches["main"].files["README.md"].content.decode()
    assert "license: mit\n" in readme
    assert hub.token not in readme
    # The card's snippet was really run, in a process of its own.
    assert "```text\n(3, 8) (3, 8)\n[[" in readme


@pytest.mark.parametrize(
    ("words", "precisions"),
    [
        ([], []),
        (["--onnx"], ["fp32", "fp16"]),
        (["--onnx", "--data_dir", "photos"], ["fp32", "fp16", "int8"]),
        (["--onnx", "int8", "--data_dir", "photos"], ["int8"]),
    ],
)
def test_precisions_of_onnx_files(words: list[str], precisions: list[str]) -> None:
    assert chosen_precisions(parse_arguments(["run", "--repo_id", "org/name", *words])) == precisions
