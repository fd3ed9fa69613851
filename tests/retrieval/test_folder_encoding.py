"""A folder to a table: every image once, also by processes that are killed."""

from __future__ import annotations

import os
import signal
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from prunnet_hf import PrunNetImageProcessor, PrunNetModel
from prunnet_hf.retrieval.embedding_table import read_embeddings
from prunnet_hf.retrieval.folder_encoding import encode_folder
from tests.retrieval.conftest import SIZE

NAMES = ["a/deep/1.png", "a/2.png", "b/3.png", "b/4.PNG", "b/5.png", "b/6.png", "top.png"]
IN_ORDER = ["a/2.png", "a/deep/1.png", "b/3.png", "b/4.PNG", "b/5.png", "b/6.png", "top.png"]


def encode_until_killed(model: PrunNetModel, batches: int, *arguments: Any, **options: Any) -> None:
    """In a process of its own: `encode_folder`, killed as the last of so many batches is embedded."""
    seen = []

    def kill(*_: Any) -> None:
        seen.append(1)
        if len(seen) == batches:
            os.kill(os.getpid(), signal.SIGKILL)

    model.register_forward_pre_hook(kill)
    encode_folder(model, *arguments, **options)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in (*NAMES, ".hidden/7.png", "b/.8.png"):
        file = tmp_path / "photos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)).save(file)
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    return tmp_path / "photos"


def test_every_image_with_path_and_label(
    model: PrunNetModel, processor: PrunNetImageProcessor, photos: Path, tmp_path: Path
) -> None:
    assert encode_folder(model, photos, tmp_path / "f.parquet", processor, batch_size=3, progress=False) == []
    found = read_embeddings(tmp_path / "f.parquet")
    assert found.paths == IN_ORDER
    assert found.labels == ["a", "a", "b", "b", "b", "b", None]
    assert (found.embedding_space, found.capacity) == (model.config.embedding_space, 1.0)
    for path, embedding in zip(found.paths, found.embeddings, strict=True):
        inputs = processor([Image.open(photos / path)], return_tensors="pt")
        with torch.no_grad():
            np.testing.assert_allclose(embedding, model(**inputs).pooler_output[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("num_workers", "images_per_part"), [(0, 2), (2, 2), (2, 100), (0, 7)])
def test_neither_workers_nor_parts_show(
    num_workers: int,
    images_per_part: int,
    model: PrunNetModel,
    processor: PrunNetImageProcessor,
    photos: Path,
    tmp_path: Path,
) -> None:
    tables = []
    for name, arguments in (("one", {}), ("other", {"num_workers": num_workers, "images_per_part": images_per_part})):
        encode_folder(model, photos, tmp_path / name, processor, batch_size=1, progress=False, **arguments)
        tables.append(read_embeddings(tmp_path / name))
    assert tables[0].paths == tables[1].paths
    np.testing.assert_array_equal(tables[0].embeddings, tables[1].embeddings)


def test_killed_and_called_again_it_writes_the_same_bytes(
    model: PrunNetModel, processor: PrunNetImageProcessor, photos: Path, tmp_path: Path
) -> None:
    arguments = {"batch_size": 1, "images_per_part": 2, "progress": False}
    encode_folder(model, photos, tmp_path / "whole.parquet", processor, **arguments)
    output, partial = tmp_path / "f.parquet", tmp_path / "f.parquet.partial"
    places = (model, 4, photos, output, processor)
    process = get_context("fork").Process(target=encode_until_killed, args=places, kwargs=arguments)
    process.start()
    process.join(timeout=600)
    assert process.exitcode == -signal.SIGKILL
    assert not output.exists()
    # Killed before the fourth image: of parts of two images one is whole.
    assert sorted(file.name for file in partial.glob("part-*")) == ["part-000000.parquet"]
    seen = []
    hook = model.register_forward_pre_hook(lambda *_: seen.append(1))
    encode_folder(model, photos, output, processor, **arguments)
    hook.remove()
    assert len(seen) == 5  # of seven images, two were done
    assert output.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert not partial.exists()


def stopped_half_way(model: PrunNetModel, processor: PrunNetImageProcessor, photos: Path, output: Path) -> None:
    """Leave parts of the first images: the last one can't be decoded."""
    good = (photos / "top.png").read_bytes()
    (photos / "top.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"top\.png.*decoded.*Or pass --skip_corrupt_images"):
        encode_folder(model, photos, output, processor, images_per_part=2, progress=False)
    (photos / "top.png").write_bytes(good)
    assert not output.exists()


def test_a_repaired_image_further_on_does_no_harm(
    model: PrunNetModel, processor: PrunNetImageProcessor, photos: Path, tmp_path: Path
) -> None:
    stopped_half_way(model, processor, photos, tmp_path / "f.parquet")
    encode_folder(model, photos, tmp_path / "f.parquet", processor, images_per_part=2, progress=False)
    assert read_embeddings(tmp_path / "f.parquet").paths == IN_ORDER


def test_other_images_are_refused(
    model: PrunNetModel, processor: PrunNetImageProcessor, photos: Path, tmp_path: Path
) -> None:
    stopped_half_way(model, processor, photos, tmp_path / "f.parquet")
    os.utime(photos / "a/2.png", ns=(0, 0))
    with pytest.raises(ValueError, match=r"images.*data_dir.*now.*sizes.*times differ"):
        encode_folder(model, photos, tmp_path / "f.parquet", processor, images_per_part=2, progress=False)
    (photos / "a/2.png").unlink()
    with pytest.raises(ValueError, match=r"a/2\.png.*two.*remove"):
        encode_folder(model, photos, tmp_path / "f.parquet", processor, images_per_part=2, progress=False)


def test_an_image_that_changed_after_it_was_read_is_refused(
    model: PrunNetModel, processor: PrunNetImageProcessor, photos: Path, tmp_path: Path
) -> None:
    passes = []

    def replace_then_stop(*_: object) -> None:
        passes.append(1)
        if len(passes) == 1:
            Image.new("RGB", (SIZE, SIZE)).save(photos / IN_ORDER[0])
        if len(passes) == 2:
            raise KeyboardInterrupt

    hook = model.register_forward_hook(replace_then_stop)
    arguments = {"batch_size": 2, "images_per_part": 2, "progress": False}
    with pytest.raises(KeyboardInterrupt):
        encode_folder(model, photos, tmp_path / "f.parquet", processor, **arguments)
    hook.remove()
    with pytest.raises(ValueError, match=r"images.*sizes.*times differ"):
        encode_folder(model, photos, tmp_path / "f.parquet", processor, **arguments)


def test_other_models_are_refused(
    model: PrunNetModel, processor: PrunNetImageProcessor, photos: Path, tmp_path: Path
) -> None:
    stopped_half_way(model, processor, photos, tmp_path / "f.parquet")
    other = PrunNetImageProcessor(size={"shortest_edge": 40}, crop_size={"height": SIZE, "width": SIZE})
    for changed, processing, message in (
        (model.prune(0.5), processor, r"another capacity \(1\.0 then, 0\.5 now\), weights"),
        (model.prune(1.0).bfloat16(), processor, r"another dtype \('float32' then, 'bfloat16' now\), weights"),
        (model, other, "another image_processor"),
    ):
        with pytest.raises(ValueError, match=message):
            encode_folder(changed, photos, tmp_path / "f.parquet", processing, images_per_part=2, progress=False)


def test_corrupt_images_are_left_out_counted_and_listed(
    model: PrunNetModel,
    processor: PrunNetImageProcessor,
    photos: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (photos / "b/3.png").write_bytes((photos / "b/3.png").read_bytes()[:100])
    (photos / "b/4.PNG").write_bytes(b"")
    arguments = {"batch_size": 1, "images_per_part": 2, "progress": False}
    left_out = encode_folder(
        model, photos, tmp_path / "f.parquet", processor, skip_corrupt_images=True, num_workers=1, **arguments
    )
    assert left_out == ["b/3.png", "b/4.PNG"]
    assert "2 of 7 images can't be decoded: b/3.png, b/4.PNG. They are left out." in caplog.text
    assert read_embeddings(tmp_path / "f.parquet").paths == [n for n in IN_ORDER if n not in left_out]


def test_pipes_and_images_far_too_long_are_left_out(
    model: PrunNetModel, processor: PrunNetImageProcessor, photos: Path, tmp_path: Path
) -> None:
    os.mkfifo(photos / "a/pipe.png")
    Image.new("1", (10**6, 1)).save(photos / "a/long.png")
    output = tmp_path / "f.parquet"
    with pytest.raises(ValueError, match=r"long\.png has 1000000 x 1 pixels.*Or pass --skip_corrupt_images"):
        encode_folder(model, photos, output, processor, progress=False)
    left_out = encode_folder(model, photos, output, processor, skip_corrupt_images=True, progress=False)
    assert left_out == ["a/long.png", "a/pipe.png"]


def test_faults_of_the_processor_are_not_taken_for_damage(model: PrunNetModel, photos: Path, tmp_path: Path) -> None:
    wrong = PrunNetImageProcessor(image_mean=[0.5] * 5)
    with pytest.raises((ValueError, RuntimeError), match="5"):
        encode_folder(model, photos, tmp_path / "f.parquet", wrong, skip_corrupt_images=True, progress=False)


def test_what_was_left_out_is_not_forgotten(
    model: PrunNetModel, processor: PrunNetImageProcessor, photos: Path, tmp_path: Path
) -> None:
    (photos / "a/2.png").write_bytes(b"no picture")

    def stop(_: PrunNetModel, __: tuple[()], inputs: dict[str, torch.Tensor]) -> None:
        if len(inputs["pixel_values"]) == 2:
            raise KeyboardInterrupt

    output, settings = tmp_path / "f.parquet", {"images_per_part": 2, "progress": False}
    hook = model.register_forward_pre_hook(
        stop, with_kwargs=True
    )  # lets the first part through: it has one image left
    with pytest.raises(KeyboardInterrupt):
        encode_folder(model, photos, output, processor, skip_corrupt_images=True, **settings)
    hook.remove()
    with pytest.raises(ValueError, match=r"left out images.*decoded: a/2\.png"):
        encode_folder(model, photos, output, processor, **settings)
    assert encode_folder(model, photos, output, processor, skip_corrupt_images=True, **settings) == ["a/2.png"]


def test_nothing_left(model: PrunNetModel, processor: PrunNetImageProcessor, photos: Path, tmp_path: Path) -> None:
    for name in NAMES:
        (photos / name).write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"none.*7 images can.*decoded: a/2\.png.*2"):
        encode_folder(model, photos, tmp_path / "f", processor, skip_corrupt_images=True, progress=False)


def test_embeddings_that_are_no_numbers(processor: PrunNetImageProcessor, photos: Path, tmp_path: Path, model) -> None:
    broken = model.prune(1.0)
    broken.projector[0].bias.data[2] = float("nan")
    with pytest.raises(ValueError, match=r"embedding.*'a/2\.png'.*finite"):
        encode_folder(broken, photos, tmp_path / "f.parquet", processor, progress=False)


def test_bad_arguments(model: PrunNetModel, processor: PrunNetImageProcessor, photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "f.parquet"
    with pytest.raises(FileNotFoundError, match=r"none'.*folder"):
        encode_folder(model, tmp_path / "none", output, processor)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty'.*images"):
        encode_folder(model, tmp_path / "empty", output, processor)
    for wrong in ({"batch_size": 0}, {"num_workers": -1}, {"images_per_part": 0}):
        with pytest.raises(ValueError, match=rf"{next(iter(wrong))}.*at least"):
            encode_folder(model, photos, output, processor, **wrong)
    untrained = PrunNetModel(model.config.__class__(**{**model.config.to_dict(), "embedding_space": None}))
    with pytest.raises(ValueError, match=r"id.*trained model's space.*None"):
        encode_folder(untrained, photos, output, processor)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["empty", "photos"]


def test_a_name_that_is_no_text(
    model: PrunNetModel, processor: PrunNetImageProcessor, photos: Path, tmp_path: Path
) -> None:
    (photos / os.fsdecode(b"\xff.png")).write_bytes((photos / "top.png").read_bytes())
    with pytest.raises(ValueError, match=r"'\\udcff\.png'.*valid UTF-8"):
        encode_folder(model, photos, tmp_path / "f.parquet", processor)


def test_a_second_process_is_refused_and_the_first_one_goes_on(
    model: PrunNetModel, processor: PrunNetImageProcessor, photos: Path, tmp_path: Path
) -> None:
    refusals = []

    def start_another(*_: Any) -> None:
        # A lock of an open file keeps out other threads and processes alike.
        with pytest.raises(BlockingIOError) as refused:
            encode_folder(model, photos, tmp_path / "photos" / ".." / "f.parquet", processor, progress=False)
        refusals.append(str(refused.value))

    hook = model.register_forward_pre_hook(start_another)
    try:
        encode_folder(model, photos, tmp_path / "f.parquet", processor, images_per_part=3, progress=False)
    finally:
        hook.remove()
    assert len(refusals) == 3
    assert f"f.parquet' is being written by process {os.getpid()} on " in refusals[0]
    assert "choose another output" in refusals[0]
    assert read_embeddings(tmp_path / "f.parquet").paths == IN_ORDER
    assert sorted(file.name for file in tmp_path.iterdir()) == ["f.parquet", "photos"]
