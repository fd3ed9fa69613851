"""The `prunnet` command, from a folder of photos to a picture of what was found; errors in one line."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prunnet_hf import Embeddings, Gallery
from prunnet_hf.cli.main import main
from prunnet_hf.cli.networks import load_network
from prunnet_hf.storage.lock import locked
from tests.foreign_models import save_timm
from tests.processes import die_at_rename
from tests.tiny_models import tiny
from tests.training.tiny_run import make_photos


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model with an embedding space. No test may change it."""
    folder = tmp_path_factory.mktemp("models") / "model"
    network = tiny()
    network.renew_embedding_space()
    network.save_pretrained(folder)
    network.image_processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "photos"
    generator = np.random.default_rng(0)
    for name in ("a/1.png", "a/2.png", "b/3.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (32, 32, 3)).astype(np.uint8)).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def gallery(model: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("galleries") / "gallery"
    assert main(["index", str(model), str(photos), "--output", str(folder)]) == 0
    return folder


def test_help_fits_a_screen_and_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 25
    assert max(map(len, lines)) <= 80
    assert not [line for line in lines[1:] if line.endswith("...")]  # whole sentences
    assert main([]) == 0
    assert capsys.readouterr().out.splitlines() == lines
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("prunnet 0.")
    verbs = [
        "demo",
        "train",
        "evaluate",
        "embed",
        "push",
        "prune",
        "export",
        "index",
        "merge",
        "quantize",
        "align",
        "search",
        "show",
        "page",
        "info",
        "export-gallery",
    ]
    assert [line.split()[0] for line in lines if line.startswith("  ") and line.split()[0] in verbs] == verbs


def test_a_query_finds_itself_at_every_capacity_and_a_picture_is_drawn(
    model: Path, photos: Path, gallery: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    query = str(photos / "b/3.png")
    words = ["search", str(gallery), query, "--model", str(model), "--k", "2", "--output", str(tmp_path / "found.png")]
    assert main([*words, "--capacity", "0.2", "--capacity", "1.0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{query}, capacity 0.20:"
    assert lines[3] == f"{query}, capacity 1.00:"
    assert lines[4] == f"  1.000  {query}"
    assert lines[6] == f"picture: {tmp_path / 'found.png'}"
    with Image.open(tmp_path / "found.png") as picture:
        assert picture.format == "PNG"


def test_what_show_draws_is_what_search_draws(
    model: Path, photos: Path, gallery: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(gallery), str(photos / "b/3.png"), str(photos / "a/1.png"), "--model", str(model)]
    words += ["--capacity", "1.0", "--capacity", "0.2", "--k", "2", "--output"]
    assert main(["search", *words, str(tmp_path / "search.png")]) == 0
    capsys.readouterr()
    assert main(["show", *words, str(tmp_path / "show.png")]) == 0
    assert capsys.readouterr().out == f"picture: {tmp_path / 'show.png'}\n"
    assert (tmp_path / "show.png").read_bytes() == (tmp_path / "search.png").read_bytes()


def test_show_draws_at_most_what_the_gallery_holds(
    model: Path, photos: Path, gallery: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["show", str(gallery), str(photos / "b/3.png"), "--model", str(model), "--output", str(tmp_path / "s.png")]
    assert main(words) == 0  # 3 images, fewer than the usual 5
    assert main([*words, "--k", "4"]) == 1
    assert "k must be from 1 to the 3 images of the gallery; got 4" in capsys.readouterr().err


def test_shards_are_indexed_in_parts_and_merged(
    model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for command in (
        f"embed --model {model} --data_dir {photos} --num_shards 3 --output shards",
        "index --from shards --factory IVF2,Flat --train_only --output trained",
        f"index --from shards --trained trained --shard 1/2 --data_dir {photos} --output part-1",
        f"index --from shards --trained trained --shard 2/2 --data_dir {photos} --output part-2",
        "merge part-2 part-1 --output gallery",
    ):
        assert main(command.split()) == 0, command
    assert "gallery: 3 images, IVF2,Flat, space " in capsys.readouterr().out
    query = str(photos / "b/3.png")
    assert main(["search", "gallery", query, "--model", str(model), "--json"]) == 0
    (best, *_) = json.loads(capsys.readouterr().out)["found"]
    assert (best["path"], best["label"], round(best["score"], 3)) == (query, "b", 1.0)
    assert main(["index", "--from", "shards", "--output", "without"]) == 0
    assert main(["show", "without", query, "--model", str(model), "--output", "found.png"]) == 1
    assert capsys.readouterr().err.endswith(
        "index its shards again with --data_dir DIR, or set gallery.open_picture.\n"
    )
    assert main(["index", "--from", "shards", "--train_only", "--trained", "trained", "--output", "other"]) == 1
    assert "--train_only makes what --trained and --shard fill later" in capsys.readouterr().err
    (tmp_path / "part-3").mkdir()
    with locked(tmp_path / "part-3" / ".indexing.lock", "a gallery"):
        assert main(["merge", "part-1", "part-2", "--output", "part-3"]) == 1
    assert "part-3' is being written by process" in capsys.readouterr().err


def test_a_gallery_is_quantised_and_searched_by_subnetworks(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = load_network(str(model))
    rows = np.random.default_rng(0).standard_normal((300, network.config.embedding_dim)).astype(np.float32)
    query = str(photos / "a/1.png")
    rows[7] = network.encode([query])[0]
    paths = [f"{number}.png" for number in range(300)]
    embeddings = Embeddings(rows, network.config.embedding_space, 1.0, paths)
    Gallery.from_embeddings(embeddings).save(tmp_path / "gallery")
    words = ["quantize", str(tmp_path / "gallery"), "--output", str(tmp_path / "small"), "--bytes"]
    assert main([*words, "4"]) == 0
    out = capsys.readouterr().out
    assert f"small: 300 images, OPQ4,PQ4x8np, space {network.config.embedding_space}" in out
    assert main(["search", str(tmp_path / "small"), query, "--model", str(model), "--k", "1", "--json"]) == 0
    (best,) = json.loads(capsys.readouterr().out)["found"]
    assert best["path"] == "7.png"
    assert main([*words, "4"]) == 1
    assert "small' holds a gallery. Choose another name" in capsys.readouterr().err
    words[3] = str(tmp_path / "other")
    assert main([*words, "5"]) == 1
    assert "bytes must divide the" in capsys.readouterr().err
    assert main([*words, "4", "--steps", "3", "--capacity", "0.2"]) == 1
    assert (
        "--learn must say which network teaches, a run or a model, for --steps, --capacity" in capsys.readouterr().err
    )
    assert not (tmp_path / "other").exists()
    learn = ["--learn", str(model), "--data_dir", str(make_photos(tmp_path / "data")), "--capacity", "0.2"]
    learn += ["--steps", "2", "--batch_size", "4", "--query_side", "projector"]
    assert main([*words, "4", *learn]) == 0
    out = capsys.readouterr().out
    assert "Learned in 2 steps of " in out
    phone = str(tmp_path / "other/subnetworks/capacity-0.20")
    assert f"{phone}: queries for this index alone" in out
    assert main(["search", str(tmp_path / "other"), query, "--model", phone]) == 0
    capsys.readouterr()
    assert main(["search", str(tmp_path / "small"), query, "--model", phone]) == 1
    assert "can't be compared" in capsys.readouterr().err


def test_quantising_refuses_what_would_be_passed_over(
    gallery: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["quantize", str(gallery), "--bytes", "4", "--output", str(tmp_path / "small")]
    assert main([*words, "--learn", "model", "--query_learning_rate", "0.1"]) == 1
    assert "--query_learning_rate 0.1 is of query networks, none of which learns: give" in capsys.readouterr().err
    assert main([*words, "--seed", "-1"]) == 1
    assert "--seed must be at least 0; got -1" in capsys.readouterr().err
    (tmp_path / "small/.learning").mkdir(parents=True)
    assert main(words) == 1
    assert "small' holds learning that isn't done. Give its command again, with --learn" in capsys.readouterr().err


def test_json_is_a_line_for_each_query_and_capacity(
    model: Path, photos: Path, gallery: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    queries = [str(photos / "a/1.png"), str(photos / "a/2.png")]
    assert main(["search", str(gallery), *queries, "--model", str(model), "--k", "1", "--json"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(each["query"], each["found"][0]["path"], each["found"][0]["label"]) for each in found] == [
        (query, query, "a") for query in queries
    ]


def test_an_index_grows(model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["index", str(model), str(photos / "a"), "--output", str(tmp_path / "g"), "--factory", "Flat"]
    assert main(words) == 0
    assert "Gallery(2 images, factory='Flat'" in capsys.readouterr().out
    assert main(words) == 0
    assert "0 images are new, 0 changed, 2 were there." in capsys.readouterr().out


def test_images_whose_files_are_gone_are_named_and_removed_if_asked(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(photos, tmp_path / "photos")
    words = ["index", str(model), str(tmp_path / "photos"), "--output", str(tmp_path / "g")]
    assert main(words) == 0
    gone = tmp_path / "photos" / "a" / "2.png"
    gone.unlink()
    capsys.readouterr()
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == f"Missing files: 1 ({gone}). Their images stay; --remove_missing removes them."
    assert "Gallery(3 images" in lines[2]
    assert main([*words, "--remove_missing"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == f"Missing files: 1 ({gone}). Their images were removed."
    assert "Gallery(2 images" in lines[2]


def test_another_index_of_a_gallery_that_is_there_is_refused(
    model: Path, photos: Path, gallery: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["index", str(model), str(photos), "--output", str(gallery), "--factory", "HNSW32"]) == 1
    assert "factory='HNSW32' differs from 'Flat'" in capsys.readouterr().err


def test_two_commands_do_not_index_into_one_gallery(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["index", str(model), str(photos), "--output", str(tmp_path / "g")]
    (tmp_path / "g").mkdir()
    with locked(tmp_path / "g" / ".indexing.lock", "a gallery"):
        assert main(words) == 1
    assert "is being written by process" in capsys.readouterr().err
    assert main(words) == 0
    assert sorted(file.name for file in (tmp_path / "g").iterdir()) == ["images.parquet", "index.faiss", "index.json"]


def test_what_fails_leaves_no_empty_gallery(model: Path, photos: Path, tmp_path: Path) -> None:
    assert main(["index", str(model), str(photos), "--output", str(tmp_path / "g"), "--factory", "Flatt"]) == 1
    assert main(["index", str(model), str(tmp_path / "nowhere"), "--output", str(tmp_path / "g")]) == 1
    assert not (tmp_path / "g").exists()


def test_info_of_a_gallery_a_model_and_a_run(
    model: Path, gallery: Path, finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = []
    for place in (gallery, model, finished_run):
        assert main(["info", str(place), "--json"]) == 0
        facts.append(json.loads(capsys.readouterr().out))
    assert [each["kind"] for each in facts] == ["gallery", "model", "run"]
    assert (facts[0]["num_images"], facts[0]["factory"]) == (3, "Flat")
    assert (facts[1]["backbone"], facts[1]["granularity"], facts[1]["capacities"]) == (
        "resnet18",
        "weight",
        [0.2, 0.6],
    )
    assert facts[1]["bytes"] > 0
    assert main(["info", str(gallery)]) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["kind", "gallery"]


def test_prune_saves_a_subnetwork_and_overwrites_nothing(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["prune", str(model), "--capacity", "0.2", "--output", str(tmp_path / "phone")]
    die_at_rename(1, lambda: main(words))
    assert [*(tmp_path / "phone").glob(".saving-*")] != []
    assert main(words) == 0  # what was killed stands in nobody's way
    assert [*(tmp_path / "phone").glob(".*")] == []
    assert (tmp_path / "phone" / "model.packed.safetensors").is_file()
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'phone'}: capacity 0.20, ")
    assert main(words) == 1
    assert capsys.readouterr().err == (
        f"prunnet prune: error: output={str(tmp_path / 'phone')!r} exists and isn't an empty folder. Choose another "
        "name.\n"
    )


@pytest.mark.parametrize(
    ("words", "status", "error"),
    [
        (["serch"], 2, "prunnet serch: error: No such command 'serch'. Did you mean 'search'?"),
        (["index"], 2, "prunnet index: error: Missing option '--output'."),
        (
            ["index", "--output", "g"],
            1,
            "prunnet index: error: a model and a folder of images must be given",
        ),
        (["index", "m", "--from", "s", "--output", "g"], 1, "prunnet index: error: --from s has embeddings already"),
        (
            ["index", "--from", "s", "--output", "g", "--capacity", "0.2", "--batch_size", "8"],
            1,
            "prunnet index: error: --from s has embeddings already: leave out --capacity, --batch_size.",
        ),
        (["index", "m", "f", "--output", "g", "--shard", "1/2"], 1, "prunnet index: error: --from must say which"),
        (["index", "--from", "s", "--output", "g", "--shard", "3/2"], 1, "prunnet index: error: shard must be i/n"),
        (["index", "--from", "s", "--output", "g", "--shard", "1/2"], 1, "prunnet index: error: shard='1/2' needs"),
        (["index", "--from", "nowhere", "--output", "g"], 1, "prunnet index: error: 'nowhere' has no shards"),
        (["index", "--from", "s", "--output", "{gallery}"], 1, "prunnet index: error: output="),
        (["merge", "--output", "g"], 2, "prunnet merge: error: Missing argument 'parts"),
        (["merge", "nowhere", "--output", "g"], 1, "prunnet merge: error: nowhere is no gallery"),
        (["merge", "{gallery}", "--output", "{gallery}"], 1, "prunnet merge: error: output="),
        (["search", "g", "q.png", "--model", "m", "--kapacity", "1"], 2, "prunnet search: error: No such option"),
        (["search", "nowhere", "q.png", "--model", "m"], 1, "prunnet search: error: nowhere is no gallery"),
        (
            ["search", "{gallery}", "q.png", "--model", "m", "--output", "x.jpg"],
            1,
            "prunnet search: error: output=",
        ),
        (
            ["search", "{gallery}", "q.png", "--model", "m", "--output", "no/x.png"],
            1,
            "prunnet search: error: the ",
        ),
        (
            ["search", "{gallery}", "q.png", "--model", "{model}"],
            1,
            "prunnet search: error: The image q.png doesn't exist",
        ),
        (["search", "{gallery}", "{image}", "--model", "{model}", "--k", "4"], 1, "prunnet search: error: k must be"),
        (["show", "{gallery}", "q.png", "--model", "m"], 2, "prunnet show: error: Missing option '--output'."),
        (["show", "{gallery}", "{image}", "--model", "m", "--output", "x.jpg"], 1, "prunnet show: error: output="),
        (
            ["show", "{gallery}", "{image}", "--model", "{model}", "--output", "x.png", "--k", "0"],
            1,
            "prunnet show: error: k must be",
        ),
        (["show", "nowhere", "q.png", "--model", "m", "--output", "x.png"], 1, "prunnet show: error: nowhere is no"),
        (["index", "{model}", "nowhere", "--output", "g"], 1, "prunnet index: error: folder='nowhere'"),
        (["index", "{model}", "{photos}", "--output", "{photos}"], 1, "prunnet index: error: "),
        (
            ["index", "{model}", "{photos}", "--output", "g", "--batch_size", "0"],
            1,
            "prunnet index: error: batch",
        ),
        (["index", "{model}", "{photos}", "--output", "g", "--capacity", "2"], 1, "prunnet index: error: capacity"),
        (["info", "nowhere"], 1, "prunnet info: error: "),
        (["info", "{gallery}/index.json"], 1, "prunnet info: error: place="),
        (["info", ""], 1, "prunnet info: error: place=''"),
        (["train", "--epoch", "3"], 1, "prunnet train: error: Unknown arguments: --epoch 3. Did you mean --epochs?"),
        (["demo", "--epoch", "3"], 1, "prunnet demo: error: Unknown arguments: --epoch 3. Did you mean --epochs?"),
        (["push", "nowhere", "--repo_id", "org/name", "--dry_run"], 1, "prunnet push: error: "),
    ],
)
def test_errors_are_one_line(
    words: list[str],
    status: int,
    error: str,
    model: Path,
    photos: Path,
    gallery: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"model": model, "photos": photos, "gallery": gallery, "image": photos / "b/3.png"}
    words = [word.format_map(places) for word in words]
    capsys.readouterr()
    assert main(words) == status
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(error)


@pytest.mark.parametrize("verb", ["train", "evaluate", "demo"])
def test_help_and_flags_that_cannot_be_read_name_the_verb(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([verb, "--help"])
    assert capsys.readouterr().out.startswith(f"usage: prunnet {verb} [-h]")
    with pytest.raises(SystemExit, match="2"):
        main([verb, "--epochs", "x"])
    assert capsys.readouterr().err == f"prunnet {verb}: error: argument --epochs: invalid int value: 'x'\n"


def test_flags_are_those_of_the_scripts(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["push", "--help"])
    shown = capsys.readouterr().out
    assert "usage: prunnet push" in shown
    assert "prunnet push out/photos --repo_id org/photos" in shown


def test_a_new_model_searches_an_old_gallery_by_a_map(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, theirs = make_photos(tmp_path / "photos"), save_timm(tmp_path / "model")
    assert main(["index", theirs, str(photos), "--output", str(tmp_path / "old")]) == 0
    table = str(tmp_path / "new.parquet")
    assert main(["embed", "--model", str(model), "--data_dir", str(photos), "--output", table]) == 0
    words = ["align", str(tmp_path / "old"), table, "--data_dir", str(photos), "--output"]
    assert main([*words, str(tmp_path / "map.bin")]) == 1
    assert "suffix .safetensors" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "map.safetensors")]) == 0
    said = capsys.readouterr().out
    loss = json.loads((tmp_path / "map.json").read_text())
    assert f"the loss is that on {loss['held_out']} others" in said
    assert loss["images"] == loss["fitted_to"] + loss["held_out"] == len(list(photos.rglob("*.png")))
    assert main([*words, str(tmp_path / "map.safetensors")]) == 1
    assert "map.safetensors' exists. Remove it" in capsys.readouterr().err
    (tmp_path / "map.safetensors").unlink()  # as if the command had been killed right before it wrote the map
    assert main([*words, str(tmp_path / "map.safetensors")]) == 0
    capsys.readouterr()
    (tmp_path / "mine.json").write_text(json.dumps({**loss, "held_out": 0}))  # of another map, which was moved
    assert main([*words, str(tmp_path / "mine.safetensors")]) == 1
    assert "mine.json' exists. Remove it" in capsys.readouterr().err
    query = str(next(photos.rglob("*.png")))
    asked = ["search", str(tmp_path / "old"), query, "--model", str(model), "--capacity", "0.2", "--json"]
    assert main(asked) == 1
    assert "can't be compared" in capsys.readouterr().err
    assert main([*asked, "--aligned", str(tmp_path / "map.safetensors")]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["capacity"], len(answer["found"])) == (0.2, 5)


def test_a_subnetwork_is_exported_for_devices(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "phone"
    words = ["export", str(model), "--output", str(output)]
    assert main(words) == 1
    assert f"--capacity must be given for {model}, which can be pruned" in capsys.readouterr().err
    assert main([*words, "--capacity", "2"]) == 1
    assert "capacity" in capsys.readouterr().err
    assert main(["export", "timm:resnet18", "--output", str(output)]) == 1
    assert "model must be one of this package; got 'timm:resnet18'" in capsys.readouterr().err
    words += ["--capacity", "0.2"]
    assert main([*words, "--precision", "fp8"]) == 1
    assert "precisions must be one or more of 'fp32', 'fp16', 'int8'; got 'fp8'" in capsys.readouterr().err
    assert main([*words, "--precision", "int8"]) == 1
    assert "precision 'int8' needs images" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main([*words, "--precision", "int8", "--data_dir", str(tmp_path / "empty")]) == 1
    assert "holds no images" in capsys.readouterr().err
    assert not output.exists()
    assert main([*words, "--processing", "inside"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{output / 'onnx' / 'model.onnx'}: capacity 0.20, 0.")
    assert lines[1].startswith(f"{output / 'onnx' / 'model_with_processing.onnx'}: capacity 0.20, 0.")
    assert lines[2].startswith("Single weights that are left out stand in these files as zeros")
    assert main(words) == 1
    assert f"output='{output}' exists and isn't an empty folder. Choose another name." in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "executorch", None)
    other = ["export", str(model), "--capacity", "0.2", "--output", str(tmp_path / "other")]
    assert main([*other, "--format", "executorch"]) == 1
    error = capsys.readouterr().err
    assert "ExecuTorch needs executorch" in error
    assert 'pip install "prunnet_hf[executorch]"' in error
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert main(other) == 1
    assert 'ONNX needs onnxscript, not installed here: pip install "prunnet_hf[onnx]"' in capsys.readouterr().err
