"""The page in headless Chromium: it gives Python's embeddings and results, and fetches what is chosen.

Needs /usr/bin/chromium, and in PRUNNET_RUNTIME a folder with npm's package onnxruntime-web.
"""

from __future__ import annotations

import importlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import ExifTags, Image

from prunnet_hf.export.page.runtime import FROM_CDN, PINNED, SCRIPT, WASM, integrity_of
from prunnet_hf.export.page.site import read_manifest
from tests.export.page.in_chromium import (
    ROOT,
    SAME,
    K,
    Site,
    Visit,
    draw,
    embedding,
    found,
    luminance,
    photo,
    runtime_folder,
    wait,
)

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

pytestmark = pytest.mark.browser


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


def test_a_photo_that_is_shrunk_and_a_long_picture_are_embedded_as_python_embeds_them(
    visit: Visit, site: Site, tmp_path: Path
) -> None:
    page = visit()
    for size in ((3000, 2000), (40, 3900)):
        Image.open(photo(tmp_path / "photo.png")).resize(size).save(tmp_path / "resized.png")
        (expected,) = site.dense.encode([tmp_path / "resized.png"], progress=False)
        assert embedding(page, tmp_path / "resized.png", 1) @ expected > SAME, size


def test_images_of_other_kinds_are_embedded_as_python_embeds_them(visit: Visit, site: Site, tmp_path: Path) -> None:
    """Transparent, of 16 bits, of one bit, in the colours of a printer, and lying on its side."""
    page, whole = visit(), Image.open(photo(tmp_path / "photo.png"))
    kinds = [tmp_path / name for name in ("alpha.png", "sixteen.png", "one.png", "cmyk.jpg", "lying.jpg")]
    alpha = whole.copy()
    alpha.putalpha(Image.linear_gradient("L").resize(whole.size))
    alpha.save(kinds[0])
    Image.fromarray(np.asarray(whole.convert("L")).astype(np.uint16) * 257).save(kinds[1])
    whole.convert("1").save(kinds[2])
    whole.convert("CMYK").save(kinds[3], quality=95)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    whole.save(kinds[4], quality=95, exif=exif)
    expected = site.dense.encode(kinds, progress=False)
    in_browser = np.array([embedding(page, kind, 1) for kind in kinds])
    assert ((in_browser * expected).sum(axis=1) > SAME).tolist() == [True] * len(kinds)


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


def test_a_capacity_that_keys_only_go_past_isnt_fetched(visit: Visit) -> None:
    page = visit()
    before = found(page, "chosen")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.evaluate(
        "for (const step of ['stepDown', 'stepUp']) { const slider = document.getElementById('capacity'); "
        "slider[step](); for (const name of ['input', 'change']) slider.dispatchEvent(new Event(name)); }"
    )
    wait(page)
    assert [url for url in asked if url.endswith(".onnx")] == []
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
    assert page.locator(".row.stale").count() == 2  # what stands there is of no query any more
    assert "after the first line" in page.locator("#agreement").inner_text()


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
        hottest = luminance(page, "td[style*='1.000']", "backgroundColor")
        for text, behind in (("body", ground), (".caption", ground), ("td[style*='1.000']", hottest)):
            ink = luminance(page, text, "color")
            assert (max(ink, behind) + 0.05) / (min(ink, behind) + 0.05) >= 4.5, (scheme, text)  # WCAG 2.1, AA
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
    assert "camera" not in reached  # its button isn't shown where nothing is touched
    assert page.locator("#examples img").first.get_attribute("alt") == "Example 1: M, 18.png"
    hits = page.locator("#chosen-hits img").evaluate_all("all => all.map((image) => image.alt)")
    assert all(", " in words and "U+" not in words for words in hits)  # the class once, as a character


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


def test_a_large_dense_network_is_fetched_only_when_asked_for(visit: Visit, site: Site) -> None:
    note = b"\x32" + bytes([0x80, 0x80, 0x80, 0x05]) + bytes(5 << 21)  # ONNX's doc_string, 10.5 MB of nothing

    def enlarge(route: Route) -> None:
        manifest = route.fetch().json()
        manifest["networks"][-1]["bytes"] += len(note)
        route.fulfill(json=manifest)

    asked: list[str] = []

    def prepare(page: Page) -> None:
        page.route("**/page.json", enlarge)
        page.route("**/capacity-1.00.onnx", lambda route: route.fulfill(body=route.fetch().body() + note))
        page.on("request", lambda request: asked.append(request.url.rpartition("/")[2]))

    page = visit(prepare=prepare)
    assert len(found(page, "chosen")) == K
    assert "capacity-1.00.onnx" not in asked
    button = page.locator("#fetch-dense")
    size = read_manifest(site.folder)["networks"][-1]["bytes"] + len(note)
    assert button.inner_text() == f"Fetch the dense network, {size / 1e6:.1f} MB"
    button.click()
    page.locator("#dense-hits li").first.wait_for()
    assert asked.count("capacity-1.00.onnx") == 1


def test_the_time_to_the_first_result_can_be_measured(
    browser: Browser, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    visits = importlib.import_module("browser").visits
    assert [seconds > 0 for seconds in visits(browser, site.url, 2)] == [True, True]
