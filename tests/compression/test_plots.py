"""The picture of indices: a complete file, drawn from the right numbers, pyplot left alone."""

from __future__ import annotations

import numpy as np
from matplotlib import pyplot
from PIL import Image

from prunnet_hf.compression.plots import plot_indices


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
