"""What all PrunNet models share: one network, prunable to any capacity without data and without training.

A subnetwork is a set of tensors: masked weights and running statistics that replace the network's own. Running at a
capacity calls the network with them, and pruning makes a plain network of them; so the two agree by construction.

Source: PrunNet, arXiv 2504.11879.
"""

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from transformers import BaseImageProcessor, PreTrainedModel

from .configuration_prunnet import PrunNetConfig
from .image_encoding import cosines, encode_images, unit_rows
from .image_processing_prunnet import PrunNetImageProcessor
from .pruning.allocation import UNIFORM, allocated_masks, check_allocation
from .pruning.calibration import (
    add_statistics,
    drop_statistics,
    has_statistics,
    measure_statistics,
    running_statistics,
    select_statistics,
    warn_if_coarse,
    warn_if_not_uniform,
    write_statistics,
)
from .pruning.channel_rules import find_units
from .pruning.channels import UnitScores, init_unit_scores
from .pruning.dropped_weights import keep_dropped_at_zero
from .pruning.layers import PrunableLayer, init_scores, is_prunable_type, prunable_layers
from .pruning.masking import check_capacities, check_capacity, format_capacity
from .pruning.subnetworks import check_scores, find_masks, masked_weights, plain_copy, refuse_recomputing
from .pruning.thinning import cut_units
from .storage.pretrained import load_model, save_model
from .storage.pushing import push_model
from .storage.weights_digest import digest_weights, set_space, settle_space

logger = logging.getLogger(__name__)


class PrunNetPreTrainedModel(PreTrainedModel):
    """What all PrunNet models share: subnetworks, pruning, saving and loading."""

    config_class = PrunNetConfig
    config: PrunNetConfig
    base_model_prefix = "prunnet"
    main_input_name = "pixel_values"
    input_modalities = ["image"]
    _no_split_modules = ["PrunNetModel"]
    # In a shorter type, different scores can become equal, which changes masks.
    _keep_in_fp32_modules_strict = [r"\.scores$"]
    model_tags = ["prunnet", "image-feature-extraction", "image-retrieval"]
    # Whether `config.name_or_path` is a repository; a relative path looks the same.
    is_from_hub = False
    own_image_processor: BaseImageProcessor | None = None
    """Of the base model: what `image_processor` was set to, or was read with the checkpoint."""

    def __repr__(self) -> str:
        """What tells networks apart; `print(model.backbone)` lists its layers."""
        return f"{type(self).__name__}({self.config.summary})"

    def _init_weights(self, module: nn.Module) -> None:
        # timm and torch have initialised everything except the scores. Buffers that aren't saved are made here again.
        if isinstance(module, PrunableLayer):
            init_scores(module, self.config.score_init)
            return
        if isinstance(module, UnitScores):
            init_unit_scores(module)
            return
        make_buffers = getattr(module, "init_non_persistent_buffers", None)
        if make_buffers is not None:
            make_buffers()

    @property
    def image_processor(self) -> BaseImageProcessor:
        """What turns images into this network's pixel_values; every save writes it, and `prune` hands it on.

        A model that has none gets one for `config.image_size`, and says so.
        """
        network: Any = self.base_model
        if network.own_image_processor is None:
            size = self.config.image_size
            network.own_image_processor = PrunNetImageProcessor.for_image_size(size)
            logger.warning(
                "This model has no image processor (preprocessor_config.json), so it takes the one for "
                "config.image_size=%d. If it was trained with another, set model.image_processor.",
                size,
            )
        processor: BaseImageProcessor = network.own_image_processor
        return processor

    @image_processor.setter
    def image_processor(self, processor: BaseImageProcessor) -> None:
        if not isinstance(processor, BaseImageProcessor):
            raise TypeError(
                f"image_processor must be an image processor, such as PrunNetImageProcessor(); got {processor!r}."
            )
        network: Any = self.base_model
        network.own_image_processor = processor

    def encode(
        self, images: Any, batch_size: int = 32, normalize: bool = True, *, progress: bool | None = None
    ) -> NDArray[np.float32]:
        """Embed images, processed by `image_processor`; searching compares such embeddings.

        Args:
            images: An iterable of images: paths, PIL images, arrays or tensors, also mixed; or one of these. Arrays
                hold uint8, uint16, or floats from 0 to 1.
            batch_size: Number of images in a forward pass. Only these are in memory at a time.
            normalize: Give every embedding unit length, so that inner products are cosines. False gives what the
                network gives, its `pooler_output`.
            progress: Show a bar (True) or none (False); by default one on a terminal, if it takes some seconds.

        Returns:
            `(num_images, embedding_dim)`, in the order of `images`. The model's own mode stays as it was.

        Raises:
            TypeError: If an image is of another kind.
            ValueError: If an image can't be decoded, the range of its values is unknown, an embedding isn't finite,
                or `batch_size` is below 1.
        """
        return encode_images(self, images, batch_size=batch_size, normalize=normalize, progress=progress)

    def similarity(self, a: ArrayLike, b: ArrayLike) -> NDArray[np.float32]:
        """Cosines of embeddings that `encode` gave, also of embeddings by different subnetworks.

        Args:
            a: `(n, embedding_dim)`, or one embedding.
            b: `(m, embedding_dim)`, or one embedding.

        Returns:
            `(n, m)` float32, from -1 to 1.

        Raises:
            ValueError: If a shape is another, or an embedding is zero or not finite.

        Example:
            >>> from prunnet_hf import PrunNetConfig, PrunNetModel
            >>> model = PrunNetModel(PrunNetConfig(backbone="resnet18", embedding_dim=2))
            >>> model.similarity([[3.0, 4.0]], [[3.0, 4.0], [8.0, -6.0]]).round(2).tolist()
            [[1.0, 0.0]]
        """
        dim = self.config.embedding_dim
        return cosines(unit_rows(a, "a", dim), unit_rows(b, "b", dim))

    def prunable_layers(self) -> dict[str, PrunableLayer]:
        """The prunable layers by qualified name; none once pruned."""
        return prunable_layers(self)

    def prunable_units(self) -> dict[str, int]:
        """How many units each group has, by its name, with `granularity="channel"`; once pruned, those that are left.

        A group is named after the layer that computes its units.
        """
        if self.config.granularity == "weight":
            return {}
        if self.config.kept_units is not None:
            # Not found again: without all groups of a convolution but one, it isn't grouped any more.
            kept = {self._backbone_prefix + name: count for name, count in self.config.kept_units.items()}
            return {name: kept[name] for name, _ in self.named_modules() if name in kept}
        return {name: group.num_units for name, group in find_units(self).items()}

    @property
    def _backbone_prefix(self) -> str:
        return "backbone." if self.base_model is self else f"{self.base_model_prefix}.backbone."

    def packable_weights(self) -> list[str]:
        """Names of the weights in which pruning makes zeros: those of exact Conv2d and Linear in the backbone.

        There are none with `granularity="channel"`, which leaves out whole units.
        """
        if self.config.granularity == "channel":
            return []
        prefix = self._backbone_prefix
        backbone = self.get_submodule(prefix.removesuffix("."))
        names = (name for name, module in backbone.named_modules() if is_prunable_type(module))
        return [f"{prefix}{name}.weight" for name in names]

    def subnetwork(self, capacity: float) -> dict[str, Tensor]:
        """The tensors that turn this network into its subnetwork of `capacity`.

        Args:
            capacity: Kept share of the prunable weights, in (0, 1]; trained or not.

        Returns:
            Masked weights (differentiable, straight through) and running statistics, named as in this model, for
            `torch.func.functional_call`.

        Raises:
            ValueError: If this model is pruned already, `capacity` is outside (0, 1], or gradients would be wrong, as
                the backbone's gradient checkpointing is on.
        """
        capacity = check_capacity(capacity)
        self._check_prunable()
        refuse_recomputing(self)
        statistics = running_statistics(self, self.config.stored_subnetworks, capacity)
        return {**masked_weights(self, allocated_masks(self, capacity)), **statistics}

    @torch.no_grad()
    def prune(
        self,
        capacity: float,
        calibration: Iterable[Tensor] | None = None,
        *,
        allocation: str = UNIFORM,
        progress: bool = True,
    ) -> Self:
        """Cut the subnetwork of `capacity` out of this network, without data and without training.

        Args:
            capacity: Kept share of the prunable weights, in (0, 1]; trained or not.
            calibration: Batches of pixel_values `(batch, 3, height, width)` from which exact running statistics are
                measured. Without it they are interpolated from those in the checkpoint, which are those of uniform
                subnetworks.
            allocation: How the kept weights, the same number in total, are shared among the layers: `"uniform"`, the
                same share of each, as in training; `"pq_index"`, more to a layer whose kept weights are more equal (by
                PQ Index); `"global"`, by one threshold over scores divided by their layer's root mean square.
            progress: Show a bar if calibration takes some seconds.

        Returns:
            A new model of the same class, made of plain torch layers and without scores. This one isn't changed,
            except that its embedding space is renewed, with a warning, if somebody has changed its weights.

        Raises:
            TypeError: If `capacity` isn't a number, or `calibration` isn't an iterable of tensors.
            ValueError: If this model is pruned already, `capacity` is outside (0, 1], `allocation` is unknown, a score
                isn't finite, or `calibration` is empty or has a batch of fewer than 2 images.
        """
        self._check_prunable()
        check_allocation(allocation)
        capacity = check_capacity(capacity)
        settle_space(self)
        masks = allocated_masks(self, capacity, allocation)
        pruned = plain_copy(self, masks)
        drop_statistics(pruned)
        pruned.config.capacity = capacity
        pruned.config.allocation = allocation
        pruned.config.prunable = False
        pruned.config.statistics_capacities = []
        if calibration is None:
            warn_if_coarse(self.config.stored_subnetworks, capacity)
            warn_if_not_uniform(self, capacity, allocation)
            write_statistics(pruned, None, running_statistics(self, self.config.stored_subnetworks, capacity))
        if self.config.granularity == "channel":
            pruned._cut_units(masks)
        if calibration is not None:
            (statistics,) = measure_statistics(pruned, [{}], calibration, progress=progress)
            write_statistics(pruned, None, statistics)
        keep_dropped_at_zero(pruned)
        if self.config.embedding_space is not None:
            set_space(pruned, self.config.embedding_space)
        return pruned

    def _cut_units(self, masks: Mapping[str, Tensor]) -> None:
        """Make this copy of a network physically thin."""
        groups = find_units(self)
        kept = {name: masks[name].nonzero().flatten() for name in groups}
        cut_units(self, groups, kept)
        self.config.kept_units = {name.removeprefix(self._backbone_prefix): len(kept[name]) for name in groups}

    @torch.no_grad()
    def calibrate(
        self,
        images: Iterable[Tensor],
        *,
        progress: bool = True,
        add_up: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """Measure and store the running statistics of the dense network and of every `config.statistics_capacities`.

        A subnetwork has only its own.

        Args:
            images: Batches of training images as pixel_values `(batch, 3, height, width)`, read once. Every image
                has the same weight, in a batch of any size.
            progress: Show a bar once calibration has taken some seconds.
            add_up: For several processes that share the batches: returns the sum of their tensors, for example
                `accelerator.reduce`. All get the statistics of all batches.

        Raises:
            TypeError: If `images` is not an iterable of tensors.
            ValueError: If `images` is empty or has a batch of fewer than 2 images.
        """
        if not self.config.prunable:
            (own,) = measure_statistics(self, [{}], images, progress=progress, add_up=add_up)
            write_statistics(self, None, own)
            return
        stored = self.config.stored_subnetworks
        if not has_statistics(self):
            add_statistics(self, len(stored))
        check_scores(self)
        subnetworks = [masked_weights(self, masks) for masks in find_masks(self, stored)]
        rows: list[int | None] = [None, *range(len(stored))]
        measured = measure_statistics(self, [{}, *subnetworks], images, progress=progress, add_up=add_up)
        for row, statistics in zip(rows, measured, strict=True):
            write_statistics(self, row, statistics)

    def keep_statistics(self, capacities: Sequence[float]) -> None:
        """Keep the running statistics of only some of the stored capacities, and those of the dense network.

        Args:
            capacities: Which of `config.statistics_capacities` to keep.

        Raises:
            ValueError: If one of them isn't stored.
        """
        self._check_prunable()
        stored = self.config.stored_subnetworks
        kept = [capacity for capacity in check_capacities(capacities) if capacity < 1.0]
        foreign = [capacity for capacity in kept if capacity not in stored]
        if foreign:
            raise ValueError(f"capacities must be among those with stored statistics, {stored}; got {foreign} too.")
        if not has_statistics(self):
            kept = []
        select_statistics(self, [stored.index(capacity) for capacity in kept])
        self.config.statistics_capacities = [*kept, 1.0]

    def renew_embedding_space(self) -> str:
        """Give the embeddings a new space id, a hash of the dense weights. Called when training ends.

        Returns:
            The id, 16 hexadecimal digits, also in `config.embedding_space`.
        """
        space = digest_weights(self)
        set_space(self, space)
        return space

    # The arguments that PreTrainedModel has after `save_directory` are taken by keyword only.
    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | os.PathLike[str],
        *,
        bands: Sequence[float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Save as `PreTrainedModel.save_pretrained` does. A subnetwork is written as `model.packed.safetensors`.

        The directory then has either the old model or the whole new one. A save that is killed in between leaves no
        `config.json`, so that nothing can be loaded from the directory.

        Args:
            save_directory: Created if necessary.
            bands: To save a progressive checkpoint, the edges of its bands, such as `model.config.capacities`, each in
                (0, 1] and with stored running statistics; 1.0 is added. `from_pretrained(..., capacity=c)` downloads
                only its bands up to `c`. With `granularity="channel"` it gives exactly what pruning gives; with
                `"weight"` masks are exact at edges, and between them up to one 256th of a band.
            **kwargs: See `PreTrainedModel.save_pretrained`.

        Raises:
            NotADirectoryError: If `save_directory` is a file.
            TypeError: If `bands` isn't a list of numbers.
            ValueError: If an edge of `bands` has no running statistics, a score isn't finite, the model is pruned
                already, or `push_to_hub=True` is given with `bands`; if there is a `variant`; or if
                `register_for_auto_class` was called.
        """
        save_model(self, super().save_pretrained, save_directory, bands=bands, **kwargs)

    def push_to_hub(  # type: ignore[override]
        self, repo_id: str, *, tags: Sequence[str] | str = (), **kwargs: Any
    ) -> Any:
        """Upload to the Hub as `PreTrainedModel.push_to_hub` does, with a card that says what the model is.

        Args:
            repo_id: `org/name`; created if necessary. Its files of another form are deleted.
            tags: For the card, in addition to `model_tags`.
            **kwargs: As for `PreTrainedModel.push_to_hub`; also `bands`, as for `save_pretrained`.

        Returns:
            The Hub client's `CommitInfo`.

        Raises:
            ValueError: If `bands` don't suit the model, as in `save_pretrained`.
        """
        own = [tags] if isinstance(tags, str) else list(tags)
        return push_model(self, repo_id, tags=[*self.model_tags, *own], **kwargs)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,
        *model_args: Any,
        capacity: float | None = None,
        allocation: str = UNIFORM,
        **kwargs: Any,
    ) -> Any:
        """Load any form as `PreTrainedModel.from_pretrained` does; with `capacity` the result is pruned.

        Scores stay float32 with any `dtype`, so that the masks stay those that were saved.

        Args:
            pretrained_model_name_or_path: Directory or Hub repository.
            *model_args: Passed to the constructor.
            capacity: Prune to this kept share, in (0, 1], after loading. Of a checkpoint in bands only those up to it
                are downloaded, and no ranks if it is an edge. If `dtype` isn't the stored one, what pruning computes
                (statistics of a capacity that has none, scaled queries) is then rounded afterwards, not before.
            allocation: With `capacity`; see `prune`. All bands are needed unless it is `"uniform"`.
            **kwargs: See `PreTrainedModel.from_pretrained`.

        Raises:
            TypeError: If `capacity` isn't a number.
            ValueError: If the checkpoint has another kind of model, or lacks weights or has foreign ones (other than
                those of a new or resized classifier), if `capacity` is outside (0, 1] or given for a pruned
                checkpoint, or for a reason that `prune` names.
            OSError: If a file is missing or a plain weight file is cut short. A damaged file of another form raises
                `CheckpointFormatError`, a kind of ValueError.
        """
        return load_model(
            cls,
            super().from_pretrained,
            pretrained_model_name_or_path,
            *model_args,
            capacity=capacity,
            allocation=allocation,
            **kwargs,
        )

    def _check_prunable(self) -> None:
        if not self.config.prunable:
            raise ValueError(
                f"This model is pruned already (capacity {format_capacity(self.config.capacity)}) and has no scores. "
                "Load the dense checkpoint from which it was pruned, and prune that."
            )
