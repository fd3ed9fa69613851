"""The layout of contact sheets, counted in pixels."""

from __future__ import annotations

import pytest
from PIL import Image

from prunnet_hf.retrieval.contact_sheet import Block, Hit, Row, contact_sheet

PHOTO = Image.new("RGB", (10, 20), (9, 99, 200))


def sheet(num_rows: int, num_hits: int, foot: list[str]) -> Image.Image:
    rows = [Row("dense", "", [Hit(PHOTO, 0.5, None)] * num_hits)] * num_rows
    return contact_sheet([Block(PHOTO, "query", rows)], foot)


@pytest.mark.parametrize(("num_rows", "num_hits"), [(2, 1), (3, 5)])
def test_a_row_for_each_network_and_a_column_for_each_hit(num_rows: int, num_hits: int) -> None:
    # Names and the query take 302 pixels, a photo 106 with its gap, a row 122, the gap below the rows 18, margins 12.
    assert sheet(num_rows, num_hits, []).size == (302 + 106 * num_hits + 12, 12 + 122 * num_rows + 18 + 12)


def test_text_at_the_foot_is_broken_into_lines_that_fit() -> None:
    # 420 pixels with one photo: 396 between the margins have room for 56 letters.
    text = " ".join(["letters"] * 21)  # 21 * 7 + 20 = 167: 7 words of 55 letters a line, in three lines
    lines = sheet(1, 1, [text, "short"]).height - sheet(1, 1, []).height
    assert lines == 4 * 16
