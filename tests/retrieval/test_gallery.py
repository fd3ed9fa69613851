"""A gallery: made, searched by every capacity of its space, grown, cut down, saved whole, and refused when damaged."""

from __future__ import annotations

import json
import os
import resource
import shutil
from itertools import permutations
from pathlib import Path

import faiss
import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image

from prunnet_hf import Embeddings, Gallery, PrunNetModel
from prunnet_hf.retrieval.embedding_table import read_embeddings
from prunnet_hf.retrieval.gallery_changes import Added
from tests.processes import die_at_rename
from tests.retrieval.conftest import SIZE

NAMES = ["a/1.png", "a/2.png", "b/3.png", "b/4.png", "top.png"]
LABELS = ["a", "a", "b", "b", None]


def noise(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for seed, name in enumerate(NAMES):
        file = tmp_path / "photos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        noise(seed).save(file)
    return tmp_path / "photos"


@pytest.fixture
def gallery(model: PrunNetModel, photos: Path) -> Gallery:
    return Gallery.from_folder(model, photos, progress=False)


def paths_in(photos: Path) -> list[str]:
    return [str(photos / name) for name in NAMES]


def test_a_folder_becomes_paths_and_labels_and_every_image_finds_itself_first(
    gallery: Gallery, photos: Path, model: PrunNetModel
) -> None:
    assert len(gallery) == 5
    assert (gallery.paths, gallery.labels) == (paths_in(photos), LABELS)
    assert gallery.about.factory == "Flat"
    found = gallery.search(paths_in(photos), 2, model=model)
    assert [paths[0] for paths in found.paths] == paths_in(photos)
    assert [labels[0] for labels in found.labels] == LABELS
    np.testing.assert_allclose(found.scores[:, 0], 1.0, atol=1e-5)
    assert found.scores.shape == found.rows.shape == (5, 2)


def test_every_capacity_of_the_space_searches_it(gallery: Gallery, photos: Path, model: PrunNetModel) -> None:
    phone = model.prune(0.2)
    query = phone.encode([photos / "b/3.png"])
    expected = np.argsort(-(query @ model.encode(paths_in(photos)).T)[0], kind="stable")
    found = gallery.search(photos / "b/3.png", 5, model=phone)
    assert found.rows.tolist() == [expected.tolist()]
    with_space = gallery.search(query, 5, embedding_space=model.config.embedding_space)
    assert with_space.rows.tolist() == found.rows.tolist()
    embeddings = Embeddings(query, gallery.embedding_space, 0.2)
    assert gallery.search(embeddings, 5).rows.tolist() == found.rows.tolist()


def test_what_is_of_another_space_or_says_none_is_refused(gallery: Gallery, photos: Path, model: PrunNetModel) -> None:
    image, array = photos / "top.png", np.ones((1, gallery.about.embedding_dim), np.float32)
    with pytest.raises(TypeError, match="model must be the network that embeds the query images"):
        gallery.search(image)
    with pytest.raises(TypeError, match="embedding_space must say of which space an array of queries is"):
        gallery.search(array, 1)
    other = "0123456789abcdef"
    with pytest.raises(ValueError, match=f"'{gallery.embedding_space}' and of space '{other}' can't be compared"):
        gallery.search(array, 1, embedding_space=other)
    with pytest.raises(ValueError, match="can't be compared"):
        gallery.search(Embeddings(array, other, 1.0), 1)
    model.config.embedding_space, before = other, model.config.embedding_space
    try:
        with pytest.raises(ValueError, match="can't be compared"):
            gallery.search(image, 1, model=model)
    finally:
        model.config.embedding_space = before


@pytest.mark.parametrize(
    ("queries", "k", "error", "message"),
    [
        (np.ones((1, 3), np.float32), 1, ValueError, "queries have dimension 3, and the gallery"),
        (np.full((1, 6), np.nan, np.float32), 1, ValueError, "queries row 0 has length nan"),
        (np.ones((1, 6), np.float32), 6, ValueError, "k must be from 1 to the 5 images of the gallery; got 6"),
        (np.ones((1, 6), np.float32), 0, ValueError, "k must be from 1 to the 5 images"),
        (np.ones((1, 6), np.float32), 1.0, TypeError, "k must be an integer; got 1.0"),
    ],
)
def test_impossible_queries_are_refused(
    gallery: Gallery, queries: np.ndarray, k: int, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        gallery.search(queries, k, embedding_space=gallery.embedding_space)


def test_only_what_is_new_is_added_by_path_and_content(gallery: Gallery, photos: Path, model: PrunNetModel) -> None:
    assert gallery.add(photos, progress=False) == Added(0, 0, 5)
    noise(7).save(photos / "a/1.png")
    noise(8).save(photos / "b/9.png")
    assert gallery.add(photos, progress=False) == Added(1, 1, 4)
    assert len(gallery) == 6
    for name in ("a/1.png", "b/9.png", "b/4.png"):
        found = gallery.search(photos / name, 1, model=model)
        assert found.paths == [[str(photos / name)]]
        assert found.labels == [[name[0]]]
    picture = noise(9)
    assert gallery.add([picture], labels=["c"], progress=False) == Added(1, 0, 0)
    assert gallery.add([picture], progress=False) == Added(0, 0, 1)
    assert gallery.search(picture, 1, model=model).labels == [["c"]]


@pytest.mark.parametrize("factory", ["Flat", "HNSW8", "IVF2,Flat"])
def test_removed_images_are_found_no_more(photos: Path, model: PrunNetModel, factory: str) -> None:
    gallery = Gallery.from_folder(model, photos, factory, progress=False)
    gallery.remove([photos / "a/2.png", photos / "top.png"])
    assert gallery.paths == [str(photos / name) for name in ("a/1.png", "b/3.png", "b/4.png")]
    found = gallery.search([photos / "b/3.png", photos / "b/4.png"], 1, model=model)
    assert found.paths == [[str(photos / "b/3.png")], [str(photos / "b/4.png")]]
    with pytest.raises(ValueError, match=r"paths must be of images in the gallery; '.*top\.png' isn't"):
        gallery.remove([photos / "top.png"])


def test_an_index_that_cannot_remove_needs_stored_embeddings(
    photos: Path, model: PrunNetModel, tmp_path: Path
) -> None:
    Gallery.from_folder(model, photos, "HNSW8_SQ8", progress=False).save(tmp_path / "g", with_embeddings=False)
    gallery = Gallery.load(tmp_path / "g")
    with pytest.raises(ValueError, match="an index 'HNSW8_SQ8' can't change so, and the embeddings"):
        gallery.remove([photos / "top.png"])
    assert len(gallery) == 5
    assert gallery.search(photos / "top.png", 1, model=model).paths == [[str(photos / "top.png")]]


@pytest.mark.parametrize("mmap", [False, True])
def test_a_saved_gallery_is_the_same_and_faiss_reads_its_index(
    gallery: Gallery, photos: Path, model: PrunNetModel, tmp_path: Path, mmap: bool
) -> None:
    gallery.save(tmp_path / "g")
    assert sorted(file.name for file in (tmp_path / "g").iterdir()) == ["images.parquet", "index.faiss", "index.json"]
    loaded = Gallery.load(tmp_path / "g", mmap=mmap)
    assert loaded.about == gallery.about
    assert (loaded.paths, loaded.labels) == (gallery.paths, gallery.labels)
    before, after = (each.search(photos / "a/2.png", 5, model=model) for each in (gallery, loaded))
    assert before.rows.tolist() == after.rows.tolist()
    assert faiss.read_index(str(tmp_path / "g" / "index.faiss")).ntotal == 5
    table = Dataset.from_dict({"path": gallery.paths})
    table.load_faiss_index("index", str(tmp_path / "g" / "index.faiss"))
    _, examples = table.get_nearest_examples("index", model.encode([photos / "a/2.png"])[0], k=1)
    assert examples["path"] == [str(photos / "a/2.png")]


def test_a_gallery_grows_on_disk_and_another_folder_is_left_alone(
    gallery: Gallery, photos: Path, model: PrunNetModel, tmp_path: Path
) -> None:
    gallery.save(tmp_path / "g")
    noise(8).save(photos / "new.png")
    loaded = Gallery.load(tmp_path / "g")
    with pytest.raises(TypeError, match="model must be the network that embeds the images"):
        loaded.add(photos)
    loaded.add(photos, model=model, progress=False)
    loaded.save(tmp_path / "g")
    assert len(Gallery.load(tmp_path / "g")) == 6
    with pytest.raises(FileExistsError, match="holds other files than a gallery's"):
        loaded.save(photos)
    assert sorted(p.name for p in photos.iterdir()) == ["a", "b", "new.png", "top.png"]


@pytest.mark.parametrize("name", ["index.faiss", "images.parquet", "index.json"])
def test_damaged_files_are_refused_by_name(gallery: Gallery, tmp_path: Path, name: str) -> None:
    gallery.save(tmp_path / "g")
    file = tmp_path / "g" / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"The gallery .* is damaged: .*{name}"):
        Gallery.load(tmp_path / "g")
    file.write_bytes(content[:10])
    with pytest.raises(ValueError, match=f"The gallery .* is damaged: .*{name}"):
        Gallery.load(tmp_path / "g")
    file.unlink()
    with pytest.raises((FileNotFoundError, ValueError), match=rf"{name} is missing|it has no {name}"):
        Gallery.load(tmp_path / "g")


def test_a_newer_version_and_files_of_two_galleries_are_refused(gallery: Gallery, tmp_path: Path) -> None:
    gallery.save(tmp_path / "g")
    about = tmp_path / "g" / "index.json"
    members = json.loads(about.read_text())
    about.write_text(json.dumps(members | {"version": 2}))
    with pytest.raises(ValueError, match="version is 2; this prunnet_hf reads up to 1"):
        Gallery.load(tmp_path / "g")
    about.write_text(json.dumps(members | {"num_images": 4}))
    with pytest.raises(ValueError, match="its digest is of other contents"):
        Gallery.load(tmp_path / "g")
    with pytest.raises(FileNotFoundError, match=r"is no gallery: it has no index\.json"):
        Gallery.load(tmp_path)


def test_a_save_that_fails_leaves_the_old_gallery(
    gallery: Gallery, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery.save(tmp_path / "g")
    gallery.remove([photos / "top.png"])

    def full(*_: object) -> None:
        raise RuntimeError("write error in faiss: No space left on device")

    monkeypatch.setattr("faiss.write_index", full)
    with pytest.raises(OSError, match=r"index.faiss could not be written .*No space left"):
        gallery.save(tmp_path / "g")
    monkeypatch.undo()
    assert len(Gallery.load(tmp_path / "g")) == 5


def test_a_save_killed_at_any_move_leaves_the_old_gallery_or_the_new_one(
    gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery.save(tmp_path / "g")
    gallery.remove(gallery.paths[:1])
    left: list[Path] = []
    move = os.replace

    def copied_before_moving(source: Path, target: Path) -> None:
        left.append(tmp_path / str(len(left)))
        shutil.copytree(tmp_path / "g", left[-1])  # what a kill at this moment leaves
        move(source, target)

    monkeypatch.setattr("os.replace", copied_before_moving)
    gallery.save(tmp_path / "g")
    monkeypatch.undo()
    assert len(left) >= 6  # three files leave, and three arrive
    assert {len(Gallery.load(folder)) for folder in left} == {5}
    assert len(Gallery.load(tmp_path / "g")) == 4
    assert not [file for folder in left for file in folder.glob(".*")]  # loading has tidied up


def test_a_first_save_that_was_killed_is_done_again(gallery: Gallery, tmp_path: Path) -> None:
    die_at_rename(5, lambda: gallery.save(tmp_path / "g"))  # two files are in their places, index.json is not
    assert [*(tmp_path / "g").glob("[!.]*")] != []
    gallery.save(tmp_path / "g")
    assert len(Gallery.load(tmp_path / "g")) == 5


@pytest.mark.parametrize(("bytes_free", "file"), [(100, "index.faiss"), (300, "images.parquet")])
def test_a_disk_that_is_full_leaves_the_old_gallery(
    gallery: Gallery, tmp_path: Path, bytes_free: int, file: str
) -> None:
    gallery.save(tmp_path / "g")
    assert (tmp_path / "g" / file).stat().st_size > bytes_free
    gallery.remove(gallery.paths[:1])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_free, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            gallery.save(tmp_path / "g")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(Gallery.load(tmp_path / "g")) == 5
    gallery.save(tmp_path / "g")
    assert len(Gallery.load(tmp_path / "g")) == 4


def test_two_that_change_a_stored_gallery_lose_nothing_of_each_other(gallery: Gallery, tmp_path: Path) -> None:
    gallery.save(tmp_path / "g")
    first, second = Gallery.load(tmp_path / "g"), Gallery.load(tmp_path / "g")
    space, dim = gallery.embedding_space, gallery.about.embedding_dim
    first.add(Embeddings(np.eye(1, dim, dtype=np.float32), space, 1.0, ["first"]))
    second.add(Embeddings(np.eye(1, dim, dtype=np.float32), space, 1.0, ["second"]))
    first.save(tmp_path / "g")
    with pytest.raises(FileExistsError, match="was saved by another process since it was loaded"):
        second.save(tmp_path / "g")
    assert Gallery.load(tmp_path / "g").paths[-1] == "first"
    second.save(tmp_path / "other")
    first.remove(["first"])
    first.save(tmp_path / "g")  # it may be saved again by whoever saved it last
    assert len(Gallery.load(tmp_path / "g")) == 5
    shutil.rmtree(tmp_path / "g")
    first.save(tmp_path / "g")  # nothing is lost where nothing is


@pytest.mark.parametrize(
    "factory", ["Flat", "HNSW8", "HNSW8_SQ8", "IVF2,PQ2x2", "IVF2,Flat,Refine(SQ8)", "OPQ2,PQ2x2"]
)
def test_an_empty_gallery_is_saved_and_grows_again(gallery: Gallery, tmp_path: Path, factory: str) -> None:
    space, dim = gallery.embedding_space, gallery.about.embedding_dim
    vectors = np.random.default_rng(0).normal(size=(300, dim)).astype(np.float32)
    numbered = Embeddings(vectors, space, 1.0, [str(number) for number in range(300)])
    emptied = Gallery.from_embeddings(numbered, factory)
    emptied.remove(emptied.paths)
    emptied.save(tmp_path / "g")
    loaded = Gallery.load(tmp_path / "g")
    assert len(loaded) == 0
    with pytest.raises(ValueError, match="the gallery is empty: add images"):
        loaded.search(numbered, 1)
    assert loaded.add(numbered) == Added(300, 0, 0)
    other = Embeddings(-vectors[:2], space, 1.0, ["0", "1"])
    assert loaded.add(other) == Added(0, 2, 0)
    found = loaded.search(other, 100).paths
    assert "0" in found[0]
    assert "1" in found[1]
    assert len(loaded) == 300


def test_a_path_that_is_written_in_another_way_is_the_same_image(
    gallery: Gallery, photos: Path, model: PrunNetModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos.parent)
    relative = Gallery.from_folder(model, "./photos/", progress=False)
    assert relative.paths == [f"photos/{name}" for name in NAMES]
    assert relative.add("photos", progress=False) == Added(0, 0, 5)
    assert relative.add(["./photos//top.png"], progress=False) == Added(0, 0, 1)
    assert relative.add(photos, progress=False) == Added(0, 0, 5)  # by its absolute path
    relative.remove("./photos/top.png")
    relative.remove(photos / NAMES[0])
    assert len(relative) == 3


def test_a_folder_that_a_link_leads_to_is_the_same(gallery: Gallery, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(photos, target_is_directory=True)
    assert gallery.add(tmp_path / "link", progress=False) == Added(0, 0, 5)
    noise(7).save(photos / "a/1.png")
    assert gallery.add([tmp_path / "link/a/1.png"], progress=False) == Added(0, 1, 0)
    gallery.remove([tmp_path / "link/b/../a/2.png", photos / "a/1.png"])
    assert sorted(gallery.paths) == [str(photos / name) for name in ("b/3.png", "b/4.png", "top.png")]
    # The folder is on another disk now, and a link stands where it was.
    photos.rename(tmp_path / "disk")
    photos.symlink_to(tmp_path / "disk")
    assert gallery.add(tmp_path / "disk/b", progress=False) == Added(0, 0, 2)


def test_a_link_to_a_file_is_an_image_of_its_own(gallery: Gallery, photos: Path) -> None:
    (photos / "a/link.png").symlink_to(photos / "a/1.png")
    assert gallery.add(photos, progress=False) == Added(1, 0, 5)
    gallery.remove(photos / "a/link.png")
    assert gallery.paths == paths_in(photos)


def test_a_path_that_is_there_twice_is_removed_twice(gallery: Gallery) -> None:
    paths = ["row-0", "row-1", os.path.abspath("row-0")]
    twice = Gallery.from_embeddings(Embeddings(np.eye(3, 6, dtype=np.float32), gallery.embedding_space, 1.0, paths))
    twice.remove("row-0")
    assert twice.paths == ["row-1"]


@pytest.mark.parametrize("factory", ["Flat", "HNSW8", "IVF2,SQ8,RFlat"])
def test_an_index_that_holds_all_vectors_needs_no_others(
    photos: Path, model: PrunNetModel, tmp_path: Path, factory: str
) -> None:
    Gallery.from_folder(model, photos, factory, progress=False).save(tmp_path / "g", with_embeddings=False)
    gallery = Gallery.load(tmp_path / "g")
    gallery.remove(photos / "a/1.png")
    gallery.save(tmp_path / "with")
    stored = pq.read_table(tmp_path / "with" / "images.parquet").column("embedding").to_pylist()
    np.testing.assert_allclose(stored, model.encode(paths_in(photos)[1:]), atol=1e-6)
    assert gallery.search(photos / "a/2.png", 1, model=model).paths == [[str(photos / "a/2.png")]]


def test_a_mapped_gallery_does_not_change(gallery: Gallery, tmp_path: Path) -> None:
    gallery.save(tmp_path / "g")
    mapped = Gallery.load(tmp_path / "g", mmap=True)
    with pytest.raises(ValueError, match="mmap=True can't change: load it without"):
        mapped.remove(mapped.paths[:1])
    assert len(mapped) == 5


def test_files_that_cannot_be_decoded_are_named_or_left_out_when_a_gallery_grows(
    gallery: Gallery, photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    noise(8).save(photos / "b/9.png")
    (photos / "b/5.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"b/5\.png.*--skip_corrupt_images"):
        gallery.add(photos, progress=False)
    assert len(gallery) == 5
    assert gallery.add(photos, skip_corrupt_images=True, progress=False) == Added(1, 0, 5)
    assert gallery.paths[-1] == str(photos / "b/9.png")
    assert "b/5.png" in caplog.text


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("Flatt", "factory='Flatt' is no index"),
        ("IDMap,Flat", "factory='IDMap,Flat' would number images itself.*Leave out 'IDMap'"),
        ("IVF6,Flat", "factory='IVF6,Flat' needs at least 6 images to be trained; there are 5. Add images"),
        ("OPQ2,Flat", "'OPQ2,Flat' needs at least 256 images.*there are 5"),
        ("IVF2,PQ2x4fs,RFlat", "RFlat' needs at least 16 images.*there are 5"),
    ],
)
def test_a_string_that_cannot_do_costs_no_embedding(
    photos: Path, model: PrunNetModel, factory: str, message: str
) -> None:
    for name in NAMES:  # nothing could be embedded now
        (photos / name).write_bytes(b"no picture")
    with pytest.raises(ValueError, match=message):
        Gallery.from_folder(model, photos, factory)
    images = Dataset.from_dict({"image": [b"no picture"] * 5})
    with pytest.raises(ValueError, match=message):
        Gallery.from_dataset(model, images, factory)


def test_an_index_that_faiss_refuses_for_these_images_is_refused_with_its_reason(
    photos: Path, model: PrunNetModel
) -> None:
    with pytest.raises(
        ValueError, match=r"factory='NSG32' is refused .* 5 images \(.*graph smaller than 100\).*'Flat'"
    ):
        Gallery.from_folder(model, photos, "NSG32", progress=False)


def test_missing_files_are_called_missing(gallery: Gallery, photos: Path, model: PrunNetModel, tmp_path: Path) -> None:
    gone = tmp_path / "gone.png"
    message = f"The image {gone} doesn't exist. Check its path"
    for ask in (
        lambda: gallery.search(gone, 1, model=model),
        lambda: gallery.show([gone], [model], k=1),
        lambda: gallery.add([photos / "top.png", gone], progress=False),
    ):
        with pytest.raises(FileNotFoundError, match=message):
            ask()
    with pytest.raises(FileNotFoundError, match=r"folder='.*gone\.png' is not a folder"):
        Gallery.from_folder(model, gone, "IVF2,Flat")
    with pytest.raises(ValueError, match=r"images must be image files; '.*a' is a folder\. Give a folder alone"):
        gallery.add([photos / "a"], progress=False)
    assert len(gallery) == 5


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([[1, 1, np.nan, 1, 1, 1]], "images row 0 has length nan"),
        ([[1] * 6, [0] * 6], "images row 1 has length 0.0"),
        ([[1] * 3], "images have dimension 3, and the gallery 6"),
    ],
)
def test_impossible_embeddings_leave_a_gallery_as_it_was(gallery: Gallery, bad: list, message: str) -> None:
    rows = np.asarray(bad, np.float32)
    embeddings = Embeddings(rows, gallery.embedding_space, 1.0, [str(row) for row in range(len(rows))])
    with pytest.raises(ValueError, match=message):
        gallery.add(embeddings)
    if rows.shape[1] == 6:
        with pytest.raises(ValueError, match=message.replace("images", "embeddings")):
            Gallery.from_embeddings(embeddings)
    assert len(gallery) == 5
    assert gallery.search(np.eye(1, 6, dtype=np.float32), 5, embedding_space=gallery.embedding_space).rows.max() == 4


def test_embeddings_without_paths_are_refused(gallery: Gallery) -> None:
    nameless = Embeddings(np.eye(2, 6, dtype=np.float32), gallery.embedding_space, 1.0)
    with pytest.raises(ValueError, match="embeddings must have paths, which name the 2 images"):
        Gallery.from_embeddings(nameless)


def test_embeddings_and_their_table_become_a_gallery(gallery: Gallery, model: PrunNetModel, tmp_path: Path) -> None:
    from prunnet_hf import encode_folder

    folder = Path(gallery.paths[-1]).parent
    encode_folder(model, folder, tmp_path / "e.parquet", progress=False)
    from_table = Gallery.from_embeddings(tmp_path / "e.parquet")
    assert from_table.paths == NAMES
    query = read_embeddings(tmp_path / "e.parquet")
    assert from_table.search(query, 1).rows.tolist() == [[0], [1], [2], [3], [4]]
    twice = Embeddings(query.embeddings[:2], query.embedding_space, 1.0, ["x", "x"])
    with pytest.raises(ValueError, match="paths must name each image once; 'x' comes more than once"):
        Gallery.from_embeddings(twice)


def test_a_data_set_becomes_a_gallery(model: PrunNetModel, tmp_path: Path) -> None:
    features = Features({"image": ImageFeature(), "kind": ClassLabel(names=["cat", "dog"])})
    images = Dataset.from_dict({"image": [noise(1), noise(2)], "kind": [1, 0]}, features=features)
    gallery = Gallery.from_dataset(model, images, label_column="kind", progress=False)
    assert (gallery.paths, gallery.labels) == (["row-0", "row-1"], ["dog", "cat"])
    assert gallery.search(noise(2), 1, model=model).paths == [["row-1"]]
    assert gallery.show([noise(2)], [model], k=1).size[1] > 100
    noise(3).save(tmp_path / "3.png")
    gallery.add([tmp_path / "3.png"], progress=False)
    assert gallery.show([noise(2)], [model], k=2).size[0] == 302 + 2 * 106 + 12  # images of both kinds
    with pytest.raises(ValueError, match="label_column must be one of image, kind; got 'label'"):
        Gallery.from_dataset(model, images, label_column="label")


def test_a_picture_of_what_was_found(gallery: Gallery, photos: Path, model: PrunNetModel, tmp_path: Path) -> None:
    file = tmp_path / "found.png"
    picture = gallery.show([photos / "a/1.png"], [model, model.prune(0.2)], k=4, output=file)
    with Image.open(file) as saved:
        assert saved.size == picture.size
    # All others are shown: one of the query's class, two of another, one without a label. They begin at the height 12.
    green, red, grey = (26, 127, 55), (207, 34, 46), (175, 184, 193)
    frames = [picture.getpixel((x, 12)) for x in range(picture.width)]
    assert {colour: frames.count(colour) for colour in (green, red, grey)} == {green: 100, red: 200, grey: 100}


def test_a_picture_without_some_of_the_images_says_which(
    gallery: Gallery, photos: Path, model: PrunNetModel, caplog: pytest.LogCaptureFixture
) -> None:
    missing, damaged, query = photos / "a/2.png", photos / "b/4.png", photos / "a/1.png"
    whole = gallery.show([query], [model, model.prune(0.2)], k=4)
    missing.unlink()
    damaged.write_bytes(b"no picture")
    picture = gallery.show([query], [model, model.prune(0.2)], k=4)
    (record,) = caplog.records
    names = {f"{missing} (missing)", f"{damaged} (damaged)"}
    assert record.getMessage() in {
        f"2 of 4 images that were found can't be opened: {', '.join(order)}." for order in permutations(names)
    }
    paths = gallery.search([query], 5, model=model).paths[0]
    for place, path in enumerate(path for path in paths if path != str(query)):
        below_the_word = (302 + 106 * place + 50, 12 + 90)  # pictures of 100 pixels, one every 106
        is_grey = picture.getpixel(below_the_word) == (209, 217, 224)
        assert is_grey == (path in (str(missing), str(damaged)))
        assert is_grey == (picture.getpixel(below_the_word) != whole.getpixel(below_the_word))


def test_a_picture_of_nothing_says_where_relative_paths_start(
    gallery: Gallery, photos: Path, model: PrunNetModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = model.encode(paths_in(photos))
    relative = Gallery.from_embeddings(Embeddings(vectors, gallery.embedding_space, 1.0, NAMES))
    query, output = noise(9), tmp_path / "found.png"
    with pytest.raises(
        FileNotFoundError, match=r"none of the images that were found .*\.png \(missing\), .*--data_dir DIR, or"
    ):
        relative.show(query, [model], k=3, output=output)
    assert not output.exists()
    monkeypatch.chdir(photos)
    relative.show(query, [model], k=3, output=output)
    assert output.exists()
    shutil.rmtree(photos / "a")
    shutil.rmtree(photos / "b")
    (photos / "top.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"none of the images .*: /.*\. Put them back, or index"):
        gallery.show(query, [model], k=1)


def test_it_says_in_three_lines_what_it_is(gallery: Gallery, photos: Path, model: PrunNetModel) -> None:
    assert repr(gallery).count("\n") <= 2
    assert "5 images" in repr(gallery)
    assert gallery.embedding_space in repr(gallery)
    assert "and 4 more queries" in repr(gallery.search(paths_in(photos), 2, model=model))
