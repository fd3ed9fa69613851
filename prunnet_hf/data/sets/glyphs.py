"""`glyphs`, the data set that needs no download: characters drawn from the fonts that come with matplotlib.

A class is a character; its images show it in several font faces, moved, turned and lit at random from a seed. No
character is in both training and test. A few thousand images take a few seconds.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image
from numpy.typing import NDArray
from PIL import Image as PILImage
from PIL import ImageDraw, ImageFilter, ImageFont

from ..splits import IMAGE, LABEL, RetrievalSplits

FACES = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSansMono",
    "DejaVuSerif",
    "DejaVuSerif-Italic",
    "STIXGeneral",
    "STIXGeneralBol",
    "STIXGeneralItalic",
)
SIDE = 48
"""Pixels of an image's side."""
_CANVAS = 96
_FONT_SIZE = 56
_NOISE = 0.2
"""Largest standard deviation of the noise, as a share of the contrast, so that faint characters stay readable."""
_THUMBNAIL = 12
_COMPARED_FACES = ("DejaVuSans", "DejaVuSerif", "STIXGeneral")
_SAME_SHAPE = 0.85
"""Characters whose drawings have a larger cosine than this look the same to a reader: P and p, O and 0."""
_CATEGORIES = frozenset({"Lu", "Ll", "Lt", "Lo", "Nd", "Sc"})
"""Unicode's letters, digits and currency signs. Most other signs are dots and strokes, which look the same once turned
or shrunk."""


def load_glyphs(
    num_train_classes: int = 200, num_test_classes: int = 50, images_per_class: int = 18, seed: int = 0
) -> RetrievalSplits:
    """Draw the data set.

    Args:
        num_train_classes: Number of training characters.
        num_test_classes: Number of test characters; each test image is a query against all others.
        images_per_class: Images of each character; the faces take turns.
        seed: Decides which characters are tested on, and every variation. The same seed gives the same pixels, and a
            split does not change with the size of the other.

    Raises:
        ValueError: If there aren't that many characters, or a split has fewer than two characters or images of each.
    """
    if images_per_class < 2 or num_train_classes < 2 or num_test_classes < 2:
        raise ValueError(
            "glyphs needs at least two classes in each split and two images of each; got "
            f"num_train_classes={num_train_classes}, num_test_classes={num_test_classes}, "
            f"images_per_class={images_per_class}."
        )
    characters = distinct_characters()
    if num_train_classes + num_test_classes > len(characters):
        raise ValueError(
            f"glyphs has {len(characters)} distinct characters; got num_train_classes={num_train_classes} + "
            f"num_test_classes={num_test_classes}."
        )
    order = np.random.default_rng(seed).permutation(len(characters))
    chosen = [characters[index] for index in order]
    train = _draw_split(chosen[:num_train_classes], images_per_class, seed)
    test = _draw_split(chosen[::-1][:num_test_classes], images_per_class, seed)
    return RetrievalSplits(train, test, test, "leave_one_out")


@cache
def distinct_characters() -> tuple[str, ...]:
    """Letters, digits and currency signs that every face has, without those that look like an earlier one.

    Scale and proportions vary from image to image, so characters that differ only in size (o, O) look the same, as do
    Latin A, Greek Alpha and Cyrillic A. Compatibility forms (superscripts, ligatures) repeat other characters and are
    left out.
    """
    covered = set.intersection(*(_covered(face) for face in FACES))
    candidates = [chr(code) for code in sorted(covered) if unicodedata.category(chr(code)) in _CATEGORIES]
    candidates = [character for character in candidates if unicodedata.normalize("NFKC", character) == character]
    shapes = np.stack([_shape(character) for character in candidates])
    kept: list[int] = []
    for index, shape in enumerate(shapes):
        if not np.any(shapes[kept] @ shape > _SAME_SHAPE):
            kept.append(index)
    return tuple(candidates[index] for index in kept)


def draw_glyph(character: str, face: str, rng: np.random.Generator) -> PILImage.Image:
    """One variation of a character.

    Args:
        character: A single character that `face` has.
        face: One of `FACES`.
        rng: Decides the variation.

    Returns:
        A grey image `(SIDE, SIDE)`.
    """
    warped = _draw(character, face).transform(
        (SIDE, SIDE), PILImage.Transform.AFFINE, _random_map(rng), PILImage.Resampling.BILINEAR
    )
    ink = np.asarray(warped.filter(ImageFilter.GaussianBlur(rng.uniform(0.0, 0.9))), dtype=np.float32) / 255.0
    foreground, background = rng.permutation([rng.uniform(0.0, 0.4), rng.uniform(0.6, 1.0)])
    slope = rng.uniform(-0.25, 0.25, size=2)
    ramp = np.linspace(-0.5, 0.5, SIDE, dtype=np.float32)
    shade = slope[0] * ramp[:, None] + slope[1] * ramp[None, :]
    contrast = foreground - background
    noise = rng.normal(0.0, rng.uniform(0.0, _NOISE) * abs(contrast), size=ink.shape)
    image = background + contrast * ink + shade + noise
    return PILImage.fromarray((image.clip(0.0, 1.0) * 255.0).round().astype(np.uint8))


def _draw_split(characters: Sequence[str], images_per_class: int, seed: int) -> Dataset:
    images = [
        draw_glyph(character, FACES[view % len(FACES)], np.random.default_rng([seed, ord(character), view]))
        for character in characters
        for view in range(images_per_class)
    ]
    labels = np.repeat(np.arange(len(characters)), images_per_class)
    names = [f"U+{ord(character):04X}" for character in characters]
    features = Features({IMAGE: Image(), LABEL: ClassLabel(names=names)})
    return Dataset.from_dict({IMAGE: images, LABEL: labels}, features=features)


def _random_map(rng: np.random.Generator) -> tuple[float, ...]:
    """Coefficients of a map from image to canvas: rotation, shear, scale and shift about the centres."""
    angle, shear = np.radians(rng.uniform(-15.0, 15.0)), rng.uniform(-0.2, 0.2)
    scale = _CANVAS / SIDE / rng.uniform(1.1, 1.6, size=2)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = rotation @ np.array([[1.0, shear], [0.0, 1.0]]) * scale
    shift = _CANVAS / 2 - matrix @ np.full(2, SIDE / 2) + rng.uniform(-6.0, 6.0, size=2)
    return (*matrix[0], shift[0], *matrix[1], shift[1])


@cache
def _draw(character: str, face: str) -> PILImage.Image:
    """The character in white on black, in the middle of a canvas."""
    canvas = PILImage.new("L", (_CANVAS, _CANVAS))
    draw = ImageDraw.Draw(canvas)
    left, top, right, bottom = draw.textbbox((0, 0), character, font=_font(face))
    position = ((_CANVAS - left - right) / 2, (_CANVAS - top - bottom) / 2)
    draw.text(position, character, fill=255, font=_font(face))
    return canvas


def _shape(character: str) -> NDArray[np.float32]:
    """Drawings in the compared faces as one vector of length 1, independent of size and proportions."""
    thumbnails = np.stack([_thumbnail(_draw(character, face)) for face in _COMPARED_FACES])
    normalised: NDArray[np.float32] = thumbnails / np.linalg.norm(thumbnails, axis=1, keepdims=True)
    return normalised.ravel() / np.float32(np.sqrt(len(_COMPARED_FACES)))


def _thumbnail(drawn: PILImage.Image) -> NDArray[np.float32]:
    """The ink of a drawing, stretched to a small square; flat, `(_THUMBNAIL ** 2,)`."""
    small = drawn.resize((_THUMBNAIL, _THUMBNAIL), PILImage.Resampling.BOX, box=drawn.getbbox())
    return np.asarray(small, dtype=np.float32).ravel()


@cache
def _font(face: str) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(_font_file(face)), _FONT_SIZE)


def _covered(face: str) -> set[int]:
    from matplotlib.ft2font import FT2Font

    return set(FT2Font(str(_font_file(face))).get_charmap())


def _font_file(face: str) -> Path:
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{face}.ttf"
