"""A network is trained further and stays in its space, if it still finds what it found in the old gallery."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from prunnet_hf import Gallery, PrunNetConfig, PrunNetModel
from prunnet_hf.hub.card import write_card
from prunnet_hf.pruning.calibration import batch_norms
from prunnet_hf.runs.record import RECORD, RunRecord
from prunnet_hf.training.known_space import open_space
from tests.foreign_models import save_timm
from tests.tiny_models import same_bits, same_state, tiny
from tests.training.tiny_run import arguments, make_photos, train_quietly, trainer


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense network, and in `phone` its subnetwork of capacity 0.2. No test may change them."""
    folder = tmp_path_factory.mktemp("parent")
    dense = tiny()
    dense.renew_embedding_space()
    for name, model in (("dense", dense), ("phone", dense.prunnet.prune(0.2))):
        model.save_pretrained(folder / name)
        dense.image_processor.save_pretrained(folder / name)
    return folder


def tuning(photos: Path, output: Path, parent: Path, **options: Any) -> Any:
    alone = {"method": "independent", "capacities": [0.2], "eval_capacities": [], "into": str(parent / "dense")}
    run = arguments(photos, output, source=parent / "phone", **{**alone, "epochs": 1, **options})
    run.model.embedding_dim = None
    return run


def test_a_subnetwork_that_still_finds_what_it_found_stays_in_its_space(
    photos: Path, parent: Path, tmp_path: Path
) -> None:
    train_quietly(tuning(photos, tmp_path / "run", parent, learning_rate=0.005))
    dense, phone = (PrunNetModel.from_pretrained(parent / name) for name in ("dense", "phone"))
    tuned = PrunNetModel.from_pretrained(tmp_path / "run/model")
    assert not same_state(tuned, phone)
    statistics = [dict(batch_norms(model)) for model in (tuned, phone)]
    assert len(statistics[0]) > 4
    for name, norm in statistics[0].items():  # as they were: with others it would be elsewhere
        assert same_bits(norm.running_mean, statistics[1][name].running_mean)
        assert same_bits(norm.running_var, statistics[1][name].running_var)
    assert tuned.config.embedding_space == dense.config.embedding_space
    record = RunRecord.read(tmp_path / "run" / RECORD)
    assert record.into is not None
    assert (record.into.kept, record.into.failed, list(record.into.before)) == (True, [], ["0.20"])
    assert tuned.config.compatible_with["values"] == {"0.20": record.into.values["0.20"]["mAP"]}
    gallery = Gallery.from_folder(dense, photos / "test", progress=False)  # embedded by the parent, and untouched
    assert len(gallery.search(gallery.paths[0], 3, model=tuned)) == 1
    again = PrunNetModel.from_pretrained(tmp_path / "run/model")  # its digests are those of its weights
    again.save_pretrained(tmp_path / "saved")
    assert PrunNetConfig.from_pretrained(tmp_path / "saved").embedding_space == dense.config.embedding_space


def test_a_whole_network_that_does_not_is_named_by_its_capacities_and_has_a_new_space(
    photos: Path, parent: Path, tmp_path: Path
) -> None:
    trained = tmp_path / "photos"  # no test images: the comparison is made on training classes that are held out
    trained.mkdir()
    (trained / "train").symlink_to(photos / "train", target_is_directory=True)
    held_out = {"eval_every": 1, "data": {"validation_share": 0.4}}
    out = tmp_path / "run"
    run = tuning(trained, out, parent, method="joint", capacities=[0.5], learning_rate=30.0, **held_out)
    run.model.model_name_or_path = str(parent / "dense")
    train_quietly(run)
    record = RunRecord.read(out / RECORD)
    assert record.into is not None
    assert record.model is not None
    assert (record.split, record.num_queries, record.num_shared_classes) == ("validation", 12, 0)
    assert list(record.into.before) == ["0.50", "1.00"]
    assert (record.into.kept, "1.00" in record.into.failed) == (False, True)
    old = PrunNetConfig.from_pretrained(parent / "dense").embedding_space
    configs = [PrunNetConfig.from_pretrained(out / name) for name in ("model", "subnetworks/capacity-0.50")]
    assert {config.embedding_space for config in configs} == {record.model.embedding_space}
    assert record.model.embedding_space != old
    assert [config.compatible_with for config in configs] == [None, None]
    write_card(out, execute=False)
    text = (out / "README.md").read_text(encoding="utf-8")
    assert "**It has left that space**" in text
    assert f"Queries of capacity {', '.join(record.into.failed)} found less in the old gallery" in text
    with Image.open(out / "examples.png") as picture:  # rows of the gallery's own network, the dense one, and 0.5
        assert picture.height == 2 * (3 * 122 + 18) + 2 * 12 + 2 * 16


def test_the_criterion_is_for_networks_that_were_in_the_space(photos: Path, parent: Path, tmp_path: Path) -> None:
    run = tuning(photos, tmp_path / "run", parent)
    judged = trainer(run)
    space = PrunNetConfig.from_pretrained(parent / "phone").embedding_space
    assert judged.space is not None
    assert judged.space.before is not None
    assert judged.run().model.config.embedding_space not in (None, space)  # until it has been measured
    foreign = tuning(photos, tmp_path / "foreign", parent, into=save_timm(tmp_path / "model"))
    moved = open_space(foreign, judged.accelerator)
    assert moved is not None
    assert moved.before is None  # it comes from another space, and gets that of the teacher whatever it finds


def test_one_subnetwork_of_a_whole_network_is_compared_at_its_own_capacity(
    photos: Path, parent: Path, tmp_path: Path
) -> None:
    run = tuning(photos, tmp_path / "run", parent, learning_rate=0.005)
    run.model.model_name_or_path = str(parent / "dense")
    train_quietly(run)
    record = RunRecord.read(tmp_path / "run" / RECORD)
    assert record.into is not None
    assert list(record.into.before) == ["0.20"]


def test_an_evaluation_without_the_network_before_is_refused(photos: Path, parent: Path, tmp_path: Path) -> None:
    train_quietly(tuning(photos, tmp_path / "run", parent, learning_rate=0.005))
    run = tuning(photos, tmp_path / "run", parent, eval_only=True)
    run.model.model_name_or_path = None
    with pytest.raises(ValueError, match=r"--model_name_or_path must be the network.*None.*config\.yaml"):
        train_quietly(run)
