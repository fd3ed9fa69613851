from __future__ import annotations

import pytest

from prunnet_hf.runs.recipes import read_recipe
from prunnet_hf.runs.yaml_text import LARGEST_YAML, load_yaml

LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{new}: &{new} [*{old}, *{old}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


def test_yaml_comes_back():
    assert load_yaml("epochs: 20\ncapacities: [0.2, 0.4]\nresize:\n") == {
        "epochs": 20,
        "capacities": [0.2, 0.4],
        "resize": None,
    }


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (LAUGHS, r"reference \*a: write it out"),
        ("a: &a {b: 1}\nc:\n  <<: *a\n", r"reference \*a: write it out"),
        ("a: " + "[" * 100_000, "more than 32 mappings and lists"),
        ("a: " + "{b: " * 33 + "}" * 33, "more than 32 mappings and lists"),
        ("- " * 10_000, "more than 32 mappings and lists"),
        ("a: " + "9" * 5000, "4300 digits"),
        ("a: 2020-99-99", "month"),
        ("a: !!int ''", r"\w"),
        ("a: !!timestamp x", r"\w"),
        ("a: !!python/object/apply:os.system [ls]", "constructor"),
        ("a: [", "expected"),
        ("a: \x00", "special characters"),
        ("#" * (LARGEST_YAML + 1), "1048577 characters of YAML; allowed are 1048576"),
    ],
)
def test_what_would_explode_or_is_wrong_is_one_line_that_names_the_recipe(tmp_path, text, fault):
    with pytest.raises(ValueError, match=fault):
        load_yaml(text)
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(ValueError, match=rf"recipe\.yaml.*{fault}") as error:
        read_recipe(tmp_path / "recipe.yaml", {"a"})
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000
