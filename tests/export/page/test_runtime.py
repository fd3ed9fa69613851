"""onnxruntime-web: pinned, or copied from an npm folder."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from prunnet_hf.export.page.runtime import FROM_CDN, PINNED, SCRIPT, WASM, copy_runtime, find_runtime, integrity_of

OF_NOTHING = "sha384-OLBgp1GsljhM2TJ+sbHjaiH9txEUvgdDTAzHv2P24donTt6/529l+9Ua0vFImLlb"
"""Of no bytes, as published in many places."""


def package(folder: Path) -> Path:
    (folder / "dist").mkdir(parents=True)
    (folder / "dist" / SCRIPT).write_bytes(b"")
    (folder / "dist" / WASM).write_bytes(b"wasm")
    (folder / "package.json").write_text(json.dumps({"version": "9.8.7"}))
    return folder


def test_digests_are_those_of_browsers(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert integrity_of(tmp_path / "empty") == OF_NOTHING


def test_a_package_is_copied(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    runtime = copy_runtime(
        package(tmp_path / "npm" / "node_modules" / "onnxruntime-web").parents[1], tmp_path / "site"
    )
    assert runtime.version == "9.8.7"
    assert (runtime.script.url, runtime.script.bytes, runtime.script.integrity) == (f"runtime/{SCRIPT}", 0, OF_NOTHING)
    assert (tmp_path / "site" / runtime.wasm.url).read_bytes() == b"wasm"
    assert runtime.wasm.bytes == 4


def test_the_package_itself_may_be_given(tmp_path: Path) -> None:
    assert find_runtime(package(tmp_path / "onnxruntime-web")) == tmp_path / "onnxruntime-web"


def test_a_folder_without_it_is_refused_with_the_command_that_installs_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=rf"--runtime .*npm install --prefix .*onnxruntime-web@{PINNED}"):
        find_runtime(tmp_path)


def test_what_is_pinned_names_its_version_and_both_digests() -> None:
    for file in (FROM_CDN.script, FROM_CDN.wasm):
        assert file.url.startswith(f"https://cdn.jsdelivr.net/npm/onnxruntime-web@{PINNED}/dist/")
        assert re.fullmatch(r"sha384-[A-Za-z0-9+/]{64}", file.integrity)
