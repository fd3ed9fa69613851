"""The examples of whole runs: which networks they show, and where there are none."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from prunnet_hf import PrunNetModel
from prunnet_hf.pruning.masking import format_capacity
from prunnet_hf.retrieval import examples
from prunnet_hf.retrieval.contact_sheet import Block
from prunnet_hf.retrieval.dataset_encoding import Encoded
from prunnet_hf.runs.examples import shown_capacities, write_examples
from prunnet_hf.runs.record import IntoRecord, RunRecord
from prunnet_hf.runs.reference import Reference
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


def test_into_a_space_they_search_the_gallery_that_was_there(
    photos: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The known vectors are those of the classes, so they find no wrong image; the networks' point nowhere."""
    splits = load_run_data(arguments(photos, tmp_path))
    plain = RunRecord.read(finished / "metrics.json")
    values = {format_capacity(capacity): {"mAP": 0.25} for capacity in plain.evaluated_capacities}
    into = IntoRecord(embedding_space="0" * 16, losses=["regression"], values=values, itself={"mAP": 0.75})
    model = PrunNetModel.from_pretrained(finished / "model")
    networks = {capacity: model.prune(capacity) for capacity in plain.evaluated_capacities}
    known = np.eye(8, dtype=np.float32)[np.array(splits.query["label"]) % 8]
    nowhere = dict.fromkeys(networks, -np.ones((len(known), 8), dtype=np.float32))
    encoded = Encoded(np.arange(len(known)), {"label": splits.query["label"]}, nowhere)
    drawn: list[Block] = []
    picture = examples.contact_sheet
    monkeypatch.setattr(examples, "contact_sheet", lambda blocks, foot: drawn.extend(blocks) or picture(blocks, foot))
    reference = Reference("0" * 16, "teacher", None, ["regression"], known, known)
    write_examples(
        tmp_path, replace(plain, into=into), networks, splits, encoded, encoded, seed=0, reference=reference
    )
    assert len(drawn) == 3
    for block in drawn:
        assert [(row.name, row.detail) for row in block.rows[:2]] == [
            ("gallery's own", "mAP 75.0 %"),
            ("dense network", "mAP 25.0 %"),
        ]
        own, dense = block.rows[:2]
        assert [round(hit.score, 3) for hit in own.hits if hit.is_correct] == [1.0] * sum(
            h.score > 0 for h in own.hits
        )
        assert {round(hit.score, 3) for hit in dense.hits} == {-0.354}  # of 8 equal numbers to one of 8 axes
