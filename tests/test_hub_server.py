"""The tests' own Hub against the real client: what it takes, keeps, hands out and refuses."""

from __future__ import annotations

import base64
import hashlib
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    constants,
    hf_hub_download,
    snapshot_download,
)
from huggingface_hub.errors import (
    BadRequestError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.hub_client import hub_environment, run_python
from tests.hub_server import HubServer
from tests.loopback_hub.uploads import LARGEST_UPLOAD

REPO = "org/name"
CARD = b"---\ntags:\n- prunnet\n---\n# A model\n"
WEIGHTS = bytes(range(256)) * 100


@pytest.fixture
def api(hub: HubServer) -> HfApi:
    """Signed in, with an empty repository."""
    api = HfApi()
    api.create_repo(REPO)
    return api


def fill(api: HfApi, **files: bytes) -> str:
    """Commit `files`; a double underscore stands for the dot of a name. The commit's id."""
    operations = [CommitOperationAdd(name.replace("__", "."), content) for name, content in files.items()]
    return api.create_commit(REPO, operations, commit_message="fill").oid


def ask(
    url: str, body: bytes | None = None, method: str | None = None, headers: Mapping[str, str] | None = None
) -> tuple[int, bytes]:
    """Status and body of an answer, without the client."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, dict(headers or {}), method=method)) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_a_folder_comes_back_as_it_went_up(hub: HubServer, api: HfApi, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "capacity-0.20").mkdir(parents=True)
    (folder / "README.md").write_bytes(CARD)
    (folder / "capacity-0.20" / "model.safetensors").write_bytes(WEIGHTS)
    (folder / "empty.txt").touch()

    api.upload_folder(repo_id=REPO, folder_path=folder, commit_message="all of it")
    down = Path(snapshot_download(REPO))

    assert (down / "README.md").read_bytes() == CARD
    assert (down / "capacity-0.20" / "model.safetensors").read_bytes() == WEIGHTS
    assert (down / "empty.txt").read_bytes() == b""
    assert [commit.summary for commit in hub.repos[REPO].history()] == ["all of it", "initial commit"]
    # Only the weights go by way of the storage; text travels in the commit.
    assert hub.uploaded() == len(WEIGHTS)
    assert hub.downloaded("model.safetensors") == len(WEIGHTS)
    assert [one.path for one in hub.requests if one.status == 404] == []


def test_what_is_there_already_is_neither_sent_nor_committed_again(hub: HubServer, api: HfApi) -> None:
    first = fill(api, README__md=CARD, model__safetensors=WEIGHTS)
    sent = hub.uploaded()

    assert fill(api, README__md=CARD, model__safetensors=WEIGHTS) == first
    assert hub.uploaded() == sent
    assert len(hub.asked("POST", "/commit/")) == 1

    fill(api, README__md=CARD + b"more", model__safetensors=WEIGHTS)
    assert hub.uploaded() == sent
    assert hub.repos[REPO].files()["README.md"] == CARD + b"more"


def test_a_file_larger_than_one_upload_is_sent_in_parts(hub: HubServer, api: HfApi) -> None:
    content = bytes(2 * LARGEST_UPLOAD) + b"end"
    fill(api, model__safetensors=content)
    assert [one.received for one in hub.asked("PUT")] == [LARGEST_UPLOAD, LARGEST_UPLOAD, 3]
    assert hub.repos[REPO].files()["model.safetensors"] == content


def test_gitignore_keeps_files_out(hub: HubServer, api: HfApi) -> None:
    fill(api, **{"__gitignore": b"# rubbish\n*.tmp\n", "a__tmp": b"rubbish", "a__txt": b"text"})
    assert set(hub.repos[REPO].files()) == {".gitattributes", ".gitignore", "a.txt"}


def test_a_commit_changes_everything_or_nothing(hub: HubServer, api: HfApi) -> None:
    before = fill(api, a__txt=b"a", b__txt=b"b")
    with pytest.raises(EntryNotFoundError, match=r"missing\.txt"):
        api.create_commit(
            REPO,
            [CommitOperationAdd("c.txt", b"c"), CommitOperationDelete("missing.txt")],
            commit_message="half of it is impossible",
        )
    assert hub.repos[REPO].at("main").oid == before

    api.create_commit(
        REPO, [CommitOperationAdd("c.txt", b"c"), CommitOperationDelete("a.txt")], commit_message="possible"
    )
    assert set(hub.repos[REPO].files()) == {".gitattributes", "b.txt", "c.txt"}
    assert hub.repos[REPO].files(before)["a.txt"] == b"a"


def test_a_commit_on_top_of_an_old_one_is_refused(hub: HubServer, api: HfApi) -> None:
    old = fill(api, a__txt=b"a")
    new = fill(api, a__txt=b"aa")
    change = [CommitOperationAdd("a.txt", b"aaa")]
    with pytest.raises(HfHubHTTPError, match="412"):
        api.create_commit(REPO, change, commit_message="late", parent_commit=old)
    assert hub.repos[REPO].at("main").oid == new
    api.create_commit(REPO, change, commit_message="in time", parent_commit=new)
    assert hub.repos[REPO].files()["a.txt"] == b"aaa"


def test_a_branch_is_a_revision_of_its_own(hub: HubServer, api: HfApi) -> None:
    fill(api, a__txt=b"main")
    api.create_branch(REPO, branch="capacity-0.20")
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_branch(REPO, branch="capacity-0.20")
    api.create_branch(REPO, branch="capacity-0.20", exist_ok=True)
    change = [CommitOperationAdd("a.txt", b"branch")]
    api.create_commit(REPO, change, commit_message="on it", revision="capacity-0.20")

    assert Path(hf_hub_download(REPO, "a.txt")).read_bytes() == b"main"
    assert Path(hf_hub_download(REPO, "a.txt", revision="capacity-0.20")).read_bytes() == b"branch"
    assert {branch.name for branch in api.list_repo_refs(REPO).branches} == {"main", "capacity-0.20"}
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download(REPO, "a.txt", revision="capacity-0.30")
    with pytest.raises(EntryNotFoundError):
        hf_hub_download(REPO, "b.txt")


def test_files_are_listed_with_size_and_hash(api: HfApi) -> None:
    api.create_commit(
        REPO,
        [CommitOperationAdd("README.md", CARD), CommitOperationAdd("deep/er/model.safetensors", WEIGHTS)],
        commit_message="fill",
    )
    assert [entry.path for entry in api.list_repo_tree(REPO)] == [".gitattributes", "README.md", "deep"]
    assert [entry.path for entry in api.list_repo_tree(REPO, "deep", recursive=True)] == [
        "deep/er",
        "deep/er/model.safetensors",
    ]
    weights, card, folder = api.get_paths_info(REPO, ["deep/er/model.safetensors", "README.md", "deep/er"])
    assert weights.lfs.sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert (card.size, card.blob_id) == (len(CARD), hashlib.sha1(b"blob %d\0" % len(CARD) + CARD).hexdigest())
    assert folder.path == "deep/er"
    info = api.model_info(REPO, files_metadata=True)
    assert (info.tags, info.private, info.siblings[-1].size) == (["prunnet"], False, len(WEIGHTS))


def test_a_download_that_is_cut_goes_on_where_it_stopped(
    hub: HubServer, api: HfApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(api, model__safetensors=WEIGHTS)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # the client keeps whole chunks
    hub.fail_next("GET", "model.safetensors", after_bytes=10_300)

    assert Path(hf_hub_download(REPO, "model.safetensors")).read_bytes() == WEIGHTS
    cut, rest = hub.asked("GET", "/download/")
    assert (cut.sent, cut.range) == (10_300, None)
    assert (rest.sent, rest.range, rest.status) == (len(WEIGHTS) - 10_000, "bytes=10000-", 206)


def test_an_upload_that_is_cut_is_sent_again(hub: HubServer, api: HfApi) -> None:
    hub.fail_next("PUT", "/upload/", after_bytes=100)
    fill(api, model__safetensors=WEIGHTS)
    assert [one.received for one in hub.asked("PUT")] == [100, len(WEIGHTS)]
    assert hub.repos[REPO].files()["model.safetensors"] == WEIGHTS


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_fails_for_a_moment_is_asked_again_by_the_client(hub: HubServer, api: HfApi, status: int) -> None:
    hub.fail_next("POST", "/info/lfs/objects/batch", status)
    fill(api, model__safetensors=WEIGHTS)
    assert [one.status for one in hub.asked("POST", "/objects/batch")] == [status, 200]


def test_a_commit_that_fails_changes_nothing_and_can_be_sent_again(hub: HubServer, api: HfApi) -> None:
    hub.fail_next("POST", "/commit/", 500)
    with pytest.raises(HfHubHTTPError, match="500"):
        fill(api, model__safetensors=WEIGHTS)
    assert set(hub.repos[REPO].files()) == {".gitattributes"}
    fill(api, model__safetensors=WEIGHTS)
    assert hub.uploaded() == len(WEIGHTS)


def test_a_repository_is_created_once(hub: HubServer, api: HfApi) -> None:
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo(REPO)
    assert api.create_repo(REPO, exist_ok=True).repo_id == REPO
    assert api.create_repo("mine").repo_id == "tester/mine"
    assert api.create_repo("org/data", repo_type="dataset").repo_type == "dataset"
    assert set(hub.repos) == {REPO, "tester/mine", "datasets/org/data"}


def test_tokens_are_checked(hub: HubServer, api: HfApi) -> None:
    assert api.whoami()["name"] == "tester"
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        api.whoami(token="hf_wrong")
    with pytest.raises(HfHubHTTPError, match="401"):
        api.create_repo("org/other", token=False)
    for token in (hub.read_token, hub.foreign_token):
        with pytest.raises(HfHubHTTPError, match="403"):
            api.create_repo("org/other", token=token)
        with pytest.raises(HfHubHTTPError, match="403"):
            api.upload_file(path_or_fileobj=b"", path_in_repo="a.txt", repo_id=REPO, token=token)
    assert set(hub.repos) == {REPO}
    assert set(hub.repos[REPO].files()) == {".gitattributes"}


def test_private_and_gated_repositories_are_for_those_who_may(hub: HubServer, api: HfApi) -> None:
    fill(api, a__txt=b"a")
    hub.repos[REPO].gated = True
    for token in (False, hub.foreign_token):
        with pytest.raises(GatedRepoError):
            hf_hub_download(REPO, "a.txt", token=token)
    hub.repos[REPO].private = True
    for token in (False, hub.foreign_token):
        with pytest.raises(RepositoryNotFoundError):
            hf_hub_download(REPO, "a.txt", token=token)
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("org/unknown")
    assert Path(hf_hub_download(REPO, "a.txt", token=hub.read_token)).read_bytes() == b"a"


def test_collections_hold_each_repository_once(hub: HubServer, api: HfApi) -> None:
    collection = api.create_collection("Small models", namespace="org", private=True)
    assert api.create_collection("Small models", namespace="org", exists_ok=True).slug == collection.slug
    assert [item.item_id for item in api.add_collection_item(collection.slug, REPO, "model").items] == [REPO]
    with pytest.raises(HfHubHTTPError, match="409"):
        api.add_collection_item(collection.slug, REPO, "model")
    assert len(api.add_collection_item(collection.slug, REPO, "model", exists_ok=True).items) == 1
    with pytest.raises(HfHubHTTPError, match="404"):
        api.add_collection_item(collection.slug, "org/unknown", "model")
    with pytest.raises(HfHubHTTPError, match="403"):
        api.add_collection_item(collection.slug, REPO, "model", token=hub.read_token)
    assert [found.slug for found in api.list_collections(owner="org")] == [collection.slug]
    assert list(api.list_collections(owner="org", token=hub.foreign_token)) == []
    assert hub.collections[collection.slug].items == [("model", REPO)]


def test_a_card_has_metadata_in_yaml(api: HfApi) -> None:
    with pytest.raises(ValueError, match="no YAML"):
        fill(api, README__md=b"---\ntags: [unclosed\n---\n")
    with pytest.warns(UserWarning, match="empty or missing yaml metadata"):
        fill(api, README__md=b"# No metadata\n")


def commit_lines(*changes: tuple[str, dict[str, object]]) -> bytes:
    """A commit's body with a good header."""
    lines = [("header", {"summary": "s", "description": ""}), *changes]
    return b"".join(json.dumps({"key": key, "value": value}).encode() + b"\n" for key, value in lines)


def text_file(path: str) -> dict[str, object]:
    return {"path": path, "content": base64.b64encode(b"text").decode(), "encoding": "base64"}


@pytest.mark.parametrize(
    ("address", "body"),
    [
        ("commit/main", b""),
        ("commit/main", b"no json"),
        ("commit/main", commit_lines(("file", text_file("a.txt"))).splitlines(keepends=True)[1]),
        ("commit/main", commit_lines(("file", text_file("../a.txt")))),
        ("commit/main", commit_lines(("file", text_file(".git/config")))),
        ("commit/main", commit_lines(("file", text_file("a.safetensors")))),
        ("commit/main", commit_lines(("file", {**text_file("a.txt"), "content": "!"}))),
        ("commit/main", commit_lines(("file", {**text_file("a.txt"), "more": 1}))),
        ("commit/main", commit_lines(("rename", {"path": "a.txt"}))),
        ("commit/main", commit_lines(("lfsFile", {"path": "a.bin", "algo": "sha256", "oid": "0" * 64, "size": 1}))),
        ("preupload/main", b'{"files": [{"path": "a", "sample": "", "size": 1}]}'),
        ("preupload/main", b'{"files": [1]}'),
        ("branch/refs%2Fpr%2F1", b"{}"),
    ],
)
def test_nonsense_is_refused(hub: HubServer, api: HfApi, address: str, body: bytes) -> None:
    headers = {"Authorization": f"Bearer {hub.token}", "Content-Type": "application/x-ndjson"}
    before = hub.repos[REPO].at("main")
    assert ask(f"{hub.endpoint}/api/models/{REPO}/{address}", body, "POST", headers)[0] == 400
    assert hub.repos[REPO].branches == {"main": before}


def test_a_name_that_is_none_is_refused(api: HfApi, hub: HubServer) -> None:
    headers = {"Authorization": f"Bearer {hub.token}"}
    for name in ("", "a--b", "-a", "a b"):
        body = json.dumps({"name": name, "organization": "org"}).encode()
        assert ask(f"{hub.endpoint}/api/repos/create", body, "POST", headers)[0] == 400
    assert set(hub.repos) == {REPO}


def test_the_storage_takes_what_was_announced_and_no_token(hub: HubServer, api: HfApi) -> None:
    oid = hashlib.sha256(b"announced").hexdigest()
    batch = {
        **{"operation": "upload", "transfers": ["basic"], "hash_algo": "sha256"},
        "objects": [{"oid": oid, "size": len(b"announced")}],
    }
    headers = {"Authorization": f"Bearer {hub.token}", "Content-Type": "application/json"}
    url = f"{hub.endpoint}/{REPO}.git/info/lfs/objects/batch"
    _, answer = ask(url, json.dumps(batch).encode(), "POST", headers)
    address = json.loads(answer)["objects"][0]["actions"]["upload"]["href"]

    assert ask(address, b"something else", "PUT")[0] == 400
    assert ask(address, b"announced", "PUT", headers)[0] == 400
    assert ask(address.replace("/upload/", "/upload/0"), b"announced", "PUT")[0] == 403
    assert hub.repos[REPO].objects == {}
    assert ask(address, b"announced", "PUT")[0] == 200
    assert hub.repos[REPO].objects == {oid: b"announced"}


@pytest.mark.parametrize(
    ("asked", "status", "expected"),
    [
        ("bytes=2-4", 206, b"234"),
        ("bytes=7-", 206, b"789"),
        ("bytes=-3", 206, b"789"),
        ("bytes=8-99", 206, b"89"),
        ("bytes=10-", 416, b""),
    ],
)
def test_ranges_of_bytes(hub: HubServer, api: HfApi, asked: str, status: int, expected: bytes) -> None:
    fill(api, model__bin=b"0123456789")
    url = f"{hub.endpoint}/{REPO}/resolve/main/model.bin"
    assert ask(url, headers={"Range": asked}) == (status, expected)


def test_another_process_finds_the_hub_by_its_environment(hub: HubServer, api: HfApi, tmp_path: Path) -> None:
    fill(api, a__txt=b"found", model__safetensors=WEIGHTS)
    code = f"""
from pathlib import Path
from huggingface_hub import hf_hub_download, whoami
print(whoami()["name"], Path(hf_hub_download({REPO!r}, "a.txt")).read_text())
print(len(Path(hf_hub_download({REPO!r}, "model.safetensors")).read_bytes()))
"""
    done = run_python(code, hub_environment(hub, tmp_path / "other_home"))
    assert done.stdout.split() == ["tester", "found", str(len(WEIGHTS))], done.stderr
    assert hub.token not in done.stdout + done.stderr
    kept = [path for path in (tmp_path / "other_home").rglob("*") if path.is_file()]
    assert not [path for path in kept if hub.token.encode() in path.read_bytes()]


def test_a_request_it_does_not_know_is_an_error(hub: HubServer, api: HfApi) -> None:
    assert ask(f"{hub.endpoint}/api/unknown")[0] == 404
    with pytest.raises(HfHubHTTPError, match="doesn't know"):
        next(iter(api.list_repo_likers(REPO)))


def test_the_client_is_told_of_a_bad_request(hub: HubServer, api: HfApi) -> None:
    hub.fail_next("POST", "/preupload/", 400)
    with pytest.raises(BadRequestError, match="asked for this error"):
        fill(api, a__txt=b"a")
