"""onnxruntime-web, which runs the networks in the browser: pinned at its usual CDN, or copied from a folder.

Both are fetched with `integrity`, so a file that was changed on its way is refused by the browser.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from ...storage.json_text import load_json

SCRIPT, WASM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
"""The plain build, for the CPU. The others bring kernels for GPUs, and are two to three times as large."""
NPM_NAME, PINNED = "onnxruntime-web", "1.30.0"
_CDN = f"https://cdn.jsdelivr.net/npm/{NPM_NAME}@{PINNED}/dist/"
FOLDER = "runtime"


@dataclass(frozen=True)
class RuntimeFile:
    """A file of the runtime, as the page fetches it.

    Attributes:
        url: Its address, relative to the page if it lies there.
        bytes: Its size.
        integrity: `sha384-` and its digest, as browsers have it.
    """

    url: str
    bytes: int
    integrity: str


@dataclass(frozen=True)
class Runtime:
    """The two files of the runtime, and their version."""

    version: str
    script: RuntimeFile
    wasm: RuntimeFile


FROM_CDN = Runtime(
    PINNED,
    RuntimeFile(
        _CDN + SCRIPT,
        73_054,
        "sha384-PLWz+nHEVHpjwBsO0YVdvQj6n5814Iv8E3b8FG0Rp/uIAtjFMCKOpP66iPzedrIG",
    ),
    RuntimeFile(
        _CDN + WASM,
        14_239_897,
        "sha384-vjBJ1z7qrhkTyYsNqKeF6c7N+nOJSU94czEo+tvZcu8G75JparGq9kB+kTnEUNVM",
    ),
)
"""Sizes and digests are those of the npm package of this version, which the tests in a browser compare."""


def find_runtime(folder: Path) -> Path:
    """The folder of npm's package `onnxruntime-web`: the given one, or the one that was installed into it.

    Raises:
        FileNotFoundError: If it isn't there.
    """
    for place in (folder, folder / "node_modules" / NPM_NAME):
        if all((place / "dist" / name).is_file() for name in (SCRIPT, WASM)):
            return place
    raise FileNotFoundError(
        f"--runtime {str(folder)!r} must be a folder with npm's package {NPM_NAME} ({SCRIPT} and {WASM} in its "
        f"dist/). Install it with: npm install --prefix {folder} {NPM_NAME}@{PINNED}"
    )


def copy_runtime(folder: Path, site: Path) -> Runtime:
    """Copy the runtime from an npm folder into a site.

    Raises:
        FileNotFoundError: As in `find_runtime`.
    """
    package = find_runtime(folder)
    (site / FOLDER).mkdir()
    files = []
    for name in (SCRIPT, WASM):
        copy = Path(shutil.copyfile(package / "dist" / name, site / FOLDER / name))
        files.append(RuntimeFile(f"{FOLDER}/{name}", copy.stat().st_size, integrity_of(copy)))
    return Runtime(_version(package), *files)


def integrity_of(file: Path) -> str:
    """The digest of a file as the attribute `integrity` of HTML has it."""
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha384").digest()
    return f"sha384-{base64.b64encode(digest).decode()}"


def _version(package: Path) -> str:
    about = package / "package.json"
    content = load_json(about.read_text(encoding="utf-8")) if about.is_file() else {}
    return str(content.get("version", "unknown"))
