"""The networks of a run: new, to fine-tune or to evaluate; and the processing of their images."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from timm.layers import convert_sync_batchnorm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..commands import model_directory
from ..configuration_prunnet import STATISTICS_GRID, Granularity, PrunNetConfig
from ..image_processing_prunnet import PrunNetImageProcessor
from ..modeling_prunnet import PrunNetForImageClassification
from ..pruning.calibration import MEAN, VARIANCE, add_statistics, batch_norms
from ..pruning.masking import check_capacities, format_capacity
from ..runs.arguments import DataArguments, ModelArguments, RunArguments, TrainArguments
from ..runs.methods import find_method
from .paper import initialise_as_paper

logger = logging.getLogger(__name__)


def create_processor(arguments: DataArguments) -> PrunNetImageProcessor:
    """The processing of images outside training: resize the shorter side, then cut out the centre."""
    crop = {"height": arguments.image_size, "width": arguments.image_size}
    return PrunNetImageProcessor(size={"shortest_edge": arguments.shorter_side}, crop_size=crop)


def create_model(arguments: RunArguments, class_names: list[str]) -> PrunNetForImageClassification:
    """A new network, or that of `model_name_or_path`, with a classifier for the classes of this run."""
    model = arguments.model
    labels: dict[str, Any] = {
        "id2label": dict(enumerate(class_names)),
        "label2id": {name: index for index, name in enumerate(class_names)},
        "image_size": arguments.data.image_size,
    }
    if model.model_name_or_path is not None:
        source = model_directory(model.model_name_or_path, argument="model_name_or_path")
        check_granularity(source, model.granularity)
        check_trains_alone(source, arguments.train)
        loaded = _load_to_train(source, arguments.train.capacities, {**labels, **_classifier_settings(model)})
        if arguments.train.trains_into:
            _check_dimension(source, loaded.config.embedding_dim, model.embedding_dim)
        return loaded
    config = PrunNetConfig(
        backbone=model.backbone,
        backbone_kwargs=json.loads(model.backbone_kwargs),
        embedding_dim=cast("int", model.embedding_dim),  # `RunArguments` or the space that exists has set it
        capacities=arguments.train.capacities,
        stem_pool=model.stem_pool,
        score_init=model.score_init,
        granularity=model.granularity or "weight",
        **labels,
        **_classifier_settings(model),
    )
    network = PrunNetForImageClassification(config, pretrained_backbone=model.takes_pretrained_weights)
    if arguments.train.method == "paper":
        initialise_as_paper(network, is_pretrained=model.takes_pretrained_weights)
    return network


def _check_dimension(source: str, found: int, wanted: int | None) -> None:
    if found != wanted:
        raise ValueError(
            f"--model_name_or_path {source} has embeddings of {found} dimensions, and the space of --into or "
            f"--teacher {wanted}. Fine-tune a checkpoint of that many, or train a new network."
        )


def _classifier_settings(model: ModelArguments) -> dict[str, Any]:
    """What was said about the classifier. The rest is the checkpoint's, or the configuration's default."""
    given = {"classifier": model.classifier, "logit_scale": model.logit_scale, "margin": model.margin}
    return {name: value for name, value in given.items() if value is not None}


def check_granularity(source: str, asked: Granularity | None) -> None:
    """Make sure that a checkpoint has the granularity that was asked for, if one was.

    Raises:
        ValueError: If it doesn't.
    """
    found = PrunNetConfig.from_pretrained(source).granularity
    if asked not in (None, found):
        raise ValueError(
            f"--granularity must be {found!r}, that of {source}, or left out; got {asked!r}. Only a new network can "
            "have another."
        )


def check_trains_alone(source: str, options: TrainArguments) -> None:
    """Make sure that a subnetwork is trained as what it is: one network of its own capacity.

    Raises:
        ValueError: If the method trains other subnetworks with it, or another capacity is asked for.
    """
    config = PrunNetConfig.from_pretrained(source)
    if config.prunable:
        return
    own = format_capacity(config.capacity)
    remedy = "Leave --method and --capacities out, or fine-tune the dense checkpoint that it was cut from."
    if find_method(options.method).has_subnetworks:
        raise ValueError(
            f"--method {options.method} needs a prunable checkpoint; {source} is a subnetwork of capacity {own}, "
            f"which is trained alone. {remedy}"
        )
    if not math.isclose(options.capacities[0], config.capacity):
        raise ValueError(
            f"--capacities must be {own}, that of the subnetwork {source}; got "
            f"{format_capacity(options.capacities[0])}. {remedy}"
        )


def _load_to_train(source: str, capacities: list[float], settings: dict[str, Any]) -> PrunNetForImageClassification:
    """A checkpoint with these settings, if it is prunable with room for the statistics of this run's capacities."""
    config = PrunNetConfig.from_pretrained(source, **settings)
    before = PrunNetConfig.from_pretrained(source)
    model: PrunNetForImageClassification = PrunNetForImageClassification.from_pretrained(source, config=config)
    model.is_classifier_new = False  # from now on it is trained
    if list(before.id2label.values()) != list(settings["id2label"].values()):
        _renew_classifier(model, "The training images have other classes than %s", source)
    elif (before.classifier == "softmax") != (config.classifier == "softmax"):
        _renew_classifier(model, f"--classifier {config.classifier} isn't that of %s", source)
    model.config.capacities = [capacity for capacity in capacities if capacity < 1.0]
    if config.prunable:
        model.config.statistics_capacities = check_capacities([*model.config.capacities, *STATISTICS_GRID])
        add_statistics(model, len(model.config.stored_subnetworks))
    model.config.embedding_space = None  # of the space that it leaves; when training ends, it gets that of its own
    return model


def _renew_classifier(model: PrunNetForImageClassification, reason: str, source: str) -> None:
    """Forget the classes of a checkpoint. If there were as many, each row would stand for another class."""
    for name, parameter in model.classifier.named_parameters():
        nn.init.zeros_(parameter) if name == "bias" else nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    logger.warning(f"{reason}: the classifier starts from new weights.", source)


def load_trained(arguments: RunArguments) -> tuple[PrunNetForImageClassification, PrunNetImageProcessor]:
    """The model to evaluate with `eval_only`: the run's own, or if it has none that of `model_name_or_path`."""
    own = Path(arguments.train.output_dir) / "model"
    given = arguments.model.model_name_or_path
    source = str(own) if own.is_dir() else given and model_directory(given)
    if source is None:
        raise FileNotFoundError(
            f"--eval_only found no model in {own}: give the --output_dir of a finished run, or --model_name_or_path. "
            "A run that was stopped goes on with --resume."
        )
    check_granularity(source, arguments.model.granularity)
    # Embeddings need no classifier, which a published model doesn't have.
    config = PrunNetConfig.from_pretrained(source)
    labels = {"num_labels": config.num_classes}
    model: PrunNetForImageClassification = PrunNetForImageClassification.from_pretrained(source, **labels)
    return model, PrunNetImageProcessor.from_pretrained(source)


def lay_out(model: nn.Module, memory_format: torch.memory_format) -> None:
    """Store the weights of convolutions in this format, which should be that of the images."""
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=memory_format)


def keep_statistics_unsent(wrapped: nn.Module) -> None:
    """Don't send running statistics between processes at every pass: they are measured again when training ends.

    In torch 2.13, DDP's argument has a new name that accelerate can't pass. The attribute still has the old one.
    """
    for module in wrapped.modules():  # DDP may be inside a compiled module
        if isinstance(module, DistributedDataParallel):
            module.broadcast_buffers = False


class SyncedBatchNorms:
    """Replaces every batch norm of a network by torch's SyncBatchNorm, and can undo this.

    Both share parameters and buffers: names, optimiser and checkpoints stay the same.

    Args:
        network: It must be on its device already, because moving it would separate the buffers.

    Raises:
        ValueError: If `network` is on a CPU, where SyncBatchNorm doesn't run.
    """

    def __init__(self, network: nn.Module) -> None:
        device = next(network.parameters()).device
        if device.type == "cpu":
            raise ValueError(
                "sync_batchnorm=True needs GPUs: torch's SyncBatchNorm doesn't run on a CPU, which this process "
                "uses. Leave --sync_batchnorm out; batch norms then use the --batch_size images of their own process."
            )
        self.network = network
        self.plain: dict[str, nn.Module] = dict(batch_norms(network))
        self.synced = {name: _synced(norm) for name, norm in self.plain.items()}
        self._place(self.synced)

    def undo(self) -> None:
        """Put the plain batch norms back."""
        self._place(self.plain)

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Use plain batch norms in this context, for work that processes do independently, such as calibration."""
        self.undo()
        try:
            yield
        finally:
            self._place(self.synced)

    def _place(self, norms: dict[str, nn.Module]) -> None:
        for name, norm in norms.items():
            norm.train(self.network.get_submodule(name).training)
            self.network.set_submodule(name, norm)


def _synced(norm: nn.Module) -> nn.Module:
    # timm's function keeps the activations of norms that have them; torch's loses them.
    synced: nn.Module = convert_sync_batchnorm(norm)
    for name in (MEAN, VARIANCE):
        buffer: torch.Tensor = norm.get_buffer(name)
        synced.register_buffer(name, buffer)
    return synced
