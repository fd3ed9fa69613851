"""A page as a static Space, by the real client."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from huggingface_hub import HfApi, metadata_load

from prunnet_hf.hub.errors import PublishError
from prunnet_hf.hub.space import publish_page
from push_to_hub import main
from tests.hub_server import HubServer

SPACE = "org/search"


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """The folder of a page, small, with a file that is its owner's."""
    folder = tmp_path / "site"
    (folder / "networks").mkdir(parents=True)
    manifest = {"format": "prunnet-page", "title": "Find: cats", "gallery": {"names": ["a", "b"]}}
    (folder / "page.json").write_text(json.dumps(manifest))
    (folder / "index.html").write_text("<title>Find</title>")
    (folder / "networks/capacity-0.20.onnx").write_bytes(bytes(range(256)) * 1200)
    (folder / "CNAME").write_text("mine")
    return folder


def files(hub: HubServer) -> dict[str, bytes]:
    return {
        path: content for path, content in hub.repos[f"spaces/{SPACE}"].files().items() if path != ".gitattributes"
    }


def test_a_page_becomes_a_static_space(hub: HubServer, page: Path, tmp_path: Path) -> None:
    done = publish_page(page, SPACE, model_id="org/photos")
    assert done.url == f"{hub.endpoint}/spaces/{SPACE}"
    assert hub.repos[f"spaces/{SPACE}"].sdk == "static"
    found = files(hub)
    assert sorted(found) == ["README.md", "index.html", "networks/capacity-0.20.onnx", "page.json"]
    assert found["index.html"] == b"<title>Find</title>"  # not the page that the Hub begins with
    (tmp_path / "README.md").write_bytes(found["README.md"])
    metadata = metadata_load(tmp_path / "README.md")
    assert metadata is not None
    assert (metadata["sdk"], metadata["title"], metadata["models"]) == ("static", "Find: cats", ["org/photos"])


def test_published_again_it_uploads_what_has_changed_and_keeps_what_is_others(hub: HubServer, page: Path) -> None:
    publish_page(page, SPACE)
    uploaded = hub.uploaded()
    assert publish_page(page, SPACE).uploaded == ()
    HfApi().upload_file(path_or_fileobj=b"mine", path_in_repo="notes.txt", repo_id=SPACE, repo_type="space")
    (page / "networks/capacity-0.20.onnx").rename(page / "networks/capacity-0.10.onnx")
    (page / "index.html").write_text("<title>Newer</title>")
    again = publish_page(page, SPACE)
    assert again.uploaded == ("index.html", "networks/capacity-0.10.onnx")
    assert again.deleted == ("networks/capacity-0.20.onnx",)
    assert "notes.txt" in files(hub)
    assert hub.uploaded() == uploaded  # the Hub has the network under another name


def test_a_space_with_another_page_is_left_alone(hub: HubServer, page: Path) -> None:
    api = HfApi()
    api.create_repo(SPACE, repo_type="space", space_sdk="static")
    api.upload_file(path_or_fileobj=b"mine", path_in_repo="index.html", repo_id=SPACE, repo_type="space")
    with pytest.raises(PublishError, match=r"org/search holds another page.*Choose another Space"):
        publish_page(page, SPACE)
    assert files(hub)["index.html"] == b"mine"


def test_a_space_that_runs_a_program_or_is_public_is_refused(hub: HubServer, page: Path) -> None:
    api = HfApi()
    api.create_repo("org/app", repo_type="space", space_sdk="gradio")
    with pytest.raises(PublishError, match=r"org/app is a Space of sdk 'gradio'; a page needs a static one"):
        publish_page(page, "org/app")
    api.create_repo(SPACE, repo_type="space", space_sdk="static")
    with pytest.raises(PublishError, match=r"org/search is public already, while --private"):
        publish_page(page, SPACE, private=True)


def test_a_name_without_an_organisation_is_refused(hub: HubServer, page: Path) -> None:
    with pytest.raises(ValueError, match=r"space must begin with the organisation or user.*'search'"):
        publish_page(page, "search")
    assert hub.requests == []


def test_the_script_publishes_lists_and_refuses_what_is_for_runs(
    hub: HubServer, page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(page), "--space", SPACE, "--dry_run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "org/search, a static Space:"
    assert "      307,200  networks/capacity-0.20.onnx" in lines
    assert hub.requests == []
    assert main([str(page), "--space", SPACE, "--repo_id", "org/photos"]) == 0
    assert capsys.readouterr().out.strip() == f"{hub.endpoint}/spaces/{SPACE}: 4 files uploaded"
    assert main([str(page), "--space", SPACE, "--capacities", "0.2", "--layout", "repos"]) == 1
    assert "leave out --capacities, --layout" in capsys.readouterr().err
    assert main([str(page.parent), "--space", SPACE]) == 1
    assert "must be the folder of a page, which prunnet page makes" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main([str(page)])
    assert "--repo_id, or --space" in capsys.readouterr().err
