"""Latency of networks that take turns. Figures depend on the machine, so only what must hold on all is checked."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import pytest
import torch
from torch import nn

from prunnet_hf import PrunNetModel
from prunnet_hf.export.latency import describe_cpu, measure_latency
from tests.tiny_models import tiny, tiny_config


class Sleepless(nn.Module):
    """A backbone that counts its calls and how many threads it could use."""

    num_features = 3

    def __init__(self) -> None:
        super().__init__()
        self.threads: list[int] = []

    def forward_features(self, pixels: torch.Tensor) -> torch.Tensor:
        self.threads.append(torch.get_num_threads())
        return pixels

    def forward_head(self, features: torch.Tensor) -> torch.Tensor:
        return features.mean(dim=(2, 3))

    def __deepcopy__(self, memo: dict[int, Any]) -> Sleepless:
        return self


class Undecided(Sleepless):
    """A backbone whose way depends on what it sees, which can't be exported."""

    def forward_head(self, features: torch.Tensor) -> torch.Tensor:
        return features.amax(dim=(2, 3)) if features.sum() > 0 else features.mean(dim=(2, 3))


def around(backbone: nn.Module) -> PrunNetModel:
    model: Any = PrunNetModel(tiny_config(prunable=False)).eval()
    model.backbone = backbone
    model.projector = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8)).eval()
    return model


@pytest.mark.parametrize(
    ("runtime", "expected"),
    [
        ("torch", f"eager torch {version('torch')}"),
        ("onnxruntime", f"ONNX Runtime {version('onnxruntime')}"),
        (None, f"ONNX Runtime {version('onnxruntime')}"),
    ],
)
def test_every_network_is_measured(runtime: str | None, expected: str) -> None:
    model = tiny()
    found = measure_latency({0.2: model.prune(0.2), 1.0: model}, runtime=runtime, rounds=2)
    assert list(found.milliseconds) == list(found.ratios) == [0.2, 1.0]
    assert all(time > 0 for time in (*found.milliseconds.values(), *found.ratios.values()))
    assert found.ratios[1.0] == 1.0
    assert found.runtime == expected
    assert found.device == describe_cpu(threads=1)


def test_one_thread_works_and_every_turn_has_a_run_to_warm_up() -> None:
    backbone, threads = Sleepless(), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        measure_latency({"a": around(backbone)}, runtime="torch", rounds=3)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert backbone.threads == [1] * 2 * 4  # the first round doesn't count


def test_what_cannot_be_exported_is_measured_in_torch(caplog: pytest.LogCaptureFixture) -> None:
    found = measure_latency({"a": around(Undecided())}, rounds=1)
    assert found.runtime.startswith("eager torch")
    assert "backbone='resnet18'" in caplog.text
    with pytest.raises(RuntimeError, match=r"can't export.*another backbone"):
        measure_latency({"a": around(Undecided())}, runtime="onnxruntime", rounds=1)


def test_a_model_is_not_changed() -> None:
    model = tiny().train().half()
    measure_latency({1.0: model}, runtime="torch", rounds=1)
    assert model.training
    assert model.dtype == torch.float16


def test_another_runtime() -> None:
    with pytest.raises(ValueError, match=r"runtime.*'onnxruntime', 'torch'.*'tflite'"):
        measure_latency({1.0: tiny()}, runtime="tflite")


def test_without_the_extra_it_is_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    assert measure_latency({1.0: tiny()}, rounds=1).runtime.startswith("eager torch")


def test_cpu_is_named_with_the_threads_in_use() -> None:
    threads = torch.get_num_threads()
    assert describe_cpu().startswith("CPU (")
    assert describe_cpu().endswith(f", {threads} thread{'s' if threads > 1 else ''})")
    assert describe_cpu(threads=1).endswith(", 1 thread)")
