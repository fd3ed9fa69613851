"""Text from data is never markup."""

from __future__ import annotations

import pytest

from prunnet_hf.retrieval.markdown import as_block, as_code, as_text, hub_link, one_line

HOSTILE = ["a`b", "``` x", "a|b", "a\nb", "a\r\n# b", "<!-- x -->", "[a](b)", "![a](b)", "a\u2028# b", "*a*", "<b>"]


def test_usual_names_stay_as_they_are() -> None:
    for name in ("recall@1", "mAP@100 (%)", "leave_one_out", "in-shop 2.0", "Intel(R) Xeon(R) CPU @ 2.80GHz", "pères"):
        assert as_text(name) == name
        assert as_code(name) == f"`{name}`"


@pytest.mark.parametrize("text", HOSTILE)
def test_they_stay_in_their_line_and_cell(text: str) -> None:
    for found in (as_text(text), as_code(text), one_line(text)):
        assert len(found.splitlines()) == 1
    for found in (as_text(text), as_code(text)):
        assert "<!--" not in found
        assert "|" not in found.replace("\\|", "")


def test_markup_is_escaped() -> None:
    assert as_text("[a](b) *c* _d_ <e> `f`") == r"\[a\](b) \*c\* \_d\_ \<e\> \`f\`"
    assert as_text("# a") == r"\# a"
    assert as_text("1. a") == r"1\. a"


def test_code_that_holds_fences() -> None:
    assert as_code("a``b") == "``` a``b ```"
    assert as_code("") == "`  `"
    assert as_block("a\n```\n# b\n", "text") == "````text\na\n```\n# b\n````"
    assert as_block("<!-- prunnet_hf: card ends -->", "text") == "```text\n<! -- prunnet_hf: card ends -->\n```"


def test_links_to_the_hub_only() -> None:
    assert hub_link("org/na.me-1") == "[org/na.me-1](https://huggingface.co/org/na.me-1)"
    assert hub_link("x](https://evil.example) [y") == "`x](https://evil.example) [y`"
    assert hub_link("org/name\n# heading") == "`org/name # heading`"
