"""Files of other people, damaged: each gives data, or an error of one line that names it."""

from __future__ import annotations

import importlib
import random
from pathlib import Path

import pytest


@pytest.mark.parametrize("kind", ["pickle", "tar", "ids", "classes", "recipe", "record"])
def test_damaged_files_are_read_or_refused_by_name(tmp_path, monkeypatch, kind):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    mutations = importlib.import_module("foreign_mutations")  # it tries many more
    whole = {name: blob for name, blob in mutations.seeds().items() if name.startswith(kind)}
    assert {mutations.outcome(name, blob, tmp_path) for name, blob in whole.items()} == {"read"}
    damaged = [mutations.mutate(whole, random.Random(f"test {number}")) for number in range(60)]
    assert "refused" in {mutations.outcome(name, blob, tmp_path) for name, blob in damaged}
