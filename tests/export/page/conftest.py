"""The page that tests in a browser visit, and their browser."""

from __future__ import annotations

import runpy
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from prunnet_hf import Gallery, PrunNetModel
from prunnet_hf.export.page.server import address, serving
from tests.export.page.in_chromium import CHROMIUM, FLAGS, PATIENCE, ROOT, Site, Visit, runtime_folder, wait

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
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
