"""Directories, of models above all, that are replaced as a whole, also if the process that does it is killed.

A save writes into `.saving-*/` inside the directory, then moves the old files into `.saving-*/replaced/` and
the new ones to their places. What a killed save has left is put back, or removed, by the next save or load.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from transformers.utils import CONFIG_NAME

from .forms import MODEL_FILES
from .lock import locked
from .whole_file import write_whole

_STAGING, _LOCK = ".saving-", ".saving.lock"
_OF_SAVES = re.compile(re.escape(_STAGING) + "[a-z0-9_]{8}")
"""Names that tempfile makes. Other folders, also if their names begin so, are somebody else's."""
_REPLACED, _NEW = "replaced", ".new-files.json"


@dataclass(frozen=True)
class Replaceable:
    """What a directory holds that is replaced as a whole.

    Attributes:
        files: Patterns of the files' names.
        last: The file without which nothing is loaded. It leaves first and arrives last.
    """

    files: tuple[str, ...]
    last: str


MODEL = Replaceable(MODEL_FILES, CONFIG_NAME)


@contextmanager
def replaced_whole(target: Path, what: Replaceable = MODEL) -> Iterator[Path]:
    """A new directory to write a model into, which replaces the one in `target` when the block ends without an error.

    Others who save there at the same time wait.

    Args:
        target: An existing directory.
        what: What is replaced.
    """
    with _locked(target):
        _tidy(target, what)
        # Inside the target, so that moving the files is a rename on the same file system.
        staging = Path(tempfile.mkdtemp(prefix=_STAGING, dir=target))
        try:
            yield staging
            replace_model(staging, target, what)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def replace_model(staging: Path, target: Path, what: Replaceable = MODEL) -> None:
    """Move the model in `staging` over the one in `target`, which is put back if that fails.

    config.json leaves first and arrives last. So if the process is killed in between, the directory can't be loaded
    until it is put back.
    """
    new = [file.name for file in _in_order(staging.iterdir(), what)]
    old = [file.name for file in _in_order((f for pattern in what.files for f in target.glob(pattern)), what)]
    write_whole(staging / _NEW, json.dumps(new))
    replaced = staging / _REPLACED
    replaced.mkdir()
    try:
        for name in reversed(old):
            os.replace(target / name, replaced / name)
        for name in new:
            os.replace(staging / name, target / name)
    except BaseException:
        _put_back(staging, target, what)
        raise


def tidy_directory(target: Path, what: Replaceable = MODEL) -> None:
    """Put back or remove what killed saves have left in a directory, after the save that is going on, if there is one.

    Raises:
        OSError: If that has to be done before a model can be loaded, and the directory can't be written.
    """
    leftovers = _leftovers(target, what)
    if not leftovers and not (target / _LOCK).exists():
        return
    try:
        with _locked(target):
            _tidy(target, what)
    except OSError as error:
        if leftovers and not (target / what.last).exists():
            raise OSError(
                f"{target} has no {what.last}: a save was killed, and what it replaced is in "
                f"{leftovers[0] / _REPLACED}. It can't be put back ({error}). Make the directory writable and load it "
                "again, or move the files by hand."
            ) from error


def is_free(target: Path, what: Replaceable = MODEL) -> bool:
    """Whether nothing is at a path, or an empty directory once what killed saves have left in it is removed."""
    if not target.is_dir():
        return not (target.exists() or target.is_symlink())
    tidy_directory(target, what)
    return not any(target.iterdir())


def _locked(target: Path) -> AbstractContextManager[None]:
    return locked(target / _LOCK, f"save_directory={str(target)!r}", wait=True)


def _leftovers(target: Path, what: Replaceable) -> list[Path]:
    paths = (path for path in target.glob(f"{_STAGING}*") if _OF_SAVES.fullmatch(path.name))
    return sorted(path for path in paths if path.is_dir() and not path.is_symlink() and _is_of(path, what))


def _is_of(staging: Path, what: Replaceable) -> bool:
    """Whether it may be removed for `what`: what is left of files of another kind may have to be put back."""
    names = staging / _NEW
    return not names.exists() or what.last in json.loads(names.read_text(encoding="utf-8"))


def _tidy(target: Path, what: Replaceable) -> None:
    for staging in _leftovers(target, what):
        # Only if the file that moves last isn't in `staging` any more, the save was done.
        if (staging / _REPLACED).is_dir() and (staging / what.last).exists():
            _put_back(staging, target, what)
        shutil.rmtree(staging)


def _put_back(staging: Path, target: Path, what: Replaceable) -> None:
    """Put the replaced model back. May be killed and done again at any point."""
    names = staging / _NEW
    new = json.loads(names.read_text(encoding="utf-8")) if names.exists() else []
    for name in reversed(new):
        if not (staging / name).exists() and (target / name).exists():
            os.replace(target / name, staging / name)
    for file in _in_order((staging / _REPLACED).iterdir(), what):
        os.replace(file, target / file.name)
    names.unlink(missing_ok=True)  # first of all: a file that is only half removed must not seem to be moved


def _in_order(files: Iterable[Path], what: Replaceable) -> list[Path]:
    return sorted(files, key=lambda file: (file.name == what.last, file.name))
