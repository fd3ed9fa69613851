"""The command that embeds a folder."""

from __future__ import annotations

import re
import runpy
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prunnet_hf import PrunNetImageProcessor, PrunNetModel
from prunnet_hf.retrieval.embedding_shards import find_shards
from prunnet_hf.retrieval.embedding_table import read_embeddings
from prunnet_hf.retrieval.encoding import main
from prunnet_hf.retrieval.folder_encoding import encode_folder

NAME = "prunnet_hf.retrieval.encoding"


def test_the_command_embeds_a_folder_without_a_warning(
    model: PrunNetModel,
    processor: PrunNetImageProcessor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for saved in (model, processor):
        saved.save_pretrained(tmp_path / "models/dense")
    (tmp_path / "photos/shelf").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(3):
        image = Image.fromarray(rng.integers(0, 256, (40, 36, 3), dtype=np.uint8))
        image.save(tmp_path / f"photos/shelf/{number}.png")
    monkeypatch.chdir(tmp_path)
    places = ["--data_dir", "photos", "--output", "queries.parquet"]
    monkeypatch.setattr(
        sys, "argv", ["encoding", "--model", "models", "--subfolder", "dense", "--capacity", "0.5", *places]
    )
    # As `python -m` finds them: a package that imports its command makes it warn.
    for module in (NAME, "prunnet_hf.retrieval"):
        monkeypatch.delitem(sys.modules, module)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        with pytest.raises(SystemExit, match=r"^0$"):
            runpy.run_module(NAME, run_name="__main__")
    assert f"space {model.config.embedding_space}, capacity 0.50" in capsys.readouterr().out
    found = read_embeddings("queries.parquet")
    assert (found.capacity, found.embedding_space) == (0.5, model.config.embedding_space)
    assert found.labels == ["shelf"] * 3
    encode_folder(model.prune(0.5), "photos", "expected.parquet", processor, progress=False)
    np.testing.assert_allclose(found.embeddings, read_embeddings("expected.parquet").embeddings, rtol=1e-4, atol=1e-5)


def test_the_command_takes_the_directory_of_a_run(
    finished_run: Path, client_photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = ["--data_dir", str(client_photos / "test"), "--output", str(tmp_path / "out.parquet")]
    assert main(["--model", str(finished_run), *places]) == 0
    space = PrunNetModel.from_pretrained(finished_run / "model").config.embedding_space
    assert f"space {space}, capacity 1.00" in capsys.readouterr().out


def test_the_command_says_in_a_line_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = ["--data_dir", str(tmp_path / "nowhere"), "--output", str(tmp_path / "out.parquet")]
    assert main(["--model", "org/never-asked-for", *places]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"{NAME}: error: data_dir=")
    assert "nowhere" in error
    assert error.count("\n") == 1


def test_the_command_makes_a_shard_of_a_data_set(
    finished_run: Path, client_photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", str(finished_run), "--dataset", "image_folder", "--data_dir", str(client_photos)]
    words += ["--output", str(tmp_path / "shards"), "--shard"]
    for shard in ("2/2", "1/2", "1/2"):
        assert main([*words, shard]) == 0
        assert f"shard {shard} is whole" in capsys.readouterr().out
    shards = find_shards(tmp_path / "shards")
    photos = sorted(client_photos.glob("test/*/*.png"))
    assert [path for n in range(2) for path in shards.read(n).paths] == [
        photo.relative_to(client_photos).as_posix() for photo in photos
    ]
    assert main([*words[:-1], "--split", "query", "--num_shards", "2"]) == 1
    assert "begun with another split ('gallery' then, 'query' now)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--output out", "--data_dir must be a folder of images, or --dataset the name of a data set; got neither"),
        ("--data_dir . --output out --split query", "--split and --bounding_boxes belong to --dataset"),
        (
            "--data_dir . --output out --shard 3/2",
            "shard must be i/n with i from 1 to n.*got '3/2'",
        ),
        ("--data_dir . --output out --shard 1/2 --num_shards 2", "--shard 1/2 is for one process.*leave it out"),
        ("--data_dir . --output out --num_shards 0", "num_shards must be at least 1, got 0"),
        ("--data_dir . --output o.parquet --num_shards 2", r"o\.parquet' must be a folder for the shards"),
    ],
)
def test_shards_that_cannot_be_are_refused_before_a_model_is_loaded(
    words: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--model", "org/never-asked-for", *words.split()]) == 1
    assert re.search(said, capsys.readouterr().err)


def test_one_process_of_several_refuses_to_make_the_shard_of_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["--model", "org/never-asked-for", "--data_dir", ".", "--output", "out", "--shard", "1/2"]) == 1
    assert "give --num_shards N" in capsys.readouterr().err
