"""Names of the files that this package writes to repositories. They tell its own files from other people's."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from ..export.device_folder import FOLDER as ONNX
from ..export.device_folder import MODEL, WITH_PROCESSING, stored_name
from ..export.precisions import SUFFIXES
from ..pruning.masking import format_capacity
from ..runs.record import RECORD
from ..runs.run_directory import EXAMPLES
from ..storage.forms import MODEL_FILES
from .code import code_files
from .metadata import EVAL_RESULTS_FILE

MAIN = "main"
README = "README.md"
PICTURES = ("compatibility.png", "curve.png", "compressibility.png", EXAMPLES)
PROCESSOR = "preprocessor_config.json"
ONNX_FILES = frozenset(stored_name(name, precision) for name in (MODEL, WITH_PROCESSING) for precision in SUFFIXES)
SUBNETWORKS = "capacity-[01].[0-9][0-9]*"
"""Pattern for the branches and folders of ready subnetworks."""


def subnetwork_name(capacity: float) -> str:
    """Name of a ready subnetwork's branch or folder, and the end of its repository's name.

    Example:
        >>> subnetwork_name(0.2)
        'capacity-0.20'
    """
    return f"capacity-{format_capacity(capacity)}"


def is_ours(path: str) -> bool:
    """Whether a file may be deleted once it is no longer part of what is published.

    Args:
        path: Path in the repository, such as `capacity-0.20/config.json`. README.md is never ours: people write in it.
    """
    file = PurePosixPath(path)
    if path == EVAL_RESULTS_FILE:
        return True
    if len(file.parts) > 1 and file.parts[-2] == ONNX:
        return file.name in ONNX_FILES and (len(file.parts) == 2 or _is_subnetwork(file.parts[:-2]))
    of_a_model = any(fnmatchcase(file.name, pattern) for pattern in (*MODEL_FILES, PROCESSOR))
    if len(file.parts) == 2:
        return of_a_model and _is_subnetwork(file.parts[:1])
    others = {RECORD, *PICTURES, *(code.name for code in code_files())}
    return len(file.parts) == 1 and (of_a_model or file.name in others)


def _is_subnetwork(folders: Sequence[str]) -> bool:
    return len(folders) == 1 and fnmatchcase(folders[0], SUBNETWORKS)
