from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
from PIL import Image

from prunnet_hf.data.reading import stored_images
from prunnet_hf.data.sets.revisited import load_revisited
from tests.miniatures.revisited import make_revisited, write_truth

NAME = "roxford5k"
QUERIES = ["all_souls_000090", "bodleian_000090", "radcliffe_000090"]


@pytest.fixture
def oxford(tmp_path):
    """The folder and the ground truth, to be changed and written again."""
    return tmp_path, make_revisited(tmp_path, NAME)


def refuse(oxford, message):
    root, truth = oxford
    write_truth(root / f"gnd_{NAME}.pkl", truth)
    with pytest.raises(ValueError, match=message):
        load_revisited(root, NAME)


@pytest.mark.parametrize("name", ["roxford5k", "rparis6k"])
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_splits_hold_the_images_and_judgements_of_the_ground_truth(tmp_path, name, protocol):
    make_revisited(tmp_path, name, protocol=protocol)
    splits = load_revisited(tmp_path, name)
    assert (splits.protocol, splits.train, splits.num_classes) == ("revisited", None, 0)
    assert splits.query["name"][:] == QUERIES
    # Of rows 0-3, 4-7, 8-11: two easy, one hard (none in the second), one junk.
    assert splits.query["easy"][:] == [[0, 1], [4, 5], [8, 9]]
    assert splits.query["hard"][:] == [[2], [], [10]]
    assert splits.query["junk"][:] == [[3], [7], [11]]
    assert splits.gallery.column_names == ["image", "name"]
    assert splits.gallery["name"][:3] == ["all_souls_000000", "all_souls_000001", "all_souls_000002"]
    paths = [image["path"] for image in stored_images(splits.gallery)["image"]]
    assert paths == [str(tmp_path / "jpg" / f"{image}.jpg") for image in splits.gallery["name"]]


def test_queries_are_cropped_to_their_rounded_boxes(oxford):
    root, _ = oxford
    query = load_revisited(root, NAME).query
    for row in query:
        # (0, 2.4, 47.4, 45.5) is rounded to (0, 2, 47, 46): a half to the even number.
        with Image.open(root / "jpg" / f"{row['name']}.jpg") as whole:
            assert whole.size == (68, 48)
            assert np.array_equal(np.asarray(row["image"]), np.asarray(whole)[2:46, 0:47])


def test_box_that_leaves_the_image_is_filled_with_black(oxford):
    root, truth = oxford
    truth["gnd"][0]["bbx"] = np.array([-5, 40, 10, 60])
    write_truth(root / f"gnd_{NAME}.pkl", truth)
    crop = np.asarray(load_revisited(root, NAME).query[0]["image"])
    assert crop.shape == (20, 15, 3)
    assert crop[:, :5].max() == crop[8:].max() == 0  # 5 columns left of the image, 12 rows below its 48
    with Image.open(root / "jpg" / f"{QUERIES[0]}.jpg") as whole:
        assert np.array_equal(crop[:8, 5:], np.asarray(whole)[40:, :10])


def test_query_is_cropped_as_its_pixels_are_stored_whatever_its_orientation(oxford):
    root, truth = oxford
    truth["gnd"][0]["bbx"] = [1, 2, 5, 9]
    write_truth(root / f"gnd_{NAME}.pkl", truth)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    file = root / "jpg" / f"{QUERIES[0]}.jpg"
    Image.fromarray(pixels).save(file, exif=exif)
    with Image.open(file) as stored:
        expected = np.asarray(stored)[2:9, 1:5]
    assert np.array_equal(np.asarray(load_revisited(root, NAME).query[0]["image"]), expected)


def test_grey_queries_become_coloured(oxford):
    root, _ = oxford
    Image.new("L", (48, 48), 77).save(root / "jpg" / f"{QUERIES[0]}.jpg")
    image = load_revisited(root, NAME).query[0]["image"]
    assert (image.mode, image.getpixel((0, 0))) == ("RGB", (77, 77, 77))


def test_streams_hold_the_same_rows(oxford):
    splits, streams = load_revisited(oxford[0], NAME), load_revisited(oxford[0], NAME, streaming=True)
    assert (streams.protocol, streams.train) == ("revisited", None)
    for role in ("query", "gallery"):
        expected, stream = stored_images(getattr(splits, role)), stored_images(getattr(streams, role))
        assert stream.num_shards > 1
        found = sorted(stream, key=lambda row: row["row"])
        assert found == [{**row, "row": place} for place, row in enumerate(expected)]


def test_root_may_be_the_folder_of_both_sets(tmp_path, monkeypatch):
    make_revisited(tmp_path / "roxford5k", "roxford5k")
    make_revisited(tmp_path / "rparis6k", "rparis6k")
    monkeypatch.chdir(tmp_path)
    splits = load_revisited(".", "rparis6k")
    monkeypatch.chdir(os.sep)
    assert stored_images(splits.gallery)[0]["image"]["path"].startswith(str(tmp_path / "rparis6k" / "jpg"))
    assert splits.gallery[0]["image"].size == (48, 48)


def test_plain_lists_will_do(oxford):
    root, truth = oxford
    expected = load_revisited(root, NAME).query[:]
    truth["imlist"], truth["qimlist"] = np.array(truth["imlist"]), tuple(truth["qimlist"])
    for gnd in truth["gnd"]:
        gnd.update({key: np.asarray(value).tolist() for key, value in gnd.items()})
    write_truth(root / f"gnd_{NAME}.pkl", truth)
    assert load_revisited(root, NAME).query[:] == expected


def test_other_name_is_refused_and_the_allowed_ones_said(tmp_path):
    with pytest.raises(ValueError, match=r"name='oxford5k'.*roxford5k, rparis6k"):
        load_revisited(tmp_path, "oxford5k")


def test_missing_root_is_shown(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"root='.*nowhere'.*folder.*gnd_rparis6k\.pkl"):
        load_revisited(tmp_path / "nowhere", "rparis6k")


@pytest.mark.parametrize("missing", ["gnd_roxford5k.pkl", "jpg"])
def test_missing_file_is_named_with_where_to_get_it(oxford, missing):
    root, _ = oxford
    (root / missing).rename(root / "elsewhere")
    message = (
        rf"{root / missing} is missing.*http://.*/gnd_roxford5k\.pkl.*https://www\.robots\.ox\.ac\.uk/~vgg/data/ox"
    )
    with pytest.raises(FileNotFoundError, match=message):
        load_revisited(root, NAME)


@pytest.mark.parametrize("missing", ["bodleian_000090", "bodleian_000002"])
def test_image_that_is_not_on_disk_is_shown(oxford, missing):
    root, _ = oxford
    (root / "jpg" / f"{missing}.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=rf"1.*15 images.*gnd_roxford5k\.pkl.*{missing}\.jpg"):
        load_revisited(root, NAME)


class Exploit:
    def __reduce__(self):
        return os.system, ("true",)


def test_code_in_the_ground_truth_is_refused(oxford):
    oxford[1]["gnd"][0]["bbx"] = Exploit()
    refuse(oxford, rf"gnd_roxford5k\.pkl contains the global {os.system.__module__}\.system")


def test_ground_truth_that_was_cut_short_is_named(oxford):
    root, _ = oxford
    path = root / f"gnd_{NAME}.pkl"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"gnd_roxford5k\.pkl.*sound pickle"):
        load_revisited(root, NAME)


@pytest.mark.parametrize("truth", [[], {}, {"imlist": [], "gnd": []}, {"imlist": "a", "qimlist": [], "gnd": []}])
def test_ground_truth_of_another_form_is_refused(tmp_path, truth):
    make_revisited(tmp_path, NAME)
    refuse((tmp_path, truth), r"gnd_roxford5k\.pkl must hold a dict with the lists imlist, qimlist, gnd")


@pytest.mark.parametrize("key", ["imlist", "qimlist"])
def test_names_that_are_no_strings_are_refused(oxford, key):
    oxford[1][key][0] = 7
    refuse(oxford, "must hold names of images, all strings")


@pytest.mark.parametrize("key", ["imlist", "qimlist"])
@pytest.mark.parametrize("name", ["../a", "/etc/a", "a/../../b"])
def test_names_that_lead_elsewhere_are_refused(oxford, key, name):
    oxford[1][key][0] = name
    refuse(oxford, rf"gnd_roxford5k\.pkl: '{name}\.jpg'.*path inside")


@pytest.mark.parametrize(("key", "value"), [("imlist", "all_souls_000001"), ("qimlist", QUERIES[1])])
def test_images_named_twice_are_shown(oxford, key, value):
    oxford[1][key][0] = value
    refuse(oxford, rf"names 1 images more than once: {value}")


def test_query_that_is_in_the_gallery_too_is_shown(oxford):
    oxford[1]["imlist"][0] = QUERIES[1]
    refuse(oxford, rf"names 1 images more than once: {QUERIES[1]}")


def test_number_of_judged_queries_must_be_that_of_queries(oxford):
    del oxford[1]["gnd"][0]
    refuse(oxford, "names 3 queries, but holds ground truth of 2")


@pytest.mark.parametrize("key", ["bbx", "easy", "hard", "junk"])
def test_what_a_query_lacks_is_named(oxford, key):
    del oxford[1]["gnd"][1][key]
    refuse(oxford, f"query bodleian_000090: its ground truth lacks {key}")


def test_ground_truth_of_a_query_that_is_no_dict_is_refused(oxford):
    oxford[1]["gnd"][1] = [1]
    refuse(oxford, "query bodleian_000090: its ground truth lacks bbx, easy, hard, junk")


@pytest.mark.parametrize("rows", [3, [0.0], ["0"], [None], [True], np.array([[0, 1]]), np.array([0.0])])
def test_rows_that_are_no_integers_are_refused(oxford, rows):
    oxford[1]["gnd"][2]["hard"] = rows
    refuse(oxford, "query radcliffe_000090, hard, must be a list of gallery rows, all integers")


@pytest.mark.parametrize("row", [12, -1, 10**30])
def test_rows_that_the_gallery_lacks_are_named(oxford, row):
    oxford[1]["gnd"][2]["junk"] = [11, row]
    refuse(oxford, f"query radcliffe_000090, junk, names row {row}, but the gallery has rows 0 to 11")


@pytest.mark.parametrize(("key", "rows"), [("easy", [8, 8, 9]), ("hard", [9]), ("junk", [8])])
def test_images_judged_twice_are_named(oxford, key, rows):
    oxford[1]["gnd"][2][key] = rows
    refuse(oxford, rf"query radcliffe_000090 judges gallery row {rows[0]} more than once")


@pytest.mark.parametrize(
    "box", [None, [1, 2, 3], [1, 2, 3, "4"], [1, 2, float("nan"), 4], [1, 2, float("inf"), 4], [0, 0, 9, 10**7]]
)
def test_box_that_is_none_is_refused(oxford, box):
    oxford[1]["gnd"][1]["bbx"] = box
    refuse(oxford, "query bodleian_000090: bbx must be four numbers of pixels")


@pytest.mark.parametrize("box", [[5, 1, 5, 9], [1, 9, 5, 2], [1.1, 1, 1.4, 9]])
def test_box_without_a_pixel_is_refused(oxford, box):
    oxford[1]["gnd"][1]["bbx"] = box
    refuse(oxford, r"query bodleian_000090: bbx is.* x1 < x2 and y1 < y2 must hold")


@pytest.mark.parametrize("box", [[68, 0, 90, 9], [0, 48, 9, 60], [-9, 0, 0, 9], [0, -9, 9, 0]])
def test_box_beside_the_image_is_refused(oxford, box):
    oxford[1]["gnd"][1]["bbx"] = box
    refuse(oxford, r"image.*bodleian_000090\.jpg.*\(68, 48\)")


def test_query_that_cannot_be_decoded_is_named(oxford):
    root, _ = oxford
    file = root / "jpg" / "bodleian_000090.jpg"
    file.write_bytes(file.read_bytes()[:-300])
    with pytest.raises(ValueError, match=rf"image {file}.*decoded"):
        load_revisited(root, NAME)


def test_set_without_queries_or_gallery_is_refused(oxford):
    root, _ = oxford
    for truth, role in (
        ({"imlist": ["all_souls_000000"], "qimlist": [], "gnd": []}, "query"),
        (
            {"imlist": [], "qimlist": QUERIES[:1], "gnd": [{"bbx": [0, 0, 9, 9], "easy": [], "hard": [], "junk": []}]},
            "",
        ),
    ):
        (root / f"gnd_{NAME}.pkl").write_bytes(pickle.dumps(truth))
        with pytest.raises(ValueError, match=rf"^{role or 'gallery'} .*no images"):
            load_revisited(root, NAME, streaming=True)
