"""A page on disk: what is in it, and what it can't be made of."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from prunnet_hf import Gallery, PrunNetModel
from prunnet_hf.cli.main import main
from prunnet_hf.export.page.runtime import FROM_CDN
from prunnet_hf.export.page.site import PAGE_FILES, Page, build_page, read_manifest, refuse_other_folder
from prunnet_hf.storage.replacing import replaced_whole
from tests.processes import die_at_rename
from tests.tiny_models import tiny


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "photos"
    generator = np.random.default_rng(0)
    for name in ("a/1.png", "a/2.png", "b/3.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (40, 50, 3)).astype(np.uint8)).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved dense network. No test may change it."""
    folder = tmp_path_factory.mktemp("models") / "model"
    network = tiny(capacities=[0.2]).base_model
    network.renew_embedding_space()
    network.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def gallery(model: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("galleries") / "gallery"
    Gallery.from_folder(PrunNetModel.from_pretrained(model), photos).save(folder)
    return folder


@pytest.fixture(scope="module")
def site(model: Path, gallery: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page as the command makes it, where one had been made before. No test may change it."""
    folder = tmp_path_factory.mktemp("sites") / "site"
    folder.mkdir()
    (folder / "index.html").write_text("An older page")
    (folder / "page.json").write_text('{"format": "prunnet-page"}')
    (folder / "CNAME").write_text("mine")
    words = ["page", str(model), "--gallery", str(gallery), "--output", str(folder), "--title", "Cats & <dogs>"]
    assert main(words) == 0
    return folder


def test_the_folder_holds_the_page_and_what_others_put_there(site: Path) -> None:
    assert sorted(path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()) == [
        "CNAME",
        "examples/01.png",
        "examples/02.png",
        "examples/03.png",
        "gallery/thumbnails.webp",
        "gallery/vectors.float16",
        "index.html",
        "networks/capacity-0.20.onnx",
        "networks/capacity-1.00.onnx",
        "page.css",
        "page.js",
        "page.json",
    ]


def test_the_title_is_written_as_text(site: Path) -> None:
    index = (site / "index.html").read_text(encoding="utf-8")
    assert index.count("Cats &amp; &lt;dogs&gt;") == 2  # title and headline
    assert "{{" not in index


def test_the_manifest_says_what_there_is(site: Path) -> None:
    manifest = read_manifest(site)
    assert [network["capacity"] for network in manifest["networks"]] == [0.2, 1.0]
    for file in (*manifest["networks"], manifest["gallery"]["vectors"], manifest["gallery"]["thumbnails"]):
        assert file["bytes"] == (site / file["url"]).stat().st_size
    assert (manifest["gallery"]["of"], manifest["gallery"]["dim"], manifest["gallery"]["capacity"]) == (3, 8, 1.0)
    assert manifest["gallery"]["names"] == ["a/1.png", "a/2.png", "b/3.png"]
    assert (manifest["unit"], manifest["drawing"], manifest["matrix"]) == ("weights", False, None)
    assert manifest["runtime"]["wasm"]["integrity"] == FROM_CDN.wasm.integrity
    assert str(site.parents[1]) not in json.dumps(manifest)  # nothing of this machine


@pytest.mark.parametrize("capacity", [0.2, 1.0])
def test_networks_take_an_image_of_any_size_and_give_the_models_embedding(
    capacity: float, site: Path, model: Path
) -> None:
    network = PrunNetModel.from_pretrained(model, capacity=None if capacity == 1 else capacity)
    session = onnxruntime.InferenceSession(site / f"networks/capacity-{capacity:.2f}.onnx")
    with Image.open(site / "examples/03.png") as image:
        (found,) = session.run(["pooler_output"], {"image": np.asarray(image)})
    (expected,) = network.encode([site / "examples/03.png"], progress=False)
    assert found.shape == (1, 8)
    assert found[0] @ expected > 0.999


def test_another_space_is_refused_before_anything_is_made(gallery: Path, tmp_path: Path) -> None:
    stranger = tiny(seed=1).base_model
    stranger.renew_embedding_space()
    with pytest.raises(ValueError, match=r"can't be compared"):
        build_page(stranger, gallery, tmp_path / "site", Page(title="", capacities=[0.2]))
    assert not (tmp_path / "site").exists()


@pytest.mark.parametrize("capacities", [[], [0.2, 1.0], [0.0], [-0.5]])
def test_impossible_capacities_are_refused(capacities: list[float]) -> None:
    with pytest.raises(ValueError, match=r"--capacity must be above 0 and below 1.*got \[.*1\.0, is on every page"):
        Page(title="", capacities=capacities)


def test_no_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"--images must be at least 1; got 0"):
        Page(title="", capacities=[0.2], most_images=0)


def test_what_others_made_isnt_replaced(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("My own page")
    with pytest.raises(FileExistsError, match=r"--output .* something other than a page: choose another folder"):
        refuse_other_folder(tmp_path)
    (tmp_path / "page.json").write_text('{"format": "mine"}')
    with pytest.raises(FileExistsError, match=r"something other than a page"):
        refuse_other_folder(tmp_path)
    with pytest.raises(FileExistsError, match=r"--output .*index.html' is a file: choose the name of a folder"):
        refuse_other_folder(tmp_path / "index.html")
    refuse_other_folder(tmp_path / "new")


@pytest.mark.parametrize("renames", [4, 10])
def test_a_page_is_replaced_also_if_the_command_before_was_killed(renames: int, site: Path, tmp_path: Path) -> None:
    def replace() -> None:
        with replaced_whole(page, PAGE_FILES) as new:
            shutil.copytree(site, new, dirs_exist_ok=True)

    page = Path(shutil.copytree(site, tmp_path / "page"))
    die_at_rename(renames, replace)  # half of the old page is away, half of the new one has arrived
    assert not (page / "index.html").exists()
    refuse_other_folder(page)
    assert read_manifest(page) == read_manifest(site)
