"""A finished run, published: the dense progressive model, ready subnetworks, image processor, card and metrics."""

from __future__ import annotations

import json
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
from .errors import PublishError, explained
from .names import SUBNETWORKS
from .staging import Publication, StagedRun, check_run, stage_run
from .upload import UploadedFolder, upload_folder
from .usage import Runner, run_code


@dataclass(frozen=True)
class PublishedRun:
    """Where a run stands on the Hub.

    Attributes:
        folders: Every branch of every repository, the dense model with the card last.
        collection: Address of the collection; None without one.
        remarks: What whoever published should know.
    """

    folders: tuple[UploadedFolder, ...]
    collection: str | None
    remarks: tuple[str, ...]

    def describe(self) -> str:
        """A line for every branch, for the collection, and for every remark."""
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
    runner: Runner = run_code,
) -> PublishedRun:
    """Publish a finished run. Doing it again uploads nothing; doing it again after an interruption goes on.

    Args:
        run: A finished run directory of train_accelerate.py.
        publication: What of it, and as what.
        collection: Title of a collection, made where needed, or slug of one (`org/title-0123...`), to put it in.
        private: Repositories that have to be created are private; existing ones must be.
        token: With write access; by default the one of `hf auth login` or HF_TOKEN.
        runner: How to run the snippets of the cards; by default in a process of their own.

    Raises:
        FileNotFoundError: If `run` is no finished run directory.
        ValueError: If an argument is out of range, where nothing is uploaded; or if the README on the Hub can't be
            merged.
        PublishError: If the Hub refuses or can't be reached.
        OSError: If there isn't room to lay out the files.
    """
    check_repo_id(publication.repo_id)
    check_run(run)
    api = HfApi(token=token, library_name="prunnet_hf")
    with explained(publication.repo_id):
        api.whoami()
    if collection is not None:
        check_collection(api, collection)
    with explained(publication.repo_id):
        exists = api.repo_exists(publication.repo_id)
    if exists:
        _check_repository(api, publication.repo_id, private=private)
    with tempfile.TemporaryDirectory(prefix="prunnet-publish-") as directory:
        staged = stage_run(run, publication, Path(directory), runner=runner)
        for repo_id in _repositories(staged):
            check_repo_id(repo_id)  # those of subnetworks have longer names
        for repo_id in _repositories(staged):
            with explained(repo_id):
                api.create_repo(repo_id, private=private or None, exist_ok=True)
            _check_repository(api, repo_id, private=private)
        uploaded = []
        for folder in staged.folders:
            with explained(f"{folder.repo_id}, branch {folder.branch},"):
                uploaded.append(upload_folder(api, folder))
    remarks = _forgotten_branches(api, staged)
    address = None
    if collection is not None:
        address = collect(api, collection, _repositories(staged), private=private)
    return PublishedRun(tuple(uploaded), address, remarks)


def check_repo_id(repo_id: str) -> None:
    """Refuse what can't be the name of a model repository.

    Raises:
        ValueError: If `repo_id` isn't `org/name`.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(
            f"repo_id must be the name of a model repository, `org/name`; got {repo_id!r}. {error}"
        ) from error
    if repo_id.count("/") != 1:
        raise ValueError(
            f"repo_id must say under whose name to publish, as in 'org/name' or 'user/name'; got {repo_id!r}."
        )


def _repositories(staged: StagedRun) -> list[str]:
    """Without repetitions, that of the dense model first."""
    return list(dict.fromkeys([staged.main.repo_id, *(folder.repo_id for folder in staged.subnetworks)]))


def _check_repository(api: HfApi, repo_id: str, *, private: bool) -> None:
    """See to it, before anything is uploaded, that a repository may be written to and is what it should be."""
    with explained(repo_id):
        api.auth_check(repo_id, write=True)
        repository = api.repo_info(repo_id)
        model_type = _model_type(api, repo_id, repository.sha)
    if private and not repository.private:
        raise PublishError(
            f"{repo_id} exists and is public, which private=True can't mean. Make it private in its settings on the "
            "Hub, or choose another name. Nothing was uploaded."
        )
    if model_type not in (None, PrunNetConfig.model_type):
        raise PublishError(
            f"{repo_id} holds a model of type {model_type!r}, which would be lost. Choose another repository, or "
            "remove its config.json. Nothing was uploaded."
        )


def _model_type(api: HfApi, repo_id: str, commit: str | None) -> str | None:
    """None for a repository without a configuration; "unknown" where that can't be read."""
    try:
        config = api.hf_hub_download(repo_id, "config.json", revision=commit)
    except RemoteEntryNotFoundError:
        return None
    try:
        content = json.loads(Path(config).read_text(encoding="utf-8"))
    except ValueError:
        return "unknown"
    return str(content.get("model_type")) if isinstance(content, dict) else "unknown"


def _forgotten_branches(api: HfApi, staged: StagedRun) -> tuple[str, ...]:
    """A remark on branches of subnetworks that were published once and are not any more."""
    with explained(staged.main.repo_id):
        branches = [branch.name for branch in api.list_repo_refs(staged.main.repo_id).branches]
    current = [folder.branch for folder in staged.subnetworks]
    left = sorted(name for name in branches if fnmatchcase(name, SUBNETWORKS) and name not in current)
    if not left:
        return ()
    return (
        f"{staged.main.repo_id} still has {', '.join(left)} of an earlier publication, left as they are. If they were "
        f"cut from another model, remove them: hf repos branch delete {staged.main.repo_id} {left[0]}",
    )


SLUG = re.compile(r"[\w.-]+/[\w.-]+-[0-9a-f]{24}")
"""How the Hub names a collection; anything else is a title."""


def check_collection(api: HfApi, title_or_slug: str) -> None:
    """See to it, before anything is uploaded, that a collection named by its slug exists.

    Raises:
        PublishError: If it doesn't, or the Hub can't be reached.
    """
    if SLUG.fullmatch(title_or_slug):
        with explained(f"the collection {title_or_slug}"):
            api.get_collection(title_or_slug)


def collect(api: HfApi, title_or_slug: str, repositories: Sequence[str], *, private: bool) -> str:
    """Put repositories into a collection, where they aren't yet.

    Args:
        api: With a token that may write.
        title_or_slug: A slug, or the title of a collection that is made where its owner has none of that title.
        repositories: `org/name` of models; the first one's owner gets a new collection.
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
