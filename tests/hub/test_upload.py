"""One folder to one branch, by the real client: in one commit or none, and nothing of other people is touched."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import HfApi

from prunnet_hf.hub.card import BEGIN, END
from prunnet_hf.hub.errors import PublishError, explained
from prunnet_hf.hub.readme import split_front_matter
from prunnet_hf.hub.staging import StagedFolder
from prunnet_hf.hub.upload import upload_folder
from tests.hub_server import HubServer

REPO = "org/name"
CARD = f"---\nlibrary_name: transformers\n---\n\n{BEGIN}\n# Card\n{END}\n"
LARGE = bytes(range(256)) * 1200  # 307,200 bytes, and no text


@pytest.fixture
def api(hub: HubServer) -> HfApi:
    api = HfApi()
    api.create_repo(REPO)
    return api


def folder(path: Path, branch: str = "main", **files: bytes | str) -> StagedFolder:
    """A staged folder; `config_json` is the file `config.json`."""
    path.mkdir()
    for name, content in files.items():
        data = content if isinstance(content, bytes) else content.encode()
        (path / ".".join(name.rsplit("_", 1))).write_bytes(data)
    return StagedFolder(path, REPO, branch)


def there(hub: HubServer, branch: str = "main") -> dict[str, bytes]:
    """What a branch holds, without the file that the Hub itself makes."""
    files = hub.repos[REPO].branches[branch].files
    return {path: file.content for path, file in files.items() if path != ".gitattributes"}


def commits(hub: HubServer, branch: str = "main") -> int:
    return len(hub.repos[REPO].history(branch))


def test_one_commit_then_none(hub: HubServer, api: HfApi, tmp_path: Path) -> None:
    staged = folder(tmp_path / "a", README_md=CARD, config_json="{}", model_safetensors=LARGE)
    before = commits(hub)
    first = upload_folder(api, staged)
    assert there(hub) == {"README.md": CARD.encode(), "config.json": b"{}", "model.safetensors": LARGE}
    assert (first.uploaded, first.deleted) == (("README.md", "config.json", "model.safetensors"), ())
    assert first.url == f"{hub.endpoint}/{REPO}"
    assert commits(hub) == before + 1
    assert hub.uploaded() == len(LARGE)
    asked = len(hub.requests)
    second = upload_folder(api, staged)
    assert (second.uploaded, second.deleted, second.commit) == ((), (), first.commit)
    assert commits(hub) == before + 1
    assert {request.method for request in hub.requests[asked:]} <= {"GET", "HEAD"}


def test_only_what_changed_goes_up_and_what_is_stale_goes_away(hub: HubServer, api: HfApi, tmp_path: Path) -> None:
    band = "band-00001-of-00005_safetensors"
    upload_folder(api, folder(tmp_path / "old", config_json="{}", model_safetensors=LARGE, **{band: b"old"}))
    for path in ("notes.txt", "capacity-0.20/notes.txt", "capacity-0.20/config.json"):
        api.upload_file(path_or_fileobj=b"by hand", path_in_repo=path, repo_id=REPO)
    uploaded, before = hub.uploaded(), commits(hub)
    new = upload_folder(api, folder(tmp_path / "new", config_json='{"a": 1}', model_safetensors=LARGE))
    assert new.uploaded == ("config.json",)
    assert new.deleted == ("band-00001-of-00005.safetensors", "capacity-0.20/config.json")
    assert set(there(hub)) == {"config.json", "model.safetensors", "notes.txt", "capacity-0.20/notes.txt"}
    assert commits(hub) == before + 1
    assert hub.uploaded() == uploaded


def test_files_of_a_repository_without_our_model_stay(hub: HubServer, api: HfApi, tmp_path: Path) -> None:
    for name in ("layers.py", "metrics.json", "model.safetensors"):
        api.upload_file(path_or_fileobj=b"by hand", path_in_repo=name, repo_id=REPO)
    assert upload_folder(api, folder(tmp_path / "new", config_json="{}")).deleted == ()
    assert {"layers.py", "metrics.json", "model.safetensors", "config.json"} <= set(there(hub))


def test_what_was_written_by_hand_stays(hub: HubServer, api: HfApi, tmp_path: Path) -> None:
    by_hand = f"---\nlicense: mit\n---\nWelcome.\n{BEGIN}\n# Old\n{END}\n\n## Limits\n\nTheirs.\n"
    api.upload_file(path_or_fileobj=by_hand.encode(), path_in_repo="README.md", repo_id=REPO)
    metadata = "---\nlibrary_name: transformers\nlicense: mit\n---\n"
    merged = f"{metadata}Welcome.\n{BEGIN}\n# Card\n{END}\n\n## Limits\n\nTheirs.\n"
    staged = folder(tmp_path / "a", README_md=CARD)
    upload_folder(api, staged)
    assert there(hub)["README.md"].decode() == merged
    (staged.path / "README.md").write_text(CARD)  # as staging would write it again
    assert upload_folder(api, staged).uploaded == ()


def test_metadata_are_found_behind_a_byte_order_mark(hub: HubServer, api: HfApi, tmp_path: Path) -> None:
    by_hand = "\ufeff---\nlicense: mit\n---\nTheirs.\n"
    api.upload_file(path_or_fileobj=by_hand.encode(), path_in_repo="README.md", repo_id=REPO)
    upload_folder(api, folder(tmp_path / "a", README_md=CARD))
    metadata, text = split_front_matter(there(hub)["README.md"].decode())
    assert metadata == {"library_name": "transformers", "license": "mit"}
    assert text.endswith(f"{END}\n\nTheirs.\n")


def test_branches_have_nothing_in_common_with_main(hub: HubServer, api: HfApi, tmp_path: Path) -> None:
    upload_folder(api, folder(tmp_path / "main", README_md=CARD, config_json="{}", model_safetensors=LARGE))
    branch = folder(tmp_path / "b", "capacity-0.20", config_json='{"capacity": 0.2}')
    assert upload_folder(api, branch).url == f"{hub.endpoint}/{REPO}/tree/capacity-0.20"
    assert there(hub, "capacity-0.20") == {"config.json": b'{"capacity": 0.2}'}
    assert set(there(hub)) == {"README.md", "config.json", "model.safetensors"}
    assert upload_folder(api, branch).uploaded == ()


def test_an_interrupted_upload_goes_on(hub: HubServer, api: HfApi, tmp_path: Path) -> None:
    staged = folder(tmp_path / "a", config_json="{}", model_safetensors=LARGE, other_safetensors=LARGE[::-1])
    before = there(hub)
    hub.fail_next("PUT", "/upload/", times=20, after_bytes=1000)
    with pytest.raises(PublishError, match=r"connection.*again"), explained(REPO):
        upload_folder(api, staged)
    assert there(hub) == before
    hub.stop_failing()
    upload_folder(api, staged)
    assert set(there(hub)) == {"config.json", "model.safetensors", "other.safetensors"}


def test_after_a_failed_commit_nothing_goes_up_twice(hub: HubServer, api: HfApi, tmp_path: Path) -> None:
    staged = folder(tmp_path / "a", config_json="{}", model_safetensors=LARGE)
    hub.fail_next("POST", "/commit/main", 500, times=20)
    with pytest.raises(PublishError, match=r"500.*again"), explained(REPO):
        upload_folder(api, staged)
    assert there(hub) == {}
    hub.stop_failing()
    assert hub.uploaded() == len(LARGE)
    upload_folder(api, staged)
    assert set(there(hub)) == {"config.json", "model.safetensors"}
    assert hub.uploaded() == len(LARGE)


def test_somebody_elses_commit_is_not_overwritten(
    hub: HubServer, api: HfApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload_folder(api, folder(tmp_path / "a", README_md=CARD))
    list_tree = HfApi.list_repo_tree

    def list_and_let_somebody_commit(self: HfApi, *args: object, **kwargs: object) -> object:
        entries = list(list_tree(self, *args, **kwargs))  # type: ignore[arg-type]
        api.upload_file(path_or_fileobj=b"theirs", path_in_repo="README.md", repo_id=REPO)
        return entries

    monkeypatch.setattr(HfApi, "list_repo_tree", list_and_let_somebody_commit)
    with pytest.raises(PublishError, match="412"), explained(REPO):
        upload_folder(api, folder(tmp_path / "b", README_md=CARD, config_json="{}"))
    assert there(hub) == {"README.md": b"theirs"}
