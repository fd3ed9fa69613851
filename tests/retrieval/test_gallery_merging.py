"""Galleries that several machines filled, merged: the files are as if one had filled it; what doesn't fit is named."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from prunnet_hf import Gallery
from prunnet_hf.retrieval.embedding_shards import Shard
from prunnet_hf.retrieval.gallery_merging import merge_galleries
from prunnet_hf.retrieval.gallery_shards import index_shards, train_gallery
from tests.retrieval.sharded import COUNT, SPACE, random_embeddings, unit_queries, write_shards

FACTORY = "IVF8,PQ4x4np"
IMAGES = "images.parquet"


def fill(shards: Path, parts: int, factory: str = FACTORY, **options: object) -> list[Path]:
    """The folders of so many parts, filled from one trained gallery."""
    folder = shards.parent
    train_gallery(shards, folder / "trained", factory)
    places = [folder / f"part-{number}" for number in range(1, parts + 1)]
    for number, place in enumerate(places, 1):
        index_shards(shards, place, trained=folder / "trained", shard=Shard(number, parts), progress=False, **options)
    return places


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return write_shards(tmp_path / "shards", random_embeddings(), 5)


@pytest.mark.parametrize(
    ("factory", "parts"),
    [("Flat", 2), ("SQ8", 3), ("IVF8,Flat", 5), (FACTORY, 3), ("OPQ4,IVF8,PQ4x4np,Refine(SQ8)", 2)],
)
def test_parts_in_any_order_merge_into_what_one_machine_builds(
    factory: str, parts: int, shards: Path, tmp_path: Path
) -> None:
    one, merged = tmp_path / "one", tmp_path / "merged"
    folders = fill(shards, parts, factory)
    index_shards(shards, one, trained=tmp_path / "trained", progress=False)
    about = merge_galleries(folders[::-1], merged, progress=False)
    assert (one / "index.faiss").read_bytes() == (merged / "index.faiss").read_bytes()
    assert pq.read_table(merged / IMAGES).equals(pq.read_table(one / IMAGES))
    gallery, expected = Gallery.load(merged), Gallery.load(one)
    assert gallery.about == about == expected.about
    found, wanted = (each.search(unit_queries(), 5, embedding_space=SPACE) for each in (gallery, expected))
    np.testing.assert_array_equal(found.rows, wanted.rows)
    np.testing.assert_array_equal(found.scores, wanted.scores)


def test_faiss_and_datasets_read_the_merged_gallery_and_it_grows(shards: Path, tmp_path: Path) -> None:
    merged = tmp_path / "merged"
    merge_galleries(fill(shards, 2), merged, progress=False)
    assert sorted(file.name for file in merged.iterdir()) == [IMAGES, "index.faiss", "index.json"]
    assert faiss.read_index(str(merged / "index.faiss")).ntotal == COUNT
    table = Dataset.from_parquet(str(merged / IMAGES), cache_dir=str(tmp_path / "cache"))
    table.load_faiss_index("embedding", str(merged / "index.faiss"))
    query = unit_queries(1)[0]
    _, rows = table.search("embedding", query, k=3)
    gallery = Gallery.load(merged)
    assert rows.tolist() == gallery.search(query[None], 3, embedding_space=SPACE).rows[0].tolist()
    gallery.remove("0000.jpg")
    assert len(gallery) == COUNT - 1


def test_a_later_part_joins_a_merged_gallery(shards: Path, tmp_path: Path) -> None:
    merge_galleries(fill(shards, 2), tmp_path / "merged", progress=False)
    later = random_embeddings(30, seed=7)
    later.paths[:] = [f"new/{path}" for path in later.paths]
    write_shards(tmp_path / "later", later, 2, made="another job")
    index_shards(tmp_path / "later", tmp_path / "new", trained=tmp_path / "trained", progress=False)
    merge_galleries([tmp_path / "merged", tmp_path / "new"], tmp_path / "all", progress=False)
    gallery = Gallery.load(tmp_path / "all")
    assert gallery.paths == random_embeddings().paths + later.paths
    found = gallery.search(later.embeddings[:3], 1, embedding_space=SPACE)
    assert len(gallery) == COUNT + 30
    assert found.scores.shape == (3, 1)


def test_missing_and_repeated_parts_are_named(shards: Path, tmp_path: Path) -> None:
    first, second, third = fill(shards, 3)
    with pytest.raises(FileNotFoundError, match=r"part-1 is one of 3 parts, of which 2/3 is missing.*--shard 2/3"):
        merge_galleries([first, third], tmp_path / "merged")
    with pytest.raises(ValueError, match=r"part-2 and .*part-2 are the same part, 2/3"):
        merge_galleries([first, second, third, second], tmp_path / "merged")
    with pytest.raises(FileNotFoundError, match="nowhere is no gallery"):
        merge_galleries([first, tmp_path / "nowhere"], tmp_path / "merged")
    with pytest.raises(ValueError, match="parts must be the folders of at least one gallery; there are none"):
        merge_galleries([], tmp_path / "merged")
    with pytest.raises(FileExistsError, match=r"part-1' holds a gallery"):
        merge_galleries([first, second, third], first)


def test_a_damaged_part_is_named_and_nothing_is_written(shards: Path, tmp_path: Path) -> None:
    folders = fill(shards, 2)
    content = bytearray((folders[1] / "index.faiss").read_bytes())
    content[-9] ^= 1
    (folders[1] / "index.faiss").write_bytes(content)
    with pytest.raises(ValueError, match=r"part-2 is damaged: the contents of index\.faiss"):
        merge_galleries(folders, tmp_path / "merged", progress=False)
    assert not list((tmp_path / "merged").iterdir())
    assert len(Gallery.load(folders[0])) == 240  # 2 of 5 shards of 120 images; it stays usable


def test_galleries_that_do_not_belong_together_are_refused(shards: Path, tmp_path: Path) -> None:
    one = tmp_path / "one"
    index_shards(shards, one, FACTORY, progress=False)
    foreign = write_shards(tmp_path / "foreign", random_embeddings(), 2, space="fedcba9876543210")
    index_shards(foreign, tmp_path / "of-another-space", FACTORY, progress=False)
    with pytest.raises(ValueError, match=r"of-another-space is of the embedding space 'fedcba9876543210', and .*one"):
        merge_galleries([one, tmp_path / "of-another-space"], tmp_path / "merged")
    later = random_embeddings(300, seed=7)
    later.paths[:] = [f"new/{path}" for path in later.paths]
    write_shards(tmp_path / "later", later, 2)
    index_shards(tmp_path / "later", tmp_path / "flat", "Flat", progress=False)
    with pytest.raises(ValueError, match=r"flat is of the factory 'Flat', and .*'IVF8,PQ4x4np'.*one trained gallery"):
        merge_galleries([one, tmp_path / "flat"], tmp_path / "merged")
    index_shards(tmp_path / "later", tmp_path / "bare", FACTORY, with_embeddings=False, progress=False)
    with pytest.raises(ValueError, match=r"one has its embeddings and .*bare hasn't"):
        merge_galleries([one, tmp_path / "bare"], tmp_path / "merged")


@pytest.mark.parametrize("factory", [FACTORY, "PQ4x4np"])  # of the second kind faiss merges any two
def test_galleries_that_were_trained_apart_are_refused(factory: str, shards: Path, tmp_path: Path) -> None:
    later = random_embeddings(300, seed=7)
    later.paths[:] = [f"new/{path}" for path in later.paths]
    write_shards(tmp_path / "later", later, 2)
    index_shards(shards, tmp_path / "one", factory, progress=False)
    index_shards(tmp_path / "later", tmp_path / "other", factory, progress=False)
    with pytest.raises(ValueError, match=r"other was trained otherwise than that of .*one.*--trained"):
        merge_galleries([tmp_path / "one", tmp_path / "other"], tmp_path / "merged", progress=False)


def test_an_image_in_two_parts_is_named(shards: Path, tmp_path: Path) -> None:
    train_gallery(shards, tmp_path / "trained", FACTORY)
    index_shards(shards, tmp_path / "a", trained=tmp_path / "trained", progress=False)
    index_shards(shards, tmp_path / "b", trained=tmp_path / "trained", progress=False)
    with pytest.raises(ValueError, match=r"'\d{4}\.jpg' is in .*a/images\.parquet and in .*b/images\.parquet"):
        merge_galleries([tmp_path / "a", tmp_path / "b"], tmp_path / "merged", progress=False)
    assert not list((tmp_path / "merged").iterdir())
