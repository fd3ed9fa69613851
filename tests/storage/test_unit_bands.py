"""Bands of whole units as they are written: what the layout's description says, and nothing that can't be read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from prunnet_hf.pruning.channels import Axis, UnitGroup
from prunnet_hf.storage.unit_bands import save_unit_bands
from tests.unit_banded import EDGES, STORED, groups_of, model_tensors, saved

NAMES = [f"band-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]


def test_the_files_by_hand(tmp_path: Path) -> None:
    # Of three units in two heads, 0.5 keeps 3 - round(0.5 * 2) = 2: the last and the first. Columns are kept likewise.
    rows = UnitGroup("rows", 3, (Axis("w", 0, outer=2),), {})
    columns = UnitGroup("columns", 2, (Axis("w", 1), Axis("b", 0)), {})
    tensors = {
        "w": torch.tensor([[1.0, 2], [3, 4], [5, 6], [7, 8], [9, 10], [11, 12]]),
        "b": torch.tensor([0.1, 0.2]),
        "rows.units.scores": torch.tensor([-0.5, 0.25, 1]),
        "columns.units.scores": torch.tensor([0.5, -0.75]),
        "bias": torch.ones(1),
    }
    # Of two columns, 0.5 keeps 2 - round(0.5 * 1) = 2, as a half is rounded to 0.
    save_unit_bands(tmp_path, tensors, {"rows": rows, "columns": columns}, [0.25, 0.5], [])
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([*NAMES, "bands.index.json"])
    one, two, three = (load_file(tmp_path / name) for name in NAMES)
    # 0.25 keeps 3 - round(0.75 * 2) = 1 row, the last of each head, and 2 - round(0.75 * 1) = 1 column, the second.
    assert {name: tensor.tolist() for name, tensor in one.items()} == {
        "rows.band_units": [2],
        "columns.band_units": [1],
        "w.band_values": [6, 12],
        "b.band_values": [pytest.approx(0.2)],
        "rows.units.scores.band_values": [1],
        "columns.units.scores.band_values": [-0.75],
        "bias": [1],
    }
    # The first row of each head is whole; of the last, the element in the first column was missing.
    assert two["w.band_values"].tolist() == [1, 2, 5, 7, 8, 11]
    assert (two["rows.band_units"].tolist(), two["columns.band_units"].tolist()) == ([0], [0])
    assert {name: tensor.tolist() for name, tensor in three.items()} == {
        "rows.band_units": [1],
        "w.band_values": [3, 4, 9, 10],
        "rows.units.scores.band_values": [0.25],
    }


def test_statistics_lie_where_capacities_need_them(tmp_path: Path) -> None:
    tensors = model_tensors()
    bands = [load_file(saved(tmp_path, tensors) / name) for name in NAMES]
    rows, order = tensors["norm.statistics_mean"], tensors["a.units.scores"].abs().argsort(descending=True)
    # Of seven units, 0.2 keeps 7 - round(0.8 * 6) = 2, 0.6 keeps 7 - round(0.4 * 6) = 5. Of the rows, those of 0.1
    # and 0.2 are in band 1, those of 0.5 and 0.6 in band 2.
    assert torch.equal(bands[0]["norm.statistics_mean.band_values"], rows[:2, order[:2].sort().values].flatten())
    known = torch.zeros_like(rows, dtype=torch.bool)
    known[:2, order[:2]] = True
    second = torch.zeros_like(known)
    second[:4, order[:5]] = True
    assert torch.equal(bands[1]["norm.statistics_mean.band_values"], rows[second & ~known])
    assert torch.equal(bands[2]["norm.statistics_mean.band_values"], rows[~second])
    # In a norm without units, all of a row belong to its band; the dense network's statistics to the last.
    assert torch.equal(bands[1]["last.statistics_var.band_values"], tensors["last.statistics_var"][2:4].flatten())
    for norm in ("norm", "last"):
        values = f"{norm}.running_mean.band_values"
        assert [values in band for band in bands] == [False, False, True]
        assert torch.equal(bands[2][values], tensors[f"{norm}.running_mean"])
    assert "norm.num_batches_tracked" in bands[0]


def test_without_statistics_of_subnetworks_the_dense_ones_are_sliced(tmp_path: Path) -> None:
    tensors = model_tensors(stored=[])
    bands = [load_file(saved(tmp_path, tensors, stored=[]) / name) for name in NAMES]
    assert [len(band["norm.running_mean.band_values"]) for band in bands] == [2, 3, 2]
    assert torch.equal(bands[0]["last.running_mean"], tensors["last.running_mean"])


def test_the_index(tmp_path: Path) -> None:
    saved(tmp_path, model_tensors())
    index = json.loads((tmp_path / "bands.index.json").read_text())
    files = index.pop("files")
    assert sorted(files) == NAMES
    assert (index.pop("format"), index.pop("version")) == ("prunnet-bands", 2)
    assert (index["capacities"], index["statistics"]) == ([0.2, 0.6, 1.0], list(STORED))
    assert index["units"] == {"a": 7, "b": 4}
    assert index["tensors"]["b.weight"] == {
        "dtype": "F32",
        "shape": [24, 7],
        "axes": {"a": {"dim": 1}, "b": {"outer": 3, "inner": 2, "scaled": 1}},
    }
    assert index["tensors"]["norm.statistics_mean"]["axes"] == {"a": {"dim": 1}}
    assert index["tensors"]["last.running_mean"] == {"dtype": "F32", "shape": [2], "axes": {}}
    assert not {"c.bias", "norm.num_batches_tracked"} & index["tensors"].keys()
    with safe_open(tmp_path / NAMES[0], framework="pt") as file:
        metadata = file.metadata()
    compact = json.dumps(index, sort_keys=True, separators=(",", ":"))
    assert metadata == {"format": "prunnet-bands", "version": "2", "file": NAMES[0], "contents": compact}


def test_the_same_tensors_give_the_same_bytes(tmp_path: Path) -> None:
    tensors = model_tensors()
    saved(tmp_path / "one", tensors)
    saved(tmp_path / "two", dict(reversed(tensors.items())))
    for name in [*NAMES, "bands.index.json"]:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_edges_without_statistics(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"bands.*\[0\.1, 0\.2, 0\.5, 0\.6, 0\.9\].*\[0\.3\].*statistics_capacities"):
        saved(tmp_path, model_tensors(), [0.2, 0.3])
    assert list(tmp_path.iterdir()) == []


def test_tensors_that_a_group_lacks(tmp_path: Path) -> None:
    tensors = model_tensors()
    of_model = groups_of(tensors)
    del tensors["b.weight"]
    with pytest.raises(ValueError, match=r"lacks .*b\.weight"):
        save_unit_bands(tmp_path, tensors, of_model, EDGES, STORED)


@pytest.mark.parametrize("name", ["x.band_units", "x.band_values"])
def test_reserved_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=rf"'{name}'.*reserved"):
        saved(tmp_path, model_tensors() | {name: torch.ones(1)})


def test_scores_that_diverged(tmp_path: Path) -> None:
    tensors = model_tensors()
    tensors["b.units.scores"][0] = float("nan")
    with pytest.raises(ValueError, match=r"b\.units\.scores.*finite"):
        saved(tmp_path, tensors)
