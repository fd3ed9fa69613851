"""A gallery on disk: a folder with an index that faiss itself reads, a table of its images, and what they are.

The layout, version 1:

- `index.faiss`: what `faiss.write_index` writes; ids are rows of the table. `datasets.load_faiss_index` reads it, too.
- `images.parquet`: one row for each image, with the columns `path`, `label` (or null) and `digest` (of the file's
  content, 16 hexadecimal digits) and, unless they were left out, `embedding` (float32, of unit length). Filled from
  shards, its digests are of the embeddings, and its metadata has `part` (such as `2/4`) and `part_of`.
- `index.json`: `format` (`prunnet-gallery`), `version` (1), `embedding_space`, `embedding_dim`, `num_images`,
  `capacity` and `model` (the network that embedded the images), `factory` and `parameters` (of faiss), `files` (size
  and SHA-256 of the other two), and `digest` (16 hexadecimal digits, of all other members).

A save replaces all three or none, also if its process is killed (`storage.replacing`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub.dataclasses import type_validator
from numpy.typing import NDArray

from ..storage.json_text import load_json
from ..storage.replacing import Replaceable, replaced_whole, tidy_directory
from ..storage.tensor_file import refuse_newer
from ..storage.whole_file import whole_file, write_whole
from .embedding_table import EMBEDDING, LABEL, PATH
from .gallery_images import DIGEST, DIGEST_DIGITS, IMAGES_SCHEMA
from .gallery_table import IMAGES, ROWS_A_GROUP, all_rows, images_schema, write_images
from .spaces import check_known_space

INDEX, ABOUT = "index.faiss", "index.json"
GALLERY_FILES = Replaceable(files=(INDEX, IMAGES, ABOUT), last=ABOUT)
FORMAT, VERSION = "prunnet-gallery", 1


@dataclass(frozen=True, kw_only=True)
class About:
    """What a gallery is.

    Attributes:
        embedding_space: Id of the space of its embeddings.
        embedding_dim: Length of an embedding.
        num_images: Number of images.
        capacity: Capacity of the network that embedded them, in (0, 1].
        model: Name of that network, for people.
        factory: faiss's factory string of the index.
        parameters: faiss's parameters of search.
    """

    embedding_space: str
    embedding_dim: int
    num_images: int
    capacity: float
    model: str
    factory: str
    parameters: str = ""


@dataclass
class Stored:
    """What lies in a gallery's folder."""

    about: About
    index: Any
    images: pa.Table
    state: str


def write_gallery(
    folder: Path,
    about: About,
    index: Any,
    images: pa.Table,
    vectors: NDArray[np.float32] | None,
    replaces: str | None = None,
) -> str:
    """Write a gallery into a folder, in place of one that is there; whole or not at all.

    Args:
        folder: Created if necessary.
        about: What the gallery is.
        index: Its faiss index.
        images: The columns `path`, `label` and `digest`.
        vectors: `(num_images, embedding_dim)`; None to write none.
        replaces: The state of the gallery that may be replaced; None for any.

    Returns:
        The state of the new gallery.

    Raises:
        FileExistsError: If the folder holds something else, or a gallery of another state.
        OSError: If a file can't be written.
    """
    schema = images_schema(about.embedding_space, about.embedding_dim, with_vectors=vectors is not None)
    return write_rows(folder, about, index, schema, all_rows(schema, images, vectors), replaces)


def write_rows(
    folder: Path, about: About, index: Any, schema: pa.Schema, rows: Iterable[pa.Table], replaces: str | None = None
) -> str:
    """Write a gallery as `write_gallery` does, whose rows are never all in memory.

    Args:
        folder: Created if necessary.
        about: What the gallery is.
        index: Its faiss index. It is written after the last rows were taken, so it may be filled meanwhile.
        schema: From `images_schema`.
        rows: Tables of this schema.
        replaces: The state of the gallery that may be replaced; None for any.

    Returns:
        The state of the new gallery.

    Raises:
        FileExistsError: If the folder holds something else, or a gallery of another state.
        OSError: If a file can't be written.
    """
    refuse_other_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with replaced_whole(folder, GALLERY_FILES) as staging:
        if replaces is not None and state_of(folder) not in (None, replaces):
            raise FileExistsError(
                f"{folder} was saved by another process since it was loaded, and what that has added would be lost. "
                "Load it again, and change it then; or choose another name."
            )
        write_images(staging / IMAGES, schema, rows)
        write_index(index, staging / INDEX)
        files = {name: _describe(staging / name) for name in (INDEX, IMAGES)}
        members = {"format": FORMAT, "version": VERSION, **asdict(about), "files": files}
        members["digest"] = _digest(members)
        write_whole(staging / ABOUT, json.dumps(members, indent=1) + "\n")
        return str(members["digest"])


def refuse_other_folder(folder: Path) -> None:
    """Refuse a path that isn't a gallery's, or free for one.

    Raises:
        FileExistsError: If it is a file, or a folder that holds something else.
    """
    if folder.is_file():
        raise FileExistsError(f"{folder} is a file; a gallery is a folder. Choose another name.")
    if folder.is_dir():
        tidy_directory(folder, GALLERY_FILES)  # of a save that was killed between its files
    if folder.is_dir() and not (folder / ABOUT).exists() and any(not p.name.startswith(".") for p in folder.iterdir()):
        raise FileExistsError(f"{folder} holds other files than a gallery's. Choose another name.")


def refuse_existing(output: Path) -> None:
    """Refuse a path where no new gallery can be made.

    Raises:
        FileExistsError: If there is a gallery, or something else.
    """
    refuse_other_folder(output)
    if (output / ABOUT).exists():
        raise FileExistsError(f"output={str(output)!r} holds a gallery. Choose another name, or remove it.")


def read_gallery(folder: Path, *, mmap: bool) -> Stored:
    """Read a gallery.

    Args:
        folder: Its folder.
        mmap: Leave the index on disk and read parts of it as searches need them, where faiss can. The contents of its
            file are not checked then.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is damaged, of a newer version, or its files don't belong together.
    """
    while True:
        if folder.is_dir():
            tidy_directory(folder, GALLERY_FILES)
        state = state_of(folder)
        try:
            return _read(folder, mmap)
        except (OSError, ValueError):
            if state_of(folder) == state:  # else another process has just replaced it
                raise


def _read(folder: Path, mmap: bool) -> Stored:
    about, files = read_about(folder)
    state = state_of(folder)
    for name in (INDEX, IMAGES):
        check_file(folder / name, files[name], contents=not (mmap and name == INDEX))
    index = _read_index(folder / INDEX, mmap)
    with pq.ParquetFile(folder / IMAGES, page_checksum_verification=True) as file:
        images = file.read([PATH, LABEL, DIGEST]).cast(IMAGES_SCHEMA)
    counts = {INDEX: index.ntotal, IMAGES: len(images), ABOUT: about.num_images}
    if len(set(counts.values())) > 1 or index.d != about.embedding_dim:
        raise _damaged(folder, f"its files have different numbers of images, {counts}, or dimensions")
    if state_of(folder) != state:
        raise _damaged(folder, "it was replaced while it was read")
    return Stored(about, index, images, str(state))


def state_of(folder: Path) -> str | None:
    """What tells a gallery from those that were or will be in its place: its digest; None if it can't be read."""
    try:
        members = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return str(members.get("digest")) if isinstance(members, dict) else None


def read_about(folder: Path) -> tuple[About, dict[str, Any]]:
    """What `index.json` says of a gallery, and of the other files.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is damaged or of a newer version.
    """
    path = folder / ABOUT
    try:
        members = load_json(path.read_text(encoding="utf-8"), finite=True)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(
            f"{folder} is no gallery: it has no {ABOUT}. `prunnet index MODEL FOLDER --output {folder}` makes one, or "
            "Gallery.save."
        ) from error
    except ValueError as error:
        raise _damaged(folder, f"{ABOUT} can't be read: {error}") from error
    if not isinstance(members, dict) or members.get("format") != FORMAT:
        raise _damaged(folder, f"{ABOUT} must be a JSON object with the format {FORMAT!r}")
    version = members.get("version")
    if type(version) is not int:
        raise _damaged(folder, f"version in {ABOUT} is {version!r}")
    refuse_newer(version, VERSION)
    try:
        return _understood(members)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise _damaged(folder, f"{ABOUT} can't be understood: {' '.join(str(error).split())}") from error


def _understood(members: dict[str, Any]) -> tuple[About, dict[str, Any]]:
    if members.pop("digest", None) != _digest(members):
        raise ValueError("its digest is of other contents, so it was changed since it was written")
    values: dict[str, Any] = {entry.name: members.get(entry.name) for entry in fields(About)}
    for entry in fields(About):
        type_validator(entry.name, values[entry.name], {"str": str, "int": int, "float": float}[str(entry.type)])
    about = About(**values)
    check_known_space(about.embedding_space)
    files = {name: (int(f["size"]), str(f["sha256"])) for name, f in members["files"].items()}
    if not 0 < about.capacity <= 1 or sorted(files) != sorted((INDEX, IMAGES)):
        raise ValueError("capacity or files are impossible")
    return about, files


def read_vectors(folder: Path, about: About, state: str) -> NDArray[np.float32] | None:
    """The embeddings of a stored gallery, `(num_images, embedding_dim)` of unit length; None if it has none.

    Raises:
        ValueError: If the gallery has another state by now.
    """
    batches = vector_batches(folder, state)
    if batches is None:
        return None
    vectors = np.empty((about.num_images, about.embedding_dim), dtype=np.float32)
    start = 0
    for batch in batches:
        vectors[start : start + len(batch)] = batch
        start += len(batch)
    return vectors


def vector_batches(folder: Path, state: str, size: int = ROWS_A_GROUP) -> Iterator[NDArray[np.float32]] | None:
    """The embeddings of a stored gallery in batches of at most `size`; None if it has none.

    Raises:
        ValueError: If the gallery has another state by now.
    """
    if state_of(folder) != state:
        raise ValueError(f"{folder} was saved by another process since it was loaded. Load it again.")
    file = pq.ParquetFile(folder / IMAGES, page_checksum_verification=True)
    if EMBEDDING in file.schema_arrow.names:
        return _vectors_in(file, size)
    file.close()
    return None


def _vectors_in(file: pq.ParquetFile, size: int) -> Iterator[NDArray[np.float32]]:
    with file:
        for batch in file.iter_batches(size, columns=[EMBEDDING]):
            yield batch.column(EMBEDDING).flatten().to_numpy(zero_copy_only=False).reshape(len(batch), -1)


def write_index(index: Any, path: Path) -> None:
    """Write what `faiss.read_index` reads, whole or not at all.

    Raises:
        OSError: If it can't be written, for instance because the disk is full.
    """
    try:
        with whole_file(path) as file:  # faiss itself would not notice that the last bytes found no space
            writer = faiss.PyCallbackIOWriter(file.write)  # type: ignore[attr-defined]  # its stubs lack it
            faiss.write_index(index, writer)
    except RuntimeError as error:
        raise OSError(f"The index {path.name} could not be written ({str(error).splitlines()[0][-200:]}).") from error


def _read_index(path: Path, mmap: bool) -> Any:
    try:
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC if mmap else 0)
    except RuntimeError as error:
        raise _damaged(path.parent, f"faiss can't read {path.name}: {str(error).splitlines()[0][-200:]}") from error


def _digest(members: dict[str, Any]) -> str:
    """Digest of what `index.json` says, without which a changed letter of a space or a factory would go unseen."""
    return hashlib.sha256(json.dumps(members, sort_keys=True).encode()).hexdigest()[:DIGEST_DIGITS]


def _describe(path: Path) -> dict[str, Any]:
    return {"size": path.stat().st_size, "sha256": _sha256(path)}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_file(path: Path, stated: tuple[int, str], *, contents: bool) -> None:
    """Refuse a file of a gallery that isn't as it was written.

    Args:
        path: The file.
        stated: Its size and SHA-256, by `read_about`.
        contents: Whether to compare the SHA-256, for which all of it is read.

    Raises:
        ValueError: If it is missing, or differs.
    """
    size, sha256 = stated
    if not path.is_file():
        raise _damaged(path.parent, f"{path.name} is missing")
    found = path.stat().st_size
    if found != size:
        raise _damaged(path.parent, f"{path.name} has {found} bytes; by {ABOUT} it must have {size}")
    if contents and _sha256(path) != sha256:
        raise _damaged(path.parent, f"the contents of {path.name} don't have the SHA-256 that {ABOUT} states")


def _damaged(folder: Path, what: str) -> ValueError:
    return ValueError(f"The gallery {folder} is damaged: {what}. Copy it again, or make it again from its images.")
