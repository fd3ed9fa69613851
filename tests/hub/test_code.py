"""The code that goes along: complete by itself, and referred to only where it is."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import prunnet_hf
from prunnet_hf.hub.code import add_code
from prunnet_hf.hub.code import code_files
from prunnet_hf.hub.code import refer_to_code


def test_files_are_the_closed_set_of_the_package() -> None:
    root = Path(prunnet_hf.__file__).parent
    assert code_files() == sorted(set(root.glob("*.py")) - {root / "__init__.py"})


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
