"""Measure faiss indices in a `Gallery`: time to build, size, speed, what they find, and what `Gallery` adds to faiss.

    OMP_NUM_THREADS=1 python benchmarks/gallery.py --count 100000

Vectors are clustered, of unit length, made in blocks from a seed, as are queries. One thread; times are CPU times, the
best of some rounds in which faiss and `Gallery.search` take turns. A row is written as it is done.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from prunnet_hf import Embeddings, Gallery

SPACE = "0123456789abcdef"
BLOCK = 100_000
BATCH, SINGLE = 1000, 20
"""How many queries a batch has, and how many are searched one by one."""
ROUNDS = 5
K = 10

Vectors = NDArray[np.float32]


def main() -> None:
    """Print a row for each factory string."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000, help="Number of vectors.")
    parser.add_argument("--dim", type=int, default=256, help="Their length.")
    parser.add_argument("--factories", nargs="+", default=["Flat", "SQ8", "HNSW32", "IVF1024,PQ64x8np"])
    arguments = parser.parse_args()
    faiss.omp_set_num_threads(1)
    images, queries = make_vectors(arguments.count, arguments.dim)
    exact = faiss.IndexFlatIP(arguments.dim)
    exact.add(images)
    nearest = exact.search(queries, K)[1]
    paths = [f"{number:08}.jpg" for number in range(arguments.count)]
    print(f"{arguments.count:,} vectors of length {arguments.dim}, {BATCH} queries, k={K}, one thread")
    print("| factory | build, s | bytes a vector | queries/s | recall@10 | overhead of a batch | of one query |")
    print("|---|---|---|---|---|---|---|")
    for factory in arguments.factories:
        start = time.process_time()
        gallery = Gallery.from_embeddings(Embeddings(images, SPACE, 1.0, paths), factory)
        build = time.process_time() - start
        print(row(gallery, queries, nearest, build), flush=True)


def make_vectors(count: int, dim: int, seed: int = 0) -> tuple[Vectors, Vectors]:
    """Vectors around a thousand centres, and queries around the same."""
    centres = np.random.default_rng(seed).normal(size=(1000, dim)).astype(np.float32)
    vectors = np.empty((count + BATCH, dim), dtype=np.float32)
    for start in range(0, len(vectors), BLOCK):
        part = vectors[start : start + BLOCK]
        generator = np.random.default_rng([seed, start])
        part[:] = centres[generator.integers(0, len(centres), len(part))]
        part += generator.normal(size=part.shape)
    faiss.normalize_L2(vectors)
    return vectors[:count], vectors[count:]


def row(gallery: Gallery, queries: Vectors, nearest: NDArray[np.int64], build: float) -> str:
    """Measure one index."""
    index = faiss_index(gallery)
    found = gallery.search(queries, K, embedding_space=SPACE).rows
    recall = np.mean([len(np.intersect1d(a, b)) / K for a, b in zip(found, nearest, strict=True)])
    batch, batch_over = compare(
        lambda: index.search(queries, K), lambda: gallery.search(queries, K, embedding_space=SPACE)
    )
    single = [queries[place : place + 1] for place in range(SINGLE)]
    _, single_over = compare(
        lambda: [index.search(query, K) for query in single],
        lambda: [gallery.search(query, K, embedding_space=SPACE) for query in single],
    )
    size = len(faiss.serialize_index(index)) / len(gallery)
    return (
        f"| `{gallery.about.factory}` | {build:.1f} | {size:.0f} | {BATCH / batch:.0f} | {recall:.3f} | "
        f"{batch_over:.3f} | {single_over:.3f} |"
    )


def faiss_index(gallery: Gallery) -> faiss.Index:
    """The index of a gallery as faiss reads it, with the same parameters of search."""
    with tempfile.TemporaryDirectory() as folder:
        gallery.save(Path(folder, "gallery"), with_embeddings=False)
        index = faiss.read_index(str(Path(folder, "gallery", "index.faiss")))
    if gallery.about.parameters:
        faiss.ParameterSpace().set_index_parameters(index, gallery.about.parameters)
    return index


def compare(first: Callable[[], object], second: Callable[[], object]) -> tuple[float, float]:
    """CPU seconds of the first, and how many times as long the second takes; both by the best of their rounds."""
    seconds: list[list[float]] = [[], []]
    for _ in range(ROUNDS):
        for place, work in enumerate((first, second)):
            start = time.process_time()
            work()
            seconds[place].append(time.process_time() - start)
    return min(seconds[0]), min(seconds[1]) / min(seconds[0])


if __name__ == "__main__":
    sys.exit(main())
