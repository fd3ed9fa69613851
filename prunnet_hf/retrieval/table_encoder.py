"""Images from any source to an embedding table: any number of images in limited memory; it can be killed and resumed.

Only the list of names is in memory for all images; embeddings are written to disk in parts (`embedding_parts`).
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import BaseImageProcessor

from ..data.splits import listed
from ..image_encoding import bar_options
from ..modeling_prunnet import PrunNetModel
from ..storage.weights_digest import digest_tensors
from .embedding_parts import EmbeddingParts, claim_output
from .embedding_table import as_table, table_schema
from .foreign_encoders import ForeignEncoder
from .image_batches import Reading, embed_part, read_batches
from .image_sources import ImageSource
from .spaces import check_known_space, space_of

logger = logging.getLogger(__name__)

IMAGES_PER_PART = 1024


@dataclass(frozen=True)
class Encoding:
    """How images are read and embedded; see `encode_folder`.

    Raises:
        ValueError: If a number is out of range.
    """

    batch_size: int = 64
    num_workers: int = 0
    skip_corrupt_images: bool = False
    images_per_part: int = IMAGES_PER_PART
    progress: bool | None = None

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("images_per_part", 1), ("num_workers", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}.")


@dataclass
class TableEncoder:
    """Writes embeddings of one model into tables.

    Attributes:
        model: A trained network, dense or a subnetwork, or a foreign one, on the device to use.
        how: How images are read.
        image_processor: Turns images into pixel_values; by default the model's own.
        source: What the images are, besides their names; all that goes on must agree with it.

    Raises:
        ValueError: If the model's embedding space is unknown.
    """

    model: PrunNetModel | ForeignEncoder
    how: Encoding = field(default_factory=Encoding)
    image_processor: BaseImageProcessor | None = None
    source: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        space = check_known_space(space_of(self.model))
        self._processor = self.image_processor or self.model.image_processor
        config = self.model.config
        name = _model_name(config.name_or_path or "")
        self.schema = table_schema(config.embedding_dim, space, config.capacity, name)
        self.plan = {**_plan(self.model, self._processor), **self.source}

    def write(
        self, images: ImageSource, places: range, output: Path, facts: Mapping[str, str] | None = None
    ) -> list[str]:
        """Embed consecutive images into a Parquet file, whole or not at all.

        Args:
            images: Where they come from.
            places: Those to embed.
            output: The file, an absolute path.
            facts: Texts to write into its metadata.

        Returns:
            The names of the images that were left out.

        Raises:
            BlockingIOError: If another process is making `output`.
            FileExistsError: If `output` exists.
            OSError: If a file can't be written.
            ValueError: If an image can't be decoded or embedded, or an earlier call has left parts of another model
                or other images.
        """
        with claim_output(output):
            parts = EmbeddingParts(output, self.schema, {**self.plan, "images_per_part": self.how.images_per_part})
            return self._write_parts(images, places, parts, facts)

    def _write_parts(
        self, images: ImageSource, places: range, parts: EmbeddingParts, facts: Mapping[str, str] | None
    ) -> list[str]:
        size = self.how.images_per_part
        spans = [places[start : start + size] for start in range(0, len(places), size)]
        # Taken before any image is read, so that the next call finds images that changed meanwhile.
        digests = [images.digest(span) for span in spans]
        names = [[images.names[place] for place in span] for span in spans]
        skipped = _check_done(parts, names, digests, self.how.skip_corrupt_images)
        missing = {number: span for number, span in enumerate(spans) if number not in skipped}
        reading = Reading(self._processor)
        batches = read_batches(images, list(missing.values()), reading, self.how.batch_size, self.how.num_workers)
        initial = len(places) - sum(map(len, missing.values()))
        bar = tqdm(desc="encode", total=len(places), initial=initial, unit="image", **bar_options(self.how.progress))
        with bar:
            for number, span in missing.items():
                own = islice(batches, -(-len(span) // self.how.batch_size))
                array, embedded, skipped[number] = embed_part(self.model, own, self.how.skip_corrupt_images, bar)
                labels = dict(zip(names[number], map(images.label, span), strict=True))
                rows = as_table(parts.schema, array, embedded, [labels[name] for name in embedded])
                parts.write(number, rows, digests[number], skipped[number])
        left_out = [name for number in sorted(skipped) for name in skipped[number]]
        _report(left_out, len(places), may_be_all=len(places) < len(images))
        without = set(left_out)
        parts.finish(len(spans), [name for span in names for name in span if name not in without], facts)
        return left_out


def warn_of(left_out: list[str], total: int) -> None:
    """Count and name images that can't be decoded."""
    if left_out:
        logger.warning(
            "%d of %d images can't be decoded: %s. They are left out.", len(left_out), total, listed(left_out)
        )


def _check_done(
    parts: EmbeddingParts, spans: Sequence[list[str]], digests: Sequence[str], skip_corrupt_images: bool
) -> dict[int, list[str]]:
    """The images that each finished part left out, after checking that the part is of these images."""
    skipped = {}
    for number in parts.done():
        span, digest = (spans[number], digests[number]) if number < len(spans) else ([], "")
        skipped[number] = parts.check(number, digest, span)
        if skipped[number] and not skip_corrupt_images:
            raise ValueError(
                f"an earlier call has left out images that can't be decoded: {listed(skipped[number])}. "
                "Pass --skip_corrupt_images (skip_corrupt_images=True) again, or remove the parts it has left."
            )
    return skipped


def _model_name(source: str) -> str:
    """The repository's name, or the name of a local folder, whose whole path would mean nothing to others."""
    return Path(source).name if Path(source).is_absolute() else source


def _plan(model: PrunNetModel | ForeignEncoder, image_processor: Any) -> dict[str, Any]:
    processing = json.dumps(image_processor.to_dict(), sort_keys=True, default=str)
    if isinstance(model, ForeignEncoder):
        weights = model.plan
    else:
        dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
        weights = {"dtype": dtype, "weights": digest_tensors(model.state_dict())}
    return {
        "embedding_space": model.config.embedding_space,
        "capacity": model.config.capacity,
        **weights,
        "image_processor": hashlib.sha256(processing.encode()).hexdigest()[:16],
    }


def _report(left_out: list[str], total: int, *, may_be_all: bool) -> None:
    if len(left_out) == total and not may_be_all:
        raise ValueError(f"none of the {total} images can be decoded: {listed(left_out)}. There is nothing to write.")
    warn_of(left_out, total)
