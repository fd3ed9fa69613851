"""What a card knows of a run: read, checked, looked up."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from prunnet_hf.hub.figures import band_downloads, capacity_rows, read_run, weights_bytes
from tests.hub.example_run import RECIPE, finished, metrics, value, write_run


def test_run_is_read_without_folders_of_the_machine(tmp_path: Path) -> None:
    found = read_run(write_run(tmp_path, metrics()))
    assert found.metrics == metrics()
    assert found.recipe == {name: entry for name, entry in RECIPE.items() if name not in ("data_dir", "output_dir")}
    assert found.metric_names == ["mAP", "recall@1"]
    assert found.capacities == [0.2, 0.5, 1.0]
    assert found.value("recall@1", 0.2, 0.5) == value("recall@1", 0.2, 0.5)


@pytest.mark.parametrize("missing", ["metrics.json", "config.yaml"])
def test_unfinished_run(tmp_path: Path, missing: str) -> None:
    run = write_run(tmp_path, metrics())
    (run / missing).unlink()
    with pytest.raises(
        FileNotFoundError, match=rf"{re.escape(missing)} is missing: a card is made from a finished run"
    ):
        read_run(run)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"results": []}, r"metrics\.json lacks results: evaluate the run again"),
        ({"command": None, "split": ""}, r"lacks split, command"),
        ({"format": 2}, r"must have format 1; got 2"),
    ],
)
def test_run_that_no_card_can_be_made_of(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_run(write_run(tmp_path, {**metrics(), **changed}))


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("metrics.json", "{", r"metrics\.json is damaged"),
        ("metrics.json", "[]", r"metrics\.json must hold a mapping; got list"),
        ("config.yaml", "a: [", r"config\.yaml is damaged"),
    ],
)
def test_damaged_file(tmp_path: Path, file: str, text: str, message: str) -> None:
    run = write_run(tmp_path, metrics())
    (run / file).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_run(run)


def test_value_that_was_never_measured() -> None:
    with pytest.raises(ValueError, match=r"one that the run evaluated \(0\.20, 0\.50, 1\.00\).*queries at 0\.30"):
        finished(metrics()).value("mAP", 0.3, 1.0)


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


def test_weights_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "model.packed.safetensors").write_bytes(b"12345")
    (tmp_path / "config.json").write_bytes(b"12")
    assert weights_bytes(tmp_path) == 5


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


def test_model_that_lies_in_one_file_is_downloaded_whole(tmp_path: Path) -> None:
    assert band_downloads(tmp_path, [0.2, 1.0]) is None
