"""Shards of embeddings: made by several processes, in any order, also by some that are killed; others are refused."""

from __future__ import annotations

import os
import re
import shutil
import signal
from copy import deepcopy
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from prunnet_hf import PrunNetModel
from prunnet_hf.retrieval.embedding_parts import claim_output
from prunnet_hf.retrieval.embedding_shards import Shard, encode_shard, find_shards
from prunnet_hf.retrieval.embedding_table import read_embeddings
from prunnet_hf.retrieval.encoding import main
from prunnet_hf.retrieval.folder_encoding import encode_folder
from prunnet_hf.retrieval.image_sources import folder_images
from prunnet_hf.retrieval.table_encoder import Encoding, TableEncoder
from tests.processes import run_processes
from tests.retrieval.conftest import SIZE

NAMES = ["a/1.png", "a/2.png", "b/3.png", "b/4.png", "top.png"]
QUIET = Encoding(batch_size=1, images_per_part=1, progress=False)


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
def encoder(model: PrunNetModel) -> TableEncoder:
    return TableEncoder(model, QUIET)


def encode_all(encoder: TableEncoder, photos: Path, folder: Path, count: int) -> None:
    for number in range(count, 0, -1):  # in any order
        assert encode_shard(encoder, folder_images(photos), folder, Shard(number, count)) == []


def assert_is_whole(folder: Path, model: PrunNetModel, photos: Path) -> None:
    """Whether the shards, one after the other, are what one process writes into one file."""
    whole = folder.parent / "whole.parquet"
    if not whole.exists():
        encode_folder(model, photos, whole, batch_size=1, progress=False)
    shards, expected = find_shards(folder), read_embeddings(whole)
    parts = [shards.read(place) for place in range(len(shards))]
    assert [path for part in parts for path in part.paths] == expected.paths == NAMES
    assert [label for part in parts for label in part.labels] == expected.labels
    array = np.concatenate([part.embeddings for part in parts])
    np.testing.assert_allclose(array, expected.embeddings, rtol=1e-4, atol=1e-5)
    assert {part.embedding_space for part in parts} == {expected.embedding_space}
    assert shards.num_images == len(NAMES)


def embed(words: list[str]) -> int:
    """In a process of its own: the command, which knows its number as launchers say it."""
    return main(words)


@given(st.integers(1, 200), st.integers(0, 10_000))
def test_shards_have_every_place_once_in_order_and_are_equal_to_one_image(count: int, total: int) -> None:
    shares = [Shard(number, count).places(total) for number in range(1, count + 1)]
    assert [place for share in shares for place in share] == list(range(total))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "1/0", "-1/4", "a/4", "1/4/2", "1 /4", ""])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"shard must be i/n with i from 1 to n.*got {re.escape(repr(text))}"):
        Shard.parse(text)


def test_two_processes_share_a_folder(model: PrunNetModel, photos: Path, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "model")
    model.image_processor.save_pretrained(tmp_path / "model")
    words = ["--model", str(tmp_path / "model"), "--data_dir", str(photos), "--output", str(tmp_path / "shards")]
    assert run_processes(2, embed, [*words, "--num_shards", "3", "--batch_size", "1"], folder=tmp_path) == [0, 0]
    assert sorted(os.listdir(tmp_path / "shards")) == [*(Shard(n, 3).file for n in (1, 2, 3)), "shards.json"]
    assert_is_whole(tmp_path / "shards", model, photos)


def killed_at(images: int, encoder: TableEncoder, photos: Path, folder: Path, shard: Shard) -> None:
    """In a process of its own: `encode_shard`, killed as the last of so many images is embedded."""
    seen = []

    def kill(*_: object) -> None:
        seen.append(1)
        if len(seen) == images:
            os.kill(os.getpid(), signal.SIGKILL)

    encoder.model.register_forward_pre_hook(kill)
    encode_shard(encoder, folder_images(photos), folder, shard)


def test_a_killed_process_leaves_no_half_shard_and_the_next_goes_on(
    encoder: TableEncoder, model: PrunNetModel, photos: Path, tmp_path: Path
) -> None:
    folder, shard = tmp_path / "shards", Shard(2, 2)
    process = get_context("fork").Process(target=killed_at, args=(3, encoder, photos, folder, shard))
    process.start()
    process.join(timeout=600)
    assert process.exitcode == -signal.SIGKILL
    assert not list(folder.glob("shard-*.parquet.partial/*.tmp"))
    assert not (folder / shard.file).exists()
    with pytest.raises(FileNotFoundError, match=r"shards'? has no shards"):
        find_shards(folder)
    seen = []
    hook = model.register_forward_pre_hook(lambda *_: seen.append(1))
    encode_all(encoder, photos, folder, 2)
    assert len(seen) == 3  # five images in all, two of which were embedded before
    encode_all(encoder, photos, folder, 2)
    hook.remove()
    assert len(seen) == 3  # all are there
    assert_is_whole(folder, model, photos)


def test_a_shard_that_another_process_makes_is_left_to_it(encoder: TableEncoder, photos: Path, tmp_path: Path) -> None:
    encode_all(encoder, photos, tmp_path / "shards", 2)
    one = tmp_path / "shards" / Shard(1, 2).file
    one.unlink()
    with (
        claim_output(one),
        pytest.raises(BlockingIOError, match=rf"{one.name}.*being written by process {os.getpid()}"),
    ):
        encode_shard(encoder, folder_images(photos), tmp_path / "shards", Shard(1, 2))


def test_shards_of_another_model_other_images_or_settings_are_refused(
    encoder: TableEncoder, model: PrunNetModel, photos: Path, tmp_path: Path
) -> None:
    folder, images = tmp_path / "shards", folder_images(photos)
    encode_shard(encoder, images, folder, Shard(1, 2))
    phone = TableEncoder(model.prune(0.5), QUIET)
    for shard in (Shard(1, 2), Shard(2, 2)):
        with pytest.raises(ValueError, match=r"begun with another capacity \(1\.0 then, 0\.5 now\), weights.*another"):
            encode_shard(phone, images, folder, shard)
    with pytest.raises(ValueError, match=r"another num_shards \(2 then, 3 now\)"):
        encode_shard(encoder, images, folder, Shard(2, 3))
    noise(9).save(photos / "new.png")
    with pytest.raises(ValueError, match=r"another num_images \(5 then, 6 now\), images"):
        encode_shard(encoder, folder_images(photos), folder, Shard(2, 2))
    (photos / "new.png").unlink()
    os.utime(photos / "a/1.png", ns=(0, 0))
    with pytest.raises(ValueError, match=r"shard-00001-of-00002\.parquet was made of other images.*Remove it"):
        encode_shard(encoder, images, folder, Shard(1, 2))


def test_more_shards_than_images_and_a_file_as_folder_are_refused(
    encoder: TableEncoder, photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="at most that of the images, 5; got 6"):
        encode_shard(encoder, folder_images(photos), tmp_path / "shards", Shard(1, 6))
    with pytest.raises(ValueError, match=r"s\.parquet' must be a folder.*without \.parquet"):
        encode_shard(encoder, folder_images(photos), tmp_path / "s.parquet", Shard(1, 2))
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match=r"file' is a file.*another name"):
        encode_shard(encoder, folder_images(photos), tmp_path / "file", Shard(1, 2))


def test_a_missing_a_damaged_and_a_foreign_shard_are_named(
    encoder: TableEncoder, model: PrunNetModel, photos: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "shards"
    encode_all(encoder, photos, folder, 3)
    second = folder / Shard(2, 3).file
    content = second.read_bytes()
    second.unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks 1 of its 3 shards: 2/3\..*--shard 2/3"):
        find_shards(folder)
    second.write_bytes(content[:-20])
    with pytest.raises(ValueError, match=rf"{second.name} can't be read.*Remove it.*again"):
        find_shards(folder)
    second.write_bytes(content.replace(read_bytes_of_a_vector(content), b"damaged!"))
    with pytest.raises(ValueError, match=rf"{second.name} can't be read.*Remove it.*again"):
        find_shards(folder).read(1)
    with pytest.raises(ValueError, match=rf"{second.name} can't be read.*Remove it.*again"):
        encode_shard(encoder, folder_images(photos), folder, Shard(2, 3))
    other = PrunNetModel(deepcopy(model.config))
    other.renew_embedding_space()
    encode_all(TableEncoder(other, QUIET), photos, tmp_path / "other", 3)
    shutil.copy(tmp_path / "other" / second.name, second)
    with pytest.raises(ValueError, match=rf"{second.name} is of the embedding space '{other.config.embedding_space}'"):
        find_shards(folder)
    encode_all(encoder, photos, tmp_path / "two", 2)
    shutil.copy(tmp_path / "two" / Shard(2, 2).file, folder)
    with pytest.raises(ValueError, match="holds shards of 2 and of 3"):
        find_shards(folder)


def read_bytes_of_a_vector(content: bytes) -> bytes:
    """Eight bytes of the embeddings, which lie behind the magic number and the header of the first page."""
    return content[60:68]


def test_unreadable_images_are_left_out_also_if_they_are_a_whole_shard(
    model: PrunNetModel, photos: Path, tmp_path: Path
) -> None:
    (photos / "top.png").write_bytes(b"no image")
    skipping = TableEncoder(model, Encoding(batch_size=1, skip_corrupt_images=True, progress=False))
    for _ in range(2):  # the second time the shards are there
        found = [encode_shard(skipping, folder_images(photos), tmp_path / "shards", Shard(n, 5)) for n in range(1, 6)]
        assert found == [[], [], [], [], ["top.png"]]
    assert find_shards(tmp_path / "shards").num_images == 4
