from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from prunnet_hf.data.sets.glyphs import FACES, SIDE, distinct_characters, draw_glyph, load_glyphs


def pixels(images) -> np.ndarray:
    return np.stack([np.asarray(image) for image in images["image"]])


@pytest.fixture(scope="module")
def splits():
    return load_glyphs(num_train_classes=12, num_test_classes=4, images_per_class=10, seed=3)


def test_sizes_names_and_labels(splits):
    assert (len(splits.train), len(splits.query), splits.num_classes) == (120, 40, 12)
    assert splits.protocol == "leave_one_out"
    assert splits.query is splits.gallery
    assert splits.train["label"][:] == [label for label in range(12) for _ in range(10)]
    assert all(image.size == (SIDE, SIDE) for image in splits.query["image"])
    characters = [chr(int(name.removeprefix("U+"), 16)) for name in splits.train.features["label"].names]
    assert set(characters) < set(distinct_characters())


def test_training_and_test_characters_are_disjoint(splits):
    assert set(splits.train.features["label"].names).isdisjoint(splits.query.features["label"].names)


def test_same_seed_gives_the_same_pixels(splits):
    again = load_glyphs(num_train_classes=12, num_test_classes=4, images_per_class=10, seed=3)
    assert again.train.features == splits.train.features
    np.testing.assert_array_equal(pixels(again.train), pixels(splits.train))
    np.testing.assert_array_equal(pixels(again.query), pixels(splits.query))


def test_a_split_does_not_change_with_the_size_of_the_other(splits):
    more_train = load_glyphs(num_train_classes=20, num_test_classes=4, images_per_class=10, seed=3)
    more_test = load_glyphs(num_train_classes=12, num_test_classes=9, images_per_class=10, seed=3)
    np.testing.assert_array_equal(pixels(more_train.query), pixels(splits.query))
    np.testing.assert_array_equal(pixels(more_test.train), pixels(splits.train))


def test_no_character_is_a_speck():
    """In every face the ink of a character is at least a quarter of the image wide or high, whatever the scale."""
    for character in distinct_characters():
        view = np.asarray(draw_glyph(character, FACES[0], np.random.default_rng(1)), dtype=float)
        ink = np.argwhere(np.abs(view - np.median(view)) > 0.5 * np.abs(view - np.median(view)).max())
        assert np.ptp(ink, axis=0).max() >= SIDE / 4, character


def test_another_seed_gives_other_characters_and_other_pixels(splits):
    other = load_glyphs(num_train_classes=12, num_test_classes=4, images_per_class=10, seed=4)
    assert other.train.features["label"].names != splits.train.features["label"].names
    assert not np.array_equal(pixels(other.train), pixels(splits.train))


def test_no_two_images_are_the_same(splits):
    seen = np.concatenate([pixels(splits.train), pixels(splits.query)]).reshape(160, -1)
    assert len(np.unique(seen, axis=0)) == 160


def test_characters_that_look_alike_are_one_class():
    characters = set(distinct_characters())
    assert len(characters) >= 260
    assert characters >= {"A", "0", "X", "P", "S"}
    greek_and_cyrillic_capitals = {"\u0391", "\u0410", "\u039f", "\u041e", "\u03a7", "\u0425", "\u03a1", "\u0420"}
    assert characters.isdisjoint(greek_and_cyrillic_capitals | {*"Ooxsvzpl", "\u00b2", "\u02b0"})


def test_characters_that_differ_in_shape_are_classes_of_their_own():
    assert set("AaEegRrQKk8") < set(distinct_characters())


def test_every_face_has_every_character():
    """A face draws the same box for all characters that it lacks, as for the noncharacter U+FFFF."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    for face in FACES:
        font = ImageFont.truetype(str(folder / f"{face}.ttf"), 32)
        drawn = {character: draw(font, character) for character in (*distinct_characters(), "\uffff")}
        missing = drawn.pop("\uffff")
        assert [character for character, ink in drawn.items() if ink in (missing, draw(font, " "))] == []


def draw(font: ImageFont.FreeTypeFont, character: str) -> bytes:
    canvas = Image.new("L", (64, 64))
    ImageDraw.Draw(canvas).text((8, 8), character, fill=255, font=font)
    return canvas.tobytes()


def test_variation_comes_from_the_generator_alone():
    first, again, other = (
        np.asarray(draw_glyph("Д", "DejaVuSerif", np.random.default_rng(seed)), dtype=float) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).mean() > 10


def test_ink_stands_out_and_stays_clear_of_the_border():
    """Over many variations: middle and border differ, the ink is sometimes lighter and sometimes darker."""
    views = np.stack([np.asarray(draw_glyph("8", FACES[0], np.random.default_rng(seed)), float) for seed in range(60)])
    border = np.concatenate([views[:, :4].reshape(60, -1), views[:, -4:].reshape(60, -1)], axis=1)
    lighter = np.percentile(views, 98, axis=(1, 2)) - np.median(border, axis=1)
    darker = np.median(border, axis=1) - np.percentile(views, 2, axis=(1, 2))
    assert (np.maximum(lighter, darker) > 40).all()
    assert 15 < (lighter > darker).sum() < 45


@pytest.mark.parametrize(
    "sizes",
    [
        {"num_train_classes": 1},
        {"num_test_classes": 1},
        {"images_per_class": 1},
        {"num_train_classes": 2000, "num_test_classes": 2},
    ],
)
def test_sizes_out_of_range_are_shown(sizes):
    with pytest.raises(ValueError, match=f"num_train_classes={sizes.get('num_train_classes', 200)}"):
        load_glyphs(**sizes)
