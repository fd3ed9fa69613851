from __future__ import annotations

import json

import pytest

from prunnet_hf.storage.json_text import DEEPEST_JSON, LARGEST_JSON, load_json


def test_json_comes_back():
    content = {"a": [1, 0.5, None, True, "é"], "b": {"c": {}}}
    assert load_json(json.dumps(content)) == load_json(json.dumps(content).encode()) == content


@pytest.mark.parametrize("begin", ["[", '{"a":'])
@pytest.mark.parametrize("depth", [DEEPEST_JSON + 1, 100_000])
def test_deep_json_is_refused(begin, depth):
    with pytest.raises(ValueError, match="more than 64 objects and lists"):
        load_json(begin * depth + "1" + {"[": "]"}.get(begin, "}") * depth)
    load_json("[" * DEEPEST_JSON + "]" * DEEPEST_JSON)


@pytest.mark.parametrize("text", ["", "{", b"\xff", '"', "[1,]", "9" * 5000])
def test_what_is_no_json_is_a_value_error(text):
    with pytest.raises(ValueError, match=r"\w"):
        load_json(text)


def test_json_larger_than_any_is_refused():
    with pytest.raises(ValueError, match=r"67108865 characters.*67108864"):
        load_json(b" " * (LARGEST_JSON + 1))


@pytest.mark.parametrize("name", ["NaN", "Infinity", "-Infinity"])
def test_what_is_no_number_is_refused_where_numbers_count(name):
    with pytest.raises(ValueError, match=f"{name} is no number"):
        load_json(f"[{name}]", finite=True)
    assert load_json(f"[{name}]") != [0]
