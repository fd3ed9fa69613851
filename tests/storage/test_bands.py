"""The progressive checkpoint as it is written: what the layout's description says, and nothing that can't be read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from prunnet_hf import PrunNetForImageClassification
from prunnet_hf.storage.bands import check_bands, save_bands, statistics_in_band
from tests.banded import EDGES, LAYERS, STORED, model_tensors, saved
from tests.tiny_models import tiny_config

NAMES = [f"band-0000{number}-of-00003{kind}.safetensors" for number in (1, 2, 3) for kind in ("", ".ranks")]


def test_the_files_by_hand(tmp_path: Path) -> None:
    # Ten weights, worth less and less: 0.2 keeps 10 - round(0.8 * 9) = 3, 0.6 keeps 10 - round(0.4 * 9) = 6.
    weight, scores = torch.arange(10.0) + 1, torch.tensor([0, 10, 20, 90, 80, 70, 60, 50, 40, 30.0])
    save_bands(tmp_path, {"a.weight": weight, "a.scores": scores, "a.bias": torch.ones(1)}, ["a"], EDGES, [])
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([*NAMES, "bands.index.json"])
    one, ranks, two, _, three, last_ranks = (load_file(tmp_path / name) for name in NAMES)
    assert one["a.weight.band_values"].tolist() == [4, 5, 6]
    assert one["a.weight.band_mask"].tolist() == [0b00111000, 0]
    assert one["a.bias"].tolist() == [1]
    # Seven weights are left, numbers 1, 2, 3 and 7 to 10: 7, 8 and 9 of them are next.
    assert two["a.weight.band_values"].tolist() == [7, 8, 9]
    assert two["a.weight.band_mask"].tolist() == [0b00111000]
    assert three["a.weight.band_values"].tolist() == [1, 2, 3, 10]
    assert three.keys() == {"a.weight.band_values"}
    assert ranks["a.weight.band_ranks"].tolist() == [0, 1, 2]
    assert ranks["a.weight.band_knots"][[0, -1]].tolist() == [90, 70]
    assert last_ranks["a.weight.band_ranks"].tolist() == [3, 2, 1, 0]


def test_statistics_lie_where_capacities_need_them(tmp_path: Path) -> None:
    tensors = model_tensors()
    saved(tmp_path, tensors)
    rows = tensors["norm.statistics_mean"]
    expected = [rows[1:2], rows[0:1], rows[3:4], rows[2:3], None, rows[4:5]]
    for name, expected_rows in zip(NAMES, expected, strict=True):
        found = load_file(tmp_path / name).get("norm.statistics_mean")
        assert (found is None) == (expected_rows is None)
        assert found is None or torch.equal(found, expected_rows)
    dense = [name for name in NAMES if "norm.running_mean" in load_file(tmp_path / name)]
    assert dense == [NAMES[4]]
    assert "norm.num_batches_tracked" in load_file(tmp_path / NAMES[0])
    assert statistics_in_band([*EDGES, 1.0], STORED, 2) == [0.5]


def test_levels_are_spread_evenly(tmp_path: Path) -> None:
    count = 1000
    scores = torch.arange(count, 0, -1.0)  # in order already
    save_bands(tmp_path, {"a.weight": scores, "a.scores": scores}, ["a"], [], [])
    ranks = load_file(tmp_path / "band-00001-of-00001.ranks.safetensors")
    assert ranks["a.weight.band_ranks"].tolist() == [place * 256 // count for place in range(count)]
    firsts = [-(-(i * 255 // 32) * count // 256) for i in range(33)]  # the first place of each knot's level
    assert ranks["a.weight.band_knots"].tolist() == [count - first for first in firsts]


def test_the_index(tmp_path: Path) -> None:
    saved(tmp_path, model_tensors())
    index = json.loads((tmp_path / "bands.index.json").read_text())
    assert index.pop("files") == {
        name: {
            "size": (tmp_path / name).stat().st_size,
            "sha256": hashlib.sha256((tmp_path / name).read_bytes()).hexdigest(),
        }
        for name in NAMES
    }
    contents = {
        "capacities": [0.2, 0.6, 1.0],
        "statistics": list(STORED),
        "tensors": {
            "conv.weight": {"dtype": "F32", "shape": [5, 2, 3]},
            "fc.weight": {"dtype": "F32", "shape": [1, 1]},
        },
    }
    assert index == {"format": "prunnet-bands", "version": 1, **contents}
    with safe_open(tmp_path / NAMES[0], framework="pt") as file:
        metadata = file.metadata()
    compact = json.dumps(contents, sort_keys=True, separators=(",", ":"))
    assert metadata == {"format": "prunnet-bands", "version": "1", "file": NAMES[0], "contents": compact}


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


@pytest.mark.parametrize("name", ["conv.scores", "fc.weight"])
def test_tensors_that_a_layer_lacks(tmp_path: Path, name: str) -> None:
    tensors = model_tensors()
    del tensors[name]
    with pytest.raises(ValueError, match=f"lacks .*{name}"):
        save_bands(tmp_path, tensors, LAYERS, EDGES, STORED)


def test_reserved_names(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'x\.band_mask'.*reserved"):
        saved(tmp_path, model_tensors() | {"x.band_mask": torch.ones(1)})


def test_scores_that_diverged(tmp_path: Path) -> None:
    tensors = model_tensors()
    tensors["conv.scores"][0] = float("nan")
    with pytest.raises(ValueError, match=r"conv\.scores.*finite"):
        saved(tmp_path, tensors)


def test_weights_that_are_no_floats(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"'conv\.weight'.*torch\.int64"):
        saved(tmp_path, model_tensors() | {"conv.weight": torch.ones(5, 2, 3, dtype=torch.int64)})


@pytest.fixture(scope="module")
def model() -> PrunNetForImageClassification:
    """Not to be changed."""
    return PrunNetForImageClassification(tiny_config())


class TestEdges:
    """What `save_pretrained(bands=...)` may be given."""

    def test_they_come_in_order(self, model) -> None:
        assert check_bands(model, [0.6, 0.2, 0.2], push_to_hub=False) == [0.2, 0.6]
        assert check_bands(model, [], push_to_hub=False) == []
        assert check_bands(model, None, push_to_hub=True) is None

    @pytest.mark.parametrize(
        ("bands", "push", "error", "problem"),
        [
            ([0.0], False, ValueError, r"bands.*\(0, 1\].*0\.0"),
            ([0.2], True, ValueError, r"push_to_hub.*bands=\[0\.2\]"),
            (0.2, False, TypeError, r"bands.*list.*0\.2"),
        ],
    )
    def test_what_does_not_go_together(self, model, bands: Any, push: bool, error: Any, problem: str) -> None:
        with pytest.raises(error, match=problem):
            check_bands(model, bands, push)

    @pytest.mark.parametrize("capacity", [0.25, 1.0])
    def test_a_pruned_model_has_no_bands(self, model, capacity: float) -> None:
        with pytest.raises(ValueError, match=rf"bands=\[0\.2\].*{capacity}.*without bands"):
            check_bands(model.prune(capacity), [0.2], push_to_hub=False)
