"""Paths that come twice are found and named."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunnet_hf.retrieval.distinct_paths import DistinctPaths


@given(st.lists(st.lists(st.text(max_size=3), max_size=4), max_size=4))
def test_refused_exactly_if_a_path_comes_twice(
    tmp_path_factory: pytest.TempPathFactory, files: list[list[str]]
) -> None:
    folder = tmp_path_factory.getbasetemp()
    seen = DistinctPaths()
    for number, paths in enumerate(files):
        pq.write_table(pa.table({"path": pa.array(paths, pa.string())}), folder / f"{number}.parquet")
        seen.add(paths[:1], folder / f"{number}.parquet")  # in two batches, as files are read
        seen.add(paths[1:], folder / f"{number}.parquet")
    every = [path for paths in files for path in paths]
    if len(set(every)) == len(every):
        seen.check()
        return
    with pytest.raises(ValueError, match="paths must name each image once") as raised:
        seen.check()
    assert any(str(raised.value).startswith(repr(path)) for path in every if every.count(path) > 1)


def test_both_files_are_named(tmp_path: Path) -> None:
    seen = DistinctPaths()
    for name, paths in (("a", ["1", "2"]), ("b", ["3", "2"])):
        pq.write_table(pa.table({"path": paths}), tmp_path / name)
        seen.add(paths, tmp_path / name)
    with pytest.raises(ValueError, match=rf"^'2' is in {tmp_path / 'a'} and in {tmp_path / 'b'}"):
        seen.check()
