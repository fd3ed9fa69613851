"""YAML that may come from anywhere: bounded, without references, and every fault of it a ValueError of one line."""

from __future__ import annotations

from typing import Any

import yaml

LARGEST_YAML = 2**20
"""In characters. Recipes and the metadata of cards have a few thousand, and reading YAML is slow."""
DEEPEST_YAML = 32
"""So many mappings and lists may be inside each other; reading works recursively."""


def load_yaml(text: str, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """Parse YAML.

    Args:
        text: The document.
        loader: Decides how plain words are read.

    Raises:
        ValueError: If it isn't YAML, is larger or deeper than any that is needed, or repeats a part by a reference:
            a few lines of references to references could stand for billions of values.
    """
    if len(text) > LARGEST_YAML:
        raise ValueError(f"{len(text)} characters of YAML; allowed are {LARGEST_YAML}")
    try:
        fault = _fault(text, loader)
        content = None if fault else yaml.load(text, loader)
    except MemoryError:
        raise
    except Exception as error:  # a wrong date, number or binary value raises whatever its constructor does
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error
    if fault:
        raise ValueError(fault)
    return content


def _fault(text: str, loader: type[yaml.SafeLoader]) -> str | None:
    depth = 0
    for event in yaml.parse(text, loader):
        if isinstance(event, yaml.AliasEvent):
            return f"a part is repeated by the reference *{event.anchor}: write it out"
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST_YAML:
            return f"more than {DEEPEST_YAML} mappings and lists are inside each other"
    return None
