"""The pictures of pruning loops are written, also of one round and of very small capacities."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from prunnet_hf.compression.trajectory import Trajectory
from prunnet_hf.compression.trajectory_plots import plot_trajectories
from tests.compression.test_trajectory import trajectory


@pytest.mark.parametrize("capacities", [[1.0], [1.0, 0.819, 0.00002]])
def test_picture_is_written(tmp_path: Path, capacities: list[float]) -> None:
    run = trajectory(rounds=len(capacities))
    rounds = [replace(entry, capacity=capacity) for entry, capacity in zip(run.rounds, capacities, strict=True)]
    path = plot_trajectories([Trajectory(run.run, rounds), trajectory("one_shot")], tmp_path / "picture.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [file.name for file in tmp_path.iterdir()] == ["picture.png"]


def test_runs_that_cannot_be_compared_are_not_drawn(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="of the same data set"):
        plot_trajectories([trajectory(), trajectory(dataset="omniglot")], tmp_path / "picture.png")
    assert not list(tmp_path.iterdir())
