"""Files of a run directory: their names, whole or absent, and none left that an earlier run wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunnet_hf.runs.run_directory import (
    subnetwork_directory,
    without_local_paths,
    write_json,
    write_text,
)


def test_write_json_creates_folders_and_leaves_no_partial_file(tmp_path: Path) -> None:
    file = tmp_path / "a" / "b" / "metrics.json"
    write_json(file, {"value": 0.5})
    assert json.loads(file.read_text()) == {"value": 0.5}
    assert [path.name for path in file.parent.iterdir()] == ["metrics.json"]


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "metrics.json"
    write_json(file, {"value": 1})
    with pytest.raises(TypeError):
        write_json(file, {"value": object()})
    assert json.loads(file.read_text()) == {"value": 1}


def test_write_text_is_utf8(tmp_path: Path) -> None:
    write_text(tmp_path / "card.md", "é → 1")
    assert (tmp_path / "card.md").read_bytes().decode("utf-8") == "é → 1"


@pytest.mark.parametrize(
    ("capacity", "name"), [(0.2, "capacity-0.20"), (0.05, "capacity-0.05"), (0.125, "capacity-0.125")]
)
def test_subnetwork_directories_have_two_digits_or_all(capacity: float, name: str) -> None:
    assert subnetwork_directory(Path("run"), capacity) == Path("run/subnetworks") / name


NO_PATHS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.from_regex(r"[a-z0-9.-]*", fullmatch=True),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["a", "b", "seed"]), inner),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/someone/base", "base"),
        ("~/base", "base"),
        ("~someone/base", "base"),
        ("file:///home/someone/base", "base"),
        (r"C:\Users\someone\base", "base"),
        (r"\\server\share\someone\base", "base"),
        ("org/name", "org/name"),
        ("timm:local-dir:/home/someone/base", "timm:local-dir:base"),
        ("transformers:/home/someone/base", "transformers:base"),
        ("transformers:org/name", "transformers:org/name"),
        ("timm:vit_small_patch14_dinov2.lvd142m", "timm:vit_small_patch14_dinov2.lvd142m"),
        ("../client/out/base", "base"),
        ("recipes/omniglot.yaml", "recipes/omniglot.yaml"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ('{"file": "/home/someone/base.bin", "drop_rate": 0.1}', '{"file": "base.bin", "drop_rate": 0.1}'),
        ("{no JSON}", "{no JSON}"),
        ("CPU (x86_64, 1 threads)", "CPU (x86_64, 1 threads)"),
    ],
)
def test_absolute_paths_lose_their_folders(text: str, expected: str) -> None:
    assert without_local_paths(text) == expected
    assert without_local_paths({"recipe": {"names": [text, 1]}}) == {"recipe": {"names": [expected, 1]}}


def test_commands_are_read_word_by_word() -> None:
    command = "train_accelerate.py --config '/home/some one/a.yaml' --model_name_or_path=/srv/base --seed 0"
    assert without_local_paths({"command": command}) == {
        "command": "train_accelerate.py --config a.yaml --model_name_or_path=base --seed 0"
    }


def test_folders_of_data_and_output_are_left_out() -> None:
    recipe = {"data_dir": "photos", "output_dir": "out", "epochs": 2}
    assert without_local_paths({"recipe": recipe}) == {"recipe": {"epochs": 2}}


@given(NO_PATHS)
def test_what_has_no_paths_stays(content: object) -> None:
    assert without_local_paths(content) == content
