"""Shards of random embeddings, as `prunnet embed --shard` writes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prunnet_hf import Embeddings
from prunnet_hf.retrieval.embedding_shards import Shard
from prunnet_hf.retrieval.embedding_table import as_table, table_schema, whole_table

SPACE, DIM, COUNT = "0123456789abcdef", 8, 600


def random_embeddings(count: int = COUNT, seed: int = 0) -> Embeddings:
    rng = np.random.default_rng(seed)
    labels = [None if n % 5 == 0 else f"label-{n % 5}" for n in range(count)]
    paths = [f"{n:04d}.jpg" for n in range(count)]
    return Embeddings(rng.standard_normal((count, DIM)).astype(np.float32), SPACE, 0.5, paths, labels, "org/name")


def write_shards(
    folder: Path, embeddings: Embeddings, num_shards: int, *, made: str = "a job", space: str = SPACE
) -> Path:
    folder.mkdir(exist_ok=True)
    schema = table_schema(embeddings.embeddings.shape[1], space, embeddings.capacity, embeddings.model)
    for number in range(1, num_shards + 1):
        shard = Shard(number, num_shards)
        places = shard.places(len(embeddings))
        own = schema.with_metadata({**schema.metadata, "shard": str(shard), "shards": made})
        rows = slice(places.start, places.stop)
        with whole_table(folder / shard.file, own) as writer:
            writer.write_table(
                as_table(own, embeddings.embeddings[rows], embeddings.paths[rows], embeddings.labels[rows])
            )
    return folder


def unit_queries(count: int = 40) -> NDArray[np.float32]:
    return np.random.default_rng(1).standard_normal((count, DIM)).astype(np.float32)
