"""Running statistics of subnetworks: stored, interpolated, measured; by hand arithmetic."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from prunnet_hf.pruning.calibration import (
    MEAN,
    VARIANCE,
    add_statistics,
    batch_norms,
    drop_statistics,
    interpolation,
    measure_statistics,
    running_statistics,
    scratch_statistics,
    select_statistics,
    warn_if_coarse,
    write_statistics,
)

# Two batches of two "images" of one pixel: means 2 and 7, unbiased variances 2 and 8.
BATCHES = [torch.tensor([1.0, 3.0]).view(2, 1, 1, 1), torch.tensor([5.0, 9.0]).view(2, 1, 1, 1)]


def one_norm_network() -> nn.Sequential:
    """A batch norm alone, with statistics stored for 0.2 and 0.4: means 1 and 3, variances 10 and 30; dense 9, 90."""
    network = nn.Sequential(nn.BatchNorm2d(1))
    add_statistics(network, 2)
    write_statistics(network, 0, {"0.running_mean": torch.tensor([1.0]), "0.running_var": torch.tensor([10.0])})
    write_statistics(network, 1, {"0.running_mean": torch.tensor([3.0]), "0.running_var": torch.tensor([30.0])})
    write_statistics(network, None, {"0.running_mean": torch.tensor([9.0]), "0.running_var": torch.tensor([90.0])})
    return network


@pytest.mark.parametrize(
    ("capacity", "mean", "variance"),
    [
        (0.2, 1.0, 10.0),
        (0.4, 3.0, 30.0),
        (0.25, 1.5, 15.0),  # a quarter of the way: 0.75 * 1 + 0.25 * 3
        (0.7, 6.0, 60.0),  # half way from 0.4 to the dense network: (3 + 9) / 2
        (1.0, 9.0, 90.0),
    ],
)
def test_statistics_are_interpolated_linearly(capacity: float, mean: float, variance: float) -> None:
    statistics = running_statistics(one_norm_network(), [0.2, 0.4], capacity)
    torch.testing.assert_close(statistics["0.running_mean"], torch.tensor([mean]))
    torch.testing.assert_close(statistics["0.running_var"], torch.tensor([variance]))


def test_below_the_smallest_the_nearest_is_used_with_a_warning() -> None:
    with pytest.warns(UserWarning, match=r"0\.20.*0\.10.*calibration"):
        statistics = running_statistics(one_norm_network(), [0.2, 0.4], 0.1)
    assert statistics["0.running_mean"].tolist() == [1.0]


def test_without_stored_statistics_the_dense_ones_are_nearest() -> None:
    network = nn.Sequential(nn.BatchNorm2d(1))
    add_statistics(network, 0)
    with pytest.warns(UserWarning, match="below capacity 1"):
        assert running_statistics(network, [], 0.5)["0.running_mean"].tolist() == [0.0]


def test_where_none_are_stored_there_are_no_buffers() -> None:
    for network in (nn.Sequential(nn.BatchNorm2d(1)), one_norm_network()):
        add_statistics(network, 0)
        assert [name for name in network.state_dict() if "statistics" in name] == []
    network = one_norm_network()
    select_statistics(network, [])
    assert [name for name in network.state_dict() if "statistics" in name] == []


def test_a_network_without_batch_norms_has_nothing_to_warn_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert running_statistics(nn.Sequential(nn.LayerNorm(2)), [], 0.1) == {}


@pytest.mark.parametrize(
    ("stored", "capacity", "neighbours"),
    [
        ([0.05, 0.2], 0.1, ["0.05", "0.20"]),
        ([0.05], 0.199, ["0.05", "1.00"]),  # the dense network is a neighbour like any other
        ([0.05, 0.2], 0.05, None),  # stored itself
        ([0.05, 0.2], 0.02, None),  # below all: `running_statistics` says so
        ([0.05, 0.6], 0.2, None),  # not low
        ([0.05, 0.6], 0.3, None),
    ],
)
def test_interpolating_at_a_low_capacity_is_warned_of(
    stored: list[float], capacity: float, neighbours: list[str] | None, caplog: pytest.LogCaptureFixture
) -> None:
    warn_if_coarse(stored, capacity)
    if neighbours is None:
        assert not caplog.records
    else:
        (record,) = caplog.records
        message = record.getMessage()
        assert record.levelname == "WARNING"
        assert all(neighbour in message for neighbour in neighbours)
        assert "calibration=" in message
        assert "--capacities" in message  # what a run can do


@pytest.mark.parametrize("capacity", [0.2, 0.3, 1.0])
def test_statistics_are_always_copies(capacity: float) -> None:
    network = one_norm_network()
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    for tensor in running_statistics(network, [0.2, 0.4], capacity).values():
        tensor.fill_(-7)
    assert all(torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())


@given(
    grid=st.lists(st.integers(1, 99), min_size=1, max_size=8, unique=True).map(sorted),
    percent=st.integers(1, 100),
)
def test_interpolation_reproduces_the_capacity_itself(grid: list[int], percent: int) -> None:
    stored, capacity = [value / 100 for value in grid], percent / 100
    mixture = interpolation(stored, capacity)
    values = [(1.0 if row is None else stored[row], share) for row, share in mixture]
    assert math.isclose(sum(share for _, share in values), 1.0)
    assert all(0.0 < share <= 1.0 for _, share in values)
    # A linear mixture of the grid's points is the capacity, held at the smallest point below the grid.
    assert math.isclose(sum(value * share for value, share in values), max(capacity, stored[0]), rel_tol=1e-9)


def test_only_norms_that_keep_statistics_have_any() -> None:
    network = nn.ModuleDict(
        {
            "kept": nn.BatchNorm1d(2),
            "free": nn.BatchNorm2d(2, track_running_stats=False),
            "layer": nn.LayerNorm(2),
        }
    )
    assert list(batch_norms(network)) == ["kept"]
    add_statistics(network, 3)
    assert set(scratch_statistics(network)) == {
        "kept.running_mean",
        "kept.running_var",
        "kept.num_batches_tracked",
    }
    assert {name: tuple(buffer.shape) for name, buffer in network.named_buffers() if "statistics" in name} == {
        f"kept.{MEAN}": (3, 2),
        f"kept.{VARIANCE}": (3, 2),
    }


def test_room_for_statistics_starts_at_mean_0_and_variance_1_in_the_checkpoint() -> None:
    network = nn.BatchNorm1d(2).to(torch.bfloat16)
    add_statistics(network, 1)
    state = network.state_dict()
    assert state[MEAN].tolist() == [[0.0, 0.0]]
    assert state[VARIANCE].tolist() == [[1.0, 1.0]]
    assert state[MEAN].dtype == torch.bfloat16


def test_rows_can_be_selected_and_dropped() -> None:
    network = one_norm_network()
    select_statistics(network, [1])
    assert network[0].get_buffer(MEAN).tolist() == [[3.0]]
    assert network[0].get_buffer(VARIANCE).tolist() == [[30.0]]
    drop_statistics(network)
    assert sorted(network.state_dict()) == [
        "0.bias",
        "0.num_batches_tracked",
        "0.running_mean",
        "0.running_var",
        "0.weight",
    ]


def test_measured_statistics_are_the_cumulative_average_over_batches() -> None:
    (statistics,) = measure_statistics(nn.Sequential(nn.BatchNorm2d(1)), [{}], BATCHES)
    torch.testing.assert_close(statistics["0.running_mean"], torch.tensor([4.5]))  # (2 + 7) / 2
    torch.testing.assert_close(statistics["0.running_var"], torch.tensor([5.0]))  # (2 + 8) / 2


def test_every_image_weighs_the_same() -> None:
    # Three "images" 1, 3, 5 of mean 3 and unbiased variance 4, then two, 5 and 9, of mean 7 and variance 8.
    batches = [torch.tensor([1.0, 3.0, 5.0]).view(3, 1, 1, 1), torch.tensor([5.0, 9.0]).view(2, 1, 1, 1)]
    (statistics,) = measure_statistics(nn.Sequential(nn.BatchNorm2d(1)), [{}], batches)
    torch.testing.assert_close(statistics["0.running_mean"], torch.tensor([4.6]))  # (3 * 3 + 2 * 7) / 5
    torch.testing.assert_close(statistics["0.running_var"], torch.tensor([5.6]))  # (3 * 4 + 2 * 8) / 5


def test_processes_average_over_the_images_of_all() -> None:
    # This process saw 2 images of mean 2, variance 2. Another, so its message says, 6 of mean 4, variance 10.
    others = torch.tensor([6 * 4.0, 6 * 10.0, 6.0], dtype=torch.float64)
    network = nn.Sequential(nn.BatchNorm2d(1))
    (statistics,) = measure_statistics(network, [{}], BATCHES[:1], add_up=lambda own: own + others)
    torch.testing.assert_close(statistics["0.running_mean"], torch.tensor([3.5]))  # (2 * 2 + 6 * 4) / 8
    torch.testing.assert_close(statistics["0.running_var"], torch.tensor([8.0]))  # (2 * 2 + 6 * 10) / 8
    # Without images of its own a process ends with the others' statistics.
    (statistics,) = measure_statistics(network, [{}], [], add_up=lambda own: own + others)
    assert statistics["0.running_var"].tolist() == [10.0]
    with pytest.raises(ValueError, match=r"calibration.*at least one batch"):
        measure_statistics(network, [{}], [], add_up=lambda own: own)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_model_of_any_type_is_measured_in_float32_at_least(dtype: torch.dtype) -> None:
    # The images are 1 + 2**-7 and 1: exact in bfloat16. Their mean, 1 + 2**-8, has one bit more than bfloat16 keeps.
    network = nn.Sequential(nn.BatchNorm2d(1)).to(dtype)
    batch = torch.tensor([1 + 2**-7, 1.0], dtype=dtype).view(2, 1, 1, 1)
    (statistics,) = measure_statistics(network, [{}], [batch] * 3)
    assert statistics["0.running_mean"].dtype == torch.promote_types(dtype, torch.float32)
    assert statistics["0.running_mean"].tolist() == [1 + 2**-8]
    write_statistics(network, None, statistics)
    assert network[0].running_mean.dtype == dtype


def test_a_half_precision_average_does_not_drift() -> None:
    # 400 batches of mean 1 after one of mean 256: (256 + 400 * 1) / 401. In bfloat16 small steps would be lost.
    network = nn.Sequential(nn.BatchNorm2d(1)).to(torch.bfloat16)
    batches = [torch.tensor([mean, mean], dtype=torch.bfloat16).view(2, 1, 1, 1) for mean in (256.0, *[1.0] * 400)]
    (statistics,) = measure_statistics(network, [{}], batches)
    torch.testing.assert_close(statistics["0.running_mean"], torch.tensor([656 / 401]))


@pytest.mark.parametrize("progress", [True, False])
def test_the_progress_bar_can_be_turned_off(progress: bool, monkeypatch, capsys) -> None:
    monkeypatch.setattr("prunnet_hf.pruning.calibration.BAR_DELAY", 0.0)
    measure_statistics(nn.Sequential(nn.BatchNorm2d(1)), [{}], BATCHES, progress=progress)
    assert ("calibrate" in capsys.readouterr().err) is progress


def test_a_loader_that_does_not_know_its_length_shows_a_bar_all_the_same(monkeypatch, capsys) -> None:
    class Stream(IterableDataset):
        def __iter__(self) -> Iterator[torch.Tensor]:
            return iter(BATCHES)

    monkeypatch.setattr("prunnet_hf.pruning.calibration.BAR_DELAY", 0.0)
    loader = DataLoader(Stream(), batch_size=None)
    (statistics,) = measure_statistics(nn.Sequential(nn.BatchNorm2d(1)), [{}], loader, progress=True)
    assert statistics["0.running_mean"].tolist() == [4.5]
    assert "calibrate" in capsys.readouterr().err


def test_a_quick_calibration_shows_no_bar(capsys) -> None:
    measure_statistics(nn.Sequential(nn.BatchNorm2d(1)), [{}], BATCHES, progress=True)
    assert capsys.readouterr().err == ""


def test_each_subnetwork_is_measured_with_its_own_tensors() -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1))
    nn.init.ones_(network[0].weight)
    doubled = {"0.weight": torch.full((1, 1, 1, 1), 2.0)}
    own, other = measure_statistics(network, [{}, doubled], iter(BATCHES))
    torch.testing.assert_close(own["1.running_mean"], torch.tensor([4.5]))
    torch.testing.assert_close(other["1.running_mean"], torch.tensor([9.0]))  # twice as large
    torch.testing.assert_close(other["1.running_var"], torch.tensor([20.0]))  # four times as large


def test_measuring_leaves_the_network_as_it_was() -> None:
    network = nn.Sequential(nn.BatchNorm2d(1, momentum=0.3), nn.Dropout(0.5)).train()
    network[0].eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    measure_statistics(network, [{}], BATCHES)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert [module.training for module in network.modules()] == [True, False, True]
    assert network[0].momentum == 0.3


def test_the_network_is_restored_when_a_batch_fails() -> None:
    network = nn.Sequential(nn.BatchNorm2d(1)).eval()
    with pytest.raises(ValueError, match="expected 4D input"):
        measure_statistics(network, [{}], [torch.ones(2, 1)])
    assert not network[0].training
    assert network[0].momentum == 0.1


def test_nothing_but_batch_norms_is_in_train_mode() -> None:
    network = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm2d(1)).train()
    (statistics,) = measure_statistics(network, [{}], BATCHES)
    torch.testing.assert_close(statistics["1.running_mean"], torch.tensor([4.5]))


def test_no_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"calibration.*at least one batch"):
        measure_statistics(nn.Sequential(nn.BatchNorm2d(1), nn.Linear(1, 1)), [{}], [])


def test_a_batch_of_one_image_is_refused() -> None:
    with pytest.raises(ValueError, match=r"at least 2 images.*\(1, 1, 1, 1\)"):
        measure_statistics(nn.Sequential(nn.BatchNorm2d(1)), [{}], [BATCHES[0][:1]])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (3, r"calibration images must be an iterable of .* got int"),
        ([{"pixel_values": BATCHES[0]}], r"batch 0 is a dict.*batch\['pixel_values'\]"),
        ({"pixel_values": BATCHES[0]}, r"batch 0 is a str"),
        ([BATCHES[0], BATCHES[1].numpy()], r"batch 1 is a ndarray"),
        (BATCHES[0], r"got one Tensor of shape \(2, 1, 1, 1\).*list of it"),
    ],
)
def test_what_is_no_batch_of_pixel_values_is_refused(images: object, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        measure_statistics(nn.Sequential(nn.BatchNorm2d(1)), [{}], images)


def test_a_scalar_is_no_batch() -> None:
    with pytest.raises(ValueError, match=r"at least 2 images.*\(\)"):
        measure_statistics(nn.Sequential(nn.BatchNorm2d(1)), [{}], [torch.tensor(1.0)])
