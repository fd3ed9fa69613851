"""Time and memory of each benchmark's protocol at full size, from embeddings to metrics.

    python benchmarks/protocols.py

The embeddings are random clusters, one a class; what a search costs hardly depends on what they show. Each protocol
runs in a process of its own, so that the growth of its peak memory is its own.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
from numpy.typing import NDArray

from prunnet_hf.commands import CommandParser, run_command
from prunnet_hf.retrieval.protocols import Columns, Side, resolve_protocol

Classes = NDArray[np.int64]
ROWS_AT_A_TIME = 8192
MakeColumns = Callable[[np.random.Generator, Classes, Classes], tuple[Columns, Columns]]


def gldv2_columns(rng: np.random.Generator, query: Classes, gallery: Classes) -> tuple[Columns, Columns]:
    """Ids of 16 hex digits, and for each query those of its class."""
    ids = [f"{image:016x}" for image in range(len(gallery))]
    by_class = np.argsort(gallery, kind="stable")
    starts = np.searchsorted(gallery[by_class], query, side="left")
    ends = np.searchsorted(gallery[by_class], query, side="right")
    relevant = [[ids[image] for image in by_class[start:end]] for start, end in zip(starts, ends, strict=True)]
    return {"id": [f"query{row}" for row in range(len(query))], "relevant": relevant}, {"id": ids}


def in_shop_columns(rng: np.random.Generator, query: Classes, gallery: Classes) -> tuple[Columns, Columns]:
    """Items."""
    return {"label": query.tolist()}, {"label": gallery.tolist()}


def veri776_columns(rng: np.random.Generator, query: Classes, gallery: Classes) -> tuple[Columns, Columns]:
    """Vehicles, and one of 20 cameras for each image."""
    query_columns, gallery_columns = (
        {"label": classes.tolist(), "camera": rng.integers(20, size=len(classes)).tolist()}
        for classes in (query, gallery)
    )
    return query_columns, gallery_columns


def revisited_columns(rng: np.random.Generator, query: Classes, gallery: Classes) -> tuple[Columns, Columns]:
    """Images of the query's class, each easy, hard or junk."""
    kinds = rng.integers(3, size=len(gallery))
    names = ("easy", "hard", "junk")
    lists = {
        name: [np.flatnonzero((gallery == own) & (kinds == kind)).tolist() for own in query]
        for kind, name in enumerate(names)
    }
    return lists, {}


# Queries, gallery images and classes as the owners publish them; for GLDv2 about as many landmarks as the index holds.
BENCHMARKS: dict[str, tuple[str, int, int, int, MakeColumns]] = {
    "GLDv2": ("gldv2", 750, 761_757, 100_000, gldv2_columns),
    "VeRi-776": ("veri776", 1_678, 11_579, 200, veri776_columns),
    "In-shop": ("in_shop", 14_218, 12_612, 3_985, in_shop_columns),
    "RParis6k": ("revisited", 70, 6_322, 11, revisited_columns),
}


def main() -> None:
    """Print one row a benchmark."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmarks", nargs="+", choices=list(BENCHMARKS), default=list(BENCHMARKS))
    parser.add_argument("--dim", type=int, default=256)
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} CPU cores, load {os.getloadavg()[0]:.1f}, {arguments.dim} dimensions\n")
    print(
        "| benchmark | queries x gallery | seconds | seconds of the bare product | peak memory growth (MiB) | result |"
    )
    print("|---|---|---:|---:|---:|---|")
    for name in arguments.benchmarks:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh_process:
            print(fresh_process.submit(measure, name, arguments.dim).result(), flush=True)


def measure(name: str, dim: int) -> str:
    """Run one protocol once, and the matrix product that any exact search needs."""
    protocol, num_queries, num_gallery, num_classes, make_columns = BENCHMARKS[name]
    rng = np.random.default_rng(0)
    more_classes = rng.integers(num_classes, size=num_gallery - num_classes)
    gallery_classes = np.concatenate([np.arange(num_classes), more_classes])
    query_classes = rng.integers(num_classes, size=num_queries)
    centers = rng.standard_normal((num_classes, dim), dtype=np.float32)
    queries, gallery = (around(centers, classes, rng) for classes in (query_classes, gallery_classes))
    query_columns, gallery_columns = make_columns(rng, query_classes, gallery_classes)
    before = peak_mib()
    start = time.perf_counter()
    metrics = resolve_protocol(protocol)(Side(queries, query_columns), Side(gallery, gallery_columns))
    seconds = time.perf_counter() - start
    growth = peak_mib() - before
    start = time.perf_counter()
    for first in range(0, num_gallery, ROWS_AT_A_TIME):
        queries @ gallery[first : first + ROWS_AT_A_TIME].T
    product = time.perf_counter() - start
    headline = next(iter(metrics))
    size = f"{num_queries:,} x {num_gallery:,}"
    return f"| {name} | {size} | {seconds:.1f} | {product:.1f} | {growth:.0f} | {headline} {metrics[headline]:.3f} |"


def around(centers: NDArray[np.float32], classes: Classes, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw embeddings near their class's, in place: a copy would raise the peak before the protocol does."""
    embeddings = rng.standard_normal((len(classes), centers.shape[1]), dtype=np.float32)
    embeddings *= 2
    for start in range(0, len(classes), ROWS_AT_A_TIME):
        rows = slice(start, start + ROWS_AT_A_TIME)
        embeddings[rows] += centers[classes[rows]]
    return embeddings


def peak_mib() -> float:
    """Peak resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    sys.exit(run_command("benchmarks/protocols.py", main))
