"""Bands of whole units joined: all bit for bit as saved, subnetworks as pruning makes them, hostile files refused."""

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
from prunnet_hf import PrunNetForImageClassification, PrunNetModel
from prunnet_hf.storage.band_index import INDEX_NAME
from prunnet_hf.storage.tensor_file import CheckpointFormatError
from tests.banded import assert_same
from tests.tiny_models import same_state, tiny_config, trained
from tests.unit_banded import BLOCKS, STORED, loaded, model_tensors, pruned, saved

ONE, TWO, THREE = (f"band-0000{number}-of-00003.safetensors" for number in (1, 2, 3))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A checkpoint that the test may change."""
    return saved(tmp_path / "bands", model_tensors())


def mend_hash(directory: Path, file: str) -> None:
    index = json.loads((directory / INDEX_NAME).read_text())
    blob = (directory / file).read_bytes()
    index["files"][file] = {"size": len(blob), "sha256": hashlib.sha256(blob).hexdigest()}
    (directory / INDEX_NAME).write_text(json.dumps(index))


def replace(directory: Path, file: str, **changes: Tensor | None) -> None:
    """Change tensors of a file as someone would who mends its hash, too."""
    with safe_open(directory / file, framework="pt") as stored:
        metadata = stored.metadata()
    tensors = {**load_file(directory / file), **changes}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, directory / file, metadata)
    mend_hash(directory, file)


def forge(directory: Path, member: str, name: str, value: Any) -> None:
    """Change what the index and its copy in band 1 say, as someone would who mends the hash, too."""
    index = json.loads((directory / INDEX_NAME).read_text())
    index[member][name] = value
    (directory / INDEX_NAME).write_text(json.dumps(index))
    contents = {name: index[name] for name in ("capacities", "statistics", "tensors", "units")}
    with safe_open(directory / ONE, framework="pt") as stored:
        metadata = stored.metadata()
    metadata["contents"] = json.dumps(contents, sort_keys=True, separators=(",", ":"))
    save_file(load_file(directory / ONE), directory / ONE, metadata)
    mend_hash(directory, ONE)


class TestModels:
    @pytest.mark.parametrize("blocks", BLOCKS.values(), ids=BLOCKS)
    def test_each_kind_of_block(self, blocks: dict[str, Any], tmp_path: Path) -> None:
        model = trained(tiny_config(granularity="channel", **blocks))
        model.save_pretrained(tmp_path, bands=[0.2, 0.6])
        assert same_state(PrunNetForImageClassification.from_pretrained(tmp_path), model)
        for capacity in (0.2, 0.33):
            found = PrunNetForImageClassification.from_pretrained(tmp_path, capacity=capacity)
            expected = model.prune(capacity)
            assert same_state(found, expected), capacity
            assert found.config.to_dict() == expected.config.to_dict() | {"_name_or_path": str(tmp_path)}

    @pytest.mark.filterwarnings("ignore:No running statistics are stored below")
    def test_without_the_classifier(self, tmp_path: Path) -> None:
        model = trained(tiny_config(granularity="channel", statistics_capacities=[0.2, 0.4, 0.6], **BLOCKS["basic"]))
        model.save_pretrained(tmp_path, bands=[0.2])
        for capacity in (0.1, 0.3, 0.9, 1.0):
            assert same_state(PrunNetModel.from_pretrained(tmp_path, capacity=capacity), model.prunnet.prune(capacity))
        assert same_state(PrunNetModel.from_pretrained(tmp_path, capacity=0.2), model.prunnet.prune(0.2))
        half = PrunNetModel.from_pretrained(tmp_path, capacity=0.2, dtype=torch.bfloat16)
        assert half.backbone.conv1.weight.dtype == torch.bfloat16


class TestTensors:
    @settings(max_examples=40)
    @given(
        sizes=st.tuples(st.integers(1, 300), st.integers(1, 9)),
        edges=st.lists(st.sampled_from(STORED), unique=True).map(sorted),
        dtype=st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16]),
        tied=st.booleans(),
        capacity=st.one_of(st.sampled_from([*STORED, 1.0]), st.floats(0.01, 1)),
        seed=st.integers(0, 100),
    )
    def test_any_model_at_any_capacity(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        sizes: tuple[int, int],
        edges: list[float],
        dtype: torch.dtype,
        tied: bool,
        capacity: float,
        seed: int,
    ) -> None:
        tensors = model_tensors(dtype, sizes=sizes, seed=seed, tied=tied)
        directory = saved(tmp_path_factory.mktemp("bands"), tensors, edges)
        assert_same(loaded(directory), tensors)
        assert_same(loaded(directory, capacity), pruned(tensors, capacity))

    def test_odd_numbers_survive(self, tmp_path: Path) -> None:
        tensors = model_tensors()
        odd = torch.tensor([0x7FC00123, -0x00400001, -0x80000000, 1], dtype=torch.int32).view(torch.float32)
        tensors["a.weight"].view(-1)[:4] = odd  # NaN with payloads, -0.0, the smallest number
        assert_same(loaded(saved(tmp_path, tensors)), tensors)

    def test_a_model_without_stored_statistics(self, tmp_path: Path) -> None:
        tensors = model_tensors(stored=[])
        directory = saved(tmp_path, tensors, [0.3], [])
        assert_same(loaded(directory), tensors)
        for capacity in (0.2, 0.3, 0.4):
            assert_same(loaded(directory, capacity), pruned(tensors, capacity, []))

    def test_a_layer_registered_twice_is_stored_once(self, tmp_path: Path) -> None:
        tensors = model_tensors()
        tensors["again.weight"] = tensors["a.weight"]
        directory = saved(tmp_path, tensors)
        for capacity in (None, 0.2):
            assert "again.weight" not in loaded(directory, capacity)

    def test_only_the_needed_files_must_be_there(self, directory: Path) -> None:
        tensors = model_tensors()
        (directory / THREE).unlink()
        for capacity in (0.55, 0.6):
            assert_same(loaded(directory, capacity), pruned(tensors, capacity))
        (directory / TWO).unlink()
        for capacity in (0.05, 0.2):
            assert_same(loaded(directory, capacity), pruned(tensors, capacity))


class TestHostileFiles:
    """Hashes and sizes are right, contents are not."""

    @pytest.mark.parametrize(
        ("file", "changes", "problem"),
        [
            (ONE, {"a.band_units": None}, r"band_units' is missing; it must be torch\.int32 of shape \(2,\)"),
            (ONE, {"a.band_units": torch.zeros(2)}, r"torch\.float32.*it must be torch\.int32"),
            (ONE, {"a.band_units": torch.tensor([0, 0], dtype=torch.int32)}, "units from 0 to 6, each once"),
            (ONE, {"a.band_units": torch.tensor([0, 7], dtype=torch.int32)}, "units from 0 to 6, each once"),
            (ONE, {"a.band_units": torch.tensor([-1, 0], dtype=torch.int32)}, "units from 0 to 6, each once"),
            (ONE, {"a.units.scores.band_values": torch.tensor([float("nan"), 1])}, "'a' isn't that of finite scores"),
            (ONE, {"b.weight.band_values": torch.zeros(24).half()}, r"torch\.float32 of shape \(24,\)"),
            (ONE, {"b.weight.band_values": torch.zeros(12, 2)}, r"torch\.float32 of shape \(24,\)"),
            (ONE, {"b.weight.band_values": None}, r"missing; it must be torch\.float32 of shape \(24,\)"),
            (ONE, {"b.weight": torch.zeros(24, 7)}, r"band 1 has \['b\.weight'\]"),
            (ONE, {"norm.running_mean.band_values": torch.zeros(7)}, "it must be left out"),
            (ONE, {"x.band_values": torch.zeros(7)}, r"band 1 has \['x\.band_values'\]"),
            (TWO, {"x": torch.zeros(7)}, r"band 2 has \['x'\]"),
            (TWO, {"last.statistics_mean.band_values": torch.zeros(2)}, r"shape \(4,\)"),
            (THREE, {"last.running_mean.band_values": None}, r"missing; it must be torch\.float32 of shape \(2,\)"),
        ],
        ids=str,
    )
    def test_tensors_of_a_band(self, directory: Path, file: str, changes: dict[str, Any], problem: str) -> None:
        replace(directory, file, **changes)
        with pytest.raises(CheckpointFormatError, match=problem):
            loaded(directory)

    @pytest.mark.parametrize(
        ("member", "name", "value", "problem"),
        [
            ("units", "a", 0, "units has 0 for 'a'"),
            ("units", "a", 2**31, "units has 2147483648 for 'a'"),
            ("units", "a", 6, "6 units in shape"),
            ("units", "c", 4, "'c.band_units' is missing"),
            ("tensors", "a.weight", {"dtype": "F32", "shape": [7, 5]}, "axes, dtype and shape only"),
            ("tensors", "a.weight", {"dtype": "F32", "shape": [7, 5], "axes": []}, "those of groups"),
            ("tensors", "a.weight", {"dtype": "F32", "shape": [7, 5], "axes": {"x": {}}}, "those of groups"),
            ("tensors", "a.weight", {"dtype": "F32", "shape": [7, 5], "axes": {"a": {"x": 1}}}, "those of groups"),
            ("tensors", "a.weight", {"dtype": "F32", "shape": [7, 5], "axes": {"a": {"dim": 0.0}}}, "those of groups"),
            ("tensors", "a.weight", {"dtype": "F32", "shape": [7, 5], "axes": {"a": {"dim": 2}}}, "can't be one of"),
            ("tensors", "a.weight", {"dtype": "F32", "shape": [7, 5], "axes": {"a": {"dim": -2}}}, "can't be one of"),
            (
                "tensors",
                "a.weight",
                {"dtype": "F32", "shape": [7, 5], "axes": {"a": {"scaled": 2}}},
                "can't be one of",
            ),
            ("tensors", "a.weight", {"dtype": "F32", "shape": [7, 5], "axes": {"a": {"inner": 0}}}, "can't be one of"),
            ("tensors", "a.weight", {"dtype": "F32", "shape": [7, 4], "axes": {"a": {}, "b": {}}}, "4 units in shape"),
            (
                "tensors",
                "a.weight",
                {"dtype": "F32", "shape": [28], "axes": {"a": {"inner": 4}, "b": {"inner": 7}}},
                "a dimension of its own",
            ),
            (
                "tensors",
                "norm.statistics_mean",
                {"dtype": "F32", "shape": [4, 7], "axes": {"a": {"dim": 1}}},
                "5 rows",
            ),
            ("tensors", "norm.statistics_mean", {"dtype": "F32", "shape": [5, 7], "axes": {}}, "5 rows"),
            ("tensors", "x.statistics_mean", {"dtype": "F32", "shape": [5, 7], "axes": {}}, "5 rows"),
            ("tensors", "a.units.scores", {"dtype": "F32", "shape": [7], "axes": {}}, r"shape \(7,\)"),
        ],
        ids=str,
    )
    def test_an_index_that_cannot_be(self, directory: Path, member: str, name: str, value: Any, problem: str) -> None:
        forge(directory, member, name, value)
        with pytest.raises(CheckpointFormatError, match=problem):
            loaded(directory)

    def test_shapes_that_would_take_all_memory(self, directory: Path) -> None:
        forge(directory, "tensors", "a.weight", {"dtype": "F32", "shape": [7, 2**29], "axes": {"a": {}}})
        with pytest.raises(CheckpointFormatError, match=r"a\.weight\.band_values.*\(1073741824,\)"):
            loaded(directory, 0.2)

    def test_a_file_of_another_model(self, directory: Path, tmp_path: Path) -> None:
        other = saved(tmp_path / "other", model_tensors(seed=1))
        (directory / TWO).write_bytes((other / TWO).read_bytes())
        with pytest.raises(CheckpointFormatError, match=rf"{TWO}: .*SHA-256.*another model"):
            loaded(directory)
        assert_same(loaded(directory, 0.2), pruned(model_tensors(), 0.2))

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
