"""The publishing script, run as a user runs it, against the Hub on loopback."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.hub_client import hub_environment
from tests.hub_server import HubServer

ROOT = Path(__file__).parents[1]


def push(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "push_to_hub.py", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_dry_run_needs_no_hub_and_leaves_the_files_to_look_at(
    hub: HubServer, finished_run: Path, tmp_path: Path
) -> None:
    environment = hub_environment(hub, tmp_path / "home") | {"HF_HUB_OFFLINE": "1", "TMPDIR": str(tmp_path)}
    del environment["HF_TOKEN"]
    result = push(environment, str(finished_run), "--repo_id", "org/name", "--capacities", "0.2", "--dry_run")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "org/name, branch capacity-0.20:"
    assert "org/name, branch main:" in lines
    staged = re.search(r"The files are in (\S+);", lines[-1])
    assert staged is not None
    assert (Path(staged[1]) / "org" / "name" / "bands.index.json").is_file()
    assert hub.requests == []


def test_a_dry_run_that_fails_leaves_nothing_behind(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "temporary").mkdir()
    environment = hub_environment(hub, tmp_path / "home") | {"TMPDIR": str(tmp_path / "temporary")}
    result = push(environment, str(tmp_path / "nowhere"), "--repo_id", "org/name", "--dry_run")
    assert result.returncode == 1
    assert list((tmp_path / "temporary").glob("prunnet-*")) == []


def test_push_says_where_everything_is(hub: HubServer, finished_run: Path, tmp_path: Path) -> None:
    environment = hub_environment(hub, tmp_path / "home")
    result = push(environment, str(finished_run), "--repo_id", "org/name", "--capacities", "0.2", "--license", "mit")
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


def test_an_error_is_one_line_and_a_status(hub: HubServer, tmp_path: Path) -> None:
    result = push(hub_environment(hub, tmp_path / "home"), str(tmp_path / "nowhere"), "--repo_id", "org/name")
    assert result.returncode == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert re.fullmatch(r"push_to_hub\.py: error: The run directory .*nowhere doesn't exist\. .*", line)
