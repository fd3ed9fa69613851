"""The report: the index of the weights that each capacity really keeps, in a prunable and in a pruned model."""

from __future__ import annotations

import math

import pytest
import torch
from PIL import Image
from torch import nn

from prunnet_hf.compression.report import Compressibility, CompressibilityRow, compressibility
from prunnet_hf.pruning.layers import find_masks
from prunnet_hf.pruning.pq_index import pq_index
from tests.tiny_models import tiny, tiny_of_units

STEM = "prunnet.backbone.conv1"


@pytest.mark.parametrize(("p", "q"), [(0.5, 1.0), (1.0, 2.0)])
def test_rows_are_the_indices_of_what_the_masks_keep(p, q):
    model = tiny()
    capacities = [0.2, 0.55, 1.0]
    found = compressibility(model, [1.0, 0.2, 0.55], p=p, q=q)
    assert found.capacities == capacities
    assert found.layers == list(model.prunable_layers())
    for place, capacity in enumerate(capacities):
        (masks,) = find_masks(model, [capacity])
        kept = {name: layer.weight[masks[name]] for name, layer in model.prunable_layers().items()}
        for name, weights in [*kept.items(), (None, torch.cat([*kept.values()]))]:
            row = found.of(name)[place]
            assert (row.capacity, row.kept) == (capacity, len(weights))
            assert row.index == pytest.approx(pq_index(weights, p, q).item(), abs=1e-12)


def test_values_of_a_layer_worked_out_by_hand():
    model = tiny()
    layer = model.get_submodule(STEM)
    size = layer.weight.numel()
    assert size == 64 * 3 * 7 * 7 == 9408
    with torch.no_grad():
        layer.scores.copy_(torch.arange(size, 0, -1.0).view_as(layer.scores))  # kept from the first on
        layer.weight.zero_().flatten()[:2352] = -2.0  # a quarter
    quarter, half, dense = compressibility(model, [0.25, 0.5, 1.0]).of(STEM)
    # 9408 - round(0.75 * 9407) = 9408 - 7055 kept: all of the equal ones and one zero.
    assert (quarter.kept, quarter.index, quarter.keep_bound) == (2353, pytest.approx(1 / 2353), pytest.approx(2352))
    # 9408 - round(0.5 * 9407) = 9408 - 4704 kept, half of them equal, half zero.
    assert (half.kept, half.index, half.keep_bound) == (4704, pytest.approx(0.5), pytest.approx(2352))
    assert (dense.kept, dense.index, dense.keep_bound) == (9408, pytest.approx(0.75), pytest.approx(2352))
    assert compressibility(model, [1.0], eta=1.0).of(STEM)[0].keep_bound == pytest.approx(
        588
    )  # times (1 + 1)^(-1/0.5)


@pytest.mark.parametrize("capacity", [0.2, 0.37, 1.0])
def test_a_pruned_model_says_what_the_dense_one_says_at_its_capacity(capacity):
    model = tiny(capacities=(0.2, 0.37, 0.6))
    pruned = compressibility(model.prune(capacity))
    expected = compressibility(model, [capacity])
    assert pruned.capacities == [capacity]
    for row, other in zip(pruned.rows, expected.rows, strict=True):
        assert (row.layer, row.kept, row.num_weights) == (other.layer, other.kept, other.num_weights)
        assert row.index == pytest.approx(other.index, abs=1e-12)


def test_with_units_the_rows_are_of_the_thin_networks_weights():
    model = tiny_of_units()
    found = compressibility(model, [0.2, 0.5, 1.0])
    # Each group lies in the convolution that computes it and in the one that reads it.
    assert found.layers == [f"prunnet.backbone.layer{n}.0.conv{i}" for n in (1, 2, 3, 4) for i in (1, 2)]
    first, last = found.of(found.layers[0]), found.of(found.layers[-1])
    # 2, 2 and 4 of 4 units, each of 3 x 3 weights for the 8 channels of the stem.
    assert [row.kept for row in first] == [2 * 8 * 9, 2 * 8 * 9, 4 * 8 * 9]
    # 16 - round(0.8 * 15) = 4, 16 - round(0.5 * 15) = 8, and 16, for 16 outputs.
    assert [row.kept for row in last] == [4 * 16 * 9, 8 * 16 * 9, 16 * 16 * 9]
    assert {row.num_weights for row in last} == {16 * 16 * 9}
    for place, capacity in enumerate(found.capacities):
        thin = model.prune(capacity)
        weights = [thin.get_parameter(f"{name}.weight").flatten() for name in found.layers]
        for name, kept in [*zip(found.layers, weights, strict=True), (None, torch.cat(weights))]:
            assert found.of(name)[place].kept == len(kept)
            assert found.of(name)[place].index == pytest.approx(pq_index(kept).item(), abs=1e-12)
        assert compressibility(thin).rows == compressibility(model, [capacity]).rows


def test_the_base_model_is_measured_too_and_left_as_it_was():
    model = tiny().prunnet
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = compressibility(model)
    assert found.capacities == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert found.layers[0] == "backbone.conv1"
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_markdown_holds_the_numbers():
    rows = (
        CompressibilityRow(None, 0.5, 4000, 2000, 0.75, 499.5),
        CompressibilityRow(None, 1.0, 4000, 4000, 0.5, 2000.0),
        CompressibilityRow("a.b", 0.5, 4000, 2000, 0.75, 499.5),
        CompressibilityRow("a.b", 1.0, 4000, 4000, 0.5, 2000.0),
    )
    lines = Compressibility(rows, 0.5, 1.0, 0.0).as_markdown().splitlines()
    assert "| 0.50 | 2,000 | 0.750 | 500 | 0.125 |" in lines  # 499.5 are 500 whole weights, and 499.5 / 4000
    assert "| 1.00 | 4,000 | 0.500 | 2,000 | 0.500 |" in lines
    assert lines.count("| layer | weights | 0.50 | 1.00 |") == 2
    assert "| `a.b` | 4,000 | 0.750 | 0.500 |" in lines
    assert "| `a.b` | 4,000 | 0.125 | 0.500 |" in lines


def test_plot_is_written(tmp_path):
    path = compressibility(tiny(), [0.2, 1.0]).plot(tmp_path / "indices.png", title="a model")
    with Image.open(path) as picture:
        assert picture.format == "PNG"


def test_a_pruned_model_has_its_own_capacity_only():
    with pytest.raises(ValueError, match=r"capacities.*\[0.20\].*got \[0.2, 0.6\].*dense"):
        compressibility(tiny().prune(0.2), [0.2, 0.6])


def test_nothing_prunable_is_refused():
    model = tiny()
    model.prunnet.backbone = nn.Identity()
    with pytest.raises(ValueError, match=r"model.*prunable layers.*PrunNetForImageClassification"):
        compressibility(model)
    with pytest.raises(TypeError, match=r"model.*PrunNetModel.*got Linear"):
        compressibility(nn.Linear(2, 2))


@pytest.mark.parametrize("name", ["weight", "scores"])
def test_what_is_not_finite_is_refused_by_its_layer(name):
    model = tiny()
    with torch.no_grad():
        model.get_parameter(f"{STEM}.{name}").flatten()[0] = math.nan
    with pytest.raises(ValueError, match=rf"layer '{STEM}': {'weights' if name == 'weight' else name}.*finite; 1"):
        compressibility(model)


def test_units_whose_scores_are_not_finite_are_refused_by_their_layer():
    model = tiny_of_units()
    with torch.no_grad():
        model.get_parameter("prunnet.backbone.layer3.0.conv1.units.scores")[0] = math.nan
    with pytest.raises(ValueError, match=r"prunnet\.backbone\.layer3\.0\.conv1.*scores.*finite; 1"):
        compressibility(model)


def test_bad_arguments_are_refused_by_name():
    model = tiny()
    with pytest.raises(ValueError, match=r"got p=1.0 and q=1.0"):
        compressibility(model, p=1.0)
    with pytest.raises(ValueError, match=r"capacities.*got none"):
        compressibility(model, [])
    with pytest.raises(ValueError, match=r"capacities.*\(0, 1\].*got 1.5"):
        compressibility(model, [1.5])
    with pytest.raises(ValueError, match=r"eta.*-1.0"):
        compressibility(model, [0.5], eta=-1.0)
    with pytest.raises(KeyError, match="layer 'stem'"):
        compressibility(model, [0.5]).of("stem")
