"""What a gallery is learned from: the index as faiss makes it, and what the dense network says of training images.

All is computed once and kept in files, whole or absent, so that learning can be stopped at any moment. The exact
embeddings are left on disk: of the gallery only codes and a sample are in memory.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from ..data.splits import LABEL
from ..modeling_prunnet import PrunNetModel
from ..retrieval.dataset_encoding import encode
from ..retrieval.embedding_table import LABEL as NAME
from ..retrieval.foreign_encoders import ForeignEncoder
from ..retrieval.gallery_files import write_index
from ..retrieval.gallery_quantizing import StoredRows, quantized_index
from ..retrieval.search import normalize
from ..storage.whole_file import whole_file
from .joint_quantization import Rows, Teaching

_START, _VECTORS, _TEACHER = "index.faiss", "vectors.npy", "teacher.npz"
_DENSE, _EXACT = "dense", "exact"
_ROWS_AT_A_TIME = 65_536


def start_index(work: Path, rows: StoredRows, num_bytes: int, *, seed: int, progress: bool) -> Any:
    """The index as faiss makes it; made once, and kept in the folder `work`."""
    file = work / _START
    if not file.exists():
        index = quantized_index(rows, num_bytes, seed=seed, progress=progress)
        write_index(index, file)
    return faiss.read_index(str(file))


def is_taught(work: Path) -> bool:
    """Whether the folder holds what the dense network says; before that, only the gallery has been read."""
    return (work / _TEACHER).exists()


def teaching_of(
    work: Path,
    rows: StoredRows,
    models: Mapping[str, PrunNetModel | ForeignEncoder],
    images: Dataset,
    num_exact: int,
    *,
    classes: tuple[Rows, Rows] | None,
    num_of_gallery: int,
    seed: int,
    progress: bool,
) -> tuple[Teaching, dict[str, NDArray[np.float32]]]:
    """What the dense network says of the training images, and how others embed them; computed once.

    Args:
        work: The folder to keep it in.
        rows: The gallery.
        models: The dense network as "dense", and others by any name.
        images: The training images.
        num_exact: How many exact neighbours of each are kept.
        classes: Of `classes_of`; None to learn without labels.
        num_of_gallery: So many images of the gallery are searched for as well, unless it is learned from classes.
        seed: Decides which.
        progress: Whether to show a bar.

    Returns:
        What is known, and the embeddings `(n, dim)` of the training images by each other model, of unit length.
    """
    if not (work / _VECTORS).exists():
        _write_vectors(work / _VECTORS, rows)
    vectors: NDArray[np.float32] = np.load(work / _VECTORS, mmap_mode="r")
    if not (work / _TEACHER).exists():
        embedded = encode(models, images, progress=progress)
        arrays = {name: normalize(array) for name, array in embedded.items()}
        count = 0 if classes else min(num_of_gallery, len(vectors))
        drawn = np.sort(np.random.default_rng(seed).choice(len(vectors), count, replace=False))
        arrays[_DENSE] = np.concatenate([arrays[_DENSE], vectors[drawn]])
        exact = exact_neighbours(arrays[_DENSE], vectors, min(num_exact, len(vectors)))
        with whole_file(work / _TEACHER) as opened:
            np.savez(opened, **{_EXACT: exact}, **arrays)  # type: ignore[arg-type]  # its stubs err
    with np.load(work / _TEACHER) as stored:
        found = {name: stored[name] for name in stored.files}
    exact = found.pop(_EXACT)
    dense = found.pop(_DENSE)
    return Teaching(dense, len(images), vectors, exact, *(classes or (None, None))), found


def exact_neighbours(queries: NDArray[np.float32], vectors: NDArray[np.float32], k: int) -> Rows:
    """The `k` vectors of the largest inner product with each query, `(n, k)`, best first; read in blocks."""
    best = np.full((len(queries), k), -np.inf, dtype=np.float32)
    rows = np.zeros((len(queries), k), dtype=np.int64)
    for start in range(0, len(vectors), _ROWS_AT_A_TIME):
        block = np.ascontiguousarray(vectors[start : start + _ROWS_AT_A_TIME])
        scores, found = faiss.knn(queries, block, min(k, len(block)), metric=faiss.METRIC_INNER_PRODUCT)
        scores, found = np.concatenate([best, scores], axis=1), np.concatenate([rows, found + start], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        best, rows = np.take_along_axis(scores, order, axis=1), np.take_along_axis(found, order, axis=1)
    return rows


def _write_vectors(file: Path, rows: StoredRows) -> None:
    """Write the embeddings as an array of numpy; not by a map of memory, as a full disk would kill the process."""
    shape = (rows.about.num_images, rows.about.embedding_dim)
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float32)), "fortran_order": False, "shape": shape}
    temporary = file.with_name(f"{file.name}.partial")  # always the same: killed again and again, it leaves one
    with temporary.open("wb") as opened:
        np.lib.format.write_array_header_1_0(opened, header)
        for _, batch in rows.batches():
            opened.write(batch.tobytes())
        opened.flush()
        os.fsync(opened.fileno())
    os.replace(temporary, file)


def classes_of(rows: StoredRows, images: Dataset) -> tuple[Rows, Rows]:
    """The class of each training image, and of each image of the gallery, -1 for another or none.

    Raises:
        ValueError: If the gallery has no image of a training class.
    """
    names: list[str] = images.features[LABEL].names
    numbers = {name: number for number, name in enumerate(names)}
    found = [numbers.get(label, -1) for table, _ in rows.batches() for label in table.column(NAME).to_pylist()]
    classes, gallery_classes = np.asarray(images[LABEL][:], dtype=np.int64), np.asarray(found, dtype=np.int64)
    missing = np.setdiff1d(classes, gallery_classes)
    if missing.size:
        raise ValueError(
            f"labels=True needs images of each training class in the gallery; {missing.size} have none, such as "
            f"{names[int(missing[0])]!r}. Learn without labels, or from images of the gallery's classes."
        )
    return classes, gallery_classes
