"""The modules of the `evaluate` library: loaded as a user loads them, they give the numbers of the metrics."""

from __future__ import annotations

import doctest
import sys
from importlib.resources import files
from uuid import uuid4

import evaluate
import numpy as np
import pytest

from prunnet_hf.retrieval.metrics import evaluate_gldv2, evaluate_in_shop, evaluate_revisited, evaluate_veri

FOLDER = files("prunnet_hf") / "retrieval" / "evaluate_modules"
NAMES = ["gldv2_map", "in_shop", "revisited", "veri776"]


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """`evaluate.load` with its caches in a temporary folder; the import path is put back in the end."""
    caches = tmp_path_factory.mktemp("evaluate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", list(sys.path))
        patch.setattr(evaluate.config, "HF_MODULES_CACHE", caches / "modules")
        patch.setattr(evaluate.config, "HF_METRICS_CACHE", caches / "metrics")
        # A module that refuses its input keeps its lock, which another of the same experiment would wait for.
        yield lambda name: evaluate.load(str(FOLDER / name), experiment_id=uuid4().hex)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def orderings(rng, num_queries, num_gallery):
    return rng.permuted(np.tile(np.arange(num_gallery), (num_queries, 1)), axis=1)


def test_every_module_is_tested():
    assert sorted(path.name for path in FOLDER.iterdir() if path.is_dir() and path.name != "__pycache__") == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_example_in_the_description(load, name):
    module = load(name)
    example = doctest.DocTestParser().get_doctest(module.inputs_description, {}, name, None, 0)
    assert len(example.examples) == 4
    outcome = doctest.DocTestRunner().run(example)
    assert outcome.failed == 0


@pytest.mark.parametrize("name", NAMES)
def test_module_says_what_it_is_and_whom_to_cite(load, name):
    module = load(name)
    assert module.description
    assert module.citation.startswith("@inproceedings{")
    for argument in ("predictions:", "references:", "Returns:"):
        assert argument in module.inputs_description


def test_a_file_loads_like_its_folder(load):
    module = evaluate.load(str(FOLDER / "in_shop" / "in_shop.py"))
    assert module.compute(predictions=[[0]], references=[1], gallery_labels=[1], ks=[1]) == {"recall@1": 1}


def test_gldv2_map(load, rng):
    names = np.array([f"index{image}" for image in range(40)])
    predictions = [names[row].tolist() for row in orderings(rng, 12, 40)]
    references = [rng.choice(names, size, replace=False).tolist() for size in range(1, 13)]
    queries = [f"query{number}" for number in range(12)]
    expected = evaluate_gldv2(
        dict(zip(queries, predictions, strict=True)), dict(zip(queries, references, strict=True))
    )
    assert load("gldv2_map").compute(predictions=predictions, references=references) == expected
    at_10 = load("gldv2_map").compute(predictions=predictions, references=references, k=10)
    assert list(at_10) == ["mAP@10"]
    assert 0 < at_10["mAP@10"] < 1


def test_in_shop(load, rng):
    gallery_labels = rng.integers(8, size=40)
    query_labels = rng.choice(gallery_labels, 12)
    ranks = orderings(rng, 12, 40)[:, :30]
    found = load("in_shop").compute(predictions=ranks, references=query_labels, gallery_labels=gallery_labels)
    assert found == evaluate_in_shop(ranks, query_labels, gallery_labels)


def test_revisited(load, rng):
    parts = [np.split(rng.permutation(40)[:20], np.sort(rng.integers(1, 20, size=2))) for _ in range(12)]
    gnd = [dict(zip(("easy", "hard", "junk"), map(np.ndarray.tolist, part), strict=True)) for part in parts]
    ranks = orderings(rng, 12, 40)
    assert load("revisited").compute(predictions=ranks, references=gnd) == evaluate_revisited(ranks, gnd)


def test_veri776(load, rng):
    gallery_ids, gallery_cameras = rng.integers(6, size=40), rng.integers(4, size=40)
    query_ids, query_cameras = rng.choice(gallery_ids, 12), rng.integers(4, size=12)
    ranks = orderings(rng, 12, 40)
    found = load("veri776").compute(
        predictions=ranks,
        references=[
            {"id": vehicle, "camera": camera} for vehicle, camera in zip(query_ids, query_cameras, strict=True)
        ],
        gallery_ids=gallery_ids,
        gallery_cameras=gallery_cameras,
    )
    assert found == evaluate_veri(ranks, query_ids, query_cameras, gallery_ids, gallery_cameras)


def test_queries_may_come_in_batches(load, rng):
    gallery_labels = rng.integers(4, size=10)
    query_labels = rng.choice(gallery_labels, 6)
    ranks = orderings(rng, 6, 10)
    module = load("in_shop")
    for rows in (slice(0, 4), slice(4, 6)):
        module.add_batch(predictions=ranks[rows], references=query_labels[rows])
    found = module.compute(gallery_labels=gallery_labels, ks=(1, 4))
    assert found == evaluate_in_shop(ranks, query_labels, gallery_labels, (1, 4))


VERI = {
    "predictions": [[0, 1]],
    "references": [{"id": 5, "camera": 1}],
    "gallery_ids": [5, 6],
    "gallery_cameras": [2, 2],
}


@pytest.mark.parametrize(
    ("name", "inputs", "error", "message"),
    [
        ("gldv2_map", {"predictions": [["x"]], "references": [[]]}, ValueError, r"solution.*image"),
        ("gldv2_map", {"predictions": [["x"]], "references": [["x"], ["y"]]}, ValueError, "Mismatch"),
        ("in_shop", {"predictions": [[0, 1]], "references": [7]}, TypeError, "'gallery_labels'"),
        (
            "in_shop",
            {"predictions": [[0, 1]], "references": [7], "gallery_labels": [7, 8]},
            ValueError,
            r"^ks.*1.*2 ranks.*query.*4",
        ),
        (
            "revisited",
            {"predictions": [[0]], "references": [{"easy": [0], "hard": [1], "junk": []}]},
            ValueError,
            r"gnd\[0\].*image 1.*rankings.*1 images",
        ),
        ("veri776", {**VERI, "predictions": [[0]]}, ValueError, r"ranks.*gallery.*k=None"),
        ("veri776", {**VERI, "predictions": [[0, 0]]}, ValueError, r"ranks.*query 0.*gallery image 0"),
        ("veri776", {**VERI, "gallery_ids": [6, 6]}, ValueError, r"gallery.*image.*vehicle 5"),
    ],
)
def test_bad_input_is_refused(load, name, inputs, error, message):
    with pytest.raises(error, match=message):
        load(name).compute(**inputs)
