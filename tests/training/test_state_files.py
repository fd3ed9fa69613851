"""Checkpoints are read without running code, and damaged ones are named: those of this version and of earlier ones."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path
from random import Random

import pytest
import torch
from accelerate import Accelerator

from prunnet_hf.runs.manifest import MANIFEST, write_manifest
from prunnet_hf.training.checkpoints import list_checkpoints, load_checkpoint
from prunnet_hf.training.state_files import what_is_wrong
from tests.accelerate_state import reset_accelerate
from tests.training.tiny_run import arguments, train, trainer

OLD = Path(__file__).parents[1] / "checkpoints_0_1" / "run"


class Exploit:
    """Pickled as a call that makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.folder),)


def newest(run: Path) -> Path:
    return list_checkpoints(run)[-1]


def copied(finished: Path, run: Path, *steps: int) -> Path:
    for step in steps:
        shutil.copytree(finished / f"checkpoints/step-{step}", run / f"checkpoints/step-{step}")
    return run


def test_checkpoints_hold_json_and_no_pickle_of_ours(finished: Path) -> None:
    files = {path.name for path in newest(finished).iterdir()}
    assert files == {
        *("model.safetensors", "optimizer.bin", "random_states_0.pkl", "schedule.json", "progress.json", MANIFEST)
    }
    progress = json.loads((newest(finished) / "progress.json").read_text())
    assert (progress["epoch"], progress["step"]) == (2, 6)
    for name in ("optimizer.bin", "random_states_0.pkl"):
        assert zipfile.is_zipfile(newest(finished) / name)


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "flipped"])
@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.bin", "random_states_0.pkl", "schedule.json", "progress.json", MANIFEST]
)
def test_a_damaged_file_is_named_and_the_checkpoint_before_offered(
    finished: Path, tmp_path: Path, name: str, damage: str
) -> None:
    run = copied(finished, tmp_path, 4, 5)
    file = newest(run) / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.unlink()
    if damage != "missing":
        file.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "flipped": content}[damage])
    with pytest.raises(ValueError, match=rf"step-5 is damaged: it .*{name}.*Remove it.*--resume .*step-4"):
        load_checkpoint(Accelerator(cpu=True), run)
    (run / "checkpoints/step-4" / name).write_bytes(b"")
    with pytest.raises(ValueError, match=rf"step-5 is damaged: it .*{name}.*no other is whole"):
        load_checkpoint(Accelerator(cpu=True), run)


def test_a_training_does_not_go_on_from_a_damaged_checkpoint(photos: Path, finished: Path, tmp_path: Path) -> None:
    run = copied(finished, tmp_path, 5)
    (newest(run) / "random_states_0.pkl").unlink()
    with pytest.raises(ValueError, match=r"step-5 is damaged: it lacks the file random_states_0\.pkl"):
        train(arguments(photos, run, resume=True))


@pytest.mark.parametrize("name", ["optimizer.bin", "random_states_0.pkl"])
@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_code_is_refused_even_if_the_manifest_vouches_for_it(
    photos: Path, finished: Path, tmp_path: Path, name: str, form: str
) -> None:
    run = copied(finished, tmp_path / "run", 5)
    save = torch.save if form == "torch" else lambda what, path: path.write_bytes(pickle.dumps(what, protocol=2))
    save({"state": Exploit(tmp_path / "was run")}, newest(run) / name)
    (newest(run) / MANIFEST).unlink()
    write_manifest(newest(run))
    with pytest.raises(ValueError, match=r"step-5 holds more than plain data.*could run code.*Remove it"):
        train(arguments(photos, run, resume=True))
    assert not (tmp_path / "was run").exists()


def test_pickles_beside_the_state_are_not_read(photos: Path, finished: Path, tmp_path: Path) -> None:
    run = copied(finished, tmp_path / "run", 5)
    for number in range(2):
        torch.save(Exploit(tmp_path / "was run"), newest(run) / f"custom_checkpoint_{number}.pkl")
    with pytest.raises(ValueError, match=r"step-5 is damaged: it holds files .*custom_checkpoint_0\.pkl"):
        train(arguments(photos, run, resume=True))
    assert not (tmp_path / "was run").exists()


@pytest.mark.parametrize("name", ["custom_checkpoint_0.pkl", "custom_checkpoint_1.pkl", "random_states_0.pkl"])
def test_code_in_an_older_checkpoint_is_refused(photos: Path, tmp_path: Path, name: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(OLD, run)
    torch.save({"last_epoch": Exploit(tmp_path / "was run")}, newest(run) / name)
    with pytest.raises(ValueError, match=r"step-6 holds more than plain data.*could run code"):
        resume_old(photos, run)
    assert not (tmp_path / "was run").exists()


def resume_old(photos: Path, run: Path) -> None:
    options = arguments(photos, run, epochs=4, checkpoint_every=2, resume=True)
    options.model.backbone_kwargs = '{"channels": [4, 4, 8, 8], "stem_width": 4, "drop_rate": 0.1}'
    trainer(options).run()


@pytest.mark.parametrize("name", sorted(path.name for path in newest(OLD).iterdir()))
def test_an_older_checkpoint_with_a_missing_empty_or_cut_file_is_named(tmp_path: Path, name: str) -> None:
    shutil.copytree(OLD, tmp_path / "run")
    file = newest(tmp_path / "run") / name
    assert what_is_wrong(file.parent) is None
    content = file.read_bytes()
    for damaged in (content[: len(content) // 2], content[:-1], b"", None):
        file.unlink()
        if damaged is not None:
            file.write_bytes(damaged)
        assert name in str(what_is_wrong(file.parent))


def test_a_flipped_bit_in_an_older_checkpoint_is_found_where_files_have_checksums(tmp_path: Path) -> None:
    shutil.copytree(OLD, tmp_path / "run")
    file, random = newest(tmp_path / "run") / "optimizer.bin", Random(0)
    content = file.read_bytes()
    with zipfile.ZipFile(file) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    for _ in range(20):
        changed = bytearray(content)
        changed[largest.header_offset + 200 + random.randrange(largest.file_size - 200)] ^= 1
        file.write_bytes(changed)
        assert "optimizer.bin" in str(what_is_wrong(file.parent))


@pytest.mark.parametrize("damage", ["missing", "flipped"])
def test_a_damaged_best_model_is_named_before_the_training_goes_on(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    choosing = {"data": {"validation_share": 0.4}, "eval_every": 1, "batch_size": 6, "checkpoint_every": 1}
    monkeypatch.setattr("prunnet_hf.training.trainer.quick_score", lambda *_, **__: {"mAP": 0.5})
    trainer(arguments(photos, tmp_path, epochs=1, **choosing)).run()
    (best,) = (tmp_path / "best").iterdir()
    if damage == "missing":
        shutil.rmtree(best)
    else:
        content = bytearray((best / "model.safetensors").read_bytes())
        content[-1] ^= 1
        (best / "model.safetensors").write_bytes(content)
    reset_accelerate()
    with pytest.raises(ValueError, match=r"best model so far, .*step-3, is damaged: it .*without --resume"):
        trainer(arguments(photos, tmp_path, epochs=2, resume=True, **choosing)).run()


def test_a_renamed_class_folder_is_refused(photos: Path, finished: Path, tmp_path: Path) -> None:
    run = copied(finished, tmp_path / "run", 5)
    shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "photos/train/train-0").rename(tmp_path / "photos/train/zebra")
    with pytest.raises(ValueError, match=r"--resume .*other images: class 0 was 'train-0' and is 'train-1'.*back"):
        train(arguments(tmp_path / "photos", run, resume=True))
    shutil.rmtree(tmp_path / "photos/train/zebra")
    reset_accelerate()
    with pytest.raises(ValueError, match=r"--resume .*other images: 5 classes became 4; 30 images became 24"):
        train(arguments(tmp_path / "photos", run, batch_size=8, resume=True))


def test_another_network_is_refused_in_one_line(photos: Path, finished: Path, tmp_path: Path) -> None:
    options = arguments(photos, copied(finished, tmp_path, 6), resume=True)
    options.model.embedding_dim = 6
    with pytest.raises(ValueError, match=r"step-6 doesn't fit the network of this run .*size mismatch.*--resume"):
        trainer(options).run()


def test_another_granularity_is_refused_in_one_line(photos: Path, tmp_path: Path) -> None:
    trainer(arguments(photos, tmp_path, epochs=1, checkpoint_every=1, granularity="channel")).run()
    reset_accelerate()
    with pytest.raises(ValueError, match=r"step-3 doesn't fit the network .*units\.scores.*--granularity.*--resume"):
        trainer(arguments(photos, tmp_path, resume=True)).run()


def test_other_groups_of_parameters_are_refused_in_one_line(photos: Path, finished: Path, tmp_path: Path) -> None:
    run = copied(finished, tmp_path, 6)
    as_weights = {"learning_rate": 0.01, "score_learning_rate": 0.01, "weight_decay": 0.0, "score_weight_decay": 0.0}
    with pytest.raises(ValueError, match=r"groups of parameters .*were 2 and are 1\..*--score_learning_rate"):
        trainer(arguments(photos, run, resume=True, **as_weights)).run()


@pytest.mark.parametrize("content", ["[]", '{"epoch": "2"}', '{"epoch": -1, "step": 0, "skipped": 0}', '{"x": 1}'])
def test_progress_that_is_none_is_refused(finished: Path, tmp_path: Path, photos: Path, content: str) -> None:
    run = copied(finished, tmp_path, 6)
    (newest(run) / "progress.json").write_text(content)
    (newest(run) / MANIFEST).unlink()
    write_manifest(newest(run))
    with pytest.raises(ValueError, match=r"progress .*must hold|must hold the progress"):
        trainer(arguments(photos, run, resume=True)).run()
