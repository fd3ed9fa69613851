"""A space that exists, into which a run trains, and the targets of its training images."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor
from transformers.utils import CONFIG_NAME

from ..commands import model_directory
from ..configuration_prunnet import PrunNetConfig
from ..data.splits import RetrievalSplits
from ..data.streams import ImageDataset
from ..modeling_prunnet import PrunNetForImageClassification, PrunNetModel
from ..retrieval.foreign_encoders import TRANSFORMERS, ForeignEncoder, is_foreign, load_foreign_encoder
from ..retrieval.gallery_index import build_index, choose_factory
from ..retrieval.image_sources import DatasetImages
from ..retrieval.known_vectors import KnownVectors, holds_vectors
from ..retrieval.spaces import check_compatible, space_of
from ..runs.arguments import RunArguments
from ..runs.ownership import TARGETS, refuse_to_replace_sources, was_trained_into
from ..runs.record import was_judged
from ..runs.reference import Reference
from ..storage.json_text import load_json
from ..storage.whole_file import whole_file
from .target_vectors import GalleryVectors, Split, TargetVectors, TeacherVectors, Vectors
from .teachers import class_names_of

NEIGHBOURS = 64
"""With how many nearest targets the loss `csd` compares."""


@dataclass(frozen=True)
class Targets:
    """What networks learn, of all training images.

    Attributes:
        vectors: `(n, embedding_dim)` of unit length, on the device of training.
        digest: Of the vectors and of the id of their space.
        neighbours: `(n, k)`, the rows of each target's nearest ones, itself among them; None if no loss needs them.
    """

    vectors: Tensor
    digest: str
    neighbours: Tensor | None = None


@dataclass
class KnownSpace:
    """A space that exists.

    Attributes:
        source: Its vectors.
        name: Where these come from.
        arguments: Of the run; `embedding_dim` becomes that of the space.
        accelerator: That of the run, whose processes share the work.
        classifier_of: A checkpoint of this package that may have the teacher's classifier; None without one.
        before: The network that training starts from, if it is of this space (`runs/criterion.py`).
    """

    source: TargetVectors
    name: str
    arguments: RunArguments
    accelerator: Accelerator
    classifier_of: str | None = None
    before: PrunNetModel | None = field(default=None, init=False)
    _train: tuple[str, Vectors] | None = field(default=None, init=False)
    _validation: tuple[Vectors | None] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        model, found = self.arguments.model, self.source.embedding_dim
        if model.embedding_dim not in (None, found):
            raise ValueError(
                f"--embedding_dim must be that of the space of {self.name}, {found}, or left out; got "
                f"{model.embedding_dim}."
            )
        model.embedding_dim = found
        self.before = _network_before(self.arguments, self.embedding_space)

    @property
    def embedding_space(self) -> str:
        """Its id."""
        return self.source.embedding_space

    def check(self, images: ImageDataset) -> None:
        """Make sure, before any work, that a gallery has all training images.

        Raises:
            ValueError: If they are a stream, some are missing, or a vector can't be a target.
        """
        listed = self._listed(images)
        if isinstance(self.source, GalleryVectors):
            self._of_training_images(listed)

    def targets(self, images: ImageDataset, *, with_neighbours: bool) -> Targets:
        """The targets of the training images. All processes must call this.

        Args:
            images: In the order in which `row` counts them.
            with_neighbours: Whether a loss needs them.

        Raises:
            ValueError: As `check`; or if what an earlier sitting kept is by another teacher, or of other images.
        """
        vectors = self._of_training_images(self._listed(images))
        digest = hashlib.sha256(f"{self.embedding_space} {vectors.shape}".encode())
        digest.update(vectors.data)
        targets = Targets(torch.from_numpy(vectors).to(self.accelerator.device), digest.hexdigest()[:16])
        if not with_neighbours:
            return targets
        rows = torch.from_numpy(self._neighbours(vectors, targets.digest)).to(self.accelerator.device)
        return Targets(targets.vectors, targets.digest, rows)

    def class_vectors(self, class_names: list[str]) -> Tensor | None:
        """The classifier of the teacher, `(num_classes, embedding_dim)`.

        Returns:
            None if there is no teacher, or it has no classifier for these classes by cosines.
        """
        if self.classifier_of is None:
            return None
        config = PrunNetConfig.from_pretrained(self.classifier_of)
        if config.classifier == "softmax" or class_names_of(config) != class_names:
            return None
        model: PrunNetForImageClassification = PrunNetForImageClassification.from_pretrained(
            self.classifier_of, id2label=config.id2label, label2id=config.label2id
        )
        return None if model.is_classifier_new else model.classifier.weight.detach()

    def check_evaluated(self, own: str | None, run: Path | None) -> None:
        """Make sure that a model which is only evaluated was trained into this space.

        Args:
            own: The id of its space.
            run: The directory of its run; None if it isn't evaluated as that run's.

        Raises:
            ValueError: If it wasn't, or what it must be compared with is missing.
        """
        has_left = self.before is not None and run is not None and was_trained_into(run)
        if own != self.embedding_space and not has_left:
            raise ValueError(
                f"--into and --teacher must be left out, or be those of the model's training: {self.name} is of the "
                f"space {self.embedding_space!r}, and the model to evaluate of {own!r}. If it was trained further and "
                "has left that space, give its --model_name_or_path, too; the run's config.yaml has all, for --config."
            )
        if self.before is None and run is not None and was_judged(run):
            raise ValueError(
                "--model_name_or_path must be the network that was trained further, which this one is compared with; "
                "got None. The run's config.yaml has it, for --config."
            )

    def reference(self, splits: RetrievalSplits) -> Reference:
        """What the run is compared with in the end: vectors of the test images. All processes must call this."""
        options = self.arguments.train
        query = self.source.if_known("query", self._listed(splits.query))
        gallery = query if splits.gallery is splits.query else self._gallery(splits)
        has_gallery = options.into is not None and holds_vectors(options.into)
        return Reference(
            embedding_space=self.embedding_space,
            teacher=self.name if isinstance(self.source, TeacherVectors) else None,
            gallery=options.into if has_gallery else None,
            losses=list(options.into_loss),
            query=query,
            gallery_vectors=gallery,
            before=self.before,
        )

    def gallery_of(self, validation: RetrievalSplits) -> Vectors | None:
        """The vectors of the gallery that `eval_every` searches; None, which is logged, if they aren't known.

        All processes must call this. They are looked up, or computed, once.

        Args:
            validation: The same images at each call.
        """
        if self._validation is None:
            self._validation = (self._gallery(validation),)
        return self._validation[0]

    def _gallery(self, splits: RetrievalSplits) -> Vectors | None:
        is_validation = splits.train is None  # see `run_data.set_apart`
        shared: Split = "validation" if is_validation else "query"
        return self.source.if_known(
            shared if splits.gallery is splits.query else "gallery", self._listed(splits.gallery)
        )

    def _listed(self, images: ImageDataset) -> DatasetImages:
        if not isinstance(images, Dataset):
            raise ValueError("--into and --teacher need images in files, not a stream. Leave --streaming out.")
        return DatasetImages(images, self.arguments.data.data_dir)

    def _of_training_images(self, images: DatasetImages) -> Vectors:
        names = images.names_digest()
        if self._train is None or self._train[0] != names:
            self._train = names, self.source.of("train", images)
        return self._train[1]

    def _neighbours(self, vectors: Vectors, digest: str) -> NDArray[np.int64]:
        """The rows of each target's nearest ones. They are kept, as a graph may find others when it is made again."""
        file = Path(self.arguments.train.output_dir) / TARGETS / f"neighbours-{digest}.npy"
        if self.accelerator.is_main_process and not file.is_file():
            count, dim = vectors.shape
            _, rows = build_index(vectors, choose_factory(count, dim)).search(vectors, min(NEIGHBOURS, count))
            file.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(file) as opened:
                np.save(opened, np.where(rows < 0, np.arange(count)[:, None], rows))  # a graph may find fewer
        self.accelerator.wait_for_everyone()
        found: NDArray[np.int64] = np.load(file)
        return found


def open_space(
    arguments: RunArguments, accelerator: Accelerator, teacher: PrunNetModel | ForeignEncoder | None = None
) -> KnownSpace | None:
    """The space into which a run trains; None if it makes one of its own.

    Args:
        arguments: Of the run; `embedding_dim` becomes that of the space.
        accelerator: That of the run.
        teacher: A model in memory, in place of the one that `--teacher` names.

    Raises:
        FileNotFoundError: If there is no such gallery or table.
        ValueError: If it is damaged, the teacher has no embedding space or another than the gallery,
            `--embedding_dim` is another, or the run would replace one of them.
    """
    into, named = arguments.train.into, arguments.train.teacher
    if arguments.train.overwrite_output_dir:
        refuse_to_replace_sources(Path(arguments.train.output_dir), {"into": into, "teacher": named})
    if not arguments.train.trains_into:
        return None
    known = KnownVectors(into) if into is not None and holds_vectors(into) else None
    if known is not None and named is None:
        return KnownSpace(GalleryVectors(known), known.source, arguments, accelerator)
    if known is None and into is not None and named is not None:
        raise ValueError(
            f"--into {into} names a model, as --teacher {named} does. Leave --teacher out, or give a gallery by "
            "--into."
        )
    name = str(named or into)
    model = _load_teacher(name) if teacher is None else teacher
    if known is not None:
        _check_one_space(name, model, known)
    space = KnownSpace(TeacherVectors(model, name, arguments, accelerator), name, arguments, accelerator)
    space.classifier_of = model_directory(name) if teacher is None and isinstance(model, PrunNetModel) else None
    return space


def _network_before(arguments: RunArguments, embedding_space: str) -> PrunNetModel | None:
    """The network that training starts from, if it is of this space already, in which it may or may not stay."""
    if arguments.model.model_name_or_path is None:
        return None
    source = model_directory(arguments.model.model_name_or_path)
    if PrunNetConfig.from_pretrained(source).embedding_space != embedding_space:
        return None
    model: PrunNetModel = PrunNetModel.from_pretrained(source)
    return model.requires_grad_(False) if space_of(model) == embedding_space else None


def _load_teacher(source: str) -> PrunNetModel | ForeignEncoder:
    if is_foreign(source):
        return load_foreign_encoder(source)
    if is_of_transformers(model_directory(source)):
        return load_foreign_encoder(f"{TRANSFORMERS}{source}")
    model: PrunNetModel = PrunNetModel.from_pretrained(model_directory(source))
    if model.config.embedding_space is None:
        raise ValueError(
            f"the teacher {source} has no embedding space: embedding_space is None until training ends. Give a "
            "finished run."
        )
    model.requires_grad_(False)
    return model


def is_of_transformers(directory: str) -> bool:
    """Whether a local folder holds another model than one of this package, by its configuration."""
    file = Path(directory) / CONFIG_NAME
    if not file.is_file():
        return False
    config = load_json(file.read_text(encoding="utf-8"))
    return isinstance(config, dict) and config.get("model_type") not in (None, PrunNetConfig.model_type)


def _check_one_space(name: str, teacher: PrunNetModel | ForeignEncoder, known: KnownVectors) -> None:
    try:
        check_compatible(teacher, known)
    except ValueError as error:
        raise ValueError(f"--teacher {name} isn't the model that made --into {known.source}: {error}.") from error
