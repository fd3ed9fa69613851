"""The examples of whole runs: which networks they show, and where there are none."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from prunnet_hf import PrunNetModel
from prunnet_hf.retrieval.dataset_encoding import Encoded
from prunnet_hf.runs.examples import shown_capacities, write_examples
from prunnet_hf.runs.record import RunRecord
from prunnet_hf.runs.run_data import load_run_data
from prunnet_hf.training.engine import train
from tests.training.tiny_run import arguments


def test_a_run_shows_the_dense_network_and_the_smallest_that_are_saved(finished: Path) -> None:
    assert shown_capacities(RunRecord.read(finished / "metrics.json")) == [1.0, 0.5, 0.2]  # 0.3 isn't saved
    # 3 queries of 3 rows of 122 pixels, 18 below each query, two margins, two lines at the foot.
    with Image.open(finished / "examples.png") as picture:
        assert (picture.format, picture.height) == ("PNG", 3 * (3 * 122 + 18) + 2 * 12 + 2 * 16)


def test_evaluating_again_draws_the_same(photos: Path, finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    (run / "examples.png").unlink()
    train(arguments(photos, run, eval_only=True))
    assert (run / "examples.png").read_bytes() == (finished / "examples.png").read_bytes()


def test_no_random_numbers_are_drawn(photos: Path, finished: Path, tmp_path: Path) -> None:
    """Training that goes on after an evaluation must go on as without it."""
    record, splits = RunRecord.read(finished / "metrics.json"), load_run_data(arguments(photos, tmp_path))
    model = PrunNetModel.from_pretrained(finished / "model")
    networks = {capacity: model.prune(capacity) for capacity in record.evaluated_capacities}
    table = np.random.default_rng(0).standard_normal((len(splits.query), 8)).astype(np.float32)
    encoded = Encoded(np.arange(len(table)), {"label": splits.query["label"]}, dict.fromkeys(networks, table))
    before = random_state()
    write_examples(tmp_path, record, networks, splits, encoded, encoded, seed=0)
    assert random_state() == before
    assert (tmp_path / "examples.png").is_file()


def random_state() -> list[object]:
    numpy_state = np.random.get_state()
    return [random.getstate(), torch.get_rng_state().tolist(), numpy_state[1].tolist(), numpy_state[2:]]


def test_streams_have_no_examples_and_an_older_picture_goes(
    photos: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    train(arguments(photos, run, {"streaming": True}, eval_only=True))
    assert not (run / "examples.png").exists()
    assert "There is no examples.png: " in capsys.readouterr().out
