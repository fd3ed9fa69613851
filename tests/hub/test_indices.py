"""The PQ Index on a card: recorded with its picture, read back as it was, and summed up a capacity."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prunnet_hf.compression.report import Compressibility, CompressibilityRow, compressibility
from prunnet_hf.hub.indices import IndexRow, index_rows, record_indices, recorded_indices
from tests.tiny_models import tiny

ROWS = [
    {"layer": None, "capacity": 0.5, "num_weights": 400, "kept": 200, "index": 0.25, "keep_bound": 150.0},
    {"layer": "conv", "capacity": 0.5, "num_weights": 100, "kept": 50, "index": 0.4, "keep_bound": 20.0},
    {"layer": "fc", "capacity": 0.5, "num_weights": 300, "kept": 150, "index": 0.1, "keep_bound": 130.0},
]
RECORD = {"format": 1, "rows": ROWS, "p": 0.5, "q": 1.0, "eta": 0.0}


def write_record(folder: Path, content: Any) -> Path:
    (folder / "compressibility.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.mark.parametrize("part", ["whole", "base"])
def test_record_is_read_back_as_it_was_measured(part: str, tmp_path: Path) -> None:
    model = tiny() if part == "whole" else tiny().prunnet
    record_indices(tmp_path, model, [0.2, 0.55, 1.0])
    assert recorded_indices(tmp_path) == compressibility(model, [0.2, 0.55, 1.0])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["compressibility.json", "compressibility.png"]
    assert (tmp_path / "compressibility.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_is_recorded_of_a_network_that_cannot_be_pruned(tmp_path: Path) -> None:
    record_indices(tmp_path, tiny().prune(0.2), [0.2])
    assert list(tmp_path.iterdir()) == []
    assert recorded_indices(tmp_path) is None


def test_nothing_is_recorded_of_weights_that_are_not_finite(tmp_path: Path) -> None:
    model = tiny().prunnet
    with torch.no_grad():
        model.get_parameter("backbone.conv1.weight").fill_(torch.inf)
    with pytest.raises(ValueError, match=r"backbone\.conv1.*finite"):
        record_indices(tmp_path, model, [0.2])
    assert list(tmp_path.iterdir()) == []


def test_table_worked_out_by_hand(tmp_path: Path) -> None:
    found = recorded_indices(write_record(tmp_path, RECORD))
    assert found is not None
    (row,) = index_rows(found)
    # mean (100 * 0.4 + 300 * 0.1) / 400; bound (20 + 130) / 400
    assert row == IndexRow(0.5, 200, 0.25, pytest.approx(0.175), 0.1, 0.4, pytest.approx(0.375))


@given(st.lists(st.tuples(st.integers(1, 10**6), st.floats(0, 1, exclude_max=True)), min_size=1))
def test_mean_lies_between_the_layers_and_the_bound_within_what_is_kept(layers: list[tuple[int, float]]) -> None:
    rows = [
        CompressibilityRow(str(place), 1.0, size, size, index, size * (1 - index))
        for place, (size, index) in enumerate(layers)
    ]
    total = sum(size for size, _ in layers)
    (row,) = index_rows(Compressibility((CompressibilityRow(None, 1.0, total, total, 0.5, 0.0), *rows), 0.5, 1.0, 0.0))
    assert row.lowest - 1e-12 <= row.mean <= row.highest + 1e-12
    # With p = 0.5 and q = 1, SAP keeps `d (1 - I)` of each layer.
    assert row.bound == pytest.approx(1 - row.mean)


@pytest.mark.parametrize("text", ["", "{", '{"format": 1', "\x00"])
def test_file_that_is_no_json(text: str, tmp_path: Path) -> None:
    (tmp_path / "compressibility.json").write_text(text)
    with pytest.raises(ValueError, match=r"(?s)compressibility\.json.*damaged.*Remove it"):
        recorded_indices(tmp_path)


def test_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "compressibility.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"(?s)compressibility\.json.*damaged.*Remove it"):
        recorded_indices(tmp_path)


@pytest.mark.parametrize(
    ("content", "got"), [({**RECORD, "format": 2}, "2"), ({"rows": ROWS}, "None"), ([1], r"\[1\]"), (None, "None")]
)
def test_other_format(content: Any, got: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"compressibility\.json.*format 1.*{got}.*Remove it"):
        recorded_indices(write_record(tmp_path, content))


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"rows": ROWS[:1]}, "rows.*layer"),
        ({"rows": ROWS[1:]}, "None"),
        ({"rows": []}, "rows.*layer"),
        ({"rows": None}, "TypeError"),
        ({"rows": ["conv"]}, "TypeError"),
        ({"rows": [*ROWS, {**ROWS[1], "capacity": 1.0}]}, r"conv.*\[0\.5\]"),
        ({"p": 1.0}, "p and q"),
        ({"p": "0.5"}, "p must"),
        ({"eta": None}, "TypeError"),
        ({"eta": math.nan}, "eta.*nan"),
    ],
)
def test_damaged_record(changed: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"compressibility\.json.*damaged.*{says}.*Remove it"):
        recorded_indices(write_record(tmp_path, {**RECORD, **changed}))


@pytest.mark.parametrize("missing", ["rows", "p", "q", "eta"])
def test_record_that_lacks_something(missing: str, tmp_path: Path) -> None:
    content = {name: entry for name, entry in RECORD.items() if name != missing}
    with pytest.raises(ValueError, match=rf"damaged.*{missing}.*Remove it"):
        recorded_indices(write_record(tmp_path, content))


@pytest.mark.parametrize(
    "changed",
    [
        *({"layer": 3}, {"capacity": 0.0}, {"capacity": 1.5}, {"capacity": "half"}, {"num_weights": 0}),
        *({"kept": 101}, {"kept": -1}, {"keep_bound": 51.0}, {"keep_bound": math.nan}, {"kept": None}),
        *({"index": 1.0}, {"index": -0.1}, {"index": math.nan}, {"scores": 1.0}),
    ],
    ids=str,
)
def test_figure_out_of_range(changed: dict[str, Any], tmp_path: Path) -> None:
    rows = [ROWS[0], {**ROWS[1], **changed}, ROWS[2]]
    with pytest.raises(ValueError, match=r"(?s)compressibility\.json.*damaged.*Remove it"):
        recorded_indices(write_record(tmp_path, {**RECORD, "rows": rows}))
