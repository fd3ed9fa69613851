"""How far embeddings may be from torch's: on average, and at worst, where an image that broke can't hide."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prunnet_hf.export.distances import Distance, Precision, distance_between, refuse_distance


def test_the_mean_and_the_worst_of_one_less_the_cosine() -> None:
    found = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [1.0, 0.0]])
    expected = torch.tensor([[2.0, 0.0], [5.0, 0.0], [0.0, 0.5], [0.0, -3.0]])
    distance = distance_between(found, expected)
    assert distance.mean == pytest.approx((0 + 0.4 + 0 + 1) / 4)
    assert distance.worst == pytest.approx(1)
    assert distance.place == 3
    assert str(Distance(0.00123, 0.0456, 0)) == "0.001 on average, 0.05 at worst"


@given(st.lists(st.integers(-1000, 1000), min_size=2, max_size=6).filter(any))
def test_rounding_is_no_distance_below_zero(values: list[int]) -> None:
    vector = torch.tensor([values], dtype=torch.float32)
    distance = distance_between(torch.nn.functional.normalize(vector), vector)
    assert 0 <= distance.mean == distance.worst < 1e-6


@pytest.mark.parametrize(("precision", "allowed"), [("fp32", 1e-5), ("fp16", 1e-3), ("int8", 2e-2)])
def test_what_is_just_allowed(precision: Precision, allowed: float) -> None:
    refuse_distance(Distance(allowed, 5 * allowed, 0), precision, 0.2, [])
    with pytest.raises(
        RuntimeError, match=rf"'{precision}' .* capacity 0\.20.* mean cosine distance .* {allowed:g} is"
    ):
        refuse_distance(Distance(1.1 * allowed, 1.1 * allowed, 0), precision, 0.2, [])
    with pytest.raises(
        RuntimeError, match=rf"the embedding of noise has .* {5 * allowed:g} is allowed\. Leave it out"
    ):
        refuse_distance(Distance(allowed, 5.1 * allowed, 0), precision, 0.2, [])


@pytest.mark.parametrize(
    ("images", "name"),
    [(["a.png"] * 1000, "a.png"), ([Path("b/c.png")] * 1000, "b/c.png"), ([1] * 1000, r"images\[7\]")],
)
def test_one_image_in_a_thousand_that_broke_is_named(images: list[object], name: str) -> None:
    expected = torch.eye(2)[torch.zeros(1000, dtype=torch.int64)]
    found = expected.clone()
    found[7] = torch.tensor([0.0, 1.0])
    distance = distance_between(found, expected)
    assert distance.mean == pytest.approx(0.001)  # which int8 may have
    with pytest.raises(RuntimeError, match=f"the embedding of {name} has a cosine distance of 1.0e\\+00 from torch's"):
        refuse_distance(distance, "int8", 1.0, images)


def test_what_is_not_a_number_is_refused() -> None:
    distance = distance_between(torch.tensor([[torch.nan, 1.0], [1.0, 0.0]]), torch.ones(2, 2))
    with pytest.raises(RuntimeError, match="mean cosine distance of nan"):
        refuse_distance(distance, "fp32", 1.0, [])
