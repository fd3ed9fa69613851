from __future__ import annotations

import os
from pathlib import Path

import pytest

from prunnet_hf.data.reading import read_image, stored_images
from prunnet_hf.data.sets.in_shop import load_in_shop
from tests.miniatures.in_shop import BOX_HEADER, PARTITION_HEADER, make_in_shop, write_list

PARTITION = "Eval/list_eval_partition.txt"
BOXES = "Anno/list_bbox_inshop.txt"


@pytest.fixture
def shop(tmp_path):
    make_in_shop(tmp_path / "in_shop")
    return tmp_path / "in_shop"


def replace_line(path: Path, number: int, line: str) -> None:
    lines = path.read_text().splitlines()
    lines[number - 1] = line
    path.write_text("\n".join(lines))


def rewrite(root: Path, rows: list[tuple[str, str, str]]) -> None:
    write_list(root / PARTITION, PARTITION_HEADER, rows)


def names_and_items(images):
    items = images.features["label"].int2str(images["label"][:])
    paths = [image["path"] for image in stored_images(images)["image"]]
    return list(zip(paths, items, strict=True))


def test_splits_hold_the_images_of_the_list_in_its_order(tmp_path):
    rows = make_in_shop(tmp_path)
    splits = load_in_shop(tmp_path)
    assert splits.protocol == "in_shop"
    for status, images in (("train", splits.train), ("query", splits.query), ("gallery", splits.gallery)):
        expected = [(str(tmp_path / name), item) for name, item, part in rows if part == status]
        assert names_and_items(images) == expected
        assert images.column_names == ["image", "label"]
    # 6 items x 4, 4 items x 2, 4 items x 8
    assert (len(splits.train), len(splits.query), len(splits.gallery)) == (24, 8, 32)


def test_items_are_numbered_in_their_order_whatever_the_order_of_the_list(tmp_path):
    rows = make_in_shop(tmp_path)
    assert rows[0][1] == "id_00004510"
    for order in (rows, rows[::-1]):
        rewrite(tmp_path, order)
        splits = load_in_shop(tmp_path)
        items = ["id_00000002", "id_00000077", "id_00000300", "id_00001250", "id_00004510", "id_00004801"]
        assert splits.train.features["label"].names == items
        assert set(splits.train["label"]) == {0, 1, 2, 3, 4, 5}
        assert splits.num_classes == 6
        tested = ["id_00000001", "id_00000078", "id_00000640", "id_00005000"]
        assert splits.query.features["label"].names == splits.gallery.features["label"].names == tested


def test_gallery_items_without_a_query_are_numbered_too(tmp_path):
    rows = [row for row in make_in_shop(tmp_path) if row[1:] != ("id_00000078", "query")]
    rewrite(tmp_path, rows)
    splits = load_in_shop(tmp_path)
    # 1, 640 and 5000 of 1, 78, 640, 5000
    assert set(splits.query["label"]) == {0, 2, 3}
    assert set(splits.gallery["label"]) == {0, 1, 2, 3}


@pytest.mark.parametrize("bounding_boxes", [False, True])
def test_streams_hold_the_same_rows(shop, bounding_boxes):
    splits = load_in_shop(shop, bounding_boxes=bounding_boxes)
    streams = load_in_shop(shop, bounding_boxes=bounding_boxes, streaming=True)
    assert streams.protocol == "in_shop"
    for role in ("train", "query", "gallery"):
        expected, stream = stored_images(getattr(splits, role)), stored_images(getattr(streams, role))
        assert stream.num_shards > 1
        found = sorted(stream, key=lambda row: row["row"])
        assert found == [{**row, "row": place} for place, row in enumerate(expected)]


def test_boxes_are_found_by_name_and_crop(shop):
    lines = (shop / BOXES).read_text().splitlines()
    wanted = next(i for i, line in enumerate(lines) if "id_00000001/02_query" in line)
    replace_line(shop / BOXES, wanted + 1, f"{lines[wanted].split()[0]} 2 6   10 11    30 47")
    query = load_in_shop(shop, bounding_boxes=True).query
    rows = [row for row in stored_images(query) if row["image"]["path"].endswith("id_00000001/02_query.jpg")]
    assert [row["bbox"] for row in rows] == [[10, 11, 30, 47]]
    assert read_image(rows[0]).size == (20, 36)  # 30 - 10, 47 - 11
    assert query["bbox"][:].count([4, 2, 44, 46]) == 7


def test_edges_before_the_image_are_moved_to_it(shop):
    name = (shop / BOXES).read_text().splitlines()[2].split()[0]
    replace_line(shop / BOXES, 3, f"{name} 1 1 -3 -1 20 30")
    splits = load_in_shop(shop, bounding_boxes=True)
    boxes = [box for images in (splits.train, splits.query, splits.gallery) for box in images["bbox"]]
    assert [0, 0, 20, 30] in boxes


def test_lists_and_images_may_lie_where_mirrors_put_them(tmp_path):
    make_in_shop(tmp_path)
    expected = load_in_shop(tmp_path, bounding_boxes=True)
    first = expected.query[0]["image"].tobytes()
    (tmp_path / PARTITION).rename(tmp_path / "list_eval_partition.txt")
    (tmp_path / BOXES).rename(tmp_path / "list_bbox_inshop.txt")
    (tmp_path / "Img").mkdir()
    (tmp_path / "img").rename(tmp_path / "Img" / "img")
    found = load_in_shop(tmp_path, bounding_boxes=True)
    assert found.query["bbox"][:] == expected.query["bbox"][:]
    assert found.query[0]["image"].tobytes() == first
    assert names_and_items(found.query)[0][0].startswith(str(tmp_path / "Img" / "img"))


def test_relative_root_survives_a_change_of_directory(shop, monkeypatch):
    monkeypatch.chdir(shop.parent)
    splits = load_in_shop("in_shop")
    monkeypatch.chdir(os.sep)
    assert splits.query[0]["image"].size == (48, 48)


@pytest.mark.parametrize("name", [PARTITION, "img", BOXES])
def test_missing_file_is_named_with_where_to_get_it(shop, name):
    (shop / name).rename(shop / "elsewhere")
    with pytest.raises(FileNotFoundError, match=rf"{shop / name}.*missing.*https://mmlab\.ie\.cuhk\.edu\.hk"):
        load_in_shop(shop, bounding_boxes=True)


def test_missing_root_is_shown(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"root='.*nowhere'.*folder.*In-shop.*https://mmlab"):
        load_in_shop(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "line",
    [
        "img/a.jpg id_00000001",
        "img/a.jpg id_00000001 query more",
        "img/a.jpg id_00000001 test",
        "img/a.jpg 00000001 train",
        "img/a.jpg id_0000000x train",
    ],
)
def test_line_of_the_partition_that_does_not_parse_is_named(shop, line):
    replace_line(shop / PARTITION, 5, line)
    with pytest.raises(ValueError, match=rf"{PARTITION}, line 5: expected.*image.*item id.*got '{line}'"):
        load_in_shop(shop)


@pytest.mark.parametrize("name", ["../a.jpg", "/etc/a.jpg", "img/../../a.jpg"])
def test_image_outside_the_root_is_refused(shop, name):
    replace_line(shop / PARTITION, 5, f"{name} id_00000001 train")
    with pytest.raises(ValueError, match=rf"{PARTITION}, line 5: '{name}'.*path inside"):
        load_in_shop(shop)


@pytest.mark.parametrize(("number", "line", "expected"), [(1, "many", "number of images"), (2, "a b c", "header")])
@pytest.mark.parametrize("name", [PARTITION, BOXES])
def test_head_of_a_list_that_is_another_is_named(shop, name, number, line, expected):
    replace_line(shop / name, number, line)
    with pytest.raises(ValueError, match=rf"{name}, line {number}: expected.*{expected}.*got '{line}'"):
        load_in_shop(shop, bounding_boxes=True)


@pytest.mark.parametrize("name", [PARTITION, BOXES])
def test_list_that_was_cut_short_is_named_with_both_counts(shop, name):
    # 24 + 8 + 32 = 64 images
    (shop / name).write_text("\n".join((shop / name).read_text().splitlines()[:-3]))
    with pytest.raises(ValueError, match=rf"{name}.*61 lines.*header.*line.*64"):
        load_in_shop(shop, bounding_boxes=True)


@pytest.mark.parametrize("name", [PARTITION, BOXES])
@pytest.mark.parametrize(("content", "number"), [("", 1), ("64\n", 2)])
def test_list_without_a_head_is_named(shop, name, content, number):
    (shop / name).write_text(content)
    with pytest.raises(ValueError, match=rf"{name}, line {number}: expected"):
        load_in_shop(shop, bounding_boxes=True)


def test_image_named_twice_is_shown(tmp_path):
    rows = make_in_shop(tmp_path)
    rewrite(tmp_path, [*rows, rows[3]])
    with pytest.raises(ValueError, match=rf"1 images.*{rows[3][0]}"):
        load_in_shop(tmp_path)


def test_image_that_is_not_on_disk_is_shown(tmp_path):
    rows = make_in_shop(tmp_path)
    (tmp_path / rows[7][0]).unlink()
    with pytest.raises(FileNotFoundError, match=rf"1.*64 images.*{rows[7][0]}\. Download img\.zip"):
        load_in_shop(tmp_path)


def test_query_whose_item_the_gallery_lacks_is_shown(tmp_path):
    rows = make_in_shop(tmp_path)
    rewrite(tmp_path, [row for row in rows if row[1:] != ("id_00000640", "gallery")])
    with pytest.raises(ValueError, match=r"1 items.*queries.*missing.*gallery: id_00000640"):
        load_in_shop(tmp_path)


def test_item_that_is_trained_and_tested_on_is_shown(tmp_path):
    rows = make_in_shop(tmp_path)
    rewrite(tmp_path, [(name, item, "gallery" if i == 0 else status) for i, (name, item, status) in enumerate(rows)])
    with pytest.raises(ValueError, match=r"1 items.*trained.*tested.*id_00004510"):
        load_in_shop(tmp_path)


@pytest.mark.parametrize("status", ["train", "query"])
def test_split_without_images_is_named(tmp_path, status):
    rewrite(tmp_path, [row for row in make_in_shop(tmp_path) if row[2] != status])
    for streaming in (False, True):
        with pytest.raises(ValueError, match=rf"^{status} .*no images"):
            load_in_shop(tmp_path, streaming=streaming)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ("3 1 4 2 44", "six integers"),
        ("3 1 4 2 44 46 1", "six integers"),
        ("3 1 4.5 2 44 46", "six integers"),
        ("3 1 44 2 44 46", "x_1 < x_2"),
        ("3 1 4 46 44 2", "x_1 < x_2"),
        ("3 1 -9 2 -4 46", "x_1 < x_2"),
    ],
)
def test_box_that_does_not_parse_or_is_empty_is_named(shop, box, expected):
    name = (shop / BOXES).read_text().splitlines()[5].split()[0]
    replace_line(shop / BOXES, 6, f"{name} {box}")
    with pytest.raises(ValueError, match=rf"{BOXES}, line 6: expected.*{expected}.*got '{name} {box}'"):
        load_in_shop(shop, bounding_boxes=True)


def test_second_box_of_an_image_is_named(shop):
    lines = (shop / BOXES).read_text().splitlines()
    replace_line(shop / BOXES, 6, lines[4])
    with pytest.raises(ValueError, match=rf"{BOXES}, line 6: expected.*box.*image"):
        load_in_shop(shop, bounding_boxes=True)


def test_image_without_a_box_is_named(tmp_path):
    rows = make_in_shop(tmp_path)
    boxes = [(name, "3", "1", "4", "2", "44", "46") for name, _, _ in rows[2:]]
    write_list(tmp_path / BOXES, BOX_HEADER, boxes)
    with pytest.raises(ValueError, match=rf"box.*2 images, '{rows[0][0]}'"):
        load_in_shop(tmp_path, bounding_boxes=True)


def test_boxes_are_not_read_unless_asked_for(shop):
    (shop / BOXES).write_text("no list")
    assert "bbox" not in load_in_shop(shop).query.column_names
