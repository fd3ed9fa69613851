"""Snippets: short, really run, and shown with the output of this very snippet only."""

from __future__ import annotations

from pathlib import Path

import pytest

from prunnet_hf.hub.usage import (
    Usage,
    dense_code,
    record_usage,
    recorded_usage,
    run_code,
    single_code,
    subnetwork_code,
)

SNIPPETS = {
    "dense": dense_code("org/name", 0.2),
    "subnetwork": subnetwork_code("org/name-capacity-0.20", "org/name"),
    "single": single_code("org/name"),
}


@pytest.mark.parametrize("name", SNIPPETS)
def test_snippets_are_short_python(name: str) -> None:
    code = SNIPPETS[name]
    compile(code, name, "exec")
    lines = [line for line in code.splitlines() if line]
    assert len(lines) < 15
    assert all(len(line) < 120 for line in lines)
    assert 'from_pretrained("org/name")' in code


def test_snippet_of_the_dense_model_prunes() -> None:
    assert "server.prune(capacity=0.2)" in SNIPPETS["dense"]
    assert "prune(" not in SNIPPETS["subnetwork"] + SNIPPETS["single"]


def test_code_runs_in_its_folder_offline_with_this_package(tmp_path: Path) -> None:
    code = (
        "import os\nfrom importlib.util import find_spec\n"
        "print(os.getcwd(), os.environ['HF_HUB_OFFLINE'], find_spec('prunnet_hf').origin)\n"
    )
    found = run_code(code, tmp_path)
    expected = Path(__file__).parents[2] / "prunnet_hf/__init__.py"
    assert found == Usage(code, f"{tmp_path.resolve()} 1 {expected}\n")


def test_code_takes_no_module_from_the_folder_it_runs_in(tmp_path: Path) -> None:
    (tmp_path / "colorsys.py").write_text("raise SystemExit(1)")
    assert run_code("import colorsys\nprint(1)\n", tmp_path).output == "1\n"


def test_failure_shows_code_and_output(tmp_path: Path) -> None:
    code = "print('so far')\nraise ValueError('and no further')\n"
    with pytest.raises(RuntimeError, match=r"(?s)status 1.*so far.*ValueError: and no further.*print\('so far'\)"):
        run_code(code, tmp_path)


def test_record_is_of_one_snippet(tmp_path: Path) -> None:
    assert recorded_usage(tmp_path, "print(1)\n") == Usage("print(1)\n", None)
    record_usage(tmp_path, Usage("print(1)\n", "1\n"))
    assert recorded_usage(tmp_path, "print(1)\n") == Usage("print(1)\n", "1\n")
    # Another snippet never printed that.
    assert recorded_usage(tmp_path, "print(2)\n") == Usage("print(2)\n", None)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[1]",
        b"\xff",
        b"{}",
        b'{"code": 1}',
        b'{"code": "", "output": 1}',
        b'{"code": "", "more": 1}',
        b"[" * 100_000,
    ],
    ids=lambda content: content[:20],
)
def test_damaged_record_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "usage.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"(?s)usage\.json is damaged \(.*\)\. Remove it"):
        recorded_usage(tmp_path, "print(1)\n")
