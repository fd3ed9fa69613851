"""Uploading one staged folder to one branch: one commit uploads what differs and deletes what is stale."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.hf_api import RepoFile
from transformers.utils import CONFIG_NAME

from .names import MAIN, README, is_ours
from .readme import merge_readme
from .staging import StagedFolder


@dataclass(frozen=True)
class UploadedFolder:
    """What one branch of one repository holds now.

    Attributes:
        url: Address of its page.
        commit: Id of its newest commit.
        uploaded: Paths of files that were new or had changed.
        deleted: Paths of files that this package had written earlier and that are no longer part of what is published.
    """

    url: str
    commit: str
    uploaded: tuple[str, ...]
    deleted: tuple[str, ...]


def upload_folder(
    api: HfApi, folder: StagedFolder, *, is_ours: Callable[[str], bool] = is_ours, mark: str = CONFIG_NAME
) -> UploadedFolder:
    """Make a branch hold a staged folder, in one commit; without a commit if it holds it already.

    Other people's files stay, and so does what they wrote in README.md: the staged README is replaced by the merged
    one. If somebody else commits at the same time, nothing is overwritten: the Hub refuses this commit.

    Args:
        api: Client with a token that may write; the repository exists.
        folder: Staged files, and the branch for them, which is created if needed.
        is_ours: Whether a file may be deleted once it is no longer part of what is published.
        mark: The file without which nothing there is of ours, and nothing is deleted.

    Raises:
        ValueError: If the README on the Hub can't be merged.
        huggingface_hub.errors.HfHubHTTPError: If the Hub refuses.
    """
    if folder.branch != MAIN:
        _create_branch(api, folder)
    head = api.repo_info(folder.repo_id, revision=folder.branch, repo_type=folder.repo_type).sha
    if head is None:
        raise ValueError(f"The Hub gave no commit of {folder.repo_id}, branch {folder.branch}. Try again.")
    there = _remote_files(api, folder, head)
    _merge_readme(api, folder, head, exists=README in there)
    changed = [path for path, file in folder.files().items() if not _is_same(file, there.get(path))]
    # Without the mark nothing of ours was there, so files of these names are other people's.
    stale = sorted(path for path in there if path not in folder.files() and is_ours(path) and mark in there)
    if changed or stale:
        head = _commit(api, folder, head, changed, stale)
    return UploadedFolder(_url(api, folder), head, tuple(changed), tuple(stale))


def _create_branch(api: HfApi, folder: StagedFolder) -> None:
    """Create the branch at the repository's first commit, as it has nothing in common with `main`."""
    branches = api.list_repo_refs(folder.repo_id).branches
    if folder.branch not in [branch.name for branch in branches]:
        first = api.list_repo_commits(folder.repo_id)[-1].commit_id
        api.create_branch(folder.repo_id, branch=folder.branch, revision=first, exist_ok=True)


def _remote_files(api: HfApi, folder: StagedFolder, commit: str) -> dict[str, RepoFile]:
    tree = api.list_repo_tree(folder.repo_id, recursive=True, revision=commit, repo_type=folder.repo_type)
    return {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}


def _merge_readme(api: HfApi, folder: StagedFolder, commit: str, *, exists: bool) -> None:
    readme = folder.path / README
    if not readme.is_file():
        return
    theirs = None
    if exists:
        cached = Path(api.hf_hub_download(folder.repo_id, README, revision=commit, repo_type=folder.repo_type))
        theirs = cached.read_bytes().decode("utf-8-sig")  # keeps line endings, drops a byte order mark
    readme.write_bytes(merge_readme(readme.read_text(encoding="utf-8"), theirs).encode("utf-8"))


def _is_same(file: Path, remote: RepoFile | None) -> bool:
    """Compare hashes: the Hub knows the SHA-256 of a large file, and git's own hash of any other."""
    if remote is None or remote.size != file.stat().st_size:
        return False
    if remote.lfs is not None:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest() == remote.lfs.sha256
    content_with_header = b"blob %d\0" % remote.size + file.read_bytes()
    return hashlib.sha1(content_with_header, usedforsecurity=False).hexdigest() == remote.blob_id


def _commit(api: HfApi, folder: StagedFolder, parent: str, changed: list[str], stale: list[str]) -> str:
    local: Mapping[str, Path] = folder.files()
    additions = [CommitOperationAdd(path_in_repo=path, path_or_fileobj=local[path]) for path in changed]
    deletions = [CommitOperationDelete(path_in_repo=path) for path in stale]
    commit = api.create_commit(
        folder.repo_id,
        [*additions, *deletions],
        commit_message="Publish with prunnet_hf",
        revision=folder.branch,
        parent_commit=parent,
        repo_type=folder.repo_type,
    )
    return commit.oid


def _url(api: HfApi, folder: StagedFolder) -> str:
    kind = "" if folder.repo_type == "model" else f"{folder.repo_type}s/"
    page = f"{api.endpoint}/{kind}{folder.repo_id}"
    return page if folder.branch == MAIN else f"{page}/tree/{folder.branch}"
