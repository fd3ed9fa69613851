"""Quantised galleries: what faiss makes of all embeddings at once, made of a gallery that is read in batches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import pytest

from prunnet_hf import Gallery
from prunnet_hf.retrieval import gallery_quantizing
from prunnet_hf.retrieval.gallery_quantizing import quantize_gallery
from prunnet_hf.retrieval.product_quantizer import ProductQuantizer
from tests.retrieval.sharded import COUNT, DIM, SPACE, random_embeddings, unit_queries


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("galleries") / "gallery"
    Gallery.from_embeddings(random_embeddings(), "Flat").save(folder)
    return folder


def test_a_quantised_gallery_is_what_faiss_makes_of_all_embeddings(source: Path, tmp_path: Path) -> None:
    about = quantize_gallery(source, tmp_path / "small", 4, progress=False)
    assert (about.factory, about.num_images, about.embedding_space) == ("OPQ4,PQ4x8np", COUNT, SPACE)
    gallery, expected = Gallery.load(tmp_path / "small"), Gallery.from_embeddings(random_embeddings(), "OPQ4,PQ4x8np")
    assert gallery.about == about == expected.about
    assert (gallery.paths, gallery.labels) == (expected.paths, expected.labels)
    found, wanted = (each.search(unit_queries(), 5, embedding_space=SPACE) for each in (gallery, expected))
    np.testing.assert_array_equal(found.rows, wanted.rows)
    np.testing.assert_array_equal(found.scores, wanted.scores)
    plain = faiss.read_index(str(tmp_path / "small/index.faiss"))
    np.testing.assert_array_equal(plain.search(unit_queries(), 5)[1], found.rows)
    codes = faiss.vector_to_array(faiss.downcast_index(plain.index).codes)
    assert codes.nbytes == 4 * COUNT  # 8 times less than 8 float32


def test_it_is_read_in_batches_and_gives_the_same(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantize_gallery(source, tmp_path / "whole", 2, progress=False)
    sizes: list[int] = []
    batches = gallery_quantizing.image_batches
    monkeypatch.setattr(gallery_quantizing, "image_batches", lambda path, names, size: batches(path, names, 70))
    monkeypatch.setattr(gallery_quantizing, "sample_size", lambda index: sizes.append(1) or 400)
    quantize_gallery(source, tmp_path / "drawn", 2, seed=1, progress=False)
    assert sizes == [1]
    monkeypatch.setattr(gallery_quantizing, "sample_size", lambda index: COUNT)
    quantize_gallery(source, tmp_path / "parts", 2, progress=False)
    whole, drawn, parts = ((tmp_path / name / "index.faiss").read_bytes() for name in ("whole", "drawn", "parts"))
    assert whole == parts != drawn
    assert Gallery.load(tmp_path / "parts").paths == Gallery.load(source).paths


def test_embeddings_may_be_left_out_and_then_only_an_exact_index_has_them(source: Path, tmp_path: Path) -> None:
    Gallery.load(source).save(tmp_path / "flat", with_embeddings=False)
    quantize_gallery(tmp_path / "flat", tmp_path / "small", 4, with_embeddings=False, progress=False)
    quantize_gallery(source, tmp_path / "same", 4, progress=False)
    assert (tmp_path / "small/index.faiss").read_bytes() == (tmp_path / "same/index.faiss").read_bytes()
    with pytest.raises(ValueError, match=r"saved without embeddings, .*'OPQ4,PQ4x8np' has only .* Embed the images"):
        quantize_gallery(tmp_path / "small", tmp_path / "again", 2, progress=False)
    assert not (tmp_path / "again").exists()


def test_what_is_quantised_so_already_is_taken_as_it_is(source: Path, tmp_path: Path) -> None:
    quantize_gallery(source, tmp_path / "small", 2, progress=False)
    index = faiss.read_index(str(tmp_path / "small/index.faiss"))
    quantizer = ProductQuantizer(index)
    quantizer.write(quantizer.centroids() + 0.01)
    gallery = Gallery.load(tmp_path / "small")
    gallery._rows.index = index
    gallery.save(tmp_path / "moved")
    quantize_gallery(tmp_path / "moved", tmp_path / "again", 2, seed=5, progress=False)
    again, moved = ((tmp_path / name / "index.faiss").read_bytes() for name in ("again", "moved"))
    assert again == moved


@pytest.mark.parametrize("wrong", [3, 0, 16, True])
def test_bytes_must_divide_the_dimensions(wrong: int, source: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"bytes must divide the {DIM} dimensions .*, as 1, 2, 4, 8 do; got {wrong}"):
        quantize_gallery(source, tmp_path / "small", wrong, progress=False)


def test_too_few_images_say_how_many_are_needed(tmp_path: Path) -> None:
    Gallery.from_embeddings(random_embeddings(255), "Flat").save(tmp_path / "gallery")
    with pytest.raises(ValueError, match=r"needs at least 256 images to be trained; there are 255\. Add images"):
        quantize_gallery(tmp_path / "gallery", tmp_path / "small", 4, progress=False)


def test_what_is_there_is_not_replaced_and_damage_is_named(source: Path, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match=r"output=.* holds a gallery. Choose another name"):
        quantize_gallery(source, source, 4, progress=False)
    with pytest.raises(FileNotFoundError, match=r"is no gallery: .*prunnet index"):
        quantize_gallery(tmp_path, tmp_path / "small", 4, progress=False)
    Gallery.load(source).save(tmp_path / "copy")
    content = bytearray((tmp_path / "copy/images.parquet").read_bytes())
    content[100] ^= 1
    (tmp_path / "copy/images.parquet").write_bytes(content)
    with pytest.raises(ValueError, match=r"is damaged: the contents of images\.parquet"):
        quantize_gallery(tmp_path / "copy", tmp_path / "small", 4, progress=False)


def test_an_embedding_that_is_not_finite_is_named(source: Path, tmp_path: Path) -> None:
    gallery = Gallery.load(source)
    vectors = random_embeddings().embeddings
    vectors[7, 2] = np.nan
    gallery._rows.index = faiss.IndexPreTransform(faiss.IndexFlatIP(DIM))  # holds no vectors exactly
    gallery._rows.index.add(np.nan_to_num(vectors))
    gallery._rows.hold(lambda: vectors)
    gallery.about = replace(gallery.about, factory="other")
    gallery.save(tmp_path / "bad")
    with pytest.raises(ValueError, match=r"row 7 of the gallery .* isn't finite, .* Remove its image"):
        quantize_gallery(tmp_path / "bad", tmp_path / "small", 4, progress=False)
    assert not (tmp_path / "small").exists()
