"""The code that goes along: complete by itself, and referred to only where it is."""

from __future__ import annotations

import ast
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import snapshot_download
from PIL import Image
from transformers import AutoModel

import prunnet_hf
from prunnet_hf import PrunNetImageProcessor, PrunNetModel
from prunnet_hf.hub.code import add_code, code_files, refer_to_code
from prunnet_hf.hub.publish import publish_run
from prunnet_hf.hub.staging import Publication, stage_run
from tests.hub_client import hub_environment
from tests.hub_server import HubServer

REMOTE = """
import hashlib
import sys


class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "prunnet_hf":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, NotInstalled())
import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, pipeline

on_the_hub, downloaded, saved_again = sys.argv[1:]
image = Image.fromarray(np.arange(40 * 50 * 3, dtype=np.uint8).reshape(40, 50, 3))


def show(source, **options):
    images = AutoImageProcessor.from_pretrained(source, trust_remote_code=True)(image, return_tensors="pt")
    model = AutoModel.from_pretrained(source, trust_remote_code=True, **options).eval()
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if not name.endswith(".scores"):  # which bands store as their order
            digest.update(name.encode() + tensor.numpy().tobytes())
    with torch.inference_mode():
        print(digest.hexdigest(), *model(**images).pooler_output.flatten().tolist())


for source in (on_the_hub, downloaded):
    show(source)
    show(source, capacity=0.2)
    show(source, capacity=0.3)
show(on_the_hub, revision="capacity-0.20")
AutoModel.from_pretrained(downloaded, trust_remote_code=True).save_pretrained(saved_again)
AutoImageProcessor.from_pretrained(downloaded, trust_remote_code=True).save_pretrained(saved_again)
show(saved_again)
extractor = pipeline("image-feature-extraction", model=on_the_hub, trust_remote_code=True)
print(type(extractor.model).__module__.partition(".")[0])
"""
"""What somebody does who has transformers, timm and torchvision, and not this package."""


def test_files_are_the_closed_set_of_the_package() -> None:
    root = Path(prunnet_hf.__file__).parent
    files = [*root.glob("*.py"), *root.glob("pruning/*.py"), *root.glob("storage/*.py")]
    assert code_files() == sorted(file for file in files if file.name not in ("__init__.py", "commands.py"))


def test_copies_need_nothing_that_was_not_copied(tmp_path: Path) -> None:
    add_code(tmp_path)
    copies = {file.stem: file for file in tmp_path.iterdir()}
    for file in copies.values():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.module in copies


def test_reference_names_classes_that_exist_and_can_be_taken_back(tmp_path: Path) -> None:
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_text('{"a": 1}', encoding="utf-8")
    refer_to_code(tmp_path, present=True)
    add_code(tmp_path)
    for name, count in (("config.json", 3), ("preprocessor_config.json", 1)):
        content = json.loads((tmp_path / name).read_text(encoding="utf-8"))
        assert content["a"] == 1
        assert len(content["auto_map"]) == count
        for reference in content["auto_map"].values():
            module, class_name = reference.split(".")
            tree = ast.parse((tmp_path / f"{module}.py").read_text(encoding="utf-8"))
            assert class_name in [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    refer_to_code(tmp_path, present=False)
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8")) == {"a": 1}


def digest(model: PrunNetModel) -> str:
    tensors = sorted(model.state_dict().items())
    contents = (name.encode() + tensor.numpy().tobytes() for name, tensor in tensors if not name.endswith(".scores"))
    return hashlib.sha256(b"".join(contents)).hexdigest()


@pytest.mark.usefixtures("snippets_run_here")
@pytest.mark.parametrize("kind", ["finished_run", "run_of_units"])
def test_where_the_package_is_not_installed_the_same_weights_and_embeddings(
    hub: HubServer, kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    finished_run = request.getfixturevalue(kind)
    publication = Publication("org/name", capacities=[0.2], with_code=True)
    publish_run(finished_run, publication)
    downloaded = Path(snapshot_download("org/name", local_dir=tmp_path / "downloaded"))
    model = PrunNetModel.from_pretrained(finished_run / "model").eval()
    image = Image.fromarray(np.arange(40 * 50 * 3, dtype=np.uint8).reshape(40, 50, 3))
    images = PrunNetImageProcessor.from_pretrained(finished_run / "model")(image, return_tensors="pt")
    networks = (model, model.prune(0.2), PrunNetModel.from_pretrained(downloaded, capacity=0.3))
    with torch.inference_mode():
        dense, small, middle = ((digest(net), net(**images).pooler_output.flatten().tolist()) for net in networks)
    environment = hub_environment(hub, tmp_path / "home")
    del environment["PYTHONPATH"]
    command = [sys.executable, "-c", REMOTE, "org/name", str(downloaded), str(tmp_path / "saved")]
    child = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1800, check=False
    )
    assert child.returncode == 0, child.stderr
    lines = [line.split() for line in child.stdout.splitlines()]
    expected = [dense, small, middle, dense, small, middle, small, dense]
    assert {file.name for file in code_files()} <= {file.name for file in (tmp_path / "saved").iterdir()}
    assert [line[0] for line in lines] == [*(weights for weights, _ in expected), "transformers_modules"]
    for line, (_, embedding) in zip(lines, expected, strict=False):
        # Where weights lie in memory can change the last bits of what a CPU makes of them.
        assert [float(value) for value in line[1:]] == pytest.approx(embedding, rel=1e-4, abs=1e-4)


@pytest.mark.usefixtures("snippets_run_here")
def test_where_the_package_is_installed_its_own_code_runs(finished_run: Path, tmp_path: Path) -> None:
    staged = stage_run(finished_run, Publication("org/name", capacities=[], with_code=True), tmp_path)
    model = AutoModel.from_pretrained(staged.main.path)  # without being asked to trust anything
    assert type(model) is PrunNetModel
