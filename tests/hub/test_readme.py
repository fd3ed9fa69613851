"""Merging a generated card with what people wrote: nothing of theirs is lost, nothing of the old card stays."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from prunnet_hf.hub.card import BEGIN, END
from prunnet_hf.hub.readme import merge_readme, split_front_matter

CARD = f"---\nlibrary_name: prunnet\ntags:\n- prunnet\n---\n\n{BEGIN}\n# New card\n{END}\n"
WRITTEN = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<")).map(lambda text: f"{text}\n")


def test_without_a_readme_the_card_is_it() -> None:
    assert merge_readme(CARD, None) == CARD


def test_text_around_the_marks_stays_where_it_was() -> None:
    existing = f"---\ntags: [old]\n---\nBefore.\n\n{BEGIN}\n# Old card\n{END}\n\n## Ours\n\nAfter.\n"
    assert split_front_matter(merge_readme(CARD, existing))[1] == (
        f"Before.\n\n{BEGIN}\n# New card\n{END}\n\n## Ours\n\nAfter.\n"
    )


def test_a_readme_without_marks_is_kept_below_the_card() -> None:
    merged = merge_readme(CARD, "---\nlicense: mit\n---\n\n# Mine\n\nAll of it.\n")
    metadata, text = split_front_matter(merged)
    assert metadata == {"library_name": "prunnet", "tags": ["prunnet"], "license": "mit"}
    assert text == f"\n{BEGIN}\n# New card\n{END}\n\n# Mine\n\nAll of it.\n"


def test_metadata_of_the_card_win_and_others_are_kept() -> None:
    existing = f"---\nlibrary_name: other\ntags: [by-hand, prunnet]\nlicense: mit\nlanguage: de\n---\n{BEGIN}\n{END}\n"
    metadata, _ = split_front_matter(merge_readme(CARD, existing))
    assert metadata == {
        "library_name": "prunnet",
        "tags": ["prunnet", "by-hand"],
        "license": "mit",
        "language": "de",
    }


def test_what_only_an_earlier_card_can_have_said_goes() -> None:
    existing = f"---\nbase_model: org/old\nmodel-index: []\ndatasets: [org/ds]\n---\n{BEGIN}\n{END}\n"
    metadata, _ = split_front_matter(merge_readme(CARD, existing))
    assert metadata == {"library_name": "prunnet", "tags": ["prunnet"], "datasets": ["org/ds"]}


def test_metadata_are_read_as_the_hub_reads_them() -> None:
    merged = merge_readme(CARD, f"---\nlanguage: no\ngated: true\n---\n{BEGIN}\n{END}\n")
    assert yaml.safe_load(merged.split("---")[1])["language"] == "no"
    assert split_front_matter(merged)[0]["gated"] is True


def test_a_readme_of_metadata_alone_becomes_the_card_with_them() -> None:
    merged = merge_readme(CARD, "---\nlicense: mit\n---\n")
    assert merged.endswith(f"license: mit\n---\n\n{BEGIN}\n# New card\n{END}\n")


def test_line_endings_of_windows() -> None:
    merged = merge_readme(CARD, f"---\r\nlicense: mit\r\n---\r\nMine.\r\n{BEGIN}\r\nold\r\n{END}\r\nAlso.\r\n")
    metadata, text = split_front_matter(merged)
    assert metadata["license"] == "mit"
    assert text == f"Mine.\r\n{BEGIN}\n# New card\n{END}\r\nAlso.\r\n"


@given(before=WRITTEN, after=WRITTEN, has_marks=st.booleans())
def test_nothing_written_is_lost_and_merging_again_changes_nothing(before: str, after: str, has_marks: bool) -> None:
    existing = f"# Ours\n{before}{BEGIN}\nold\n{END}{after}" if has_marks else f"# Ours\n{before}{after}"
    merged = merge_readme(CARD, existing)
    _, text = split_front_matter(merged)
    if has_marks:
        assert text == f"# Ours\n{before}{BEGIN}\n# New card\n{END}{after}"
    else:
        assert text.endswith(f"{END}\n\n{existing}")
    assert merge_readme(CARD, merged) == merged


@pytest.mark.parametrize(
    "text",
    [BEGIN, END, f"{END}\n{BEGIN}", f"{BEGIN}\n{END}\n{BEGIN}\n{END}", f"{BEGIN}\n{BEGIN}\n{END}"],
    ids=["no end", "no begin", "wrong order", "twice", "begun twice"],
)
def test_broken_marks_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"README\.md.*by hand"):
        merge_readme(CARD, f"# Mine\n{text}\n")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [("tags: [", r"(?s)README\.md.*YAML"), ("- a\n- b", r"README\.md.*key: value.*\['a', 'b'\]")],
    ids=["no YAML", "a list"],
)
def test_broken_metadata_are_refused(metadata: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        merge_readme(CARD, f"---\n{metadata}\n---\n")


def test_metadata_stay_readable() -> None:
    merged = merge_readme(CARD, "---\nauthor: Jürgen\nnote: a: b\n---\n".replace("a: b", "'a: b'"))
    assert "author: Jürgen\n" in merged
    assert yaml.safe_load(merged.split("---\n")[1])["note"] == "a: b"
