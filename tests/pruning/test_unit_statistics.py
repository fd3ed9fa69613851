"""Units of a network whose batch norms also have statistics of its subnetworks."""

from __future__ import annotations

import timm

from prunnet_hf import PrunNetModel
from prunnet_hf.pruning.calibration import add_statistics
from prunnet_hf.pruning.channel_rules import find_units
from prunnet_hf.pruning.channels import Axis
from tests.tiny_models import tiny_config


def test_they_lie_in_the_rows_of_statistics() -> None:
    network = timm.create_model("resnet18", layers=[1, 1, 1, 1], channels=[4, 4, 8, 8])
    before = find_units(network)["layer1.0.conv1"]
    add_statistics(network, 3)
    found = find_units(network)["layer1.0.conv1"]
    rows = [Axis(f"layer1.0.bn1.{name}", 1) for name in ("statistics_mean", "statistics_var")]
    assert sorted(found.axes) == sorted([*before.axes, *rows])


def test_large_groups_keep_a_multiple_of_8_with_statistics_too() -> None:
    kwargs = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 128]}
    model = PrunNetModel(tiny_config(backbone_kwargs=kwargs, granularity="channel"))
    # A fifth of 128 units is 26, and of 8 units 2: only the large group is rounded.
    assert model.prune(0.2).config.kept_units == {
        "layer1.0.conv1": 2,
        "layer2.0.conv1": 2,
        "layer3.0.conv1": 2,
        "layer4.0.conv1": 24,
    }
