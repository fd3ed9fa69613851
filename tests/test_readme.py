"""The snippets of the README run as they stand, in order, as a reader would type them; the Hub is one on loopback."""

import re
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def test_the_snippets_run_in_order(hub, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    assert len(snippets) >= 3
    namespace: dict[str, object] = {}
    for snippet in snippets:
        exec(compile(snippet, "README.md", "exec"), namespace)
    printed = capsys.readouterr().out.splitlines()
    assert printed == ["torch.Size([2, 256])", "{'recall@1': 0.5, 'recall@2': 1.0}", "True"]
    assert namespace["ranks"].shape == (2, 2)
    assert set(namespace["found"]) <= {"0.png", "1.png"}
    assert (tmp_path / "phone" / "model.packed.safetensors").is_file()
    assert namespace["tablet"].config.capacity == 0.4
    assert len(hub.asked("GET", "/download/")) == len({asked.path for asked in hub.asked("GET", "/download/")})


def test_every_file_that_the_readme_names_exists():
    named = re.findall(r"\b(?:recipes|model_cards|benchmarks)/[\w./-]+\.\w+", README.read_text(encoding="utf-8"))
    assert named
    assert [name for name in named if not (README.parent / name).exists()] == []


def test_no_figure_was_left_to_be_filled_in():
    assert re.findall(r"\b(?:[A-Z]+_SECONDS|TBD|TODO|XXX)\b|\b[A-Z]{3,} s\b", README.read_text(encoding="utf-8")) == []
