"""The pages under docs/: their snippets run and print what they say, their commands and names are real."""

import re

import pytest

from tests import snippets
from tests.snippets import PAGES, ROOT

IDS = [page.name for page in PAGES]
WITH_PYTHON = [page for page in PAGES if "```python" in page.read_text(encoding="utf-8")]


@pytest.fixture
def beside_the_repository(tmp_path, monkeypatch):
    """An empty folder to work in, from which the files that pages name are in reach."""
    for name in ("model_cards", "recipes", "benchmarks", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.name)
def test_snippets_run_and_print_what_they_say(page, beside_the_repository, hub):
    snippets.run_page(page)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_are_understood(page, beside_the_repository):
    snippets.check_commands(page)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_files_and_objects_that_are_named_exist(page):
    assert [name for name in snippets.named_files(page) if not (ROOT / name).exists()] == []
    assert [name for name in snippets.named_objects(page) if not snippets.exists(name)] == []


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_flags_that_are_named_exist(page):
    assert sorted(snippets.flags(page) - snippets.known_flags()) == []


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_pictures_exist(page):
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text())
    assert [name for name in pictures if not (page.parent / name).is_file()] == []
