"""The table of training methods."""

from __future__ import annotations

import pytest

from prunnet_hf.runs.arguments import parse_arguments
from prunnet_hf.runs.methods import METHODS, find_method


def test_help_and_errors_list_every_method(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for name, method in METHODS.items():
        assert f"{name}: {method.description}" in text
    with pytest.raises(ValueError, match=f"method.*{', '.join(METHODS)}.*'sfsc'"):
        find_method("sfsc")


@pytest.mark.parametrize("name", METHODS)
def test_a_description_is_one_sentence_with_room_for_an_address(name: str) -> None:
    description = find_method(name).description
    assert description[0].isupper()
    assert description.endswith(".")
    assert "\n" not in description


def test_one_method_trains_a_single_network() -> None:
    assert [name for name, method in METHODS.items() if not method.has_subnetworks] == ["independent"]
