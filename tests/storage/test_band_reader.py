"""Bands joined: the dense model bit for bit, subnetworks as pruning makes them, and no crash on hostile files."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.mutants import mutate
from prunnet_hf.storage.band_index import INDEX_NAME
from prunnet_hf.storage.tensor_file import CheckpointFormatError
from tests.banded import EDGES, STORED, assert_same, loaded, model_tensors, pruned, saved
from tests.tiny_models import kept_mask

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
ONE = "band-00001-of-00003.safetensors"
TWO = "band-00002-of-00003.safetensors"
THREE = "band-00003-of-00003.safetensors"
TWO_RANKS = "band-00002-of-00003.ranks.safetensors"
CAPACITIES = st.one_of(st.sampled_from([*STORED, 1.0]), st.floats(0.01, 1))


def without_scores(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if not name.endswith(".scores")}


def replace(directory: Path, file: str, **changes: Tensor | None) -> None:
    """Change tensors of a file as someone would who mends its hash, too."""
    with safe_open(directory / file, framework="pt") as stored:
        metadata = stored.metadata()
    tensors = {**load_file(directory / file), **changes}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, directory / file, metadata)
    mend_hash(directory, file)


def mend_hash(directory: Path, file: str) -> None:
    index = json.loads((directory / INDEX_NAME).read_text())
    blob = (directory / file).read_bytes()
    index["files"][file] = {"size": len(blob), "sha256": hashlib.sha256(blob).hexdigest()}
    (directory / INDEX_NAME).write_text(json.dumps(index))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A checkpoint that the test may change."""
    return saved(tmp_path / "bands", model_tensors())


class TestWholeModel:
    @pytest.mark.parametrize("dtype", [torch.float64, *DTYPES], ids=str)
    def test_every_type_is_exact(self, dtype: torch.dtype, tmp_path: Path) -> None:
        tensors = model_tensors(dtype)
        found = loaded(saved(tmp_path, tensors))
        assert_same(without_scores(found), without_scores(tensors))
        assert found["conv.scores"].dtype == torch.float32

    def test_odd_numbers_survive(self, tmp_path: Path) -> None:
        tensors = model_tensors()
        odd = torch.tensor([0x7FC00123, -0x00400001, -0x80000000, 1], dtype=torch.int32).view(torch.float32)
        tensors["conv.weight"].view(-1)[:4] = odd  # NaN with payloads, -0.0, the smallest number
        assert_same(without_scores(loaded(saved(tmp_path, tensors))), without_scores(tensors))

    @settings(max_examples=40)
    @given(
        size=st.integers(1, 700),
        edges=st.lists(st.sampled_from(STORED), unique=True).map(sorted),
        dtype=st.sampled_from(DTYPES),
        tied=st.booleans(),
        capacity=CAPACITIES,
        seed=st.integers(0, 100),
    )
    def test_any_model_at_any_capacity(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        size: int,
        edges: list[float],
        dtype: torch.dtype,
        tied: bool,
        capacity: float,
        seed: int,
    ) -> None:
        tensors = model_tensors(dtype, shape=(size,), seed=seed, tied=tied)
        directory = saved(tmp_path_factory.mktemp("bands"), tensors, edges)
        whole = loaded(directory)
        assert_same(without_scores(whole), without_scores(tensors))
        for edge in [*edges, 1.0]:
            assert torch.equal(kept_mask(whole["conv.scores"], edge), kept_mask(tensors["conv.scores"], edge))
        assert_same(loaded(directory, capacity), pruned(whole, capacity))
        again = saved(tmp_path_factory.mktemp("bands"), whole, edges)
        for file in directory.iterdir():
            assert file.read_bytes() == (again / file.name).read_bytes()

    def test_masks_between_edges_are_exact_to_a_level(self, tmp_path: Path) -> None:
        tensors = model_tensors(shape=(100_000,))
        found = loaded(saved(tmp_path, tensors), 0.4)["conv.weight"] != 0
        wrong = int((found & ~kept_mask(tensors["conv.scores"], 0.4)).sum())
        assert int(found.sum()) == int(kept_mask(tensors["conv.scores"], 0.4).sum())
        assert wrong <= 40_000 / 256  # a level of the band from 0.2 to 0.6

    def test_a_model_without_stored_statistics(self, tmp_path: Path) -> None:
        tensors = model_tensors(stored=[])
        directory = saved(tmp_path, tensors, [], [])
        assert_same(without_scores(loaded(directory)), without_scores(tensors))
        assert_same(loaded(directory, 0.3), pruned(loaded(directory), 0.3, []))

    def test_a_layer_registered_twice_is_stored_once(self, tmp_path: Path) -> None:
        tensors = model_tensors()
        tensors["again.weight"], tensors["again.scores"] = tensors["conv.weight"], tensors["conv.scores"]
        directory = saved(tmp_path, tensors)
        for capacity in (None, 0.2):
            assert not [name for name in loaded(directory, capacity) if name.startswith("again")]


class TestSubnetwork:
    def test_only_the_needed_files_must_be_there(self, directory: Path) -> None:
        whole = loaded(directory)
        for file in (ONE.replace(".safe", ".ranks.safe"), THREE, THREE.replace(".safe", ".ranks.safe")):
            (directory / file).unlink()
        assert_same(loaded(directory, 0.55), pruned(whole, 0.55))
        (directory / TWO_RANKS).unlink()
        assert_same(loaded(directory, 0.6), pruned(whole, 0.6))
        (directory / TWO).unlink()
        assert_same(loaded(directory, 0.2), pruned(whole, 0.2))

    def test_a_kept_negative_zero_becomes_zero_as_by_pruning(self, tmp_path: Path) -> None:
        tensors = model_tensors()
        tensors["conv.weight"].fill_(-0.0)
        directory = saved(tmp_path, tensors)
        for capacity in (0.2, 1.0):
            assert_same(loaded(directory, capacity), pruned(loaded(directory), capacity))


class TestHostileFiles:
    """Hashes and sizes are right, contents are not."""

    @pytest.mark.parametrize(
        ("file", "changes", "problem"),
        [
            (ONE, {"conv.weight.band_mask": None}, r"band_mask' is missing; it must be torch.uint8 of shape \(4,\)"),
            (ONE, {"conv.weight.band_mask": torch.zeros(4, dtype=torch.uint8)}, "must have 7 bits set"),
            (ONE, {"conv.weight.band_mask": torch.full((4,), 255, dtype=torch.uint8)}, "must have 7 bits set"),
            (ONE, {"conv.weight.band_mask": torch.tensor([127, 0, 0, 64], dtype=torch.uint8)}, "none of them beyond"),
            (ONE, {"conv.weight.band_mask": torch.zeros(5, dtype=torch.uint8)}, r"\(5,\)\); it must be"),
            (ONE, {"conv.weight.band_values": torch.zeros(7).half()}, r"torch\.float32.*shape \(7,\)"),
            (ONE, {"conv.weight.band_values": torch.zeros(7, 1)}, r"torch\.float32.*shape \(7,\)"),
            (ONE, {"fc.weight.band_mask": torch.ones(1, dtype=torch.uint8)}, "must be left out"),
            (TWO, {"conv.weight.band_values": torch.zeros(9)}, r"torch\.float32.*shape"),
            (TWO, {"fc.weight.band_values": torch.zeros(1)}, "must be left out"),
            (TWO, {"norm.statistics_mean": None}, "statistics_mean.*row for each"),
            (TWO, {"norm.statistics_mean": torch.zeros(2, 3)}, "statistics_mean.*row for each"),
            (TWO, {"norm.statistics_mean": torch.zeros(1, 4)}, "statistics_mean.*row for each"),
            (TWO, {"norm.statistics_mean": torch.zeros(3)}, "statistics_mean.*row for each"),
            (TWO_RANKS, {"conv.weight.band_ranks": None}, "band_ranks' is missing"),
            # Of 30 weights 0.2 keeps 30 - round(0.8 * 29) = 7 and 0.6 keeps 30 - round(0.4 * 29) = 18, 11 more.
            (TWO_RANKS, {"conv.weight.band_ranks": torch.zeros(11)}, "must be torch.uint8"),
            (TWO_RANKS, {"conv.weight.band_ranks": torch.full((11,), 11, dtype=torch.uint8)}, "must be below 11"),
            (TWO_RANKS, {"conv.weight.band_knots": torch.ones(33)}, "must be positive normal float32"),
            (
                TWO_RANKS,
                {"conv.weight.band_knots": 99 - torch.arange(33) * 10 // 32 * 1.0},
                "below those of the band before",
            ),
            (TWO_RANKS, {"conv.weight.band_knots": torch.ones(3)}, r"of shape \(33,\)"),
        ],
        ids=str,
    )
    def test_what_does_not_agree(self, directory: Path, file: str, changes: dict[str, Any], problem: str) -> None:
        replace(directory, file, **changes)
        with pytest.raises(CheckpointFormatError, match=problem):
            loaded(directory)

    def test_statistics_that_a_capacity_needs(self, directory: Path) -> None:
        replace(directory, THREE, **{"norm.running_mean": None})
        with pytest.raises(CheckpointFormatError, match=r"'norm\.running_mean'.*0\.95"):
            loaded(directory, 0.95)
        replace(directory, THREE, **{"norm.running_mean": torch.zeros(4)})
        with pytest.raises(CheckpointFormatError, match=r"'norm\.running_mean'.*1\.0"):
            loaded(directory, 1.0)

    def test_mutants(self, directory: Path) -> None:
        """Law: a changed file gives the documented error or what was saved; with forged hashes also other tensors."""
        expected = {capacity: loaded(directory, capacity) for capacity in (None, 0.2, 0.3)}
        original = {file: file.read_bytes() for file in directory.iterdir()}
        for number in range(150):
            what, is_forged = mutate(directory, random.Random(number))
            for capacity, tensors in expected.items():
                try:
                    found = loaded(directory, capacity)
                except CheckpointFormatError:
                    continue
                if not is_forged:
                    assert_same(found, tensors, f"mutant {number}: {what}")
            for file, blob in original.items():
                file.write_bytes(blob)

    def test_shapes_that_would_take_all_memory(self, directory: Path) -> None:
        index = json.loads((directory / INDEX_NAME).read_text())
        index["tensors"]["conv.weight"]["shape"] = [2**31]
        (directory / INDEX_NAME).write_text(json.dumps(index))
        contents = {name: index[name] for name in ("capacities", "statistics", "tensors")}
        with safe_open(directory / ONE, framework="pt") as stored:
            metadata = stored.metadata()
        metadata["contents"] = json.dumps(contents, sort_keys=True, separators=(",", ":"))
        save_file(load_file(directory / ONE), directory / ONE, metadata)
        mend_hash(directory, ONE)
        with pytest.raises(CheckpointFormatError, match=r"torch\.uint8.*\(268435456,\)"):
            loaded(directory)


def test_edges_are_those_of_the_checkpoint(directory: Path) -> None:
    assert json.loads((directory / INDEX_NAME).read_text())["capacities"] == [*EDGES, 1.0]
