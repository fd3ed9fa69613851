"""Laying out a run for publishing, on a real one: what is in which folder, what isn't, and what is refused."""

from __future__ import annotations

import json
import re
import resource
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from prunnet_hf import PrunNetConfig, PrunNetForImageClassification, PrunNetModel
from prunnet_hf.compression.report import compressibility
from prunnet_hf.hub.staging import Publication, StagedRun, band_edges, stage_run
from tests.tiny_models import same_state

PACKED = {"config.json", "model.packed.safetensors", "preprocessor_config.json"}
BANDS = {f"band-0000{number}-of-00003{kind}.safetensors" for number in (1, 2, 3) for kind in ("", ".ranks")}
MAIN = {"README.md", "bands.index.json", "config.json", "metrics.json", "preprocessor_config.json", *BANDS}
PICTURES = {"compatibility.png", "curve.png", "compressibility.png"}

pytestmark = pytest.mark.usefixtures("snippets_run_here")


def stage(run: Path, folder: Path, **options: Any) -> StagedRun:
    folder.mkdir(parents=True, exist_ok=True)
    return stage_run(run, Publication("org/name", **options), folder)


@pytest.fixture(scope="module")
def branches(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> StagedRun:
    return stage(finished_run, tmp_path_factory.mktemp("branches"))


@pytest.fixture(scope="module")
def repos(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> StagedRun:
    return stage(finished_run, tmp_path_factory.mktemp("repos"), layout="repos", capacities=[0.3], license="mit")


def damaged(run: Path, copy: Path, **changes: Any) -> Path:
    """A copy of a run with other entries in its `metrics.json`."""
    shutil.copytree(run, copy)
    metrics = json.loads((copy / "metrics.json").read_text(encoding="utf-8"))
    (copy / "metrics.json").write_text(json.dumps({**metrics, **changes}), encoding="utf-8")
    return copy


def test_branches(branches: StagedRun) -> None:
    assert [(folder.repo_id, folder.branch) for folder in branches.folders] == [
        ("org/name", "capacity-0.20"),
        ("org/name", "capacity-0.50"),
        ("org/name", "main"),
    ]
    assert set(branches.main.files()) == MAIN | PICTURES
    assert [set(folder.files()) for folder in branches.subnetworks] == [PACKED, PACKED]


def test_subfolders(finished_run: Path, tmp_path: Path) -> None:
    staged = stage(finished_run, tmp_path, layout="subfolders")
    inside = {f"capacity-{capacity}/{name}" for capacity in ("0.20", "0.50") for name in PACKED}
    assert staged.subnetworks == ()
    assert set(staged.main.files()) == MAIN | PICTURES | inside


def test_examples_are_published_only_if_asked(finished_run: Path, branches: StagedRun, tmp_path: Path) -> None:
    assert (finished_run / "examples.png").is_file()
    assert "examples.png" not in branches.main.files()["README.md"].read_text(encoding="utf-8")
    staged = stage(finished_run, tmp_path / "with", with_examples=True).main.files()
    assert staged["examples.png"].read_bytes() == (finished_run / "examples.png").read_bytes()
    assert "](examples.png)" in staged["README.md"].read_text(encoding="utf-8")


def test_examples_that_are_not_there_are_named(finished_run: Path, tmp_path: Path) -> None:
    shutil.copytree(finished_run, tmp_path / "run")
    (tmp_path / "run" / "examples.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"with_examples=True.*examples\.png.*streams.*--eval_only"):
        stage(tmp_path / "run", tmp_path / "staged", with_examples=True)


def test_repositories_of_chosen_capacities(repos: StagedRun) -> None:
    assert [(folder.repo_id, folder.branch) for folder in repos.folders] == [
        ("org/name-capacity-0.30", "main"),
        ("org/name", "main"),
    ]
    (subnetwork,) = repos.subnetworks
    assert set(subnetwork.files()) == PACKED | {"README.md"}
    assert PrunNetModel.from_pretrained(subnetwork.path).config.capacity == 0.3


def test_cards_name_the_licence_and_the_base_model(repos: StagedRun) -> None:
    main, subnetwork = (
        yaml.safe_load((folder.path / "README.md").read_text(encoding="utf-8").split("---\n")[1])
        for folder in (repos.main, repos.subnetworks[0])
    )
    assert (main["license"], subnetwork["license"]) == ("mit", "mit")
    assert subnetwork["base_model"] in ("org/name", ["org/name"])


def test_published_models_are_those_of_the_run(finished_run: Path, branches: StagedRun) -> None:
    trained = PrunNetForImageClassification.from_pretrained(finished_run / "model").prunnet.eval()
    images = torch.rand(2, 3, 32, 32)
    dense = PrunNetModel.from_pretrained(branches.main.path)
    assert torch.equal(dense(images).pooler_output, trained(images).pooler_output)
    assert dense.config.embedding_space == trained.config.embedding_space
    assert dense.config.prunable
    for folder, capacity in zip(branches.subnetworks, (0.2, 0.5), strict=True):
        own = finished_run / "subnetworks" / folder.branch / "model.packed.safetensors"
        assert (folder.path / own.name).read_bytes() == own.read_bytes()
        part = PrunNetModel.from_pretrained(branches.main.path, capacity=capacity)
        assert torch.equal(part(images).pooler_output, trained.prune(capacity)(images).pooler_output)


def test_published_card_tells_the_indices_of_the_weights(finished_run: Path, branches: StagedRun) -> None:
    dense = PrunNetModel.from_pretrained(finished_run / "model")
    found = compressibility(dense, [0.2, 0.3, 0.5, 1.0])
    card = (branches.main.path / "README.md").read_text(encoding="utf-8")
    section = card.split("## How compressible the weights are")[1].split("\n## ")[0]
    assert "](compressibility.png)" in section
    for row in found.of(None):
        assert f"| {row.capacity:.2f} | {row.kept:,} | {row.index:.3f} |" in section


def test_names_of_training_classes_stay_at_home(finished_run: Path, branches: StagedRun) -> None:
    assert "secret-client" in (finished_run / "model" / "config.json").read_text(encoding="utf-8")
    for folder in branches.folders:
        for file in folder.files().values():
            assert b"secret-client" not in file.read_bytes(), file


def test_no_folder_of_this_machine_goes_up(finished_run: Path, client_photos: Path, tmp_path: Path) -> None:
    run = damaged(
        finished_run,
        tmp_path / "run",
        command=f"train_accelerate.py --config {tmp_path}/a.yaml --model_name_or_path={tmp_path}/base",
        recipe={"model_name_or_path": f"{tmp_path}/base"},
    )
    recipe = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    (run / "config.yaml").write_text(yaml.safe_dump({**recipe, "model_name_or_path": f"{tmp_path}/base"}))
    staged = stage(run, tmp_path / "staged", layout="repos", capacities=[0.2], with_code=True)
    local = [
        str(folder).encode() for folder in (tmp_path, client_photos.parent, finished_run, Path.home() / "", Path.cwd())
    ]
    local += [tempfile.gettempdir().encode() + b"/", b"/home/", b"/Users/"]
    for folder in staged.folders:
        for name, file in folder.files().items():
            assert [path for path in local if path in file.read_bytes()] == [], name
    metrics = json.loads((staged.main.path / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["command"] == "train_accelerate.py --config a.yaml --model_name_or_path=base"
    assert metrics["recipe"] == {"model_name_or_path": "base"}


def test_staging_twice_gives_the_same_bytes(finished_run: Path, branches: StagedRun, tmp_path: Path) -> None:
    again = stage(finished_run, tmp_path)
    for old, new in zip(branches.folders, again.folders, strict=True):
        assert list(old.files()) == list(new.files())
        for name, file in old.files().items():
            assert file.read_bytes() == new.files()[name].read_bytes(), name


def test_a_run_of_one_subnetwork_is_published_as_it_is(independent_run: Path, tmp_path: Path) -> None:
    staged = stage(independent_run, tmp_path / "staged")
    assert staged.subnetworks == ()
    assert PACKED | {"README.md", "metrics.json"} <= set(staged.main.files())
    assert "bands.index.json" not in staged.main.files()
    assert "compressibility.png" not in staged.main.files()
    assert "PQ Index" not in (staged.main.path / "README.md").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match=r"capacities.*left out.*0\.20.*\[0\.2\]"):
        stage(independent_run, tmp_path / "refused", capacities=[0.2])


@pytest.mark.parametrize("layout", ["branches", "subfolders", "repos"])
def test_ready_subnetworks_of_units_are_plain_thin_files(run_of_units: Path, tmp_path: Path, layout: str) -> None:
    staged = stage(run_of_units, tmp_path, layout=layout, capacities=[0.2, 0.3])
    trained = PrunNetModel.from_pretrained(run_of_units / "model")
    images = torch.rand(2, 3, 32, 32)
    names = [f"capacity-{capacity}" for capacity in ("0.20", "0.30")]
    folders = (
        [staged.main.path / name for name in names]
        if layout == "subfolders"
        else [folder.path for folder in staged.subnetworks]
    )
    for folder, capacity in zip(folders, (0.2, 0.3), strict=True):
        assert "model.safetensors" in {file.name for file in folder.iterdir()}
        ready, cut = (
            PrunNetModel.from_pretrained(folder),
            PrunNetModel.from_pretrained(staged.main.path, capacity=capacity),
        )
        assert ready.config.kept_units == cut.config.kept_units == trained.prune(capacity).config.kept_units
        torch.testing.assert_close(ready(images).pooler_output, trained(images, capacity=capacity).pooler_output)
        torch.testing.assert_close(cut(images).pooler_output, ready(images).pooler_output)
    cards = [folder.path / "README.md" for folder in (staged.folders if layout == "repos" else [staged.main])]
    for card in cards:
        assert "kept units |" in card.read_text(encoding="utf-8")
    whole = PrunNetModel.from_pretrained(staged.main.path)
    assert same_state(whole, trained)
    assert staged.main.files().keys() >= PICTURES | {"bands.index.json", "band-00001-of-00003.safetensors"}
    assert "kept units are exactly those" in (staged.main.path / "README.md").read_text(encoding="utf-8")


def test_description_has_a_line_for_every_file(branches: StagedRun) -> None:
    lines = branches.describe().splitlines()
    assert lines[0] == "org/name, branch capacity-0.20:"
    config = branches.subnetworks[0].path / "config.json"
    assert re.fullmatch(rf" +{config.stat().st_size:,}  config\.json", lines[1])
    assert len(lines) == 3 + 2 * len(PACKED) + len(MAIN | PICTURES) + 1


@pytest.mark.parametrize("missing", ["metrics.json", "config.yaml", "model/config.json"])
def test_unfinished_runs_are_refused(finished_run: Path, tmp_path: Path, missing: str) -> None:
    run = damaged(finished_run, tmp_path / "run")
    (run / missing).unlink()
    with pytest.raises(FileNotFoundError, match=rf"run .*{re.escape(missing)}.*--eval_only"):
        stage(run, tmp_path / "staged")


def test_unknown_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere.*--output_dir"):
        stage(tmp_path / "nowhere", tmp_path / "staged")


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("metrics.json", "{", r"metrics\.json.*damaged.*--eval_only"),
        ("metrics.json", "[1]", r"metrics\.json.*list.*--eval_only"),
        ("metrics.json", "{}", r"metrics\.json.*dataset, .*capacities.*--eval_only"),
        ("config.yaml", "a: [", r"(?s)config\.yaml.*damaged.*--eval_only"),
    ],
)
def test_damaged_runs_are_refused(finished_run: Path, tmp_path: Path, file: str, content: str, says: str) -> None:
    run = damaged(finished_run, tmp_path / "run")
    (run / file).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=says):
        stage(run, tmp_path / "staged")


def test_capacity_that_was_never_evaluated_is_refused(finished_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"capacities.*0\.20, 0\.30, 0\.50, 1\.00.*0\.40.*--eval_capacities"):
        stage(finished_run, tmp_path, capacities=[0.2, 0.4])


def test_unknown_layout_is_refused() -> None:
    with pytest.raises(ValueError, match=r"layout.*branches, subfolders, repos.*'tags'"):
        Publication("org/name", layout="tags")  # type: ignore[arg-type]


def test_full_disk(finished_run: Path, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))  # longer files can't be written
    try:
        with pytest.raises(OSError, match=r"(?s)Nothing was uploaded.*TMPDIR"):
            stage(finished_run, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_bands_end_at_the_capacities_that_were_trained() -> None:
    assert band_edges(PrunNetConfig(capacities=[0.1, 0.2, 0.4, 0.6, 0.8])) == [0.1, 0.2, 0.4, 0.6, 0.8]
    assert band_edges(PrunNetConfig(capacities=[0.3])) == [0.3]
    assert band_edges(PrunNetConfig(capacities=[0.25, 0.5], granularity="channel")) == [0.25, 0.5]
    assert band_edges(PrunNetConfig(capacity=0.2, prunable=False)) is None


def test_a_leaderboard_needs_a_data_set_of_the_hub(finished_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"task_id.*'retrieval'.*'photos'"):
        stage(finished_run, tmp_path / "staged", eval_task="retrieval")
    run = shutil.copytree(finished_run, tmp_path / "run")
    metrics = json.loads((run / "metrics.json").read_text())
    recipe = yaml.safe_load((run / "config.yaml").read_text())
    (run / "metrics.json").write_text(json.dumps({**metrics, "dataset": "org/photos"}))
    (run / "config.yaml").write_text(yaml.safe_dump({**recipe, "dataset": "org/photos"}))
    staged = stage(run, tmp_path / "staged", eval_task="retrieval")
    (entry,) = yaml.safe_load(staged.main.files()[".eval_results/prunnet_hf.yaml"].read_text())
    assert entry["dataset"] == {"id": "org/photos", "task_id": "retrieval"}
