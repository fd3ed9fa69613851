"""The package: light to import, and root files that can be uploaded on their own."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import prunnet_hf
from prunnet_hf.compression.report import compressibility
from prunnet_hf.data.sets.glyphs import load_glyphs
from prunnet_hf.export.multiply_adds import count_multiply_adds
from prunnet_hf.retrieval.dataset_encoding import Encoded
from prunnet_hf.retrieval.found import Found
from tests.tiny_models import tiny

PACKAGE = Path(prunnet_hf.__file__).parent
FOLDERS = [PACKAGE, PACKAGE / "pruning", PACKAGE / "storage"]
CLOSED_SET = sorted(file for folder in FOLDERS for file in folder.glob("*.py") if file.name != "__init__.py")
ALLOWED = {"torch", "torchvision", "transformers", "timm", "safetensors", "numpy", "PIL"}


@pytest.mark.parametrize("file", CLOSED_SET, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_the_closed_set_imports_itself_and_what_a_hub_repository_may_need(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        where = f"{file.relative_to(PACKAGE)}:{node.lineno}"
        if isinstance(node, ast.ImportFrom) and node.level:
            imported = file.parents[node.level - 1].joinpath(*str(node.module).split(".")).with_suffix(".py")
            assert imported in CLOSED_SET, f"{where} leaves the closed set"
            continue
        modules = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
        for module in modules:
            top = str(module).partition(".")[0]
            assert top in ALLOWED or top in sys.stdlib_module_names, f"{where} imports {module}"


def test_no_two_files_of_the_closed_set_share_a_name() -> None:
    # On the Hub they lie in one folder.
    names = [file.name for file in CLOSED_SET]
    assert len(names) == len(set(names))


def test_importing_is_light() -> None:
    heavy = ["faiss", "datasets", "matplotlib", "evaluate", "prunnet_hf.training", "prunnet_hf.data"]
    code = f"import prunnet_hf, sys; print(*[name for name in {heavy!r} if name in sys.modules])"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == ""


def test_public_names() -> None:
    assert prunnet_hf.__all__ == sorted(prunnet_hf.__all__)
    assert [getattr(prunnet_hf, name).__name__ for name in prunnet_hf.__all__] == prunnet_hf.__all__
    assert set(prunnet_hf.__all__) <= set(dir(prunnet_hf))
    with pytest.raises(AttributeError, match=r"prunnet_hf.*serach"):
        _ = prunnet_hf.serach


def test_pages_and_examples_import_public_names_from_the_package_itself() -> None:
    root = PACKAGE.parent
    pages = [root / "README.md", *root.glob("docs/*.md"), *root.glob("examples/*.py")]
    deep = re.compile(r"^from prunnet_hf\.\S+ import (.+)$", flags=re.MULTILINE)
    imported = [(page.name, names) for page in pages for names in deep.findall(page.read_text(encoding="utf-8"))]
    assert imported  # what few users need
    assert [entry for entry in imported if set(entry[1].split(", ")) & set(prunnet_hf.__all__)] == []


def test_what_users_hold_is_shown_in_three_lines() -> None:
    model = tiny()
    model.renew_embedding_space()
    phone = model.base_model.prune(0.2)
    splits = load_glyphs(num_train_classes=2)
    paths = [f"photos/{number}.jpg" for number in range(200)]
    vectors = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)
    embeddings = prunnet_hf.Embeddings(vectors, model.config.embedding_space, 1.0, paths, [None] * 200, "org/name")
    gallery = prunnet_hf.Gallery.from_embeddings(embeddings, "Flat")
    encoded = Encoded(np.arange(200), {"label": [0] * 200}, {"dense": vectors, "phone": vectors})
    held = {
        "backbone='resnet18', image_size=32": [model, phone, model.config],
        "capacity=0.2": [phone],
        f"embedding_space='{model.config.embedding_space}'": [model, phone, model.config, embeddings, gallery],
        "size={'shortest_edge': 37}": [model.image_processor],
        "200 images, 8 dimensions": [embeddings, encoded.side("phone")],
        "200 images, columns ['label'], networks ['dense', 'phone']": [encoded],
        "5 images for a query: photos/0.jpg 1.000, photos/": [gallery.search(embeddings, 5)],
        "train=36 images, query=900 images, gallery=900 images, 2 training classes": [splits],
        "layers at 2 capacities": [compressibility(model, capacities=[0.2, 1.0])],
        "a file of ": [prunnet_hf.capacity_for(model, max_bytes=60_000)],
        " prunable weights": [count_multiply_adds(model.base_model, 32)],
    }
    for text, objects in held.items():
        for item in objects:
            shown = repr(item)
            assert text in shown
            assert len(shown.splitlines()) <= 3
            assert max(map(len, shown.splitlines())) <= 119
    assert str(model) == repr(model)


def test_a_search_without_queries_can_be_shown() -> None:
    assert repr(Found(np.empty((0, 5), np.int64), np.empty((0, 5), np.float32), pa.table({}))) == "Found(no queries)"
