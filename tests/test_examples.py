"""The examples, each run as a user runs it, on a tiny model and a few images."""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import datasets
import pytest
from accelerate.commands.launch import launch_command_parser

from prunnet_hf import PrunNetImageProcessor, PrunNetModel
from prunnet_hf.runs.arguments import parse_arguments
from tests.tiny_models import state_of, tiny_config, trained

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"

SRUN = """#!/bin/bash
# The command on every node, in the environment that Slurm sets there.
while [[ $1 == --* ]]; do shift; done
for ((node = 0; node < SLURM_NNODES; node++)); do SLURM_NODEID=$node "$@" & tasks+=($!); done
status=0
for task in "${tasks[@]}"; do wait "$task" || status=$?; done
exit $status
"""
SCONTROL = """#!/bin/bash
if [[ $1 == show ]]; then printf '%s\\n' node-a node-b; else echo "$@" >"$STUBS/requeued"; fi
"""
ACCELERATE = """#!/bin/bash
# Notes its arguments; if it is to wait, it leaves as training does that SIGTERM stopped.
trap 'exit 143' TERM
printf '%s\\0' "$@" >"$STUBS/arguments.$SLURM_NODEID.part"
mv "$STUBS/arguments.$SLURM_NODEID.part" "$STUBS/arguments.$SLURM_NODEID"
for ((tick = 0; tick < 600 * WAIT; tick++)); do sleep 0.1; done
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny dense checkpoint with its image processor and the id of a space."""
    folder = tmp_path_factory.mktemp("model")
    network = trained(tiny_config(num_labels=7))  # other classes than those to fine-tune on
    network.renew_embedding_space()
    network.save_pretrained(folder)
    processor = PrunNetImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def datasets_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables that `datasets` prepares go to a folder of the test, not to the user's cache."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


def run(example: str, monkeypatch: pytest.MonkeyPatch, *flags: object) -> None:
    monkeypatch.setattr(sys, "argv", [example, *map(str, flags)])
    runpy.run_path(str(EXAMPLES / example), run_name="__main__")


def test_every_example_is_tested() -> None:
    assert sorted(path.name for path in EXAMPLES.iterdir() if path.is_file()) == [
        *("faiss_and_datasets.py", "onnx_runtime.py"),
        "page_of_glyphs.py",  # by tests/export/page/test_in_chromium.py
        *("slurm.sh", "transformers_trainer.py"),
    ]


def test_faiss_and_datasets(
    model: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run("faiss_and_datasets.py", monkeypatch, "--model", model, "--images", photos / "train", "--output", tmp_path)
    printed = capsys.readouterr().out
    assert "dense network: the nearest of 27 images" in printed
    assert "capacity 0.20: the nearest of 27 images" in printed
    assert "an image finds itself with cosine 1.000" in printed
    space = PrunNetModel.from_pretrained(model).config.embedding_space
    gallery = datasets.Dataset.load_from_disk(tmp_path / "images")
    gallery.load_faiss_index("embedding", str(tmp_path / f"{space}.faiss"))
    assert len(gallery) == gallery.get_index("embedding").faiss_index.ntotal == 27


def test_transformers_trainer(
    model: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ["--model", model, "--data_dir", photos, "--output_dir", tmp_path, "--epochs", 1, "--batch_size", 10]
    run("transformers_trainer.py", monkeypatch, *flags)
    lines = [line for line in capsys.readouterr().out.splitlines() if "recall@1" in line]
    assert [line.partition(", space")[0] for line in lines] == [
        "before",
        "fine-tuned, old statistics",
        "fine-tuned, renewed",
    ]
    before, fine_tuned = PrunNetModel.from_pretrained(model), PrunNetModel.from_pretrained(tmp_path / "model")
    phone = PrunNetModel.from_pretrained(tmp_path / "subnetworks" / "capacity-0.20")
    assert fine_tuned.config.embedding_space == phone.config.embedding_space != before.config.embedding_space
    old, new = state_of(before), state_of(fine_tuned)
    scores = [name for name in old if name.endswith(".scores")]
    assert scores
    assert all(old[name].equal(new[name]) for name in scores)  # as the example says: the Trainer leaves them alone
    assert not any(
        old[name.replace(".scores", ".weight")].equal(new[name.replace(".scores", ".weight")]) for name in scores
    )


def test_onnx_runtime(
    model: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ["--model", model, "--images", photos / "train", "--output", tmp_path / "subnetwork.onnx"]
    run("onnx_runtime.py", monkeypatch, *flags)
    printed = capsys.readouterr().out
    size = (tmp_path / "subnetwork.onnx").stat().st_size
    assert f"subnetwork.onnx: {size:,} bytes, 3 queries embedded" in printed
    assert "the nearest of 27 images, embedded by the dense network" in printed


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """The environment of a job on two nodes, in which Slurm's commands and the launcher are stubs."""
    for name, script in {"srun": SRUN, "scontrol": SCONTROL, "accelerate": ACCELERATE}.items():
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "17", "SLURM_JOB_NODELIST": "node-[a-b]", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "8"}
    return {**os.environ, **job, "PATH": f"{tmp_path}:{os.environ['PATH']}", "STUBS": str(tmp_path), "WAIT": "0"}


def launched(stubs: Path, node: int) -> Namespace:
    """What the launcher of a node was asked for, read by accelerate's own parser."""
    command, *flags = (stubs / f"arguments.{node}").read_text().split("\0")[:-1]
    assert command == "launch"
    return launch_command_parser().parse_args(flags)


def test_slurm_launches_training_on_each_node(tmp_path: Path, slurm: dict[str, str]) -> None:
    run_directory = tmp_path / "run"
    flags = ["--config", "recipes/gldv2_resnet50.yaml", "--data_dir", "DIR", "--checkpoint_steps", "1000"]
    subprocess.run(
        ["bash", EXAMPLES / "slurm.sh", run_directory, *flags], env=slurm, cwd=ROOT, timeout=300, check=True
    )
    for node in (0, 1):
        found = launched(tmp_path, node)
        assert (found.num_machines, found.num_processes, found.machine_rank) == (2, 16, node)
        assert (found.main_process_ip, found.main_process_port) == ("node-a", 29500)
        assert (ROOT / found.config_file).is_file()
        assert (ROOT / found.training_script).is_file()
        arguments = parse_arguments(found.training_script_args)
        assert (arguments.train.output_dir, arguments.train.resume) == (str(run_directory), False)
        assert (arguments.model.backbone, arguments.train.checkpoint_steps) == ("resnet50", 1000)
    assert not (tmp_path / "requeued").exists()


def test_slurm_requeues_a_job_that_is_asked_to_stop(tmp_path: Path, slurm: dict[str, str]) -> None:
    run_directory = tmp_path / "run"
    (run_directory / "checkpoints" / "step-3").mkdir(parents=True)
    slurm["WAIT"] = "10"
    job = subprocess.Popen(["bash", EXAMPLES / "slurm.sh", run_directory], env=slurm, cwd=ROOT)
    while not all((tmp_path / f"arguments.{node}").exists() for node in (0, 1)):
        assert job.poll() is None
        time.sleep(0.05)
    job.send_signal(signal.SIGTERM)
    # The status is that of `scontrol requeue`. A launcher that nobody stopped would wait for ten minutes.
    assert job.wait(timeout=300) == 0
    assert (tmp_path / "requeued").read_text() == "requeue 17\n"
    assert all(parse_arguments(launched(tmp_path, node).training_script_args).train.resume for node in (0, 1))
