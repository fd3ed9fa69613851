"""Measure faiss indices in a `Gallery`: time to build, size, speed, what they find, and what `Gallery` adds to faiss.

    OMP_NUM_THREADS=1 python benchmarks/gallery.py --output benchmarks/results/gallery

Without --factories it makes the rows of `PLAN`, up to 10 million vectors of length 256, in 24 GiB of memory. Each row
is written as it is done, and one that is there isn't made again; all that are there are printed.

Vectors are clustered and of unit length: a thousand topics, in them a cluster for each hundred vectors, and queries
from the same clusters. They are made in blocks from a seed whenever they are needed, so that an index never lies in
memory beside all of them. One thread; times are CPU times, those of searching the best of rounds in which faiss and
`Gallery.search` take turns.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from prunnet_hf import Gallery
from prunnet_hf.retrieval.gallery_files import About
from prunnet_hf.retrieval.gallery_images import IMAGES_SCHEMA
from prunnet_hf.retrieval.gallery_index import default_parameters, empty_index, train_index
from prunnet_hf.retrieval.gallery_rows import Rows
from prunnet_hf.retrieval.search import normalize
from prunnet_hf.storage.whole_file import write_whole

PLAN = {
    100_000: ["Flat", "SQ8", "HNSW32", "IVF1024,PQ64x8np"],
    1_000_000: ["Flat", "HNSW32", "IVF4096,PQ32x8np,RFlat"],
    10_000_000: ["SQ8", "IVF4096,PQ32x8np", "IVF4096,PQ32x8np,Refine(SQ8)"],
}
"""Factory strings by the number of vectors; `Flat` and `HNSW32` of 10 million would take 10 GB and more."""
SPACE = "0123456789abcdef"
TOPICS, CLUSTER = 1000, 100
"""How many topics there are, and how many vectors a cluster has."""
TRAINING = 200_000
"""An index is trained on so many vectors."""
SINGLE = 20
"""So many queries are searched one by one."""
ROUNDS, SECONDS = 3, 2.0
"""There are at least so many rounds, and more of them until so many seconds have passed."""
K = 10

Vectors = NDArray[np.float32]
Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the rows that are missing, and print all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="Folder of the rows, each a JSON file.")
    parser.add_argument("--factories", nargs="+", help="Instead of those of the plan.")
    parser.add_argument("--count", type=int, default=100_000, help="Number of vectors for --factories.")
    parser.add_argument("--dim", type=int, default=256, help="Their length.")
    parser.add_argument("--block", type=int, default=100_000, help="How many vectors are made at a time.")
    chosen = parser.parse_args(arguments)
    faiss.omp_set_num_threads(1)
    chosen.output.mkdir(parents=True, exist_ok=True)
    for count, factories in ({chosen.count: chosen.factories} if chosen.factories else PLAN).items():
        missing = {f: path for f in factories if not (path := row_file(chosen.output, count, f)).exists()}
        if missing:
            make_rows(Clustered(count, chosen.dim, chosen.block), missing)
    print_table(chosen.output)


def row_file(folder: Path, count: int, factory: str) -> Path:
    """The file of a row."""
    return folder / f"{count}-{re.sub(r'[^A-Za-z0-9]+', '-', factory).strip('-')}.json"


class Clustered:
    """Vectors that are made whenever they are needed, and queries from the same clusters."""

    def __init__(self, count: int, dim: int, block: int, seed: int = 0) -> None:
        self.count, self.dim, self.block, self.seed = count, dim, block, seed
        generator = np.random.default_rng(seed)
        self._centres = generator.standard_normal((-(-count // CLUSTER), dim), dtype=np.float32)
        topics = generator.standard_normal((TOPICS, dim), dtype=np.float32)
        self._centres += topics[generator.integers(0, TOPICS, len(self._centres))]
        batch = min(1000, max(200, 10**9 // count))  # from 500 on, faiss searches `Flat` by matrix products
        self.queries = self._drawn(batch, np.random.default_rng([seed, 0]))

    def blocks(self, count: int | None = None) -> Iterator[Vectors]:
        """The first vectors, in blocks; all if no count is given. The same ones every time."""
        count = self.count if count is None else min(count, self.count)
        for start in range(0, count, self.block):
            block = self._drawn(min(self.block, self.count - start), np.random.default_rng([self.seed, 1, start]))
            yield block[: count - start]

    def nearest(self, k: int) -> NDArray[np.int64]:
        """The k nearest vectors of each query, by an exact search of one block after another."""
        scores, rows = (np.empty((len(self.queries), 0), kind) for kind in (np.float32, np.int64))
        start = 0
        for block in self.blocks():
            exact = faiss.IndexFlatIP(self.dim)
            exact.add(block)
            found = exact.search(self.queries, min(k, len(block)))
            scores, rows = np.hstack([scores, found[0]]), np.hstack([rows, found[1] + start])
            best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            scores, rows = np.take_along_axis(scores, best, 1), np.take_along_axis(rows, best, 1)
            start += len(block)
        return rows

    def _drawn(self, count: int, generator: np.random.Generator) -> Vectors:
        vectors = generator.standard_normal((count, self.dim), dtype=np.float32)
        vectors += self._centres[generator.integers(0, len(self._centres), count)]
        faiss.normalize_L2(vectors)
        return vectors


def make_rows(vectors: Clustered, missing: dict[str, Path]) -> None:
    """Measure each of these factory strings, and write its row into its file."""
    nearest = vectors.nearest(K)
    paths = pa.array([f"{number:08}.jpg" for number in range(vectors.count)])
    nothing = pa.nulls(vectors.count, pa.string())
    images = pa.table([paths, nothing, nothing], schema=IMAGES_SCHEMA)
    for factory, file in missing.items():
        index, seconds = built(vectors, factory)
        about = About(
            embedding_space=SPACE,
            embedding_dim=vectors.dim,
            num_images=vectors.count,
            capacity=1.0,
            model="",
            factory=factory,
            parameters=default_parameters(index),
        )
        row = {
            **{"count": vectors.count, "dim": vectors.dim, "factory": factory, "parameters": about.parameters},
            **{"build_seconds": round(seconds, 1), "bytes_a_vector": round(size(index) / vectors.count, 1)},
            **searched(index, Gallery(about, Rows(index, images, lambda: None)), vectors.queries, nearest),
        }
        write_whole(file, json.dumps(row, indent=1) + "\n")
        print(as_line(row), file=sys.stderr, flush=True)


def built(vectors: Clustered, factory: str) -> tuple[Any, float]:
    """An index of the vectors, and the CPU seconds that it took without making them."""
    start = time.process_time()
    index = empty_index(vectors.dim, factory)
    seconds = time.process_time() - start
    if not index.is_trained:
        sample = np.concatenate(list(vectors.blocks(TRAINING)))
        start = time.process_time()
        train_index(index, sample, factory)
        seconds += time.process_time() - start
        del sample
    for block in vectors.blocks():
        start = time.process_time()
        index.add(normalize(block))  # as a Gallery does
        seconds += time.process_time() - start
    return index, seconds


def size(index: Any) -> int:
    """Bytes of an index in a file."""
    total = 0

    def count(part: bytes) -> None:
        nonlocal total
        total += len(part)

    faiss.write_index(index, faiss.PyCallbackIOWriter(count))
    return total


def searched(index: Any, gallery: Gallery, queries: Vectors, nearest: NDArray[np.int64]) -> Row:
    """Speed and recall of an index, and how many times as long as faiss a gallery takes."""
    found = gallery.search(queries, K, embedding_space=SPACE).rows
    recall = np.mean([len(np.intersect1d(a, b)) / K for a, b in zip(found, nearest, strict=True)])
    batch, batch_over = compare(
        lambda: index.search(queries, K), lambda: gallery.search(queries, K, embedding_space=SPACE)
    )
    single = [queries[place : place + 1] for place in range(SINGLE)]
    one, single_over = compare(
        lambda: [index.search(query, K) for query in single],
        lambda: [gallery.search(query, K, embedding_space=SPACE) for query in single],
    )
    return {
        "queries": len(queries),
        "queries_a_second": round(len(queries) / batch, 1),
        "milliseconds_of_one": round(1000 * one / SINGLE, 3),
        "recall_at_10": round(float(recall), 4),
        "overhead_of_a_batch": round(batch_over, 3),
        "overhead_of_one": round(single_over, 3),
    }


def compare(first: Callable[[], object], second: Callable[[], object]) -> tuple[float, float]:
    """CPU seconds of the first, and how many times as long the second takes; both by the best of their rounds."""
    seconds: list[list[float]] = [[], []]
    while len(seconds[1]) < ROUNDS or sum(map(sum, seconds)) < SECONDS:
        for place, work in enumerate((first, second)):
            start = time.process_time()
            work()
            seconds[place].append(time.process_time() - start)
    return min(seconds[0]), min(seconds[1]) / min(seconds[0])


def print_table(folder: Path) -> None:
    """All rows of a folder."""
    rows = [json.loads(file.read_text()) for file in folder.glob("*.json")]
    print("| vectors | factory | build, s | bytes a vector | queries/s | recall@10 | batch / faiss | one / faiss |")
    print("|---|---|---|---|---|---|---|---|")
    for row in sorted(rows, key=lambda row: (row["count"], row["factory"])):
        print(as_line(row))


def as_line(row: Row) -> str:
    """A row of the table."""
    return (
        f"| {row['count']:,} | `{row['factory']}` | {row['build_seconds']:.0f} | {row['bytes_a_vector']:.0f} | "
        f"{row['queries_a_second']:.0f} | {row['recall_at_10']:.3f} | {row['overhead_of_a_batch']:.2f} | "
        f"{row['overhead_of_one']:.2f} |"
    )


if __name__ == "__main__":
    sys.exit(main())
