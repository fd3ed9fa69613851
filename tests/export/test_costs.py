"""Costs found from shapes alone are those of the files and networks that are really cut."""

from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from prunnet_hf.export.costs import SubnetworkCosts, on_meta
from prunnet_hf.export.multiply_adds import count_multiply_adds
from prunnet_hf.storage.forms import weights_bytes
from tests.tiny_models import assert_same_state, state_of, tiny, tiny_of_units

# 0.9687 to 0.97 is where packed float32 tensors turn plain.
CAPACITIES = (0.0001, 0.05, 0.2, 0.5, 0.9, 0.96, 0.9687, 0.97, 0.9999, 1.0)


def with_zeros() -> Any:
    """A network in which some weights are zero, -0.0 too, of which pruning keeps some: no file stores them."""
    model = tiny()
    with torch.no_grad():
        for number, layer in enumerate(model.prunable_layers().values()):
            layer.weight.view(-1)[number % 3 :: 3] = -0.0 if number % 2 else 0.0
    return model


@pytest.mark.filterwarnings("ignore:No running statistics")
@pytest.mark.parametrize(
    "make",
    [
        tiny,
        lambda: tiny().prunnet,
        lambda: tiny().half(),
        with_zeros,
        tiny_of_units,
        lambda: tiny_of_units().bfloat16(),
    ],
    ids=["weights", "without classifier", "half", "zeros", "units", "units in bfloat16"],
)
def test_files_are_that_large(make: Any, tmp_path: Path) -> None:
    model = make()
    costs = SubnetworkCosts(model)
    for capacity in CAPACITIES:
        model.prune(capacity).save_pretrained(tmp_path)
        assert costs.file_bytes(capacity) == weights_bytes(tmp_path), capacity
        if capacity < 1.0:
            assert costs.least_file_bytes(capacity) <= costs.file_bytes(capacity)
    steps = 1000 if costs.granularity == "weight" else 20
    least = [costs.least_file_bytes(step / steps) for step in range(1, steps + 1)]
    assert all(smaller <= larger for smaller, larger in pairwise(least))


@pytest.mark.filterwarnings("ignore:No running statistics")
def test_multiply_adds_are_those_of_the_network_that_is_cut() -> None:
    model = tiny_of_units()
    costs = SubnetworkCosts(copy.deepcopy(model).train())
    found = [costs.multiply_adds(capacity) for capacity in (0.0001, 0.2, 0.5, 1.0)]
    networks = [model.prunnet.prune(capacity) for capacity in (0.0001, 0.2, 0.5, 1.0)]
    assert found == [count_multiply_adds(network, 32).dense for network in networks]
    assert found == sorted({*found})


def test_a_copy_on_the_meta_device_has_types_and_shapes_and_leaves_the_model() -> None:
    model = tiny_of_units().half()
    state = state_of(model)
    copied = on_meta(model)
    described = {name: (tensor.dtype, tensor.shape) for name, tensor in copied.state_dict().items()}
    assert described == {name: (tensor.dtype, tensor.shape) for name, tensor in state.items()}
    assert all(tensor.is_meta for tensor in (*copied.parameters(), *copied.buffers()))
    assert_same_state(model, state)
