"""The page in headless Chromium: it gives Python's embeddings and results, fetches what is chosen, and says errors.

Needs /usr/bin/chromium, and in PRUNNET_RUNTIME a folder with npm's package onnxruntime-web.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from prunnet_hf import Gallery, PrunNetModel
from prunnet_hf.export.page.runtime import FROM_CDN, NPM_NAME, PINNED, SCRIPT, WASM, find_runtime, integrity_of
from prunnet_hf.export.page.server import address, serving
from prunnet_hf.export.page.site import read_manifest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

pytestmark = pytest.mark.browser
ROOT = Path(__file__).parents[3]
CHROMIUM = "/usr/bin/chromium"
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
SAME = 0.999
"""Cosine of the browser's embedding and Python's, at least."""
K = 8
PATIENCE = 120_000
"""Milliseconds to wait for what must happen, on a busy machine."""
Visit = Callable[..., "Page"]


@dataclass(frozen=True)
class Site:
    """A page that is served."""

    url: str
    folder: Path
    gallery: Gallery
    dense: PrunNetModel

    def example(self, number: int) -> Path:
        return self.folder / str(read_manifest(self.folder)["examples"][number]["url"])


def runtime_folder() -> Path:
    assert "PRUNNET_RUNTIME" in os.environ, f"PRUNNET_RUNTIME must name a folder with npm's {NPM_NAME}@{PINNED}"
    return find_runtime(Path(os.environ["PRUNNET_RUNTIME"]))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The page of `make page`, with two capacities, served as `prunnet page --serve` does."""
    out = tmp_path_factory.mktemp("page")
    words = ["--output", str(out), "--runtime", str(runtime_folder()), "--capacity", "0.1", "--capacity", "0.2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["page_of_glyphs.py", *words])
        with pytest.raises(SystemExit) as left:
            runpy.run_path(str(ROOT / "examples" / "page_of_glyphs.py"), run_name="__main__")
    assert left.value.code == 0
    dense = PrunNetModel.from_pretrained(ROOT / "model_cards" / "glyphs" / "model")
    with serving(out / "site", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Site(address(server), out / "site", Gallery.load(out / "gallery"), dense)
        server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Browser, site: Site) -> Iterator[Visit]:
    """Opens the page and waits for what it finds first. Errors that nothing in it catches fail the test."""
    contexts, uncaught = [], []

    def open_page(*, ready: bool = True, prepare: Callable[[Page], object] | None = None, **options: Any) -> Page:
        contexts.append(browser.new_context(**options))
        page: Page = contexts[-1].new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: uncaught.append(error))  # noqa: PLW0108 - Playwright marks what it is given
        if prepare:
            prepare(page)
        page.goto(site.url)
        if ready:
            wait(page)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert uncaught == []


def wait(page: Page) -> None:
    """Until the page is done with what it was asked for."""
    page.wait_for_function("document.getElementById('main').getAttribute('aria-busy') === 'false'")


def found(page: Page, which: str) -> list[int]:
    """The rows of the gallery that a network finds, in their order."""
    items = page.locator(f"#{which}-hits li")
    return [int(row) for row in items.evaluate_all("all => all.map((item) => item.dataset.row)")]


def embedding(page: Page, file: Path, capacity: float) -> np.ndarray:
    numbers = page.evaluate(
        "async ([bytes, capacity]) => Array.from(await prunnet.embed(new Blob([new Uint8Array(bytes)]), capacity))",
        [list(file.read_bytes()), capacity],
    )
    return np.array(numbers, np.float32)


def draw(page: Page, *points: tuple[float, float]) -> None:
    """Draw a line through points, given as shares of the drawing area."""
    box = page.locator("#pad").bounding_box()
    assert box is not None
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=5)
    page.mouse.up()


def luminance(page: Page, selector: str, name: str) -> float:
    """Relative luminance of a colour that is an element's by its style, as WCAG 2.1 defines it."""
    script = "([selector, name]) => getComputedStyle(document.querySelector(selector))[name].match(/[0-9.]+/g)"
    parts = [float(part) / 255 for part in page.evaluate(script, [selector, name])[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def photo(path: Path) -> Path:
    """A coloured picture of 600 x 400 pixels, smooth as photos are."""
    corners = np.random.default_rng(0).integers(0, 256, (4, 6, 3)).astype(np.uint8)
    Image.fromarray(corners).resize((600, 400), Image.Resampling.BICUBIC).save(path, quality=95)
    return path


def test_what_is_pinned_is_the_package_that_npm_has() -> None:
    folder = runtime_folder()
    assert json.loads((folder / "package.json").read_text())["version"] == PINNED
    for file, name in ((FROM_CDN.script, SCRIPT), (FROM_CDN.wasm, WASM)):
        local = folder / "dist" / name
        assert (file.bytes, file.integrity) == (local.stat().st_size, integrity_of(local))


def test_the_first_results_are_there_without_a_click_and_are_pythons(visit: Visit, site: Site) -> None:
    page = visit()
    assert page.title() == page.locator("h1").inner_text() == "Find the character"
    assert page.locator("#notice").is_hidden()
    assert page.locator("#capacity").get_attribute("aria-valuetext").startswith("0.2 of the units, ")
    networks = {"chosen": site.dense.prune(0.2), "dense": site.dense}
    rows = {}
    for which, network in networks.items():
        expected = site.gallery.search(site.example(0), K, model=network).paths[0]
        rows[which] = found(page, which)
        assert [site.gallery.paths[row] for row in rows[which]] == expected
    common = len({*rows["chosen"]} & {*rows["dense"]})
    assert page.locator("#agreement").inner_text().startswith(f"{common} of {K} ")


def test_embeddings_are_pythons(visit: Visit, site: Site, tmp_path: Path) -> None:
    page = visit()
    network = {0.1: site.dense.prune(0.1), 1: site.dense}
    for file in (site.example(1), site.example(7), photo(tmp_path / "photo.jpg"), photo(tmp_path / "photo.png")):
        for capacity, model in network.items():
            (expected,) = model.encode([file], progress=False)
            assert embedding(page, file, capacity) @ expected > SAME, (file.name, capacity)


def test_the_slider_changes_what_is_found_and_fetches_one_file(visit: Visit, site: Site) -> None:
    page = visit()
    before = found(page, "chosen")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url.removeprefix(site.url)))
    page.locator("#capacity").press("ArrowLeft")
    wait(page)
    assert [name for name in asked if not name.startswith("blob:")] == ["networks/capacity-0.10.onnx"]
    assert page.locator("#reading").inner_text() == "0.1"
    expected = site.gallery.search(site.example(0), K, model=site.dense.prune(0.1)).paths[0]
    assert [site.gallery.paths[row] for row in found(page, "chosen")] == expected
    page.locator("#capacity").press("ArrowRight")
    wait(page)
    assert [name for name in asked if not name.startswith("blob:")] == ["networks/capacity-0.10.onnx"]
    assert found(page, "chosen") == before


def test_bytes_are_counted_for_networks_and_runtime_apart(visit: Visit, site: Site) -> None:
    page = visit()
    sizes = {network["capacity"]: network["bytes"] for network in read_manifest(site.folder)["networks"]}
    page.wait_for_function(
        "text => document.getElementById('bytes-networks').textContent === text",
        arg=f"{(sizes[0.2] + sizes[1.0]) / 1e6:.2f} MB",
    )
    assert page.locator("#bytes-runtime").inner_text() == "14.3 MB"
    for which in ("chosen", "dense"):
        assert " ms" in page.locator(f"#{which}-cost").inner_text()


def test_another_example_and_an_image_of_ones_own_are_searched(visit: Visit, site: Site, tmp_path: Path) -> None:
    page = visit()
    page.locator("#examples button").nth(3).click()
    page.wait_for_function("document.querySelector('#examples button:nth-child(4)').ariaPressed === 'true'")
    wait(page)
    assert [site.gallery.paths[row] for row in found(page, "dense")] == site.gallery.search(
        site.example(3), K, model=site.dense
    ).paths[0]
    mine = photo(tmp_path / "mine.png")
    page.locator("#file").set_input_files(mine)
    page.wait_for_function("document.getElementById('query-caption').textContent === 'mine.png'")
    wait(page)
    expected = site.gallery.search(mine, K, model=site.dense).paths[0]
    assert site.gallery.paths[found(page, "dense")[0]] == expected[0]


def test_a_drawing_is_searched(visit: Visit, site: Site) -> None:
    page = visit()
    page.locator("#draw").click()
    draw(page, (0.25, 0.8), (0.28, 0.2), (0.5, 0.6), (0.74, 0.2), (0.76, 0.8))
    wait(page)
    assert {site.gallery.labels[found(page, which)[0]] for which in ("chosen", "dense")} == {"U+004D"}  # M
    page.locator("#clear").click()
    assert page.locator("#stage-hint").is_visible()


def test_nothing_lies_outside_of_the_window(visit: Visit) -> None:
    page = visit(viewport={"width": 390, "height": 844})
    for click in ("#draw", "#examples button"):
        page.locator(click).first.click()
        for width in (320, 390, 768, 1280):
            page.set_viewport_size({"width": width, "height": 844})
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (click, width)


def test_dark_and_light_differ_and_text_is_readable_in_both(visit: Visit) -> None:
    grounds = set()
    for scheme in ("light", "dark"):
        page = visit(color_scheme=scheme)
        ground = luminance(page, "body", "backgroundColor")
        for text in ("body", ".caption"):
            ink = luminance(page, text, "color")
            assert (max(ink, ground) + 0.05) / (min(ink, ground) + 0.05) >= 4.5  # WCAG 2.1, AA
        grounds.add(ground)
    assert len(grounds) == 2


def test_everything_has_a_name_and_the_keyboard_reaches_it(visit: Visit) -> None:
    page = visit()
    nameless = page.evaluate(
        "[...document.querySelectorAll('img:not([hidden]), button:not([hidden]), input')].filter((e) => !(e.alt || "
        "e.innerText?.trim() || e.querySelector('img')?.alt || e.labels?.length)).map((e) => e.outerHTML)"
    )
    assert nameless == []
    reached = set()
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.parentElement.id"))
    assert {"draw", "file", "examples", "capacity"} <= reached


def test_a_file_that_is_no_image_is_said_to_be_none_and_the_page_goes_on(visit: Visit) -> None:
    page = visit()
    before = found(page, "chosen")
    page.locator("#file").set_input_files({"name": "notes.txt", "mimeType": "text/plain", "buffer": b"hello"})
    page.locator("#notice").wait_for()
    assert "notes.txt isn't an image" in page.locator("#notice").inner_text()
    assert found(page, "chosen") == before
    page.locator("#examples button").nth(1).click()
    page.locator("#notice").wait_for(state="hidden")


def test_a_network_that_cant_be_fetched_is_named_and_can_be_tried_again(visit: Visit) -> None:
    page = visit()
    page.route("**/capacity-0.10.onnx", lambda route: route.fulfill(status=503))
    page.locator("#capacity").press("ArrowLeft")
    page.locator("#notice").wait_for()
    assert "networks/capacity-0.10.onnx can't be fetched: the host answers 503" in page.locator("#notice").inner_text()
    page.unroute("**/capacity-0.10.onnx")
    page.locator("#examples button").nth(1).click()
    page.locator("#notice").wait_for(state="hidden")


def test_the_runtime_comes_from_its_cdn_where_none_was_copied(visit: Visit) -> None:
    asked: list[str] = []

    def from_cdn(route: Route) -> None:
        manifest = route.fetch().json()
        route.fulfill(json={**manifest, "runtime": asdict(FROM_CDN)})

    def answer(route: Route) -> None:  # the CDN itself is out of reach; its digests are checked by the browser
        asked.append(route.request.url)
        local = runtime_folder() / "dist" / asked[-1].rpartition("/")[2]
        route.fulfill(path=local, headers={"Access-Control-Allow-Origin": "*"})

    def prepare(page: Page) -> None:
        page.route("**/page.json", from_cdn)
        page.route("https://cdn.jsdelivr.net/**", answer)

    page = visit(prepare=prepare)
    assert sorted(asked) == sorted([FROM_CDN.script.url, FROM_CDN.wasm.url])
    assert len(found(page, "chosen")) == K


def test_a_runtime_that_was_changed_is_refused(visit: Visit) -> None:
    def change(route: Route) -> None:
        route.fulfill(response=route.fetch(), body=route.fetch().body() + b"// changed")

    page = visit(ready=False, prepare=lambda page: page.route(f"**/{SCRIPT}", change))
    page.locator("#notice").wait_for()
    said = page.locator("#notice").inner_text()
    assert f"{SCRIPT} can't be fetched, or isn't the file that this page was made for" in said


def test_a_browser_without_webassembly_is_told_what_it_lacks(visit: Visit) -> None:
    page = visit(ready=False, prepare=lambda page: page.add_init_script("delete globalThis.WebAssembly"))
    page.locator("#notice").wait_for()
    assert "no WebAssembly" in page.locator("#notice").inner_text()


def test_a_large_dense_network_is_fetched_only_when_asked_for(visit: Visit) -> None:
    def enlarge(route: Route) -> None:
        manifest = route.fetch().json()
        manifest["networks"][-1]["bytes"] = 45_300_000
        route.fulfill(json=manifest)

    asked: list[str] = []

    def prepare(page: Page) -> None:
        page.route("**/page.json", enlarge)
        page.on("request", lambda request: asked.append(request.url.rpartition("/")[2]))

    page = visit(prepare=prepare)
    assert len(found(page, "chosen")) == K
    assert "capacity-1.00.onnx" not in asked
    button = page.locator("#fetch-dense")
    assert button.inner_text() == "Fetch the dense network, 45.3 MB"
    button.click()
    page.locator("#dense-hits li").first.wait_for()
    assert asked.count("capacity-1.00.onnx") == 1
