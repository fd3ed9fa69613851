"""Where the vectors of a space that exists come from: the model that made it, or a gallery that has them already.

A teacher's embeddings are kept in `output_dir/targets/`, in a folder of shards for each split (see
`retrieval.embedding_shards`): they are computed once, and after a sitting was killed the next one goes on.
"""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from accelerate import Accelerator
from numpy.typing import NDArray

from ..data.splits import listed
from ..modeling_prunnet import PrunNetModel
from ..retrieval.embedding_shards import Shard, encode_shard
from ..retrieval.embedding_table import read_embeddings
from ..retrieval.foreign_encoders import ForeignEncoder
from ..retrieval.image_sources import DatasetImages
from ..retrieval.known_vectors import KnownVectors, common_folder
from ..retrieval.search import normalize
from ..retrieval.table_encoder import Encoding, TableEncoder
from ..runs.arguments import RunArguments
from ..runs.ownership import TARGETS

logger = logging.getLogger(__name__)

IMAGES_A_SHARD = 65_536
"""The number of shards depends on that of images only: the number of processes may change between two sittings."""
Vectors: TypeAlias = NDArray[np.float32]
Split = Literal["train", "validation", "query", "gallery"]


class TargetVectors(ABC):
    """Vectors of a space that exists.

    Attributes:
        embedding_space: Id of the space.
        embedding_dim: Their length.
    """

    embedding_space: str
    embedding_dim: int

    @abstractmethod
    def of(self, split: Split, images: DatasetImages) -> Vectors:
        """The vectors of all images of a split, `(n, embedding_dim)` of unit length. All processes must call this.

        Raises:
            ValueError: If some aren't known, or can't be a target.
        """

    @abstractmethod
    def if_known(self, split: Split, images: DatasetImages) -> Vectors | None:
        """As `of`; None, which is logged, if some aren't known."""


class TeacherVectors(TargetVectors):
    """Embeddings by a model, of images as they are.

    Args:
        model: Its embedding space is known.
        name: What errors call it.
        arguments: Of the run, in whose directory embeddings are kept.
        accelerator: That of the run, whose processes share the work.
    """

    def __init__(
        self, model: PrunNetModel | ForeignEncoder, name: str, arguments: RunArguments, accelerator: Accelerator
    ) -> None:
        self.model, self.name, self.accelerator = model, name, accelerator
        self.embedding_space = str(model.config.embedding_space)
        self.embedding_dim = int(model.config.embedding_dim)
        self.folder = Path(arguments.train.output_dir) / TARGETS
        self.how = Encoding(
            batch_size=arguments.train.eval_batch_size,
            num_workers=arguments.data.num_workers,
            progress=None if accelerator.is_main_process else False,
        )
        self.source = {"bounding_boxes": arguments.data.bounding_boxes}

    def of(self, split: Split, images: DatasetImages) -> Vectors:
        """See `TargetVectors`."""
        count = math.ceil(len(images) / IMAGES_A_SHARD)
        shards = [Shard(number, count) for number in range(1, count + 1)]
        encoder = TableEncoder(self.model.to(self.accelerator.device), self.how, source=self.source)
        for shard in shards[self.accelerator.process_index :: self.accelerator.num_processes]:
            try:
                encode_shard(encoder, images, self.folder / split, shard)
            except ValueError as error:
                raise ValueError(f"the targets by --teacher {self.name} can't be had: {error}") from error
        self.accelerator.wait_for_everyone()
        return normalize(np.concatenate([read_embeddings(self.folder / split / s.file).embeddings for s in shards]))

    def if_known(self, split: Split, images: DatasetImages) -> Vectors | None:
        """See `TargetVectors`; a model can embed any image."""
        return self.of(split, images)


class GalleryVectors(TargetVectors):
    """The vectors that a gallery has.

    Args:
        known: They are found by the images' paths. Test images are looked for in the folder that training images were
            found in: relative to their own, they could be called as those are.
    """

    def __init__(self, known: KnownVectors) -> None:
        self.known = known
        self._top: str | None = None
        self.embedding_space, self.embedding_dim = known.embedding_space, known.embedding_dim

    def of(self, split: Split, images: DatasetImages) -> Vectors:
        """See `TargetVectors`."""
        self._top = common_folder(images)
        match = self.known.of(images, self._top)
        if not images.has_paths and match.total != len(images):
            raise ValueError(
                f"--into {self.known.source} has {match.total} rows, and there are {len(images)} training images, "
                "which have no paths but their places (row-0, row-1 and so on): which are which isn't known. Embed "
                "just these images, or give the model by --teacher."
            )
        if match.missing:
            raise ValueError(
                f"{len(match.missing)} of {len(images)} training images aren't in --into {self.known.source}, where "
                f"they are looked up by path: {listed(match.missing)}. Embed them by the model that made it, take "
                "them out of the training images, or give that model by --teacher."
            )
        return match.vectors

    def if_known(self, split: Split, images: DatasetImages) -> Vectors | None:
        """See `TargetVectors`."""
        found = 0
        if images.has_paths:  # else they are called as training images are
            match = self.known.of(images, self._top)
            if not match.missing:
                return match.vectors
            found = match.num_found
        logger.warning(
            "%s has %d of the %d test images (%s), so %s. Give the model that made it, by --teacher, to measure it.",
            self.known.source,
            found,
            len(images),
            split,
            "the best model is chosen by searching what it embeds itself"
            if split == "validation"
            else "the test against it isn't measured",
        )
        return None
