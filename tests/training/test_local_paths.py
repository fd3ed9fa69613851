"""Folders of this machine are cut out of what is published; everything else is left as it was."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunnet_hf.training.local_paths import without_local_paths

NO_PATHS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.from_regex(r"[a-z0-9.-]*", fullmatch=True),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["a", "b", "seed"]), inner),
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
