"""A picture of what was found: queries on the left, and in a row for each network the images that it found for them.

Where labels are known, images of the query's class have a green frame and a tick, others a red frame and a cross.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont, ImageOps

from ..storage.whole_file import whole_file

QUERY, PHOTO, GAP, FRAME = 128, 100, 6, 4
MARGIN, NAME_WIDTH, LINE, LETTER, LETTERS = 12, 138, 16, 7, 18
NUM_COLOURS = 256
"""Photos as PNG in full colour would take five times the bytes."""
INK, GREY, LINES, GREEN, RED, NEUTRAL = "#1f2328", "#59636e", "#d1d9e0", "#1a7f37", "#cf222e", "#afb8c1"


@dataclass(frozen=True)
class Hit:
    """An image that was found.

    Attributes:
        image: Its picture, or a word that stands in its place.
        score: Its cosine with the query.
        is_correct: Whether it has the query's label; None if that isn't known.
    """

    image: Image.Image | str
    score: float
    is_correct: bool | None


@dataclass(frozen=True)
class Row:
    """What one network found for a query, best first.

    Attributes:
        name: Of the network.
        detail: What else to say of it, such as its size; may be empty.
        hits: The images.
    """

    name: str
    detail: str
    hits: Sequence[Hit]


@dataclass(frozen=True)
class Block:
    """A query and what was found for it.

    Attributes:
        image: The query's picture.
        caption: Its label or its name.
        rows: One for each network.
    """

    image: Image.Image
    caption: str
    rows: Sequence[Row]


def contact_sheet(blocks: Sequence[Block], foot: Sequence[str] = ()) -> Image.Image:
    """Lay out queries one below the other, and at the foot paragraphs of text."""
    k = max((len(row.hits) for block in blocks for row in block.rows), default=0)
    left = MARGIN + QUERY + 2 * MARGIN + NAME_WIDTH
    heights = [max(len(block.rows) * _ROW, QUERY + 3 * LINE) + 3 * GAP for block in blocks]
    width = left + k * (PHOTO + GAP) + MARGIN
    lines = [line for text in foot for line in textwrap.wrap(text, (width - 2 * MARGIN) // LETTER)]
    size = (width, MARGIN + sum(heights) + len(lines) * LINE + MARGIN)
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    top = MARGIN
    for number, (block, height) in enumerate(zip(blocks, heights, strict=True)):
        if number:
            draw.line([(MARGIN, top - 2 * GAP), (size[0] - MARGIN, top - 2 * GAP)], fill=LINES)
        _draw_query(picture, draw, block, top, height - 3 * GAP)
        for place, row in enumerate(block.rows):
            _draw_row(picture, draw, row, left, top + place * _ROW)
        top += height
    for place, line in enumerate(lines):
        draw.text((MARGIN, top - GAP + place * LINE), line, GREY, _font(12))
    return picture


def save_picture(picture: Image.Image, path: Path) -> None:
    """Save as a PNG with a palette of its own; an existing file is replaced only by a complete one."""
    small = picture.quantize(NUM_COLOURS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    with whole_file(path) as file:
        small.save(file, format="PNG", optimize=True)


def _font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Matplotlib's own font, which is there wherever matplotlib is."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / name), size)


_ROW = PHOTO + LINE + GAP


def _draw_query(picture: Image.Image, draw: ImageDraw.ImageDraw, block: Block, top: int, height: int) -> None:
    lines = textwrap.wrap(block.caption, LETTERS)[:3]
    upper = top + max(height - QUERY - len(lines) * LINE, 0) // 2
    picture.paste(_square(block.image, QUERY), (MARGIN, upper))
    for number, line in enumerate(lines):
        draw.text((MARGIN, upper + QUERY + 5 + number * LINE), line, INK, _font(12))


def _draw_row(picture: Image.Image, draw: ImageDraw.ImageDraw, row: Row, left: int, top: int) -> None:
    middle = top + PHOTO // 2
    draw.text((left - NAME_WIDTH, middle - LINE), row.name, INK, _font(14, bold=True))
    draw.text((left - NAME_WIDTH, middle + 3), row.detail, INK, _font(13))
    for place, hit in enumerate(row.hits):
        corner = left + place * (PHOTO + GAP)
        picture.paste(_framed(hit), (corner, top))
        draw.text((corner + PHOTO // 2, top + PHOTO + 2), f"{hit.score:.2f}", GREY, _font(11), "ma")


def _framed(hit: Hit) -> Image.Image:
    """A square picture with the frame and the mark of what is right, wrong or unknown."""
    if hit.is_correct is None:
        return ImageOps.expand(_square(hit.image, PHOTO - 2), 1, NEUTRAL)
    colour = GREEN if hit.is_correct else RED
    framed = ImageOps.expand(_square(hit.image, PHOTO - 2 * FRAME), FRAME, colour)
    draw = ImageDraw.Draw(framed)
    draw.rectangle([(PHOTO - 19, PHOTO - 19), (PHOTO, PHOTO)], fill=colour)
    mark = "\N{CHECK MARK}" if hit.is_correct else "\N{BALLOT X}"
    draw.text((PHOTO - 10, PHOTO - 10), mark, "white", _font(14), "mm")
    return framed


def _square(picture: Image.Image | str, side: int) -> Image.Image:
    """The middle of a picture as a square of `side` pixels, or a word on a grey one."""
    if isinstance(picture, str):
        tile = Image.new("RGB", (side, side), LINES)
        ImageDraw.Draw(tile).text((side // 2, side // 2), picture, INK, _font(13), "mm")
        return tile
    return ImageOps.fit(picture.convert("RGB"), (side, side), Image.Resampling.LANCZOS)
