from __future__ import annotations

import pytest

from prunnet_hf.data.reading import stored_images
from prunnet_hf.data.sets.veri776 import load_veri776
from tests.miniatures.veri776 import make_veri776, write_lines

PARTS = {"train": "train", "query": "query", "test": "gallery"}


def test_splits_hold_the_images_of_the_lists_in_their_order(tmp_path):
    names = make_veri776(tmp_path)
    splits = load_veri776(tmp_path)
    assert splits.protocol == "veri776"
    for part, role in PARTS.items():
        images = getattr(splits, role)
        paths = [image["path"] for image in stored_images(images)["image"]]
        assert paths == [str(tmp_path / f"image_{part}" / name) for name in names[part]]
        assert images.column_names == ["image", "label", "camera"]


def test_vehicles_and_cameras_come_from_the_names(tmp_path):
    names = make_veri776(tmp_path)
    assert names["train"][:2] == ["0003_c001_00000000_0.jpg", "0001_c001_00000000_0.jpg"]
    splits = load_veri776(tmp_path)
    train, query, gallery = splits.train, splits.query, splits.gallery
    assert train.features["label"].names == ["0001", "0003", "0004", "0020", "0055", "0776"]
    # Vehicles 3, 1, 776, 20, 4, 55 by each of the cameras 1, 2, 1, 13.
    assert train["label"][:] == 4 * [1, 0, 5, 3, 2, 4]
    assert train["camera"][:] == 6 * [1] + 6 * [2] + 6 * [1] + 6 * [13]
    assert train.features["camera"].dtype == "int32"
    assert query.features["label"].names == gallery.features["label"].names == ["0002", "0005", "0009", "0700"]
    # Vehicles 2, 700, 5, 9, by cameras 1 and 3 as queries.
    assert query["label"][:] == [0, 0, 3, 3, 1, 1, 2, 2]
    assert query["camera"][:] == 4 * [1, 3]
    assert gallery["label"][:] == 4 * [0] + 4 * [3] + 4 * [1] + 4 * [2]
    assert gallery["camera"][:] == 4 * [1, 1, 2, 3]


def test_streams_hold_the_same_rows(tmp_path):
    make_veri776(tmp_path)
    splits, streams = load_veri776(tmp_path), load_veri776(tmp_path, streaming=True)
    assert streams.protocol == "veri776"
    for role in PARTS.values():
        expected, stream = stored_images(getattr(splits, role)), stored_images(getattr(streams, role))
        assert stream.num_shards > 1
        found = sorted(stream, key=lambda row: row["row"])
        assert found == [{**row, "row": place} for place, row in enumerate(expected)]


def test_labels_as_xml_are_in_gb2312_and_not_needed(tmp_path):
    make_veri776(tmp_path)
    with pytest.raises(UnicodeDecodeError):
        (tmp_path / "train_label.xml").read_text(encoding="utf-8")
    with_labels = load_veri776(tmp_path).train["label"][:]
    (tmp_path / "train_label.xml").unlink()
    assert load_veri776(tmp_path).train["label"][:] == with_labels


def test_index_files_are_not_needed(tmp_path):
    make_veri776(tmp_path)
    for name in ("gt_index.txt", "jk_index.txt"):
        (tmp_path / name).unlink()
        assert len(load_veri776(tmp_path).query) == 8


@pytest.mark.parametrize("name", [*(f"name_{part}.txt" for part in PARTS), *(f"image_{part}" for part in PARTS)])
def test_missing_file_is_named_with_where_to_get_it(tmp_path, name):
    make_veri776(tmp_path)
    (tmp_path / name).rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path / name}.*missing.*https://github\.com/JDAI-CV"):
        load_veri776(tmp_path)


def test_missing_root_is_shown(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"root='.*nowhere'.*folder.*VeRi-776"):
        load_veri776(tmp_path / "nowhere")


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    "line",
    [
        "0002_c002_00030600_0.png",
        "002_c002_00030600_0.jpg",
        "0002_002_00030600_0.jpg",
        "0002_c002_00030600_0.jpg 2",
        "../0002_c002_00030600_0.jpg",
        "٠٠٠٢_c002_00030600_0.jpg",
    ],
)
def test_name_that_does_not_parse_is_named(tmp_path, part, line):
    names = make_veri776(tmp_path)[part]
    write_lines(tmp_path / f"name_{part}.txt", [names[0], "", line, *names[1:]])
    with pytest.raises(ValueError, match=rf"name_{part}\.txt, line 3: expected") as error:
        load_veri776(tmp_path)
    assert repr(line) in str(error.value)


@pytest.mark.parametrize("part", PARTS)
def test_image_named_twice_is_shown(tmp_path, part):
    names = make_veri776(tmp_path)[part]
    write_lines(tmp_path / f"name_{part}.txt", [*names, names[2]])
    with pytest.raises(ValueError, match=rf"name_{part}\.txt.*1 images.*{names[2]}"):
        load_veri776(tmp_path)


@pytest.mark.parametrize("part", PARTS)
def test_image_that_is_not_on_disk_is_shown(tmp_path, part):
    names = make_veri776(tmp_path)[part]
    (tmp_path / f"image_{part}" / names[1]).unlink()
    with pytest.raises(FileNotFoundError, match=rf"1.*{len(names)} images.*image_{part}: {names[1]}"):
        load_veri776(tmp_path)


def test_query_whose_vehicle_the_gallery_lacks_is_shown(tmp_path):
    gallery = make_veri776(tmp_path)["test"]
    write_lines(tmp_path / "name_test.txt", [name for name in gallery if not name.startswith("0700")])
    with pytest.raises(ValueError, match=r"1 vehicles.*queries.*missing.*gallery: 0700"):
        load_veri776(tmp_path)


def test_vehicle_that_is_trained_and_tested_on_is_shown(tmp_path):
    names = make_veri776(tmp_path)
    (tmp_path / "image_train" / names["test"][0]).touch()
    write_lines(tmp_path / "name_train.txt", [*names["train"], names["test"][0]])
    with pytest.raises(ValueError, match=r"1 vehicles.*trained.*tested.*0002"):
        load_veri776(tmp_path)


def test_empty_list_is_refused(tmp_path):
    make_veri776(tmp_path)
    (tmp_path / "name_train.txt").write_text("")
    with pytest.raises(ValueError, match=r"^train .*no images"):
        load_veri776(tmp_path, streaming=True)


def test_gallery_list_that_was_cut_short_disagrees_with_the_index_files(tmp_path):
    gallery = make_veri776(tmp_path)["test"]
    # Image 16 is vehicle 9 by camera 3: to be found by its query 7 (camera 1).
    write_lines(tmp_path / "name_test.txt", gallery[:-1])
    with pytest.raises(ValueError, match=r"gt_index\.txt, line 7,.*don't belong together"):
        load_veri776(tmp_path)


def test_query_list_in_another_order_disagrees_with_the_index_files(tmp_path):
    query = make_veri776(tmp_path)["query"]
    (tmp_path / "gt_index.txt").unlink()
    write_lines(tmp_path / "name_query.txt", [*query[:2], query[3], query[2], *query[4:]])
    with pytest.raises(ValueError, match=r"jk_index\.txt, line 3,.*don't belong together"):
        load_veri776(tmp_path)


@pytest.mark.parametrize(
    ("lines", "number"),
    [
        (["1 2", "4", "5 6", "8", "9 10", "12", "13 14"], 8),
        (["1 2", "4", "5 6", "8", "9 10", "12", "13 14", "16", "1"], 9),
        (["1 2", "4", "", "8", "9 10", "12", "13 14", "16"], 3),
        (["1 2", "4", "5 six", "8", "9 10", "12", "13 14", "16"], 3),
        ([], 1),
    ],
)
def test_index_file_that_is_another_is_named(tmp_path, lines, number):
    make_veri776(tmp_path)
    write_lines(tmp_path / "jk_index.txt", lines)
    with pytest.raises(ValueError, match=rf"jk_index\.txt, line {number},"):
        load_veri776(tmp_path)
