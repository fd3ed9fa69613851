"""Publishing a finished run: checks before anything is uploaded, then every branch, then a collection of them all."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError, RemoteEntryNotFoundError
from huggingface_hub.utils import validate_repo_id

from ..configuration_prunnet import PrunNetConfig
from ..storage.json_text import load_json
from .errors import PublishError, explained
from .names import SUBNETWORKS
from .staging import Publication, StagedRun, check_run, stage_run
from .upload import UploadedFolder, upload_folder

SLUG = re.compile(r"[\w.-]+/[\w.-]+-[0-9a-f]{24}")
"""The Hub's own name for a collection; anything else is a title."""


@dataclass(frozen=True)
class PublishedRun:
    """Where a run is on the Hub.

    Attributes:
        folders: Every branch of every repository; the dense model with the card comes last.
        collection: Address of the collection; None if there is none.
        remarks: What the person who published should know.
    """

    folders: tuple[UploadedFolder, ...]
    collection: str | None
    remarks: tuple[str, ...]

    def describe(self) -> str:
        """One line for every branch, for the collection, and for every remark."""
        lines = []
        for folder in self.folders:
            done = [f"{len(folder.uploaded)} files uploaded"] if folder.uploaded else []
            done += [f"{len(folder.deleted)} deleted"] if folder.deleted else []
            lines.append(f"{folder.url}: {', '.join(done) or 'nothing had changed'}")
        return "\n".join([*lines, *([self.collection] if self.collection else []), *self.remarks])


def publish_run(
    run: Path,
    publication: Publication,
    *,
    collection: str | None = None,
    private: bool = False,
    token: str | None = None,
) -> PublishedRun:
    """Publish a finished run. Publishing it again uploads only what has changed or, after an interruption, is missing.

    Args:
        run: A finished run directory of train_accelerate.py.
        publication: What to publish of it, and where.
        collection: The collection to put it in: a title, which is created if needed, or a slug (`org/title-0123...`).
        private: Whether new repositories are private; existing ones must then be private already.
        token: Token with write access; by default the one of `hf auth login` or HF_TOKEN.

    Raises:
        FileNotFoundError: If `run` is not a finished run directory.
        ValueError: If an argument is out of range (nothing is uploaded then), or if the README on the Hub can't be
            merged.
        PublishError: If the Hub refuses or can't be reached.
        OSError: If the disk has no room for the files.
    """
    check_repo_id(publication.repo_id)
    check_run(run)
    api = HfApi(token=token, library_name="prunnet_hf")
    _check_before_staging(api, publication.repo_id, collection, private=private)
    with tempfile.TemporaryDirectory(prefix="prunnet-publish-") as directory:
        staged = stage_run(run, publication, Path(directory))
        _create_repositories(api, _repositories(staged), private=private)
        uploaded = []
        for folder in staged.folders:
            with explained(f"{folder.repo_id}, branch {folder.branch},"):
                uploaded.append(upload_folder(api, folder))
    remarks = _forgotten_branches(api, staged)
    address = None
    if collection is not None:
        address = collect(api, collection, _repositories(staged), private=private)
    return PublishedRun(tuple(uploaded), address, remarks)


def check_repo_id(repo_id: str, argument: str = "repo_id") -> None:
    """Check that `repo_id`, which errors call `argument`, can be the name of a repository.

    Raises:
        ValueError: If `repo_id` isn't `org/name`.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(
            f"{argument} must be the name of a repository, `org/name`; got {repo_id!r}. {error}"
        ) from error
    if repo_id.count("/") != 1:
        raise ValueError(
            f"{argument} must begin with the organisation or user to publish under, as in 'org/name'; got {repo_id!r}."
        )


def check_collection(api: HfApi, title_or_slug: str) -> None:
    """Check, before anything is uploaded, that a collection that is given by its slug exists.

    Raises:
        PublishError: If it doesn't exist, or the Hub can't be reached.
    """
    if SLUG.fullmatch(title_or_slug):
        with explained(f"the collection {title_or_slug}"):
            api.get_collection(title_or_slug)


def collect(api: HfApi, title_or_slug: str, repositories: Sequence[str], *, private: bool) -> str:
    """Put repositories into a collection; those that are in it already stay.

    Args:
        api: Client with a token that may write.
        title_or_slug: A slug; or a title, and the collection is created if its owner has none of that title.
        repositories: `org/name` of models; the owner of the first one also owns a new collection.
        private: Whether a new collection is private.

    Returns:
        Its address.

    Raises:
        PublishError: If the Hub refuses or can't be reached.
    """
    with explained(f"the collection {title_or_slug}"):
        slug = title_or_slug
        if not SLUG.fullmatch(slug):
            owner = repositories[0].partition("/")[0]
            slug = api.create_collection(title_or_slug, namespace=owner, private=private, exists_ok=True).slug
        for repo_id in repositories:
            api.add_collection_item(slug, repo_id, "model", exists_ok=True)
    return f"{api.endpoint}/collections/{slug}"


def _check_before_staging(api: HfApi, repo_id: str, collection: str | None, *, private: bool) -> None:
    """Check what can be checked before minutes of work: the token, the collection, and a repository that exists."""
    with explained(repo_id):
        api.whoami()
    if collection is not None:
        check_collection(api, collection)
    with explained(repo_id):
        exists = api.repo_exists(repo_id)
    if exists:
        _check_repository(api, repo_id, private=private)


def _create_repositories(api: HfApi, repositories: Sequence[str], *, private: bool) -> None:
    """Create those that don't exist, after checking all names, and check those that do."""
    for repo_id in repositories:
        check_repo_id(repo_id)  # the names for subnetworks are longer than the one given
    for repo_id in repositories:
        with explained(repo_id):
            api.create_repo(repo_id, private=private or None, exist_ok=True)
        _check_repository(api, repo_id, private=private)


def _repositories(staged: StagedRun) -> list[str]:
    """Each repository once, the one of the dense model first."""
    return list(dict.fromkeys([staged.main.repo_id, *(folder.repo_id for folder in staged.subnetworks)]))


def _check_repository(api: HfApi, repo_id: str, *, private: bool) -> None:
    """Check, before anything is uploaded, that a repository may be written to and holds no other model."""
    with explained(repo_id):
        api.auth_check(repo_id, write=True)
        repository = api.repo_info(repo_id)
        model_type = _model_type(api, repo_id, repository.sha)
    if private and not repository.private:
        raise PublishError(
            f"{repo_id} is public already, while private=True was given. Make it private in its settings on the Hub, "
            "or choose another name. Nothing was uploaded."
        )
    if model_type not in (None, PrunNetConfig.model_type):
        raise PublishError(
            f"{repo_id} holds a model of type {model_type!r}, which would be lost. Choose another repository, or "
            "remove its config.json. Nothing was uploaded."
        )


def _model_type(api: HfApi, repo_id: str, commit: str | None) -> str | None:
    """The model type in the repository's configuration; None if it has none, "unknown" if it can't be read."""
    try:
        config = api.hf_hub_download(repo_id, "config.json", revision=commit)
    except RemoteEntryNotFoundError:
        return None
    try:
        content = load_json(Path(config).read_text(encoding="utf-8"))
    except ValueError:
        return "unknown"
    return str(content.get("model_type")) if isinstance(content, dict) else "unknown"


def _forgotten_branches(api: HfApi, staged: StagedRun) -> tuple[str, ...]:
    """A remark about branches of subnetworks that an earlier publication made and this one didn't."""
    with explained(staged.main.repo_id):
        branches = [branch.name for branch in api.list_repo_refs(staged.main.repo_id).branches]
    current = [folder.branch for folder in staged.subnetworks]
    left = sorted(name for name in branches if fnmatchcase(name, SUBNETWORKS) and name not in current)
    if not left:
        return ()
    return (
        f"{staged.main.repo_id} still has {', '.join(left)} from an earlier publication; they were not changed. If "
        f"they were cut from another model, remove them: hf repos branch delete {staged.main.repo_id} {left[0]}",
    )
