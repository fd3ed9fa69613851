"""Which steps there are, in what order they begin, and when one has its row already."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks.compare.running import Place
from benchmarks.into.plan import MOVED, SETS, Step, quick, steps_of
from benchmarks.into.running import Queue, Site
from prunnet_hf.runs.arguments import parse_arguments


def site(root: Path, **options: object) -> Site:
    return Site("omniglot", Place(root / "data", root / "work", root / "rows"), **options)


def step(name: str, *needs: str, flag: str = "1") -> Step:
    return Step(name, "teacher", name, "own", (("train", flag),), needs=needs)


@pytest.mark.parametrize("name", SETS)
def test_every_training_is_one_that_the_package_takes(name: str) -> None:
    trainings = [(each, words) for each in steps_of(name, [0]) for words in each.commands if words[0] == "train"]
    assert len(trainings) >= 12
    for each, words in trainings:
        if "--model_name_or_path" in words:  # its defaults are those of the subnetwork, which isn't there
            continue
        run = parse_arguments(list(words[1:]))
        assert run.train.trains_into == (each.kind == "into")
        assert run.train.output_dir == f"{{work}}/{each.name}"
        if each.capacity is not None:
            assert run.train.capacities == [each.capacity]


def test_names_differ_and_what_a_step_needs_comes_before_it() -> None:
    every = steps_of("omniglot", [0, 1, 2])
    names = [each.name for each in every]
    assert len(set(names)) == len(names)
    for place, each in enumerate(every):
        assert set(each.needs) <= set(names[:place])
        written = {folder for words in each.commands for word in words for folder in _work_folders(word)}
        assert written - {each.name} <= set(each.needs)
    assert names[:2] == ["teacher", "into-seed0"]  # the most telling first
    assert [name for name in names if name.startswith("usual")] == ["usual-seed0", "usual-seed1", "usual-seed2"]
    known = steps_of("omniglot", [0, 1], has_usual=[0])
    assert [each.name for each in known if each.name.startswith("usual")] == ["usual-seed1"]
    assert {need for each in known for need in each.needs} <= {each.name for each in known}


def _work_folders(word: str) -> list[str]:
    return re.findall(r"{work}/([a-z0-9.-]+)", word)


def test_a_step_begins_when_what_it_needs_has_ended_well(tmp_path: Path) -> None:
    there = site(tmp_path)
    queue = Queue([step("b", "a"), step("a"), step("c", "lost")], there)
    first = queue.take()
    assert first is not None
    assert first.name == "a"
    there.directory(first).mkdir(parents=True)
    queue.finish(first)
    second = queue.take()
    assert second is not None
    assert second.name == "b"
    queue.finish(second)
    assert queue.take() is None
    assert [each.name for each in queue.waiting] == ["c"]


def test_a_row_counts_only_if_the_same_commands_made_it(tmp_path: Path) -> None:
    there, made = site(tmp_path), step("a")
    assert not there.is_done(made)
    there.row(made).parent.mkdir(parents=True)
    there.row(made).write_text(json.dumps({"commands": [["train", "1"]]}))
    assert there.is_done(made)
    assert not there.is_done(step("a", flag="2"))
    assert not there.is_done(quick(made))


def test_folders_take_the_place_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "compare/omniglot/main/default-weights-seed1").mkdir(parents=True)
    there = site(tmp_path, usual=tmp_path / "compare")
    command = ("embed", "--model", "{usual}-seed1", "--data_dir", "{data}", "--output", "{work}/a/new.parquet")
    words = there.words(command, 1)[1:]
    run = str(tmp_path / "compare/omniglot/main/default-weights-seed1")
    assert words == [
        *("-m", "prunnet_hf.cli.main", "embed", "--model", run, "--data_dir", str(tmp_path / "data")),
        *("--output", str(tmp_path / "work/omniglot/a/new.parquet")),
    ]
    assert there.usual_run(2) == tmp_path / "work/omniglot/usual-seed2"


def test_jobs_that_need_the_same_images_do_not_disturb_each_other(photos: Path, tmp_path: Path) -> None:
    there = Site("omniglot", Place(photos, tmp_path / "work", tmp_path / "rows"))
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(there.images, [MOVED] * 4))
    (folder,) = folders
    assert len(list(folder.glob("train/*/*.png"))) == 2 * len(list(photos.glob("train/*/*.png")))
