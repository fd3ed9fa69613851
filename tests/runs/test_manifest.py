"""Manifests: every lost, empty, cut, changed or added file is found and named."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest

from prunnet_hf.runs.manifest import MANIFEST, find_damage, write_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "inner").mkdir()
    (tmp_path / "weights.bin").write_bytes(bytes(range(256)))
    (tmp_path / "inner" / "state.json").write_text("{}")
    write_manifest(tmp_path)
    return tmp_path


def test_it_lists_name_size_and_sha256(folder: Path) -> None:
    files = json.loads((folder / MANIFEST).read_text())["files"]
    # `printf '{}' | sha256sum`
    digest = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    assert files[0] == {"name": "inner/state.json", "size": 2, "sha256": digest}
    assert [entry["name"] for entry in files] == ["inner/state.json", "weights.bin"]
    assert find_damage(folder) is None


def test_what_a_file_system_adds_is_no_damage(folder: Path) -> None:
    (folder / ".nfs0001").touch()
    assert find_damage(folder) is None


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (None, "lacks the file weights.bin"),
        (b"", "has 0 bytes in weights.bin instead of 256"),
        (bytes(range(255)), "has 255 bytes in weights.bin instead of 256"),
        (bytes(256), "has other bytes in weights.bin than were written"),
    ],
)
def test_damage_is_named(folder: Path, content: bytes | None, found: str) -> None:
    (folder / "weights.bin").unlink()
    if content is not None:
        (folder / "weights.bin").write_bytes(content)
    assert find_damage(folder) == found


def test_a_file_that_it_does_not_name_is_named(folder: Path) -> None:
    (folder / "custom_checkpoint_0.pkl").touch()
    assert find_damage(folder) == f"holds files that its {MANIFEST} doesn't name: custom_checkpoint_0.pkl"


def test_every_flipped_bit_is_found_also_in_the_manifest_itself(folder: Path) -> None:
    random = Random(0)
    for _ in range(300):
        file = folder / random.choice(["weights.bin", "inner/state.json", MANIFEST])
        before = file.read_bytes()
        changed = bytearray(before)
        changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
        file.write_bytes(changed)
        # White space between the manifest's words means nothing.
        if file.name != MANIFEST or json_of(changed) != json.loads(before):
            assert find_damage(folder) is not None
        file.write_bytes(before)


def json_of(content: bytes | bytearray) -> object:
    try:
        return json.loads(content)
    except ValueError:
        return None


@pytest.mark.parametrize("content", [None, b"", b"[]", b'{"files": [{"name": "a"}]}', b"\xff", b"[" * 100_000])
def test_a_manifest_that_is_missing_or_cut_is_named(folder: Path, content: bytes | None) -> None:
    (folder / MANIFEST).unlink()
    if content is not None:
        (folder / MANIFEST).write_bytes(content)
    found = find_damage(folder)
    assert found is not None
    assert f"has no {MANIFEST} that can be read" in found
