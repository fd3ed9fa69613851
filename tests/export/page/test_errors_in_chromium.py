"""The page in headless Chromium when something is wrong: what it says, and what it goes on showing.

Needs what `test_in_chromium.py` needs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from prunnet_hf.export.page.runtime import SCRIPT
from tests.export.page.in_chromium import K, Site, Visit, found, wait

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

pytestmark = pytest.mark.browser


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
    assert found(page, "chosen") == found(page, "dense") == []  # what 0.2 found isn't what 0.1 finds
    page.unroute("**/capacity-0.10.onnx")
    page.locator("#examples button").nth(1).click()
    page.locator("#notice").wait_for(state="hidden")


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


def test_what_the_chosen_network_finds_stays_where_the_dense_one_cant_be_fetched(visit: Visit) -> None:
    page = visit(prepare=lambda page: page.route("**/capacity-1.00.onnx", lambda route: route.fulfill(status=404)))
    assert "networks/capacity-1.00.onnx can't be fetched" in page.locator("#notice").inner_text()
    assert len(found(page, "chosen")) == K
    assert page.locator("#agreement").inner_text() == "Nothing can be compared, because of the error above."


def test_an_example_that_cant_be_fetched_ends_the_waiting(visit: Visit) -> None:
    def refuse(page: Page) -> None:
        page.route("**/examples/*", lambda route: route.fulfill(status=404))

    page = visit(prepare=refuse)
    assert "can't be fetched: the host answers 404" in page.locator("#notice").inner_text()
    assert page.locator("#agreement").inner_text() == "Nothing was found, because of the error above."


@pytest.mark.parametrize("name", ["gallery/vectors.float16", "gallery/thumbnails.webp", "networks/capacity-0.20.onnx"])
def test_a_file_of_another_size_is_refused(name: str, visit: Visit) -> None:
    def cut(route: Route) -> None:
        route.fulfill(response=route.fetch(), body=route.fetch().body()[:1000])

    page = visit(prepare=lambda page: page.route(f"**/{name}", cut))
    assert f"{name} has 1000 bytes instead of " in page.locator("#notice").inner_text()
    assert found(page, "chosen") == []


def test_a_manifest_that_is_no_json_is_named(visit: Visit) -> None:
    page = visit(prepare=lambda page: page.route("**/page.json", lambda route: route.fulfill(body="<html>")))
    assert "page.json can't be read" in page.locator("#notice").inner_text()


def test_an_image_of_a_line_is_refused_as_in_python(visit: Visit, tmp_path: Path) -> None:
    page = visit()
    Image.new("RGB", (1010, 10)).save(tmp_path / "line.png")
    page.locator("#file").set_input_files(tmp_path / "line.png")
    page.locator("#notice").wait_for()
    said = page.locator("#notice").inner_text()
    assert "line.png has 1010 x 10 pixels" in said
    assert "at most 100 times" in said


def test_a_file_that_is_no_image_doesnt_stop_what_is_being_found(visit: Visit, site: Site) -> None:
    page = visit()
    held: list[Route] = []
    page.route("**/capacity-0.10.onnx", lambda route: held.append(route))  # noqa: PLW0108 - as in conftest.py
    with page.expect_request("**/capacity-0.10.onnx"):
        page.locator("#capacity").press("ArrowLeft")
    page.locator("#file").set_input_files({"name": "notes.txt", "mimeType": "text/plain", "buffer": b"hello"})
    page.locator("#notice").wait_for()
    held[0].continue_()
    wait(page)
    expected = site.gallery.search(site.example(0), K, model=site.dense.prune(0.1)).paths[0]
    assert [site.gallery.paths[row] for row in found(page, "chosen")] == expected
    assert "notes.txt isn't an image" in page.locator("#notice").inner_text()
