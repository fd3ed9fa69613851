"""README.md and CONTRIBUTING.md: snippets print what they say, commands and names are real, and README stays short."""

import re

import pytest

from tests import snippets
from tests.snippets import ROOT

README = ROOT / "README.md"


@pytest.fixture
def beside_the_repository(tmp_path, monkeypatch):
    (tmp_path / "model_cards").symlink_to(ROOT / "model_cards")
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_snippets_run_and_print_what_they_say(beside_the_repository):
    names = snippets.run_page(README)
    assert names["phone"].config.capacity == 0.2
    assert (beside_the_repository / "phone" / "model.safetensors").is_file()


def test_the_commands_are_understood(beside_the_repository):
    snippets.check_commands(README)


def test_every_file_and_object_that_is_named_exists():
    links = re.findall(r"\]\(((?!http)[^)#]+)\)", README.read_text(encoding="utf-8"))
    assert links
    named = {*links, *snippets.named_files(README)}
    assert [name for name in named if not (ROOT / name).exists()] == []
    assert [name for name in snippets.named_objects(README) if not snippets.exists(name)] == []


def test_contributing_names_what_exists(beside_the_repository):
    guide = ROOT / "CONTRIBUTING.md"
    snippets.check_commands(guide)
    named = {name for name in snippets.named_files(guide) if "NAME" not in name}
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_it_is_read_in_two_screens():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150
