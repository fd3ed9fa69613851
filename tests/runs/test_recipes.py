"""Recipes: found by path or by name, in a checkout and in the wheel."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

from prunnet_hf.runs import recipes
from prunnet_hf.runs.arguments import parse_arguments
from prunnet_hf.runs.recipes import find_recipe, recipe_flags, recipe_names

ROOT = Path(__file__).parents[2]


def test_recipe_flags() -> None:
    assert recipe_flags({"epochs": 20, "capacities": [0.2, 0.4], "resize": None, "report_to": []}) == [
        "--epochs=20",
        "--capacities",
        "0.2",
        "0.4",
    ]


def test_a_recipe_of_the_package_is_found_by_name_in_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "omniglot").mkdir()  # a folder of images may have the same name
    assert parse_arguments(["--config", "omniglot"]).train.output_dir == "out/omniglot"
    assert {"demo", "glyphs", "gldv2_resnet18"} <= set(recipe_names())
    assert "two_nodes" not in recipe_names()  # accelerate's settings


def test_a_file_wins_over_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("omniglot").write_text("output_dir: mine\n", encoding="utf-8")
    assert parse_arguments(["--config", "omniglot"]).train.output_dir == "mine"


@pytest.mark.parametrize("name", ["recipes/omniglt.yaml", "omniglott"])
def test_a_recipe_that_is_missing_is_answered_with_the_list(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=rf"--config .*\(demo, .*grocery.*'{name}'.*mean omniglot\?"):
        find_recipe(name)


def test_the_wheel_holds_the_recipes_where_the_installed_package_looks_for_them(tmp_path: Path) -> None:
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path / "installed")
    place = tmp_path / "installed" / recipes._PLACES[0].relative_to(ROOT)
    shipped = {path.relative_to(place): path.read_bytes() for path in place.rglob("*.yaml")}
    written = ROOT / "recipes"
    assert shipped == {path.relative_to(written): path.read_bytes() for path in written.rglob("*.yaml")}


def test_an_editable_installation_uses_the_recipes_of_the_checkout(tmp_path: Path) -> None:
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["editable"])
    with zipfile.ZipFile(wheel) as file:
        assert not [name for name in file.namelist() if "recipes" in name]
        assert file.read("_prunnet_hf.pth").decode() == str(ROOT)
