"""The package's own code beside a saved model, so that `trust_remote_code` loads it if prunnet_hf isn't installed.

transformers loads such code from one folder, in which files import each other as `from .name import`. The package's
own files lie in several folders, so the copies are flattened: every relative import keeps only the last part of its
name. Lines keep their numbers, so a traceback points to the same place in both.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from ..runs.run_directory import write_json

PACKAGE = Path(__file__).parents[1]
AUTO_CLASSES = {
    "config.json": {
        "AutoConfig": "configuration_prunnet.PrunNetConfig",
        "AutoModel": "modeling_prunnet.PrunNetModel",
        "AutoModelForImageClassification": "modeling_prunnet.PrunNetForImageClassification",
    },
    "preprocessor_config.json": {"AutoImageProcessor": "image_processing_prunnet.PrunNetImageProcessor"},
}
"""For each configuration file the class and module that an Auto class shall take."""


RELATIVE_IMPORT = re.compile(r"^(?P<indent>[ \t]*)from (?P<dots>\.+)(?P<name>[\w.]+) import\b", re.MULTILINE)


def code_files() -> list[Path]:
    """The modules that a model, its configuration and its image processor need, in order of path.

    These are the closed set of the package: the files that define what the Auto classes look for, and all files that
    they import from each other.
    """
    references = [reference for classes in AUTO_CLASSES.values() for reference in classes.values()]
    to_read = [PACKAGE / f"{reference.partition('.')[0]}.py" for reference in references]
    needed: set[Path] = set()
    while to_read:
        file = to_read.pop()
        if file not in needed:
            needed.add(file)
            to_read.extend(_imported_files(file))
    return sorted(needed)


def _imported_files(file: Path) -> Iterator[Path]:
    for found in RELATIVE_IMPORT.finditer(file.read_text(encoding="utf-8")):
        folder = file.parents[len(found["dots"]) - 1]
        yield folder.joinpath(*found["name"].split(".")).with_suffix(".py")


def flattened(code: str) -> str:
    """Rewrite code so that it imports its siblings from its own folder.

    Example:
        >>> flattened("from ..pruning.masking import kept_count, kept_mask")
        'from .masking import kept_count, kept_mask'
    """
    return RELATIVE_IMPORT.sub(lambda found: f"{found['indent']}from .{found['name'].rpartition('.')[2]} import", code)


def add_code(folder: Path) -> None:
    """Write the code into `folder`, the top of a future repository."""
    for file in code_files():
        (folder / file.name).write_text(flattened(file.read_text(encoding="utf-8")), encoding="utf-8")


def refer_to_code(model: Path, *, present: bool) -> None:
    """Write into the configuration files of a saved model where the code is.

    Args:
        model: A folder with `config.json` and `preprocessor_config.json`. If it is a subfolder of a repository, it
            refers to the code at the top, where transformers looks for it.
        present: False removes the references, which a model loaded from a repository with code still has.
    """
    for name, classes in AUTO_CLASSES.items():
        content = json.loads((model / name).read_text(encoding="utf-8"))
        content.pop("auto_map", None)
        write_json(model / name, {**content, "auto_map": classes} if present else content)
