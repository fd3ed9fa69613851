"""The training run, end to end on a tiny image folder: what it writes and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from prunnet_hf import PrunNetConfig, PrunNetForImageClassification
from prunnet_hf.retrieval.metrics import LEAVE_ONE_OUT
from prunnet_hf.runs.ownership import claim_run
from prunnet_hf.training.checkpoints import list_checkpoints
from prunnet_hf.training.engine import train
from prunnet_hf.training.networks import create_model, load_trained
from tests.accelerate_state import reset_accelerate
from tests.training.tiny_run import (
    TEST_CLASSES,
    TEST_IMAGES,
    TRAIN_CLASSES,
    TRAIN_IMAGES,
    arguments,
    make_photos,
    metrics,
    trainer,
    weights,
)


class TestFinishedRun:
    def test_files(self, finished: Path) -> None:
        assert {path.name for path in (finished / "model").iterdir()} == {
            "config.json",
            "model.safetensors",
            "preprocessor_config.json",
        }
        assert {path.name for path in (finished / "subnetworks").iterdir()} == {"capacity-0.20", "capacity-0.50"}
        assert (finished / "subnetworks/capacity-0.20/model.packed.safetensors").is_file()
        assert [path.name for path in list_checkpoints(finished)] == [f"step-{step}" for step in range(1, 7)]
        assert (finished / "compatibility.png").read_bytes().startswith(b"\x89PNG")
        assert list((finished / "logs").rglob("events.out.tfevents.*"))

    def test_metrics_have_the_fields_of_the_format(self, finished: Path) -> None:
        found = metrics(finished)
        assert found["format"] == 1
        assert (found["dataset"], found["split"], found["protocol"]) == ("photos", "test", "leave_one_out")
        assert (found["method"], found["seed"]) == ("prunnet", 0)
        assert (found["num_train_classes"], found["num_train_images"]) == (TRAIN_CLASSES, TRAIN_CLASSES * TRAIN_IMAGES)
        assert found["num_queries"] == found["num_gallery"] == TEST_CLASSES * TEST_IMAGES
        assert {"command", "commit", "versions", "training_seconds"} <= found.keys()
        pairs = {(r["query_capacity"], r["gallery_capacity"], r["metric"]) for r in found["results"]}
        grid = (0.2, 0.3, 0.5, 1.0)
        assert pairs == {(q, g, m) for q in grid for g in grid for m in LEAVE_ONE_OUT}
        assert all(0 <= result["value"] <= 1 for result in found["results"])
        # Each of 9 queries has 2 relevant images among 8 others.
        assert 2 / 8 < found["chance"]["mAP"] < 0.5

    def test_metrics_say_what_each_capacity_costs(self, finished: Path) -> None:
        rows = {row["capacity"]: row for row in metrics(finished)["capacities"]}
        prunable = rows[1.0]["prunable_weights"]
        # The stem's first convolution alone has 4 x 3 x 3 x 3 weights.
        assert prunable > 108
        assert rows[1.0]["kept_weights"] == prunable
        assert 0.2 * prunable <= rows[0.2]["kept_weights"] < 0.21 * prunable
        assert rows[0.3]["file_bytes"] is None
        packed = finished / "subnetworks/capacity-0.50/model.packed.safetensors"
        assert rows[0.5]["file_bytes"] == packed.stat().st_size
        assert all(row["latency_ms"] > 0 for row in rows.values())

    def test_model_and_subnetworks_share_a_space(self, finished: Path) -> None:
        configs = [json.loads(path.read_text()) for path in finished.glob("**/config.json")]
        assert len(configs) == 3
        assert len({config["embedding_space"] for config in configs}) == 1
        assert configs[0]["embedding_space"]

    def test_models_have_what_was_measured(self, finished: Path) -> None:
        configs = [json.loads(path.read_text()) for path in finished.glob("**/config.json")]
        cross_tests = {
            f"{result['query_capacity']:.2f}": result["value"]
            for result in metrics(finished)["results"]
            if result["metric"] == "mAP" and result["gallery_capacity"] == 1.0
        }
        assert cross_tests.keys() == {"0.20", "0.30", "0.50", "1.00"}
        for config in configs:
            about = {"dataset": "photos", "protocol": "leave_one_out", "metric": "mAP"}
            assert config["measured"] == {**about, "space": config["embedding_space"], "values": cross_tests}

    def test_recipe_does_the_run_again(self, finished: Path) -> None:
        recipe = yaml.safe_load((finished / "config.yaml").read_text())
        assert recipe["capacities"] == [0.2, 0.5]
        assert "resume" not in recipe
        assert "eval_only" not in recipe

    def test_resumed_run_ends_with_the_same_weights(self, photos: Path, finished: Path, tmp_path: Path) -> None:
        run = tmp_path / "interrupted"
        shutil.copytree(finished / "checkpoints" / "step-3", run / "checkpoints" / "step-3")
        train(arguments(photos, run, checkpoint_every=1, resume=True))
        expected = weights(finished / "model")
        found = weights(run / "model")
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
        assert metrics(run)["results"] == metrics(finished)["results"]

    def test_evaluating_again_reproduces_the_results(self, photos: Path, finished: Path, tmp_path: Path) -> None:
        run = tmp_path / "copy"
        shutil.copytree(finished, run)
        recipe, model = (run / "config.yaml").read_text(), (run / "model/model.safetensors").stat().st_mtime_ns
        configs = {file: file.read_text() for file in run.glob("*/config.json")}
        without = json.loads(configs[run / "model/config.json"])
        del without["measured"]  # as before it was recorded
        (run / "model/config.json").write_text(json.dumps(without))
        train(arguments(photos, run, eval_only=True, epochs=9, seed=4))
        assert {file: file.read_text() for file in configs} == configs
        assert metrics(finished)["training_command"] == metrics(finished)["command"]
        kept = ("method", "seed", "training_seconds", "num_train_images", "num_shared_classes", "training_command")
        for entry in ("results", *kept):
            assert metrics(run)[entry] == metrics(finished)[entry], entry
        assert (run / "config.yaml").read_text() == recipe
        assert (run / "model/model.safetensors").stat().st_mtime_ns == model

    def test_another_data_set_does_not_replace_the_results(self, finished: Path, tmp_path: Path) -> None:
        others = make_photos(tmp_path / "others")
        with pytest.raises(ValueError, match=r"'photos'.*'others'.*--output_dir"):
            train(arguments(others, finished, eval_only=True))

    def test_new_run_does_not_mix_its_checkpoints_with_those_of_an_earlier_one(
        self, photos: Path, finished: Path
    ) -> None:
        with pytest.raises(FileExistsError, match=r"step-6.*--resume"):
            train(arguments(photos, finished))

    def test_fine_tuning_on_other_classes_at_other_capacities(self, finished: Path, tmp_path: Path) -> None:
        others = make_photos(tmp_path / "others", train_classes=4)
        tuning = trainer(arguments(others, tmp_path / "tuned", source=finished, capacities=[0.25], learning_rate=1e-6))
        model = tuning.run().model
        assert model.classifier.out_features == model.config.num_labels == 4
        assert model.config.id2label[0] == "train-0"
        assert model.config.capacities == [0.25]
        assert 0.25 in model.config.stored_subnetworks
        old = weights(finished / "model")["prunnet.backbone.conv1.0.weight"]
        # Started from the checkpoint: so small a learning rate has barely moved it.
        torch.testing.assert_close(model.prunnet.backbone.conv1[0].weight.detach(), old, rtol=0, atol=1e-3)
        old_space = json.loads((finished / "model/config.json").read_text())["embedding_space"]
        assert model.config.embedding_space != old_space

    def test_fine_tuning_on_as_many_other_classes_starts_the_classifier_anew(
        self, finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        others = make_photos(tmp_path / "others")
        old = weights(finished / "model")["classifier.weight"]
        model = trainer(arguments(others, tmp_path / "same", source=finished / "model")).model
        assert torch.equal(model.classifier.weight, old)
        (others / "train/train-0").rename(others / "train/zebra")
        model = trainer(arguments(others, tmp_path / "other", source=finished / "model")).model
        assert model.config.id2label[0] == "train-1"
        assert not torch.isclose(model.classifier.weight, old).any(dim=1).all()
        assert f"other classes than {finished / 'model'}: the classifier starts from new weights" in caplog.text


@pytest.mark.parametrize("capacity", [1.0, 0.2])
def test_independent_run_is_one_plain_network(photos: Path, tmp_path: Path, capacity: float) -> None:
    for stale in ("subnetworks/capacity-0.40/config.json", "curve.png", "metrics.json", "best/step-9/config.json"):
        (tmp_path / stale).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / stale).write_text('{"format": 1, "dataset": "photos", "results": []}')
    options = {"method": "independent", "capacities": [capacity], "epochs": 1}
    with pytest.raises(FileExistsError, match=r"metrics\.json.*--overwrite_output_dir"):
        train(arguments(photos, tmp_path, **options))
    train(arguments(photos, tmp_path, overwrite_output_dir=True, **options))
    assert {path.name for path in tmp_path.iterdir()} == {
        *("model", "metrics.json", "config.yaml", "compatibility.png", "checkpoints", "training.log"),
        "examples.png",
    }
    found = metrics(tmp_path)
    assert found["method"] == "independent"
    assert {(r["query_capacity"], r["gallery_capacity"]) for r in found["results"]} == {(capacity, capacity)}
    model = PrunNetForImageClassification.from_pretrained(tmp_path / "model")
    assert (model.config.prunable, model.config.capacity) == (False, capacity)
    (row,) = found["capacities"]
    kept = sum(int(model.get_parameter(name).count_nonzero()) for name in model.packable_weights())
    # zeroed at initialisation or in training they are not: what is zero was pruned
    assert kept == row["kept_weights"]


def test_independent_run_of_units_is_one_thin_network(photos: Path, tmp_path: Path) -> None:
    options = {"method": "independent", "capacities": [0.5], "granularity": "channel"}
    train(arguments(photos, tmp_path, epochs=1, **options))
    assert not (tmp_path / "subnetworks").exists()
    model = PrunNetForImageClassification.from_pretrained(tmp_path / "model")
    assert (model.config.prunable, model.config.capacity) == (False, 0.5)
    # Of 8 and 16 units in a group 8 - round(0.5 * 7) and 16 - round(0.5 * 15) are left.
    assert set(model.config.kept_units.values()) == {4, 8}
    assert model.prunnet.backbone.layer1[0].conv1.weight.shape == (4, 8, 3, 3)
    reset_accelerate()
    results = metrics(tmp_path)["results"]
    assert {(r["query_capacity"], r["gallery_capacity"]) for r in results} == {(0.5, 0.5)}
    train(arguments(photos, tmp_path, eval_only=True, **options))
    assert metrics(tmp_path)["results"] == results


def test_fine_tuning_keeps_the_granularity_of_the_checkpoint(
    photos: Path, finished: Path, run_of_units: Path, tmp_path: Path
) -> None:
    source = run_of_units / "model"
    run = arguments(photos, tmp_path / "tuned", source=source, capacities=[0.25], method="joint", epochs=1)
    tuning = trainer(run)
    scores = "prunnet.backbone.layer4.0.conv1.units.scores"
    assert torch.equal(tuning.model.get_parameter(scores), weights(source)[scores])
    model = tuning.run().model
    assert model.config.granularity == "channel"
    assert not torch.equal(model.get_parameter(scores), weights(source)[scores])
    for source, asked, found in ((run_of_units / "model", "weight", "channel"), (finished, "channel", "weight")):
        again = arguments(photos, tmp_path / "refused", source=source, granularity=asked)
        for start in (trainer, load_trained):  # load_trained is that of --eval_only
            with pytest.raises(ValueError, match=rf"^--granularity must be '{found}'.*{source}.*; got '{asked}'\."):
                start(again)


def test_the_classifier_of_a_run_is_kept_by_fine_tuning_resuming_and_evaluation(photos: Path, tmp_path: Path) -> None:
    first = arguments(photos, tmp_path / "first", epochs=1, capacities=[0.5])
    first.model.classifier, first.model.margin = "cosface", 0.3
    train(first)
    source = tmp_path / "first" / "model"
    assert "classifier.bias" not in weights(source)
    config = PrunNetConfig.from_pretrained(source)
    assert (config.classifier, config.logit_scale, config.margin) == ("cosface", 16.0, 0.3)
    results = metrics(tmp_path / "first")["results"]

    tuned = create_model(arguments(photos, tmp_path / "tuned", source=source), [*config.id2label.values()])
    assert (tuned.config.classifier, tuned.config.margin) == ("cosface", 0.3)
    assert torch.equal(tuned.classifier.weight, weights(source)["classifier.weight"])

    first.train.eval_only, first.model.classifier, first.model.margin = True, None, None
    train(first)
    assert metrics(tmp_path / "first")["results"] == results

    first.train.eval_only, first.train.resume, first.train.epochs = False, True, 2
    with pytest.raises(ValueError, match=r"doesn't fit the network of this run .*classifier\.bias"):
        train(first)


def test_another_classifier_than_the_checkpoints_starts_from_new_weights(
    photos: Path, finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = finished / "model"
    names = [*PrunNetConfig.from_pretrained(source).id2label.values()]
    again = arguments(photos, tmp_path, source=source)
    again.model.classifier = "softmax"
    model = create_model(again, names)
    assert not torch.equal(model.classifier.weight, weights(source)["classifier.weight"])
    assert "--classifier softmax" in caplog.text
    again.model.classifier = "cosface"
    assert torch.equal(create_model(again, names).classifier.weight, weights(source)["classifier.weight"])


def test_joint_training_uses_the_same_passes_and_another_merger(photos: Path, tmp_path: Path) -> None:
    ends = {}
    for method in ("joint", "prunnet"):
        run = trainer(arguments(photos, tmp_path / method, method=method, capacity_sampling="fixed", epochs=1))
        assert run.step.capacities.at(0) == [1.0, 0.2, 0.5]
        ends[method] = run.run().model.state_dict()["prunnet.backbone.conv1.0.weight"]
    assert not torch.equal(ends["joint"], ends["prunnet"])


def test_sync_batchnorm_is_refused_on_a_cpu(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sync_batchnorm=True"):
        train(arguments(photos, tmp_path, sync_batchnorm=True))


def test_stream_trains_on_the_same_images_as_the_data_set(photos: Path, streamed: Path, tmp_path: Path) -> None:
    found = metrics(streamed)
    assert (found["num_train_images"], found["num_train_classes"]) == (TRAIN_CLASSES * TRAIN_IMAGES, TRAIN_CLASSES)
    assert (found["num_queries"], found["protocol"]) == (TEST_CLASSES * TEST_IMAGES, "leave_one_out")
    assert found["recipe"]["streaming"] is True
    # The same model, its images read otherwise.
    train(arguments(photos, tmp_path, source=streamed / "model", eval_only=True))
    assert metrics(tmp_path)["results"] == found["results"]


def test_a_run_that_another_process_writes_is_refused_and_stays(photos: Path, finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    for options in ({"overwrite_output_dir": True}, {"resume": True}, {"eval_only": True}):
        with claim_run(run), pytest.raises(BlockingIOError, match=rf"output_dir=.*process {os.getpid()} on "):
            train(arguments(photos, run, **options))
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    assert os.listdir(tmp_path) == ["run"]


@pytest.mark.parametrize("eval_only", [False, True])
def test_a_folder_that_somebody_made_is_left_alone(
    photos: Path, finished: Path, tmp_path: Path, eval_only: bool
) -> None:
    (tmp_path / "best").mkdir()
    (tmp_path / "README.md").write_text("# Mine")
    with pytest.raises(FileExistsError, match=r"output_dir=.*README\.md"):
        train(arguments(photos, tmp_path, source=finished / "model", eval_only=eval_only))
    (tmp_path / "README.md").rename(tmp_path / "notes.md")
    with pytest.raises(FileExistsError, match=r"output_dir=.*holds best, notes\.md"):
        train(arguments(photos, tmp_path, source=finished / "model", eval_only=eval_only))
    assert sorted(os.listdir(tmp_path)) == ["best", "notes.md"]


def test_missing_data_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"data_dir=.*nowhere.*train/<class>/<image>"):
        train(arguments(tmp_path / "nowhere", tmp_path / "run"))


def test_resuming_without_a_checkpoint(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="--resume"):
        train(arguments(photos, tmp_path, resume=True))


def test_evaluating_without_a_model(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"--eval_only .*--model_name_or_path"):
        train(arguments(photos, tmp_path, eval_only=True))


def test_unknown_tracker(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pigeons"):
        train(arguments(photos, tmp_path, report_to=["pigeons"]))
