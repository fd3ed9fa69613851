"""Tables are written into their own places, and into no others."""

from __future__ import annotations

import pytest

from benchmarks.compare.pages import fill

PAGE = "<!-- a -->\nold\n<!-- /a -->\n\n<!-- other: a -->\nold\n<!-- /other: a -->\n"


def test_a_family_fills_its_own_places_only() -> None:
    assert fill(PAGE, {"a": ["new"]}).count("old") == fill(PAGE, {"other: a": ["new"]}, "other").count("old") == 1
    assert fill(PAGE, {"a": ["new"]}).startswith("<!-- a -->\n\nnew\n\n<!-- /a -->\n")
    assert fill(PAGE, {"other: a": ["new"]}, "other").endswith("<!-- other: a -->\n\nnew\n\n<!-- /other: a -->\n")


def test_a_place_for_a_table_that_can_not_be_is_named() -> None:
    with pytest.raises(ValueError, match=r"'grocery side cost', which must be one of short, settings"):
        fill("<!-- grocery side cost -->\n<!-- /grocery side cost -->", {"short": [], "settings": []})
