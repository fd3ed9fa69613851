"""The pictures: complete files, drawn from the right numbers, without touching pyplot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot
from PIL import Image

from prunnet_hf.compression.plots import plot_indices, plot_trajectories
from prunnet_hf.compression.trajectory import Trajectory
from tests.compression.test_trajectory import trajectory


def test_plot_is_a_png_that_replaces_the_old_one_and_leaves_pyplot_alone(tmp_path):
    path = tmp_path / "indices.png"
    path.write_text("old")
    before = pyplot.get_fignums()
    by_layer = np.array([[0.1, 0.2], [0.0, 0.4]])
    assert plot_indices(["a", "b"], [0.5, 1.0], by_layer, np.array([0.1, 0.3]), path) == path
    assert pyplot.get_fignums() == before
    assert [file.name for file in tmp_path.iterdir()] == ["indices.png"]
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert (np.ptp(pixels, axis=2) > 40).mean() > 0.15  # the heat map is coloured, a blank page is not


@pytest.mark.parametrize("capacities", [[1.0], [1.0, 0.819, 0.00002]])
def test_picture_is_written(tmp_path: Path, capacities: list[float]) -> None:
    run = trajectory(rounds=len(capacities))
    rounds = [replace(entry, capacity=capacity) for entry, capacity in zip(run.rounds, capacities, strict=True)]
    path = plot_trajectories([Trajectory(run.run, rounds), trajectory("one_shot")], tmp_path / "picture.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [file.name for file in tmp_path.iterdir()] == ["picture.png"]


def test_runs_that_cannot_be_compared_are_not_drawn(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"same data set.*omniglot"):
        plot_trajectories([trajectory(), trajectory(dataset="omniglot")], tmp_path / "picture.png")
    assert not list(tmp_path.iterdir())
