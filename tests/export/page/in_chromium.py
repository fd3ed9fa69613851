"""What the tests in a browser share: the page that is served, and what they do with it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from prunnet_hf import Gallery, PrunNetModel
from prunnet_hf.export.page.runtime import NPM_NAME, PINNED, find_runtime
from prunnet_hf.export.page.site import read_manifest

if TYPE_CHECKING:
    from playwright.sync_api import Page

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
    parts = [float(part) for part in page.evaluate(script, [selector, name])[:3]]
    parts = [part / 255 for part in parts] if max(parts) > 1 else parts  # rgb(...), else color(srgb ...)
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def photo(path: Path) -> Path:
    """A coloured picture of 600 x 400 pixels, smooth as photos are."""
    corners = np.random.default_rng(0).integers(0, 256, (4, 6, 3)).astype(np.uint8)
    Image.fromarray(corners).resize((600, 400), Image.Resampling.BICUBIC).save(path, quality=95)
    return path
