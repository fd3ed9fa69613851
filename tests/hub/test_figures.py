"""What a card knows of a run: read, checked, looked up."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from prunnet_hf.hub.figures import band_downloads, capacity_rows, read_run
from tests.hub.example_run import RECIPE, finished, metrics, value, write_run


def test_run_is_read_with_the_recipe_of_its_configuration(tmp_path: Path) -> None:
    found = read_run(write_run(tmp_path, {**metrics(), "recipe": {"epochs": 9}}))
    assert found == finished(metrics())
    assert found.recipe == {name: entry for name, entry in RECIPE.items() if name not in ("data_dir", "output_dir")}


@pytest.mark.parametrize("missing", ["metrics.json", "config.yaml"])
def test_unfinished_run(tmp_path: Path, missing: str) -> None:
    run = write_run(tmp_path, metrics())
    (run / missing).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{re.escape(missing)} is missing.*train_accelerate\.py"):
        read_run(run)


@pytest.mark.parametrize(("text", "message"), [("a: [", "damaged"), ("- a", "mapping; got list")])
def test_damaged_configuration(tmp_path: Path, text: str, message: str) -> None:
    run = write_run(tmp_path, metrics())
    (run / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=rf"(?s)config\.yaml.*{message}.*--eval_only"):
        read_run(run)


def test_rows_compare_with_the_dense_network() -> None:
    row = capacity_rows(finished(metrics()))[0]
    dense, own, across = (value("mAP", *pair) for pair in ((1.0, 1.0), (0.2, 0.2), (0.2, 1.0)))
    assert (row.capacity, row.self_test, row.cross_test) == (0.2, own, across)
    assert (row.self_to_dense, row.cross_to_dense) == (own - dense, across - dense)
    assert (row.file_bytes, row.download_bytes, row.trained) == (912_000, None, True)


def test_sizes_that_are_given_replace_those_of_the_run() -> None:
    rows = capacity_rows(finished(metrics()), {0.5: 17}, {0.2: 1, 0.5: 2, 1.0: 3})
    assert [row.file_bytes for row in rows] == [None, 17, None]
    assert [row.download_bytes for row in rows] == [1, 2, 3]


def test_download_is_all_bands_up_to_the_capacity_and_ranks_between_edges(tmp_path: Path) -> None:
    sizes = {
        "band-00001-of-00003": (1, 100),
        "band-00002-of-00003": (10, 200),
        "band-00003-of-00003": (20, 400),
    }
    files = {f"{name}.safetensors": {"size": size, "sha256": ""} for name, (size, _) in sizes.items()}
    files |= {f"{name}.ranks.safetensors": {"size": size, "sha256": ""} for name, (_, size) in sizes.items()}
    index = {"format": "prunnet-bands", "version": 1, "capacities": [0.2, 0.6, 1.0], "files": files}
    index |= {"statistics": [], "tensors": {}}
    (tmp_path / "bands.index.json").write_text(json.dumps(index))
    assert band_downloads(tmp_path, [0.1, 0.2, 0.3, 0.6, 1.0]) == {
        0.1: 1 + 100,
        0.2: 1,
        0.3: 1 + 10 + 200,
        0.6: 1 + 10,
        1.0: 1 + 10 + 20,
    }


def test_download_of_units_has_no_ranks(tmp_path: Path) -> None:
    files = {f"band-0000{number}-of-00002.safetensors": {"size": 10**number, "sha256": ""} for number in (1, 2)}
    index = {"format": "prunnet-bands", "version": 2, "capacities": [0.2, 1.0], "files": files}
    index |= {"statistics": [], "tensors": {}, "units": {}}
    (tmp_path / "bands.index.json").write_text(json.dumps(index))
    assert band_downloads(tmp_path, [0.1, 0.2, 0.3, 1.0]) == {0.1: 10, 0.2: 10, 0.3: 110, 1.0: 110}


def test_model_that_lies_in_one_file_is_downloaded_whole(tmp_path: Path) -> None:
    assert band_downloads(tmp_path, [0.2, 1.0]) is None
