"""The package: light to import, and root files that can be uploaded on their own."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import prunnet_hf

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
