"""What the Hub of `tests/hub_server.py` keeps: accounts, repositories with their commits, large files, collections."""

from __future__ import annotations

import codecs
import hashlib
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatch
from functools import cached_property

# What a new repository contains on the Hub; which files are large is decided by `is_large`, not by reading this.
GIT_ATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n*.png filter=lfs diff=lfs merge=lfs -text\n"
LARGE_SUFFIXES = (".bin", ".jpg", ".npy", ".npz", ".onnx", ".parquet", ".png", ".pt", ".safetensors", ".zip")
LARGEST_REGULAR_FILE = 10 * 2**20
FORBIDDEN_PARTS = ("", ".", "..", ".git")


class HubError(Exception):
    """An answer that isn't a success.

    Attributes:
        status: HTTP status, from 400.
        message: What the client shows.
        code: `RepoNotFound`, `RevisionNotFound`, `EntryNotFound` or `GatedRepo`: the client chooses its error by it.
        extra: Further fields of the JSON body.
    """

    def __init__(self, status: int, message: str, code: str | None = None, **extra: object) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.extra = extra


@dataclass(frozen=True)
class Account:
    """The account a token belongs to, and whether the token is only for reading."""

    name: str
    organisations: tuple[str, ...] = ()
    may_write: bool = True

    def belongs_to(self, namespace: str) -> bool:
        """Whether repositories and collections of `namespace` are the account's own."""
        return namespace == self.name or namespace in self.organisations


@dataclass(frozen=True)
class StoredFile:
    """A file of a commit; a large one is stored by git as a pointer to its SHA-256."""

    content: bytes
    large: bool

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of the content, in hexadecimal."""
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def pointer(self) -> bytes:
        """What git stores instead of a large file."""
        text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n"
        return text.encode()

    @cached_property
    def blob(self) -> str:
        """Git's own hash of what git holds."""
        held = self.pointer if self.large else self.content
        return hashlib.sha1(b"blob %d\0" % len(held) + held).hexdigest()

    @property
    def etag(self) -> str:
        """The name that the client gives the file in its cache; with it, it sees that it has the file already."""
        return self.sha256 if self.large else self.blob


@dataclass(frozen=True)
class Commit:
    """All files of a repository at one moment."""

    oid: str
    parent: Commit | None
    summary: str
    description: str
    author: str
    files: Mapping[str, StoredFile]
    date: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"))


@dataclass
class Repo:
    """A repository; `objects` are the large files uploaded to it by SHA-256, in a commit or not yet."""

    kind: str
    repo_id: str
    private: bool = False
    gated: bool = False
    sdk: str | None = None
    branches: dict[str, Commit] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)

    @property
    def namespace(self) -> str:
        """User or organisation that the repository belongs to."""
        return self.repo_id.split("/")[0]

    def at(self, revision: str) -> Commit:
        """The commit that a branch or a commit's id names."""
        found = self.branches.get(revision) or self.commits.get(revision)
        if found is None:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """Contents by path."""
        return {path: file.content for path, file in self.at(revision).files.items()}

    def history(self, revision: str = "main") -> list[Commit]:
        """Commits, the newest first."""
        commits = [self.at(revision)]
        while (parent := commits[-1].parent) is not None:
            commits.append(parent)
        return commits

    def add_commit(
        self, branch: str, files: Mapping[str, StoredFile], summary: str, description: str = "", author: str = "system"
    ) -> Commit:
        """Put a commit that holds exactly `files` on top of `branch`."""
        parent = self.branches.get(branch)
        blobs = [f"{path} {file.blob}" for path, file in sorted(files.items())]
        identity = [self.repo_id, branch, str(len(self.commits)), summary, *blobs]
        oid = hashlib.sha1("\n".join(identity).encode()).hexdigest()
        commit = Commit(oid, parent, summary, description, author, dict(files))
        self.branches[branch] = self.commits[oid] = commit
        return commit


@dataclass
class Collection:
    """A named list of repositories; `items` are pairs of type and id."""

    slug: str
    title: str
    owner: str
    private: bool = False
    description: str | None = None
    items: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Upload:
    """Permission to send one large file; its signature is part of the address."""

    repo: Repo
    oid: str
    size: int

    def receive(self, content: bytes) -> None:
        """Keep the whole file if it is the one announced."""
        found = hashlib.sha256(content).hexdigest()
        if len(content) != self.size or found != self.oid:
            raise HubError(
                400, f"{self.size} bytes of SHA-256 {self.oid} were announced; {len(content)} of {found} came"
            )
        self.repo.objects[self.oid] = content


@dataclass
class Store:
    """Everything the server knows; a model is `repos["org/name"]`, a data set `repos["datasets/org/name"]`."""

    accounts: dict[str, Account] = field(default_factory=dict)
    repos: dict[str, Repo] = field(default_factory=dict)
    collections: dict[str, Collection] = field(default_factory=dict)
    uploads: dict[str, Upload] = field(default_factory=dict)
    downloads: dict[str, StoredFile] = field(default_factory=dict)

    def create_repo(self, kind: str, repo_id: str, *, private: bool = False, sdk: str | None = None) -> Repo:
        """A repository with the commit that the Hub begins each with; a static Space has a page of the Hub's in it."""
        repo = Repo(kind, repo_id, private, sdk=sdk)
        files = {".gitattributes": StoredFile(GIT_ATTRIBUTES, large=False)}
        if sdk == "static":
            files["README.md"] = StoredFile(f"---\ntitle: {repo_id}\nsdk: static\n---\n".encode(), large=False)
            files["index.html"] = StoredFile(b"<h1>Welcome to your static Space!</h1>\n", large=False)
        repo.add_commit("main", files, "initial commit")
        self.repos[repo_key(kind, repo_id)] = repo
        return repo

    def sign_upload(self, upload: Upload) -> str:
        """The secret part of the address that `upload` is sent to."""
        signature = secrets.token_hex(8)
        self.uploads[signature] = upload
        return signature

    def sign_download(self, file: StoredFile) -> str:
        """The secret part of the address that `file` is fetched from."""
        signature = secrets.token_hex(8)
        self.downloads[signature] = file
        return signature


def repo_key(kind: str, repo_id: str) -> str:
    """The repository as the address of its page names it."""
    return repo_id if kind == "model" else f"{kind}s/{repo_id}"


def is_large(path: str, size: int, sample: bytes) -> bool:
    """Whether the file is too large for git, judged by its suffix, its size, and whether it begins with text."""
    if size == 0:
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample)  # which may end inside a character
    except UnicodeDecodeError:
        return True
    return path.endswith(LARGE_SUFFIXES) or size > LARGEST_REGULAR_FILE or b"\0" in sample


def is_ignored(path: str, patterns: str) -> bool:
    """Whether a .gitignore with the lines `patterns` leaves `path` out; lines with `!` are not understood."""
    lines = [line.strip() for line in patterns.splitlines() if line.strip() and not line.startswith("#")]
    names = [path, *path.split("/")]
    return any(fnmatch(name, line.rstrip("/")) for line in lines for name in names)


def check_path(path: object) -> str:
    """`path`, if a repository may have a file of that name."""
    if not isinstance(path, str) or any(part in FORBIDDEN_PARTS for part in path.split("/")):
        raise HubError(400, f"{path!r} is not a path inside a repository")
    return path


def check_name(name: object) -> str:
    """`name`, if a repository may be called so."""
    allowed = isinstance(name, str) and re.fullmatch(r"[\w.-]{1,96}", name, re.ASCII)
    if not allowed or not isinstance(name, str) or "--" in name or ".." in name or name.strip("-.") != name:
        raise HubError(400, f"{name!r} is not a name for a repository")
    return name
