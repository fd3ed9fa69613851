"""faiss indices by factory string: ids are rows, also after rows were removed; bad strings are refused."""

from __future__ import annotations

import numpy as np
import pytest

from prunnet_hf.retrieval.gallery_index import (
    build_index,
    changed_index,
    choose_factory,
    default_parameters,
    set_parameters,
)
from prunnet_hf.retrieval.search import normalize

DIM = 16


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return normalize(np.random.default_rng(0).normal(size=(700, DIM)).astype(np.float32))


@pytest.mark.parametrize(
    ("factory", "removes"),
    [
        ("Flat", True),
        ("SQ8", True),
        ("IVF4,Flat", True),
        ("OPQ4,PQ4x8np", True),
        ("HNSW8", False),
        ("IVF4,PQ4x8np,RFlat", False),
    ],
)
def test_ids_are_rows_also_after_removing_some(vectors: np.ndarray, factory: str, removes: bool) -> None:
    index = build_index(vectors, factory)
    assert index.ntotal == len(vectors)
    left = np.concatenate([np.delete(vectors, [0, 5, 699], axis=0), vectors[:1]])
    changed = changed_index(index, [0, 5, 699], vectors[:1], lambda: left)
    assert (changed is index) is removes
    without = changed_index(index, [0], vectors[:1], lambda: None)
    assert (without is None) is not removes
    assert index.ntotal == (698 if removes else 700)
    index = changed if not removes else build_index(vectors, factory)
    if removes:
        index = changed_index(index, [0, 5, 699], vectors[:1], lambda: None)
    assert index.ntotal == len(left)
    _, found = index.search(left[:100], 3)
    # Quantised vectors are close to their own, which is then among the first.
    assert np.mean([row in found[row] for row in range(100)]) > 0.95


@pytest.mark.parametrize(
    ("factory", "reason"), [("Flat,nothing", "could not parse"), ("PQ7", "multiple of the number"), ("", "factory=''")]
)
def test_a_string_that_faiss_refuses_is_refused_with_its_reason(
    vectors: np.ndarray, factory: str, reason: str
) -> None:
    with pytest.raises(
        ValueError, match=f"factory={factory!r} is no index that faiss can make for .*length 16"
    ) as error:
        build_index(vectors, factory)
    assert reason in str(error.value)


def test_too_few_images_to_train_on_says_how_many_are_needed(vectors: np.ndarray) -> None:
    with pytest.raises(
        ValueError, match=r"factory='IVF1024,Flat' needs at least 1024 images to be trained; there are 700"
    ):
        build_index(vectors, "IVF1024,Flat")


def test_auto_chooses_by_number_and_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pages = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2**30 // 4096}  # 1 GiB
    monkeypatch.setattr("os.sysconf", pages.__getitem__)
    assert choose_factory(200_000, 64) == "Flat"
    # 300,000 * (4 * 64 + 300) bytes are 167 MB, less than a quarter of 1 GiB; 500,000 are 278 MB, more than that.
    assert choose_factory(300_000, 64) == "HNSW32"
    assert choose_factory(500_000, 64) == "IVF2048,PQ16x8np"  # 4 sqrt(500,000) = 2828, nearest power of two 2048


def test_parameters_are_those_that_an_index_has(vectors: np.ndarray) -> None:
    index = build_index(vectors, "IVF8,Flat")
    assert default_parameters(index) == "nprobe=1"
    set_parameters(index, "nprobe=8")
    _, found = index.search(vectors, 1)
    assert (found[:, 0] == np.arange(len(vectors))).all()  # all lists: exact
    with pytest.raises(ValueError, match="parameters='efSearch=3' don't suit this index"):
        set_parameters(index, "efSearch=3")


def test_a_small_sample_is_said_once_and_faiss_is_quiet(
    vectors: np.ndarray, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    build_index(vectors, "OPQ4,IVF32,PQ4x8np")
    assert "WARNING clustering" not in "".join(capfd.readouterr())
    (record,) = caplog.records
    assert "'OPQ4,IVF32,PQ4x8np' is trained on 700 images; from 9984 on" in record.getMessage()  # 39 for each of 256
