"""The rank16 form: masks of trained capacities exact, saved again the same bytes, and never silently wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from safetensors.torch import save_file
from torch import Tensor

from prunnet_hf.masking import kept_mask
from prunnet_hf.rank16 import from_ranks
from prunnet_hf.rank16 import holds_rank16
from prunnet_hf.rank16 import load_rank16
from prunnet_hf.rank16 import save_rank16
from prunnet_hf.rank16 import to_ranks
from prunnet_hf.tensor_file import CheckpointFormatError

METADATA = {"format": "pt", "scores": "rank16", "scores_version": "1"}
TRAINED = [0.2, 0.6]


def state(seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "conv.weight": torch.randn(3, 2, 2, 2, generator=generator).to(dtype),
        "conv.scores": torch.randn(3, 2, 2, 2, generator=generator).to(dtype),
        "one.weight": torch.randn(1, 1, generator=generator).to(dtype),
        "one.scores": torch.zeros(1, 1, dtype=dtype),
        "norm.bias": torch.randn(3, generator=generator).to(dtype),
        "norm.num_batches_tracked": torch.tensor(7),
    }


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file that the test may change."""
    save_rank16(tmp_path / "m", state(), ["conv", "one"], TRAINED)
    return tmp_path / "m"


def rewrite(file: Path, metadata: dict[str, str] | None = None, **changes: Tensor | None) -> None:
    tensors = {name: tensor for name, tensor in {**load_file(file), **changes}.items() if tensor is not None}
    save_file(tensors, file, METADATA if metadata is None else metadata)


class TestRanks:
    def test_by_hand(self) -> None:
        # Six weights have a level each: |-3| is first, then 2, then the 1.0 before the other, 0.5 and 0.25.
        ranks, knots = to_ranks(torch.tensor([[1.0, -3.0, 0.5], [2.0, 1.0, 0.25]]), TRAINED)
        assert ranks.tolist() == [[2, 0, 4], [1, 3, 5]]
        assert ranks.dtype == torch.uint16
        assert len(knots) == 257
        assert knots[[0, -1]].tolist() == [3.0, 0.25]
        scores = from_ranks(ranks, knots)
        assert scores[0, 1] == 3.0
        assert scores[1, 0] == 2.0
        assert scores[1, 1] == 1.0
        assert scores[0, 0] == 1.0 + 2.0**-23  # made larger by one bit pattern, as it comes first

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
    @pytest.mark.parametrize("tied", [False, True])
    def test_masks_of_trained_capacities_are_exact_in_large_layers(self, dtype: torch.dtype, tied: bool) -> None:
        scores = torch.randn(100, 991, generator=torch.Generator().manual_seed(0))  # more than 65,536
        scores = (scores.round() if tied else scores).to(dtype)
        ranks, knots = to_ranks(scores, TRAINED)
        again = from_ranks(ranks, knots)
        for capacity in (*TRAINED, 1.0):
            assert torch.equal(kept_mask(again, capacity), kept_mask(scores, capacity))
        between = kept_mask(again, 0.4) != kept_mask(scores, 0.4)
        assert int(between.sum()) <= 2  # one level of two weights
        assert int(ranks.to(torch.int32).max()) < 65_536
        assert all(torch.equal(one, two) for one, two in zip((ranks, knots), to_ranks(again, TRAINED), strict=True))

    def test_scores_keep_their_size(self) -> None:
        scores = torch.randn(300, 300, generator=torch.Generator().manual_seed(0))
        error = (from_ranks(*to_ranks(scores, TRAINED)) / scores.abs()).log2().abs()
        assert float(error.quantile(0.99)) < 0.05

    @given(values=st.lists(st.floats(-4, 4, width=16), min_size=1, max_size=40), capacity=st.floats(0.01, 1))
    def test_every_mask_of_a_small_layer_is_exact(self, values: list[float], capacity: float) -> None:
        scores = torch.tensor(values)
        again = from_ranks(*to_ranks(scores, TRAINED))
        assert torch.equal(kept_mask(again, capacity), kept_mask(scores, capacity))


class TestFile:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
    def test_round_trip(self, dtype: torch.dtype, tmp_path: Path) -> None:
        save_rank16(tmp_path / "one", state(dtype=dtype), ["conv", "one"], TRAINED)
        loaded = load_rank16(tmp_path / "one")
        assert loaded.keys() == state().keys()
        for name, tensor in state(dtype=dtype).items():
            assert loaded[name].dtype == (torch.float32 if name.endswith("scores") else tensor.dtype)
            assert name.endswith("scores") or torch.equal(loaded[name], tensor)
        save_rank16(tmp_path / "two", loaded, ["conv", "one"], TRAINED)
        assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()

    def test_what_is_in_it(self, file: Path) -> None:
        tensors = load_file(file)
        assert holds_rank16(tensors)
        assert not holds_rank16(state())
        assert tensors["conv.scores_rank16"].dtype == torch.uint16
        assert sorted(tensors["conv.scores_rank16"].flatten().tolist()) == list(range(24))
        assert tensors["conv.score_knots"].shape == (257,)
        assert "conv.scores" not in tensors

    def test_a_layer_registered_twice_is_stored_once(self, tmp_path: Path) -> None:
        tensors = state()
        tensors["again.weight"], tensors["again.scores"] = tensors["conv.weight"], tensors["conv.scores"]
        save_rank16(tmp_path / "m", tensors, ["conv", "one"], TRAINED)
        loaded = load_rank16(tmp_path / "m")
        assert "again.scores" not in loaded

    def test_a_layer_that_the_tensors_lack(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"lacks \['two\.scores'\]"):
            save_rank16(tmp_path / "m", state(), ["two"], TRAINED)

    def test_reserved_names(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"'x\.score_knots'.*reserved"):
            save_rank16(tmp_path / "m", {"x.score_knots": torch.ones(1)}, [], TRAINED)


class TestDamage:
    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ({"conv.score_knots": None}, r"not every layer"),
            ({"conv.scores_rank16": None}, r"not every layer"),
            ({"conv.scores": torch.ones(3, 2, 2, 2)}, r"\['conv'\] are stored plain and as ranks"),
            ({"conv.weight": torch.ones(3, 2, 2)}, r"must be torch.uint16 of the shape .*\(3, 2, 2\)"),
            ({"conv.weight": None}, r"of the shape of 'conv\.weight', None"),
            ({"conv.scores_rank16": torch.zeros(3, 2, 2, 2)}, r"is torch.float32"),
            ({"conv.score_knots": torch.zeros(257)}, r"knots of 'conv\.scores' must be positive"),
            ({"conv.score_knots": torch.ones(9)}, r"of shape \(257,\)"),
            ({"conv.score_knots": torch.ones(257, dtype=torch.float64)}, r"must be torch.float32"),
        ],
        ids=lambda value: str(list(value)) if isinstance(value, dict) else "",
    )
    def test_tensors_that_do_not_agree(self, file: Path, changes: dict[str, Any], problem: str) -> None:
        rewrite(file, **changes)
        with pytest.raises(CheckpointFormatError, match=problem):
            load_rank16(file)

    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            ({"scores_version": "2"}, "version of the ranks is 2; this prunnet_hf reads up to 1. Upgrade"),
            ({"scores_version": "x"}, "'scores_version' is 'x'"),
            ({"scores": "rank8"}, "'scores' is 'rank8'"),
        ],
    )
    def test_metadata(self, file: Path, change: dict[str, str], problem: str) -> None:
        rewrite(file, METADATA | change)
        with pytest.raises(CheckpointFormatError, match=problem):
            load_rank16(file)

    @settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(place=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
    def test_any_byte(self, file: Path, place: float, byte: int) -> None:
        blob = bytearray(file.read_bytes())
        damaged = file.with_name("damaged")
        blob[int(place * len(blob))] = byte
        damaged.write_bytes(blob)
        try:
            loaded = load_rank16(damaged)
        except CheckpointFormatError:
            return
        for name, tensor in loaded.items():
            assert not name.endswith(".scores") or bool(((tensor > 0) & tensor.isfinite()).all())
