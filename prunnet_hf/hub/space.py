"""A page of `prunnet page` as a static Space of the Hub, where anybody can open it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from huggingface_hub import HfApi

from ..export.page.site import INDEX, MANIFEST, PAGE_FILES, read_manifest
from ..runs.run_directory import CARD_BEGINS, CARD_ENDS
from .errors import PublishError, explained
from .names import README
from .publish import check_repo_id
from .staging import StagedFolder
from .upload import UploadedFolder, upload_folder

SPACE = "space"
_LOOKS = {"emoji": "🔎", "colorFrom": "gray", "colorTo": "red", "sdk": "static"}


@contextmanager
def staged_page(page: Path, space_id: str, *, model_id: str | None = None) -> Iterator[StagedFolder]:
    """The files of a page, and a README for its Space, in a folder that is removed afterwards.

    Args:
        page: The folder that `prunnet page` made.
        space_id: `org/name` of the Space.
        model_id: `org/name` of the model on the Hub that the Space names; None names none.

    Raises:
        FileNotFoundError: If `page` is no such folder.
        ValueError: If a name isn't `org/name`.
    """
    check_repo_id(space_id, "space")
    if model_id is not None:
        check_repo_id(model_id)
    manifest = read_manifest(page)
    with tempfile.TemporaryDirectory(prefix="prunnet-space-") as directory:
        folder = Path(directory)
        for entry in page.iterdir():
            if entry.is_dir() and _is_of_a_page(entry.name):
                shutil.copytree(entry, folder / entry.name)
            elif _is_of_a_page(entry.name):
                shutil.copyfile(entry, folder / entry.name)
        (folder / README).write_text(_readme(manifest, model_id), encoding="utf-8")
        yield StagedFolder(folder, space_id, repo_type=SPACE)


def publish_page(
    page: Path, space_id: str, *, model_id: str | None = None, private: bool = False, token: str | None = None
) -> UploadedFolder:
    """Publish a page as a static Space. Publishing it again uploads what has changed.

    Args:
        page: As in `staged_page`.
        space_id: As in `staged_page`.
        model_id: As in `staged_page`.
        private: Whether a new Space is private.
        token: Token with write access; by default the one of `hf auth login` or HF_TOKEN.

    Raises:
        FileNotFoundError: As in `staged_page`.
        ValueError: As in `staged_page`, or if the README on the Hub can't be merged.
        PublishError: If the Hub refuses or can't be reached, or the Space holds something else.
    """
    api = HfApi(token=token, library_name="prunnet_hf")
    with staged_page(page, space_id, model_id=model_id) as staged, explained(f"the Space {space_id}"):
        api.create_repo(space_id, repo_type=SPACE, space_sdk="static", private=private or None, exist_ok=True)
        _check_space(api, space_id, private=private)
        return upload_folder(api, staged, is_ours=_is_of_a_page, mark=MANIFEST)


def _is_of_a_page(path: str) -> bool:
    """Whether a file belongs to a page, by its path."""
    return any(fnmatchcase(PurePosixPath(path).parts[0], name) for name in PAGE_FILES.files)


def _check_space(api: HfApi, space_id: str, *, private: bool) -> None:
    """Refuse a Space that holds another program's page, or is public against the wish."""
    space = api.space_info(space_id)
    names = [sibling.rfilename for sibling in space.siblings or []]
    is_new = len(api.list_repo_commits(space_id, repo_type=SPACE)) == 1  # the Hub begins with a page of its own
    if MANIFEST not in names and INDEX in names and not is_new:
        raise PublishError(
            f"{space_id} holds another page, which would be lost. Choose another Space, or remove its {INDEX}. "
            "Nothing was uploaded."
        )
    if space.sdk not in (None, "static"):
        raise PublishError(f"{space_id} is a Space of sdk {space.sdk!r}; a page needs a static one. Choose another.")
    if private and not space.private:
        raise PublishError(
            f"{space_id} is public already, while --private was given. Make it private in its settings on the Hub, "
            "or choose another name. Nothing was uploaded."
        )


def _readme(manifest: dict[str, Any], model_id: str | None) -> str:
    """What the Hub asks of a Space, and a text for who opens its files."""
    metadata = {"title": manifest["title"], **_LOOKS, "tags": ["image-retrieval", "prunnet"]}
    if model_id is not None:
        metadata["models"] = [model_id]
    text = (
        f"# {manifest['title']}\n\nA page that searches {len(manifest['gallery']['names']):,} images in the visitor's "
        "browser: a gallery that the dense network embedded once, and subnetworks of it that embed the query. Made by "
        "`prunnet page` of prunnet_hf."
    )
    head = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)
    return f"---\n{head}---\n\n{CARD_BEGINS}\n{text}\n{CARD_ENDS}\n"
