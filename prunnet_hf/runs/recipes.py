"""Recipes: YAML files with the arguments of a run. The package has some, by name."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..commands import did_you_mean
from .yaml_text import load_yaml

_PACKAGE = Path(__file__).parents[1]
_PLACES = (_PACKAGE / "recipes", _PACKAGE.parent / "recipes")
"""Where the recipes of the package are: in an installed one inside it, in a checkout of the repository beside it."""
CONFIG_HELP = "A YAML file with the same arguments, or the name of a recipe of the package, such as demo"


def recipe_names() -> list[str]:
    """The names of the recipes that come with the package."""
    return sorted(_shipped())


def find_recipe(name: str | os.PathLike[str]) -> Path:
    """The file of a recipe.

    Args:
        name: A file, which wins; or the name of a recipe of the package, such as `"demo"`.

    Raises:
        FileNotFoundError: If it is neither.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = _shipped()
    if os.fspath(name) in shipped:
        return shipped[os.fspath(name)]
    raise FileNotFoundError(
        f"--config must name a YAML file or a recipe of the package ({', '.join(sorted(shipped))}); "
        f"{os.fspath(name)!r} is neither.{did_you_mean([path.stem], shipped)}"
    )


def _shipped() -> dict[str, Path]:
    folder = next((place for place in _PLACES if place.is_dir()), _PLACES[0])
    return {path.stem: path for path in folder.glob("*.yaml")}


def recipe_flags(recipe: Mapping[str, Any]) -> list[str]:
    """Turn a recipe into flags, so that its values are converted and checked like those of flags.

    Args:
        recipe: Arguments by name. None and an empty list give no flag.

    Example:
        >>> recipe_flags({"epochs": 20, "capacities": [0.2, 0.4], "resize": None})
        ['--epochs=20', '--capacities', '0.2', '0.4']
    """
    flags = []
    for name, value in recipe.items():
        if isinstance(value, list):
            flags += [f"--{name}", *map(str, value)] if value else []
        elif value is not None:
            flags.append(f"--{name}={json.dumps(value) if isinstance(value, (bool, dict)) else value}")
    return flags


def read_recipe(path: str | os.PathLike[str], allowed: set[str]) -> dict[str, Any]:
    """Read a YAML recipe whose keys are among `allowed`.

    Args:
        path: A file, or the name of a recipe of the package, such as `"demo"`.
        allowed: The keys that it may have.

    Raises:
        FileNotFoundError: If it is neither.
        ValueError: If it isn't a mapping, or has other keys.
    """
    path = find_recipe(path)
    try:
        recipe = load_yaml(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"The recipe {path} is no YAML: {error}.") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"The recipe {path} must be a mapping of arguments, as `epochs: 20`; got {recipe!r:.80}.")
    unknown = sorted(set(recipe) - allowed, key=str)
    if unknown:
        raise ValueError(
            f"The recipe {path} has unknown keys: {', '.join(map(str, unknown))}."
            f"{did_you_mean(map(str, unknown), allowed)} Allowed: {', '.join(sorted(allowed))}."
        )
    if recipe.get("mixed_precision") is False:
        recipe["mixed_precision"] = "no"  # YAML reads `no` as False
    return recipe
