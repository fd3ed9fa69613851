"""The teacher of a run: a finished network that stays as it is."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..commands import model_directory
from ..configuration_prunnet import PrunNetConfig
from ..image_processing_prunnet import PrunNetImageProcessor
from ..modeling_prunnet import PrunNetForImageClassification
from ..storage.weights_digest import SCORES, digest_tensors

PROCESSING = (
    *("size", "crop_size", "resample", "image_mean", "image_std"),
    *("do_resize", "do_center_crop", "do_rescale", "rescale_factor", "do_normalize"),
)


@dataclass(frozen=True)
class Teacher:
    """A frozen network.

    Attributes:
        source: Where it came from.
        model: In evaluation mode.
        accelerator: Decides on the precision.
    """

    source: str
    model: PrunNetForImageClassification
    accelerator: Accelerator

    @torch.no_grad()
    def embed(self, pixel_values: Tensor) -> Tensor:
        """The embeddings of images, `(batch, embedding_dim)`."""
        with self.accelerator.autocast():
            embeddings: Tensor = self.model.prunnet(pixel_values).pooler_output
        return embeddings

    @torch.no_grad()
    def logits(self, pixel_values: Tensor) -> Tensor:
        """What its classifier says of images, `(batch, num_classes)`."""
        with self.accelerator.autocast():
            logits: Tensor = self.model(pixel_values).logits
        return logits

    def identity(self, *, has_classifier: bool) -> dict[str, str]:
        """What a checkpoint remembers of the teacher: where it came from, and a digest of what a run learns from.

        Args:
            has_classifier: Whether the run learns from its classifier, too.
        """
        tensors = self.model.state_dict() if has_classifier else self.model.prunnet.state_dict()
        used = {name: tensor for name, tensor in tensors.items() if not name.endswith(SCORES)}
        return {"source": self.source, "digest": digest_tensors(used)}

    def classifier(self, class_names: list[str]) -> nn.Module:
        """From embeddings to logits.

        Args:
            class_names: The classes of the run, in order.

        Raises:
            ValueError: If the checkpoint has no classifier, or one for other classes.
        """
        if self.model.is_classifier_new:
            raise ValueError(
                f"--method bct needs the classifier of --teacher, and {self.source} has none. Give the directory of "
                "its run, or use --method regression, which needs no classifier."
            )
        found = class_names_of(self.model.config)
        if found != class_names:
            raise ValueError(
                f"--method bct needs a --teacher of the same classes; {self.source} has {len(found)}, this run "
                f"{len(class_names)}, and their names or order differ. Train on its classes, or use --method "
                "regression."
            )
        return self.model.classifier


def class_names_of(config: PrunNetConfig) -> list[str]:
    """The names of a network's classes, in order."""
    return [str(name) for name in (config.id2label or {}).values()]


def load_teacher(
    source: str, config: PrunNetConfig, processor: PrunNetImageProcessor, accelerator: Accelerator
) -> Teacher:
    """Load the teacher of a run.

    Args:
        source: A finished run, a model, or a repository on the Hub.
        config: Of the network in training.
        processor: The run's processing of images.
        accelerator: That of the run.

    Raises:
        ValueError: If it embeds in another number of dimensions, or processes images in another way.
    """
    directory = model_directory(source, argument="teacher")
    _check_processing(source, PrunNetImageProcessor.from_pretrained(directory), processor)
    found = PrunNetConfig.from_pretrained(directory)
    if found.embedding_dim != config.embedding_dim:
        raise ValueError(
            f"--embedding_dim must be that of the teacher {source}, {found.embedding_dim}; got {config.embedding_dim}."
        )
    # Naming the classes lets a checkpoint without classifier, such as a published one, be read, too.
    model: PrunNetForImageClassification = PrunNetForImageClassification.from_pretrained(
        directory, id2label=found.id2label, label2id=found.label2id
    )
    model.requires_grad_(False).train(False).to(accelerator.device)
    return Teacher(source, model, accelerator)


def _check_processing(source: str, found: PrunNetImageProcessor, own: PrunNetImageProcessor) -> None:
    theirs, ours = _settings(found), _settings(own)
    for name in PROCESSING:
        if theirs[name] != ours[name]:
            raise ValueError(
                f"The images of a run must be processed as those of the teacher {source}, which has {name}="
                f"{theirs[name]}; got {ours[name]}. Give its --image_size and --resize."
            )


def _settings(processor: PrunNetImageProcessor) -> dict[str, Any]:
    """What a processor does to images, as JSON would have it: a loaded one has lists for tuples."""
    every = processor.to_dict()
    settings: dict[str, Any] = json.loads(json.dumps({name: every.get(name) for name in PROCESSING}))
    return settings
