from __future__ import annotations

import pickle
import shutil
import tarfile
from collections.abc import Sequence
from copy import deepcopy
from hashlib import sha256
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from prunnet_hf.data.identity import identify
from prunnet_hf.data.reading import read_image, stored_images
from prunnet_hf.data.sets import gldv2, gldv2_lists
from prunnet_hf.data.sets.gldv2 import load_gldv2
from prunnet_hf.data.stream_loader import StreamLoader, split_stream
from prunnet_hf.data.streams import num_images
from tests.miniatures.gldv2 import CLEAN_LANDMARKS, Gldv2, make_gldv2, member_name, write_list, write_tar

LANDMARKS_IN_ORDER = ["7", "9", "31", "56", "820", "1009", "142820", "200000"]
SOLUTION = "retrieval_solution_v2.1.csv"
A, B, C = "aaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbb", "cccccccccccccccc"


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Gldv2]:
    root = tmp_path_factory.mktemp("tars")
    return root, make_gldv2(root)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Gldv2]:
    root = tmp_path_factory.mktemp("folders")
    return root, make_gldv2(root, layout="extracted")


def add_line(path: Path, line: str) -> int:
    """Append a line, and return its number."""
    lines = [*path.read_text(encoding="utf-8").splitlines(), line]
    path.write_text("\n".join(lines), encoding="utf-8")
    return len(lines)


def members_of(tar: Path) -> dict[str, bytes]:
    with tarfile.open(tar) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}


# What the splits hold.


def test_training_images_are_those_of_the_clean_list_in_its_order(folders):
    root, said = folders
    train = load_gldv2(root).train
    assert train.column_names == ["image", "id", "label"]
    assert train["id"][:] == list(said.clean)
    assert train.features["label"].names == LANDMARKS_IN_ORDER
    # Six images each of the landmarks 142820, 7, 31, 200000, 1009, 9, 56, 820.
    assert train["label"][:] == [label for label in (6, 0, 2, 7, 5, 1, 3, 4) for _ in range(6)]
    first = next(iter(said.clean))
    assert stored_images(train)[0]["image"]["path"] == str(root / "train" / member_name(first))


def test_full_list_has_more_images_and_another_order(folders):
    root, said = folders
    train = load_gldv2(root, subset="full").train
    # 8 landmarks of 6 clean and 2 other images, and one of 3.
    assert len(train) == 8 * (6 + 2) + 3 == 67
    assert train["id"][:] == list(said.full)
    names = train.features["label"].names
    assert names == [*LANDMARKS_IN_ORDER[:6], "4711", *LANDMARKS_IN_ORDER[6:]]
    assert [int(names[label]) for label in train["label"]] == list(said.full.values())


def test_gallery_is_the_index_and_queries_those_of_the_private_part_with_an_answer(folders):
    root, said = folders
    splits = load_gldv2(root)
    assert splits.protocol == "gldv2"
    assert splits.gallery.column_names == ["image", "id"]
    assert splits.gallery["id"][:] == said.index
    assert splits.query.column_names == ["image", "id", "relevant"]
    assert dict(zip(splits.query["id"], splits.query["relevant"], strict=True)) == said.private
    # 4 landmarks, 2 private queries of each, each with the landmark's 5 images to find.
    assert [len(relevant) for relevant in splits.query["relevant"]] == 8 * [5]


@pytest.mark.parametrize("usage", [("Public",), ("Public", "Private"), ("Private", "Public")])
def test_usage_says_which_queries_count(folders, usage):
    root, said = folders
    query = load_gldv2(root, usage=usage).query
    expected = said.public if usage == ("Public",) else said.public | said.private
    # 4 public queries, 8 private ones; the three without an answer never count.
    assert len(query) == {1: 4, 2: 12}[len(usage)]
    assert dict(zip(query["id"], query["relevant"], strict=True)) == expected


def test_images_are_the_files_themselves(folders):
    root, _ = folders
    for part, images in (("train", load_gldv2(root).train), ("index", load_gldv2(root).gallery)):
        row = images[3]
        with (root / part / member_name(row["id"])).open("rb") as file:
            assert row["image"].size == (48, 48)
            assert stored_images(images)[3]["image"]["path"] == file.name


@pytest.mark.parametrize("places", [{"train_clean.csv": "metadata", SOLUTION: "ground_truth"}, {SOLUTION: "test"}])
def test_lists_may_lie_as_in_the_bucket_or_beside_the_images(tmp_path, places):
    said = make_gldv2(tmp_path, layout="extracted")
    for name, place in places.items():
        (tmp_path / place).mkdir(exist_ok=True)
        (tmp_path / name).rename(tmp_path / place / name)
    splits = load_gldv2(tmp_path)
    assert (len(splits.train), len(splits.query)) == (len(said.clean), len(said.private))


def test_lists_with_line_ends_of_windows_are_read(tmp_path):
    said = make_gldv2(tmp_path)
    for path in tmp_path.glob("*.csv"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert num_images(load_gldv2(tmp_path, streaming=True).train) == len(said.clean)


# Streams.


@pytest.mark.parametrize("role", ["train", "query", "gallery"])
@pytest.mark.parametrize("subset", ["clean", "full"])
def test_stream_from_tars_holds_the_rows_and_bytes_of_the_extracted_images(tars, folders, role, subset):
    options = {"subset": subset, "class_share": 0.5}
    stream = stored_images(getattr(load_gldv2(tars[0], streaming=True, **options), role))
    extracted = stored_images(getattr(load_gldv2(folders[0], **options), role))
    assert num_images(stream) == len(extracted)
    found = sorted(stream, key=lambda row: row["row"])
    for place, (row, expected) in enumerate(zip(found, extracted, strict=True)):
        assert row.pop("row") == place
        assert row.pop("image")["bytes"] == Path(expected.pop("image")["path"]).read_bytes()
        assert row == expected


def test_a_training_on_tars_goes_on_with_the_extracted_images_and_not_with_others(tars, folders):
    options = {"class_share": 0.5}
    on_tars = identify(load_gldv2(tars[0], streaming=True, **options).train)
    assert on_tars["digest"] is not None
    assert on_tars == identify(load_gldv2(folders[0], **options).train)
    assert on_tars["digest"] != identify(load_gldv2(tars[0], streaming=True, subset="full").train)["digest"]


def test_a_tar_is_a_shard(tars):
    streams = load_gldv2(tars[0], streaming=True)
    assert [images.num_shards for images in (streams.train, streams.gallery, streams.query)] == [3, 2, 1]
    # The first process of three reads the first tar, of 0.2 * 67 = 13 images, and nothing else.
    rows = list(stored_images(split_stream(load_gldv2(tars[0], subset="full", streaming=True).train, 0, 3)))
    tar = tars[0] / "train" / "images_000.tar"
    assert [row["image"]["path"] for row in rows] == [f"{tar}/{name}" for name in members_of(tar)]
    assert len(rows) == 13


def test_extracted_images_are_streamed_with_their_places_in_the_list(folders):
    root, said = folders
    stream = stored_images(load_gldv2(root, streaming=True).train)
    assert sorted((row["row"], row["id"]) for row in stream) == list(enumerate(said.clean))


def test_stream_prefers_tars_to_what_was_extracted_from_them(tmp_path):
    make_gldv2(tmp_path)
    for part in ("train", "index", "test"):
        for tar in sorted((tmp_path / part).iterdir()):
            for name, content in members_of(tar).items():
                (tmp_path / part / name).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / part / name).write_bytes(content)
    streamed = next(iter(stored_images(load_gldv2(tmp_path, streaming=True).train)))["image"]
    assert streamed["path"].startswith(str(tmp_path / "train" / "images_000.tar"))
    extracted = stored_images(load_gldv2(tmp_path).train)[0]["image"]
    assert extracted["bytes"] is None


def test_member_names_may_begin_with_a_dot(tmp_path):
    said = make_gldv2(tmp_path)
    for tar in (tmp_path / "train").iterdir():
        write_tar(tar, {f"./{name}": content for name, content in members_of(tar).items()})
    assert {row["id"] for row in load_gldv2(tmp_path, streaming=True).train} == set(said.clean)


def rows_of(rows: Sequence[dict]) -> dict[str, torch.Tensor]:
    assert all(row["image"]["bytes"].startswith(b"\xff\xd8") for row in rows)
    return {"labels": torch.tensor([row["row"] for row in rows])}


def loader(root: Path, rank: int, world_size: int, workers: int) -> StreamLoader:
    train = load_gldv2(root, streaming=True).train
    options = {"batch_size": 4, "num_workers": workers, "rank": rank, "world_size": world_size, "seed": 5}
    return StreamLoader(train, rows_of, **options)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_image_of_the_tars_comes_once_an_epoch(tars, world_size, workers):
    loaders = [loader(tars[0], rank, world_size, workers) for rank in range(world_size)]
    rows = [row for part in loaders for batch in part.epoch(1) for row in batch["labels"].tolist()]
    assert sorted(rows) == list(range(48))


@pytest.mark.parametrize(("world_size", "workers", "stops"), [(1, 0, range(13)), (2, 0, (1, 3)), (1, 2, (0, 5, 11))])
def test_epoch_over_tars_resumes_anywhere(tars, world_size, workers, stops):
    for rank in range(world_size):
        whole = [batch["labels"].tolist() for batch in loader(tars[0], rank, world_size, workers).epoch(2)]
        for stop in stops:
            interrupted = loader(tars[0], rank, world_size, workers)
            epoch = interrupted.epoch(2)
            before = [batch["labels"].tolist() for batch in islice(epoch, stop)]
            position = deepcopy(interrupted.position)
            epoch.close()
            resumed = loader(tars[0], rank, world_size, workers).epoch(2, position)
            assert before + [batch["labels"].tolist() for batch in resumed] == whole


def test_what_a_worker_needs_of_a_stream_is_small():
    # Beside 4.1 million ids and labels there is no room for strings: 8 bytes for an id, its row, and its label.
    count = 10_000
    ids = np.arange(count, dtype=np.uint64)
    columns = {"label": gldv2.pa.array(np.zeros(count, dtype=np.int64))}
    assert len(pickle.dumps(gldv2._Rows(ids, np.arange(count), columns))) < 25 * count


# Class subsets.


def test_a_share_takes_that_share_of_the_official_classes():
    # 0.3 x 81,313 = 24,393.9.
    assert len(gldv2_lists.choose_landmarks(np.arange(81_313), None, 0.3)) == 24_393


@example(count=100, hundredths=29)
@given(count=st.integers(1, 10_000), hundredths=st.integers(1, 100))
def test_law_of_shares(count, hundredths):
    # Whatever floating point makes of the share, hundredths * count // 100 classes are taken.
    expected = hundredths * count // 100
    landmarks = np.arange(count) * 7
    if expected < 2:
        with pytest.raises(ValueError, match=rf"{expected}.*{count} landmarks"):
            gldv2_lists.choose_landmarks(landmarks, None, hundredths / 100)
    else:
        chosen = gldv2_lists.choose_landmarks(landmarks, None, hundredths / 100)
        assert len(chosen) == expected
        assert chosen.tolist() == sorted(set(chosen.tolist()) & set(landmarks.tolist()))


@given(landmarks=st.lists(st.integers(0, 10**6), min_size=3, max_size=50, unique=True), data=st.data())
def test_law_of_class_subsets(landmarks, data):
    count = data.draw(st.integers(2, len(landmarks) - 1))
    distinct = np.unique(np.array(landmarks))
    chosen, more = (set(gldv2_lists.choose_landmarks(distinct, size, None).tolist()) for size in (count, count + 1))
    # A larger subset holds the smaller; the last one left out has the largest SHA-256.
    assert chosen < more
    digests = {landmark: sha256(str(landmark).encode()).digest() for landmark in landmarks}
    assert max(digests[landmark] for landmark in chosen) < min(digests[landmark] for landmark in {*landmarks} - chosen)


def test_class_subsets_favour_no_part_of_the_numbers():
    # 3,000 of 10,000 classes: 1,500 are expected of the lower half; sqrt(10,000 * 0.25 * 0.3 * 0.7) = 23 is 1 sigma.
    chosen = gldv2_lists.choose_landmarks(np.arange(10_000), 3_000, None)
    assert abs(int((chosen < 5_000).sum()) - 1_500) < 4 * 23


@pytest.mark.parametrize("options", [{"class_share": 0.5}, {"num_classes": 4}])
def test_a_class_subset_is_numbered_from_zero_and_does_not_depend_on_the_order_of_the_list(tmp_path, options):
    make_gldv2(tmp_path, layout="extracted")
    first = load_gldv2(tmp_path, **options)
    path = tmp_path / "train_clean.csv"
    header, *lines = path.read_text().splitlines()
    write_list(path, header, lines[::-1])
    second = load_gldv2(tmp_path, **options)
    assert first.num_classes == second.num_classes == 4
    names = first.train.features["label"].names
    assert names == second.train.features["label"].names == sorted(names, key=int)
    assert sorted(set(first.train["label"])) == [0, 1, 2, 3]
    labels = [dict(zip(splits.train["id"], splits.train["label"], strict=True)) for splits in (first, second)]
    assert labels[0] == labels[1]
    by_digest = sorted(CLEAN_LANDMARKS, key=lambda landmark: sha256(str(landmark).encode()).digest())
    assert {int(name) for name in names} == set(by_digest[:4])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_share": 0.0}, r"class_share=0\.0.*\(0, 1\]"),
        ({"class_share": 1.1}, r"class_share=1\.1.*\(0, 1\]"),
        ({"class_share": float("nan")}, r"class_share=nan.*\(0, 1\]"),
        ({"class_share": 0.1}, r"class_share=0\.1.*0.*8 landmarks.*2 or more"),
        ({"class_share": 0.2}, r"class_share=0\.2.*1 of 8 landmarks.*2 or more"),
        ({"num_classes": 1}, r"num_classes=1 .*1 of 8 landmarks.*2 or more"),
        ({"num_classes": 0}, r"num_classes=0.*0.*8 landmarks"),
        ({"num_classes": -1}, r"num_classes=-1.*-1.*8 landmarks"),
        ({"num_classes": 9}, r"num_classes=9.*9.*8 landmarks.*2 or more.*at most all"),
        ({"num_classes": 2, "class_share": 0.5}, r"num_classes=2.*class_share=0\.5"),
        ({"subset": "cleaned"}, r"subset='cleaned'.*'clean', 'full'"),
        ({"usage": ()}, r"usage=\(\).*tuple.*'Public'.*'Private'"),
        ({"usage": "Private"}, r"usage='Private'.*tuple"),
        ({"usage": ("Private", "Ignored")}, r"usage=\('Private', 'Ignored'\).*tuple"),
    ],
)
def test_arguments_out_of_range_are_shown(tars, options, message):
    with pytest.raises(ValueError, match=message):
        load_gldv2(tars[0], streaming=True, **options)


# Bad input.


@pytest.mark.parametrize("name", ["train_clean.csv", "index.csv", "test.csv", SOLUTION, "train", "index", "test"])
@pytest.mark.parametrize("streaming", [True, False])
def test_missing_file_is_named_with_where_to_get_it(tmp_path, name, streaming):
    make_gldv2(tmp_path, layout="extracted")
    (tmp_path / name).rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path / name}.*missing.*github\.com/cvdfoundation/google-"):
        load_gldv2(tmp_path, streaming=streaming)


def test_full_list_is_not_needed_for_the_clean_one(tmp_path):
    make_gldv2(tmp_path)
    (tmp_path / "train.csv").unlink()
    load_gldv2(tmp_path, streaming=True)
    with pytest.raises(FileNotFoundError, match=r"train\.csv.*missing"):
        load_gldv2(tmp_path, subset="full", streaming=True)


def test_missing_root_is_shown(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere'.*folder.*Google Landmarks v2"):
        load_gldv2(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "line", "expected"),
    [
        ("train_clean.csv", f"12,{A} {B[:-1]}", "a landmark's number, a comma, and ids of 16 hex digits"),
        ("train_clean.csv", f"12,{A}  {B}", "with spaces between"),
        ("train_clean.csv", f"12,{A},{B}", "with spaces between"),
        ("train_clean.csv", "12,", "ids of 16 hex digits"),
        ("train_clean.csv", f"-1,{A}", "a landmark's number"),
        ("train_clean.csv", f"١٢,{A}", "a landmark's number"),
        ("train_clean.csv", "12,../../../../etc/pw", "ids of 16 hex digits"),
        ("train_clean.csv", f"12,{A.upper()}", "ids of 16 hex digits"),
        ("train.csv", f"{A},http://example.org/a.jpg", "an id of 16 hex digits, an address, and a landmark's number"),
        ("train.csv", f"{A},http://example.org/a.jpg,seven", "a landmark's number"),
        ("train.csv", "../../etc/passwd,http://example.org/a.jpg,7", "an id of 16 hex digits"),
        ("index.csv", A[:-1], "an id of 16 hex digits"),
        ("index.csv", f"{A}0", "an id of 16 hex digits"),
        ("index.csv", f"{A},{B}", "an id of 16 hex digits"),
        ("test.csv", "../../etc/passwd", "an id of 16 hex digits"),
        (SOLUTION, f"{A},{B},Secret", "Public, Private or Ignored"),
        (SOLUTION, f"{A},,Private", "None or ids"),
        (SOLUTION, f"{A},{B}", "Public, Private or Ignored"),
        (SOLUTION, f"{A},{B} x,Private", "ids with spaces between"),
    ],
)
def test_line_that_does_not_parse_is_shown(tmp_path, name, line, expected):
    make_gldv2(tmp_path)
    number = add_line(tmp_path / name, line)
    subset = "full" if name == "train.csv" else "clean"
    with pytest.raises(ValueError, match=rf"{name}, line {number}: expected.*{expected}.*.*'.*{line[-6:]}'"):
        load_gldv2(tmp_path, subset=subset, streaming=True)


@pytest.mark.parametrize("name", ["train_clean.csv", "train.csv", "index.csv", "test.csv", SOLUTION])
@pytest.mark.parametrize("content", ["", "something,else\n"])
def test_list_without_its_header_is_refused(tmp_path, name, content):
    make_gldv2(tmp_path)
    (tmp_path / name).write_text(content)
    subset = "full" if name == "train.csv" else "clean"
    with pytest.raises(ValueError, match=rf"{name}, line 1: expected.*header (id|landmark_id)"):
        load_gldv2(tmp_path, subset=subset, streaming=True)


def test_list_that_is_no_text_is_refused(tmp_path):
    make_gldv2(tmp_path)
    (tmp_path / "index.csv").write_bytes(b"id\n\xff\xfe\n")
    with pytest.raises(ValueError, match=r"index\.csv.*text.*utf-8"):
        load_gldv2(tmp_path, streaming=True)


@pytest.mark.parametrize("name", ["train_clean.csv", "train.csv", "index.csv", "test.csv", SOLUTION])
def test_image_listed_twice_is_named(tmp_path, name):
    said = make_gldv2(tmp_path)
    twice = {"index.csv": said.index[1], "test.csv": said.test[1], SOLUTION: next(iter(said.private))}
    image = twice.get(name, next(iter(said.clean)))
    line = {"train_clean.csv": f"9,{image}", "train.csv": f"{image},a,9", SOLUTION: f"{image},{said.index[0]},Private"}
    add_line(tmp_path / name, line.get(name, image))
    subset = "full" if name == "train.csv" else "clean"
    with pytest.raises(ValueError, match=rf"{name}.*1 images.*{image}"):
        load_gldv2(tmp_path, subset=subset, streaming=True)


def test_answer_that_names_an_image_twice_is_refused(tmp_path):
    said = make_gldv2(tmp_path)
    add_line(tmp_path / "test.csv", A)
    number = add_line(tmp_path / SOLUTION, f"{A},{said.index[0]} {said.index[0]},Private")
    with pytest.raises(ValueError, match=rf"{SOLUTION}, line {number}.*1 images.*{said.index[0]}"):
        load_gldv2(tmp_path, streaming=True)


def test_query_that_is_no_test_image_is_named(tmp_path):
    said = make_gldv2(tmp_path)
    add_line(tmp_path / SOLUTION, f"{A},{said.index[0]},Private")
    with pytest.raises(ValueError, match=rf"{SOLUTION}.*1 images.*test\.csv.*list: {A}"):
        load_gldv2(tmp_path, streaming=True)


def test_answer_that_is_not_in_the_index_is_named(tmp_path):
    said = make_gldv2(tmp_path)
    for query, unknown in ((A, B), (C, B)):
        add_line(tmp_path / "test.csv", query)
        add_line(tmp_path / SOLUTION, f"{query},{said.index[0]} {unknown},Private")
    with pytest.raises(ValueError, match=rf"{SOLUTION}.*1 images.*index\.csv.*list: {B}"):
        load_gldv2(tmp_path, streaming=True)


def test_solution_without_answers_is_refused(tmp_path):
    said = make_gldv2(tmp_path)
    write_list(tmp_path / SOLUTION, "id,images,Usage", [f"{query},None,Private" for query in said.private])
    with pytest.raises(ValueError, match=rf"{SOLUTION}.*query.*answer.*usage=\('Private',\)"):
        load_gldv2(tmp_path, streaming=True)


@pytest.mark.parametrize("streaming", [True, False])
def test_listed_image_that_is_not_on_disk_is_named(tmp_path, streaming):
    said = make_gldv2(tmp_path, layout="extracted")
    lost = member_name(said.index[2])
    (tmp_path / "index" / lost).unlink()
    with pytest.raises(FileNotFoundError, match=rf"1.*23 images.*index\.csv.*: {lost}"):
        load_gldv2(tmp_path, streaming=streaming)


def test_tars_must_be_extracted_or_streamed(tars):
    with pytest.raises(FileNotFoundError, match=r"train.*3 tars.*images.*--streaming true"):
        load_gldv2(tars[0])


def test_tar_missing_among_others_is_named(tmp_path):
    make_gldv2(tmp_path)
    (tmp_path / "train" / "images_001.tar").unlink()
    with pytest.raises(FileNotFoundError, match=r"train/images_001\.tar.*missing"):
        load_gldv2(tmp_path, streaming=True)


def test_tar_cut_short_is_refused_while_it_is_read(tmp_path):
    make_gldv2(tmp_path)
    tar = tmp_path / "index" / "images_001.tar"
    tar.write_bytes(tar.read_bytes()[:2000])
    gallery = load_gldv2(tmp_path, streaming=True).gallery
    with pytest.raises(ValueError, match=r"index/images_001\.tar.*uncompressed tar"):
        list(gallery)


def test_tar_with_a_name_that_leaves_its_folder_is_refused(tmp_path):
    make_gldv2(tmp_path)
    tar = tmp_path / "train" / "images_002.tar"
    write_tar(tar, {"../evil.jpg": b"x", **members_of(tar)})
    with pytest.raises(ValueError, match=r"images_002\.tar: '\.\./evil\.jpg'.*path inside"):
        list(load_gldv2(tmp_path, streaming=True).train)


def test_image_twice_in_a_tar_is_refused(tmp_path):
    make_gldv2(tmp_path)
    tar = tmp_path / "index" / "images_001.tar"
    files = members_of(tar)
    name, content = next(iter(files.items()))
    write_tar(tar, {**files, f"again/{Path(name).name}": content})
    with pytest.raises(ValueError, match=rf"images_001\.tar.*image again/{Path(name).name} twice"):
        list(load_gldv2(tmp_path, streaming=True).gallery)


def test_damaged_image_of_a_tar_is_named(tmp_path):
    make_gldv2(tmp_path)
    tar = tmp_path / "test" / "images_000.tar"
    write_tar(tar, {name: b"no image" for name in members_of(tar)})
    row = next(iter(stored_images(load_gldv2(tmp_path, streaming=True).query)))
    with pytest.raises(ValueError, match=rf"images_000\.tar/{member_name(row['id'])}.*decoded"):
        read_image(row)


def test_whoever_only_evaluates_needs_no_training_images(tmp_path: Path) -> None:
    make_gldv2(tmp_path, layout="tars")
    shutil.rmtree(tmp_path / "train")
    (tmp_path / "train_clean.csv").unlink()
    splits = load_gldv2(tmp_path, evaluation_only=True, streaming=True)
    assert splits.train is None
    assert len(list(splits.query)) == 8
    with pytest.raises(FileNotFoundError, match=r"train_clean\.csv.*missing"):
        load_gldv2(tmp_path, streaming=True)
