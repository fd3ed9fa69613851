"""A subnetwork is trained further: what it leaves out stays out, in a space of its own, in the form that it had."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from prunnet_hf import PrunNetForImageClassification, PrunNetModel, check_compatible
from prunnet_hf.configuration_prunnet import Granularity
from prunnet_hf.runs.arguments import RunArguments, parse_arguments
from tests.accelerate_state import reset_accelerate
from tests.tiny_models import same_state, tiny, tiny_of_units
from tests.training.tiny_run import arguments, make_photos, trainer


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[Granularity, Path]:
    """A dense network of each granularity, and in `phone` its subnetwork of capacity 0.2. No test may change them."""
    made: dict[Granularity, Path] = {}
    for granularity in ("weight", "channel"):
        dense = (tiny if granularity == "weight" else tiny_of_units)()
        dense.renew_embedding_space()
        made[granularity] = tmp_path_factory.mktemp(granularity)
        for name, model in (("dense", dense), ("phone", dense.prunnet.prune(0.2))):
            model.save_pretrained(made[granularity] / name)
            dense.image_processor.save_pretrained(made[granularity] / name)
    return made


def tuning(photos: Path, output: Path, source: Path, **options: Any) -> RunArguments:
    alone = {"method": "independent", "capacities": [0.2], "eval_capacities": []}
    return arguments(photos, output, source=source, **{**alone, **options})


def packed(model: torch.nn.Module, names: list[str]) -> dict[str, Tensor]:
    prefix = "prunnet." if isinstance(model, PrunNetForImageClassification) else ""
    return {name: model.get_parameter(prefix + name).detach().clone() for name in names}


def _weight_files(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.glob("*.safetensors"))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_zeros_stay_exactly_zero_in_every_step_and_the_rest_learns(
    optimizer: str, photos: Path, sources: dict[Granularity, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    phone = PrunNetModel.from_pretrained(sources["weight"] / "phone")
    before = packed(phone, phone.packable_weights())
    dropped = {name: weight == 0 for name, weight in before.items()}
    assert sum(int(mask.sum()) for mask in dropped.values()) > 1000
    options = {"optimizer": optimizer, "weight_decay": 0.05, "learning_rate": 0.01}
    run = trainer(tuning(photos, tmp_path / "run", sources["weight"] / "phone", **options))
    update, steps = run.step.update, []

    def watched(step: int) -> None:
        update(step)
        now = packed(run.model, list(before))
        for name, weight in now.items():
            assert not weight[dropped[name]].any(), (step, name)
            assert not torch.signbit(weight[dropped[name]]).any()  # no -0.0, which would be packed
        steps.append(step)

    monkeypatch.setattr(run.step, "update", watched)
    model = run.run().model
    assert steps == [0, 1, 2, 3, 4, 5]
    for name, weight in packed(model, list(before)).items():
        assert (weight != before[name])[~dropped[name]].all(), name
    if optimizer == "sgd":
        momenta = [state["momentum_buffer"] for state in run.step.optimizer.state.values()]
        assert sum(int((momentum != 0).sum()) for momentum in momenta) > 1000  # it was at work


@pytest.mark.parametrize("granularity", ["weight", "channel"])
def test_it_is_saved_as_what_it_was_in_a_space_of_its_own_and_resumed_with_the_same_bits(
    granularity: Granularity, photos: Path, sources: dict[Granularity, Path], tmp_path: Path
) -> None:
    source = sources[granularity] / "phone"
    options = {"checkpoint_steps": 1, "keep_checkpoints": 6}
    trained = trainer(tuning(photos, tmp_path / "whole", source, **options)).run()
    whole = trained.model
    whole.save_pretrained(tmp_path / "saved")
    before, after = PrunNetModel.from_pretrained(source), PrunNetModel.from_pretrained(tmp_path / "saved")
    assert _weight_files(tmp_path / "saved") == _weight_files(source)
    kept = ("capacity", "prunable", "granularity", "kept_units", "embedding_dim", "allocation")
    assert all(getattr(after.config, name) == getattr(before.config, name) for name in kept)
    assert after.config.capacities == [0.2]
    assert trained.facts.base_subnetwork == {"capacity": 0.2, "embedding_space": before.config.embedding_space}
    assert not same_state(after, before)
    with pytest.raises(ValueError, match="can't be compared"):
        check_compatible(before, after)
    shutil.copytree(tmp_path / "whole/checkpoints/step-2", tmp_path / "again/checkpoints/step-2")
    reset_accelerate()
    again = trainer(tuning(photos, tmp_path / "again", source, resume=True, **options)).run().model
    assert same_state(again, whole)


def test_a_subnetwork_is_measured_alone(sources: dict[Granularity, Path]) -> None:
    phone = PrunNetModel.from_pretrained(sources["weight"] / "phone")
    images = [torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
    dense = PrunNetModel.from_pretrained(sources["weight"] / "dense")
    phone.calibrate(images, progress=False)
    assert same_state(phone, dense.prune(0.2, calibration=images, progress=False))


def test_the_command_trains_a_subnetwork_alone_unless_it_is_asked_otherwise(
    sources: dict[Granularity, Path],
) -> None:
    phone = str(sources["weight"] / "phone")
    train = parse_arguments(["--model_name_or_path", phone]).train
    assert (train.method, train.capacities) == ("independent", [0.2])
    assert parse_arguments(["--model_name_or_path", phone, "--method", "joint"]).train.method == "joint"
    usual = parse_arguments([]).train
    for other in ([str(sources["weight"] / "dense")], ["nowhere/at-all"], [phone, "--eval_only"]):
        found = parse_arguments(["--model_name_or_path", *other]).train
        assert (found.method, found.capacities) == (usual.method, usual.capacities)


def test_what_a_subnetwork_can_not_be_trained_by_is_refused(
    photos: Path, sources: dict[Granularity, Path], tmp_path: Path
) -> None:
    phone = sources["weight"] / "phone"
    with pytest.raises(ValueError, match=r"--method joint needs a prunable.*capacity 0\.20.*Leave --method"):
        trainer(tuning(photos, tmp_path, phone, method="joint"))
    with pytest.raises(ValueError, match=r"--capacities must be 0\.20.*got 0\.50.*Leave"):
        trainer(tuning(photos, tmp_path, phone, capacities=[0.5]))


def test_a_teacher_may_teach_a_subnetwork(photos: Path, sources: dict[Granularity, Path], tmp_path: Path) -> None:
    """By the method `regression`, which learns the embeddings of the network that it was cut from."""
    folder, options = sources["weight"], {"method": "regression", "teacher": str(sources["weight"] / "dense")}
    model = trainer(tuning(photos, tmp_path, folder / "phone", data={"resize": 37}, **options)).run().model
    assert (model.config.capacity, model.config.prunable) == (0.2, False)
