"""What learning leaves in a gallery's folder: work that isn't done, which goes on, and what is kept in the end."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import faiss

from ..retrieval.gallery_files import ABOUT, INDEX, About, read_about, refuse_existing
from ..retrieval.product_quantizer import own_space
from ..storage.json_text import load_json
from ..storage.whole_file import write_whole

WORK = ".learning"
SUBNETWORKS, LOGS = "subnetworks", "logs"
"""In the gallery's folder: the networks whose queries were trained for it, as in the directory of a run."""
_DONE, _INDEX = "done.json", "index"


@dataclass
class Progress:
    """How far learning has come; saved with every checkpoint.

    Attributes:
        step: Number of steps so far.
        seconds: Time that they took.
        search_seconds: The part of it that searches took.
        first_loss: The loss of the first step.
        last_loss: The loss of the last.
    """

    step: int = 0
    seconds: float = 0.0
    search_seconds: float = 0.0
    first_loss: float = 0.0
    last_loss: float = 0.0

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint stores."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what a checkpoint stored."""
        self.__dict__.update(vars(Progress(**state)))


@dataclass(frozen=True)
class Learned:
    """What came of it.

    Attributes:
        about: What the new gallery is.
        progress: Of all steps.
        networks: Folders of the networks whose queries were trained, by capacity.
    """

    about: About
    progress: Progress
    networks: dict[float, Path]


def refuse_learned(output: Path) -> None:
    """Refuse a path as `refuse_existing` does, unless learning was killed there when only tidying up was left.

    Raises:
        FileExistsError: If there is a gallery, or something else.
    """
    if not (output / WORK / _DONE).exists():
        refuse_existing(output)


def refuse_work(output: Path) -> None:
    """Refuse a path where a gallery is being learned.

    Raises:
        FileExistsError: If it is.
    """
    if (output / WORK).exists():
        raise FileExistsError(
            f"output={str(output)!r} holds learning that isn't done. Give its command again, with --learn, choose "
            f"another name, or remove {output / WORK}."
        )


def say_done(output: Path, space: str, progress: Progress) -> None:
    """Write down that all is learned, before the gallery is written: then it is known whose it is.

    Args:
        output: The gallery's folder.
        space: `own_space` of its index.
        progress: Of all steps.
    """
    write_whole(output / WORK / _DONE, json.dumps({_INDEX: space, **asdict(progress)}) + "\n")


def learned_before(output: Path) -> Learned | None:
    """What a process has learned and written, that was killed when only tidying up was left; None if none was.

    Args:
        output: The gallery's folder.

    Raises:
        FileExistsError: If there is another gallery.
    """
    file = output / WORK / _DONE
    if not file.exists() or not (output / ABOUT).exists():
        return None
    stated = load_json(file.read_text(encoding="utf-8"))
    about, _ = read_about(output)
    if stated.pop(_INDEX) != own_space(faiss.read_index(str(output / INDEX)), about.embedding_space):
        refuse_existing(output)
    return Learned(about, Progress(**stated), {})


def keep_results(output: Path) -> None:
    """Move the networks and logs to where they stay, and remove everything else. It may be killed and done again."""
    work = output / WORK
    for name in (SUBNETWORKS, LOGS):
        if (work / name).is_dir():
            os.replace(work / name, output / name)
    for path in work.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != _DONE:  # it goes last
            path.unlink()
    shutil.rmtree(work)
