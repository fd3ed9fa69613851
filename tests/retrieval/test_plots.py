"""The pictures of a matrix: complete files, drawn from the right numbers."""

from __future__ import annotations

import matplotlib.figure
import numpy as np
import pytest
from matplotlib import pyplot
from PIL import Image

from prunnet_hf.retrieval.compatibility import CompatibilityResult
from prunnet_hf.retrieval.plots import plot_curve, plot_matrix

RESULTS = [
    CompatibilityResult(query, gallery, metric, value)
    for metric, values in (("mAP", (0.628, 0.623, 0.63, 0.638)), ("recall@1", (0.8, 0.9, 0.85, 1.0)))
    for (query, gallery), value in zip(((0.2, 0.2), (0.2, 1.0), (1.0, 0.2), (1.0, 1.0)), values, strict=True)
]


def test_plot_is_a_png_that_replaces_the_old_one(tmp_path):
    path = tmp_path / "compatibility.png"
    path.write_text("old")
    assert plot_matrix(RESULTS, path, title="a run") == path
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        # Panels are coloured: a viridis cell has no two equal channels, a blank page has no such pixel.
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    coloured = (np.ptp(pixels, axis=2) > 40).mean()
    assert coloured > 0.3
    assert [file.name for file in tmp_path.iterdir()] == ["compatibility.png"]


def test_plot_refuses_before_it_writes(tmp_path):
    with pytest.raises(ValueError, match="metric 'mINP'"):
        plot_matrix(RESULTS, tmp_path / "a.png", metrics=("mINP",))
    with pytest.raises(ValueError, match=r"metrics.*one"):
        plot_matrix(RESULTS, tmp_path / "a.png", metrics=())
    assert not list(tmp_path.iterdir())


def test_plot_leaves_pyplot_alone(tmp_path):
    before = pyplot.get_fignums()
    plot_matrix(RESULTS, tmp_path / "a.png")
    assert pyplot.get_fignums() == before


def drawn_curve(monkeypatch, tmp_path, trained=(0.2, 1.0), results=RESULTS):
    """The axes that `plot_curve` drew, caught as they are saved."""
    figures = []
    save = matplotlib.figure.Figure.savefig

    def catch(figure, *args, **kwargs):
        figures.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", catch)
    path = plot_curve(results, tmp_path / "curve.png", metric="mAP", trained=trained, title="a run")
    with Image.open(path) as picture:
        assert picture.format == "PNG"
    return figures[0].axes[0]


def test_curve_shows_both_tests_in_percent_and_the_dense_line(tmp_path, monkeypatch):
    axes = drawn_curve(monkeypatch, tmp_path)
    lines = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.get_lines()}
    capacities, values = lines["self-test: gallery by the same subnetwork"]
    assert (capacities, values) == ([0.2, 1.0], pytest.approx([62.8, 63.8]))
    capacities, values = lines["cross-test: gallery at capacity 1.00"]
    assert (capacities, values) == ([0.2, 1.0], pytest.approx([62.3, 63.8]))
    assert lines["gallery and queries at capacity 1.00: 63.8"][1] == pytest.approx([63.8, 63.8])
    assert axes.get_ylabel() == "mAP (%)"
    # Half a point must not look like a cliff, and nothing is cut off.
    low, high = axes.get_ylim()
    assert high - low >= 10
    assert low < 62.3
    assert high > 63.8


def test_curve_fills_the_marks_of_trained_capacities(tmp_path, monkeypatch):
    axes = drawn_curve(monkeypatch, tmp_path, trained=(1.0,))
    marks = [line for line in axes.get_lines() if line.get_linestyle() == "None"]
    is_hollow = {(line.get_marker(), line.get_xdata()[0]): line.get_markerfacecolor() == "white" for line in marks}
    assert is_hollow == {("o", 0.2): True, ("o", 1.0): False, ("s", 0.2): True, ("s", 1.0): False}


def test_curve_of_an_unknown_metric_is_refused_before_it_writes(tmp_path):
    with pytest.raises(ValueError, match="metric 'mINP'"):
        plot_curve(RESULTS, tmp_path / "curve.png", metric="mINP", trained=(0.2,))
    assert not list(tmp_path.iterdir())
