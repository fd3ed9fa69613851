"""Galleries of shards: trained on a sample, and filled shard by shard, on one machine or, in parts, on several.

Only one shard is in memory at a time, besides the index.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tqdm import tqdm

from .distinct_paths import DistinctPaths
from .embedding_shards import Shard, Shards, find_shards
from .embedding_table import PATH, Embeddings
from .gallery_files import About, read_gallery, refuse_existing, write_gallery, write_rows
from .gallery_images import DIGEST_DIGITS, IMAGES_SCHEMA, path_of
from .gallery_index import (
    AUTO,
    choose_factory,
    default_parameters,
    empty_index,
    sample_size,
    train_index,
)
from .gallery_table import PART, PART_OF, image_rows, images_schema
from .index_merging import check_mergeable
from .search import normalize
from .spaces import check_compatible

Place = str | os.PathLike[str]
WHOLE = Shard(1, 1)


def train_gallery(shards: Place, output: Place, factory: str = AUTO, *, seed: int = 0) -> About:
    """Train an index on a sample of the images, and save it as a gallery without images, for `index_shards`.

    Args:
        shards: Their folder, see `embedding_shards`; or one embedding table.
        output: The gallery's folder.
        factory: faiss's factory string; `"auto"` chooses by the number of images and this machine's memory.
        seed: Decides which images are drawn.

    Returns:
        What the gallery is.

    Raises:
        FileExistsError: If there is something at `output`.
        FileNotFoundError: If shards are missing.
        ValueError: If there are too few images to train it, shards are damaged or of several spaces, or faiss doesn't
            know the factory string.
    """
    refuse_existing(Path(output))
    about, index = _trained(find_shards(shards), factory, seed)
    vectors = np.empty((0, about.embedding_dim), dtype=np.float32)
    write_gallery(Path(output), about, index, IMAGES_SCHEMA.empty_table(), vectors)
    return about


def index_shards(
    shards: Place,
    output: Place,
    factory: str = AUTO,
    *,
    trained: Place | None = None,
    shard: Shard = WHOLE,
    seed: int = 0,
    data_dir: Place | None = None,
    with_embeddings: bool = True,
    progress: bool = True,
) -> About:
    """Make a gallery of the images of shards, which are read one after the other.

    Args:
        shards: As for `train_gallery`.
        output: The gallery's folder.
        factory: As for `train_gallery`.
        trained: The folder of a gallery that `train_gallery` made, to fill that one; it stays as it is.
        shard: Take only this share of the shards, for `merge_galleries`; all parts need the same `trained`.
        seed: As for `train_gallery`, without `trained`.
        data_dir: The folder of the images, with which their paths will begin; by default they stay as they are.
        with_embeddings: Also store the embeddings.
        progress: Whether to show a bar.

    Returns:
        What the gallery is.

    Raises:
        FileExistsError: If there is something at `output`.
        FileNotFoundError: If shards, or `trained`, are missing.
        ValueError: If `trained` is of another space or factory, or has images; a shard is damaged; a path comes
            twice; `shard` can't be; or as for `train_gallery`.
    """
    refuse_existing(Path(output))
    if shard.count > 1 and trained is None:
        raise ValueError(
            f"shard={str(shard)!r} needs trained, one gallery for all parts: train_gallery (prunnet index "
            "--train_only) makes it."
        )
    found = find_shards(shards)
    empty, index = _trained(found, factory, seed) if trained is None else _stored(Path(trained), found, factory)
    if shard.count > len(found):
        raise ValueError(f"shard={str(shard)!r}: n must be at most the number of shards, {len(found)}.")
    if shard.count > 1:
        check_mergeable(index, empty.factory)
    own = shard.places(len(found))
    num_images = sum(found.facts[place].num_rows for place in own)
    about = replace(empty, num_images=num_images, capacity=found.facts[0].capacity, model=found.facts[0].model)
    schema = images_schema(
        about.embedding_space,
        about.embedding_dim,
        with_vectors=with_embeddings,
        **{PART: str(shard), PART_OF: found.made},
    )

    def rows() -> Iterator[pa.Table]:
        paths = DistinctPaths()
        for place in tqdm(own, desc="index", unit="shard", disable=not progress):
            embeddings = found.read(place)
            if len(embeddings):
                vectors = _unit(embeddings, found.files[place])
                images = _images(embeddings, data_dir)
                paths.add(images.column(PATH).to_pylist(), found.files[place])
                _add(index, vectors, about.factory)
                yield image_rows(schema, images, vectors)
        paths.check()

    write_rows(Path(output), about, index, schema, rows())
    return about


def _trained(shards: Shards, factory: str, seed: int) -> tuple[About, Any]:
    """A gallery without images, and its index, trained on a sample."""
    facts = shards.facts[0]
    chosen = choose_factory(shards.num_images, facts.embedding_dim) if factory == AUTO else factory
    index = empty_index(facts.embedding_dim, chosen)
    size = min(sample_size(index), shards.num_images)
    if size:
        train_index(index, _sample(shards, size, seed), chosen)
    about = About(
        embedding_space=facts.embedding_space,
        embedding_dim=facts.embedding_dim,
        num_images=0,
        capacity=facts.capacity,
        model=facts.model,
        factory=chosen,
        parameters=default_parameters(index),
    )
    return about, index


def _sample(shards: Shards, size: int, seed: int) -> NDArray[np.float32]:
    """Unit vectors of images drawn from all shards, in order."""
    drawn = np.sort(np.random.default_rng(seed).choice(shards.num_images, size, replace=False))
    ends = np.cumsum([facts.num_rows for facts in shards.facts])
    sample = np.empty((size, shards.facts[0].embedding_dim), dtype=np.float32)
    filled = 0
    for place, end in enumerate(ends):
        upto = int(np.searchsorted(drawn, end))
        if upto > filled:
            embeddings = shards.read(place)
            rows = drawn[filled:upto] - (end - len(embeddings))
            sample[filled:upto] = _unit(embeddings, shards.files[place])[rows]
        filled = upto
    return sample


def _unit(embeddings: Embeddings, file: Path) -> NDArray[np.float32]:
    return normalize(embeddings.embeddings, argument=f"embeddings of {file}")


def _add(index: Any, vectors: NDArray[np.float32], factory: str) -> None:
    try:
        index.add(vectors)
    except RuntimeError as error:  # of some kinds, such as NSG, which are built once
        reason = " ".join(str(error).split())[-80:]
        raise ValueError(
            f"factory={factory!r} is of a kind that faiss can't fill shard by shard ({reason}). Choose another, such "
            "as 'HNSW32' or 'IVF4096,PQ32x8np'."
        ) from error


def _images(embeddings: Embeddings, data_dir: Place | None) -> pa.Table:
    """What a gallery keeps of them. Files aren't read: the digests are of the embeddings."""
    paths = embeddings.paths
    if data_dir is not None:
        paths = [path_of(os.path.join(data_dir, path)) for path in paths]
    digests = [hashlib.sha256(row.tobytes()).hexdigest()[:DIGEST_DIGITS] for row in embeddings.embeddings]
    return pa.table([paths, embeddings.labels, digests], schema=IMAGES_SCHEMA)


def _stored(trained: Path, shards: Shards, factory: str) -> tuple[About, Any]:
    """A gallery without images, and its index, from its folder."""
    stored = read_gallery(trained, mmap=False)
    about = stored.about
    if about.num_images:
        raise ValueError(
            f"trained={str(trained)!r} must be a gallery without images, which train_gallery makes (prunnet index "
            f"--train_only); it has {about.num_images}."
        )
    if factory not in (AUTO, about.factory):
        raise ValueError(f"factory={factory!r} differs from {about.factory!r}, that of {trained}. Leave it out.")
    check_compatible(about, shards.facts[0].embedding_space)
    if about.embedding_dim != shards.facts[0].embedding_dim:
        raise ValueError(
            f"trained={str(trained)!r} has dimension {about.embedding_dim}, and the shards "
            f"{shards.facts[0].embedding_dim}: train it on these shards."
        )
    return about, stored.index
