"""The package's own code beside a saved model, so that `trust_remote_code` loads it where prunnet_hf isn't installed.

What goes along is the closed set of files directly under `prunnet_hf/` (see CONTRIBUTING): the three that define
what the Auto classes look for, and the files that these import from each other.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from transformers.dynamic_module_utils import get_relative_import_files

from ..training.run_directory import write_json

PACKAGE = Path(__file__).parents[1]
AUTO_CLASSES = {
    "config.json": {
        "AutoConfig": "configuration_prunnet.PrunNetConfig",
        "AutoModel": "modeling_prunnet.PrunNetModel",
        "AutoModelForImageClassification": "modeling_prunnet.PrunNetForImageClassification",
    },
    "preprocessor_config.json": {"AutoImageProcessor": "image_processing_prunnet.PrunNetImageProcessor"},
}
"""Which class of which module each Auto class is to take, by the file that says so."""


def code_files() -> list[Path]:
    """The modules that a model, its configuration and its image processor need, in order of name."""
    references = [reference for classes in AUTO_CLASSES.values() for reference in classes.values()]
    roots = {PACKAGE / f"{reference.partition('.')[0]}.py" for reference in references}
    needed = {Path(file) for root in roots for file in get_relative_import_files(root)}
    return sorted(roots | needed)


def add_code(folder: Path) -> None:
    """Copy the code into `folder`, the top of what will be a repository."""
    for file in code_files():
        shutil.copyfile(file, folder / file.name)


def refer_to_code(model: Path, *, present: bool) -> None:
    """Say in the configuration files of a saved model where the code is.

    Args:
        model: A folder with `config.json` and `preprocessor_config.json`. In a subfolder of a repository it refers to
            the code at the repository's top, where transformers looks for it.
        present: False removes what is said: a model that was loaded from a repository with code refers to that one.
    """
    for name, classes in AUTO_CLASSES.items():
        content = json.loads((model / name).read_text(encoding="utf-8"))
        content.pop("auto_map", None)
        write_json(model / name, {**content, "auto_map": classes} if present else content)
