"""The package: light to import, and root files that can be uploaded on their own."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import prunnet_hf

ROOT_FILES = sorted(Path(prunnet_hf.__file__).parent.glob("*.py"))
ALLOWED = {"torch", "torchvision", "transformers", "timm", "safetensors", "numpy", "PIL"}


@pytest.mark.parametrize("file", ROOT_FILES, ids=lambda file: file.stem)
def test_root_files_import_their_closed_set_one_name_a_line(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        assert len(node.names) == 1, f"{file.name}:{node.lineno} imports several names in one line"
        if isinstance(node, ast.ImportFrom) and node.level:
            # trust_remote_code finds the files to upload by their relative imports: `.name`, of this floor only.
            assert node.level == 1, f"{file.name}:{node.lineno}"
            assert (file.parent / f"{node.module}.py").is_file(), f"{file.name}:{node.lineno} leaves the root files"
            continue
        module = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
        top = str(module).partition(".")[0]
        assert top in ALLOWED or top in sys.stdlib_module_names, f"{file.name}:{node.lineno} imports {module}"


def test_importing_is_light() -> None:
    heavy = ["faiss", "datasets", "matplotlib", "evaluate", "prunnet_hf.training", "prunnet_hf.data"]
    code = f"import prunnet_hf, sys; print(*[name for name in {heavy!r} if name in sys.modules])"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == ""


def test_public_names() -> None:
    assert prunnet_hf.__all__ == sorted(prunnet_hf.__all__)
    assert all(hasattr(prunnet_hf, name) for name in prunnet_hf.__all__)
