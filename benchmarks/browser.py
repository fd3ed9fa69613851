"""How long after its address was opened a page of `prunnet page` shows what the first network finds.

    python benchmarks/browser.py out/page/site
    python benchmarks/browser.py out/page/site --visits 11 --chromium /usr/bin/chromium

The page is served on loopback, as `prunnet page --serve` does it. Every visit begins with an empty cache, so it
fetches all files again, the runtime among them: give one that was made with `--runtime`. The clock is the browser's.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prunnet_hf.commands import CommandParser, run_command
from prunnet_hf.export.page.server import address, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
NOTES_THE_TIME = """
new MutationObserver((changes, observer) => {
  if (!document.querySelector("#chosen-hits li")) return;
  observer.disconnect();
  window.shownAfter = performance.now();
}).observe(document, { childList: true, subtree: true });
"""


def main(words: Sequence[str] | None = None) -> None:
    """Print the median, the least and the most of the visits."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("site", type=Path, help="Folder of a page.")
    parser.add_argument("--visits", type=int, default=7)
    parser.add_argument("--chromium", default="/usr/bin/chromium", help="The browser.")
    arguments = parser.parse_args(words)
    from playwright.sync_api import sync_playwright

    with serving(arguments.site, 0) as server, sync_playwright() as playwright:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = playwright.chromium.launch(executable_path=arguments.chromium, args=FLAGS)
        seconds = sorted(visits(browser, address(server), arguments.visits))
        version = browser.version
        browser.close()
        server.shutdown()
    print(f"Chromium {version}, {os.cpu_count()} CPU cores, load {os.getloadavg()[0]:.1f}")
    median, least, most = statistics.median(seconds), seconds[0], seconds[-1]
    print(
        f"{arguments.site}: the first result after {median:.2f} s ({least:.2f} to {most:.2f}, {len(seconds)} visits)"
    )


def visits(browser: Browser, url: str, count: int) -> Iterator[float]:
    """Seconds from opening the address to the first result, of visitors who come one after the other."""
    for _ in range(count):
        context = browser.new_context()
        page = context.new_page()
        page.add_init_script(NOTES_THE_TIME)
        page.goto(url)
        yield float(page.wait_for_function("window.shownAfter").json_value()) / 1000
        context.close()


if __name__ == "__main__":
    sys.exit(run_command("benchmarks/browser.py", main))
