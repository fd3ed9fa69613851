"""The models that users load and call.

`PrunNetModel` turns images into embeddings; `PrunNetForImageClassification` adds the classifier used in training. Both
are built around a timm backbone whose Conv2d and Linear weights carry scores.

Source: PrunNet, arXiv 2504.11879.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling, ImageClassifierOutput

from .backbone import create_backbone, feature_size, prepare_units
from .classifiers import CosineClassifier, create_classifier, with_margin
from .configuration_prunnet import PrunNetConfig
from .prunable_model import PrunNetPreTrainedModel
from .pruning.calibration import add_statistics
from .pruning.layers import make_prunable
from .pruning.masking import format_capacity


class PrunNetModel(PrunNetPreTrainedModel):
    """A timm backbone and a projector: images in, embeddings out.

    Args:
        config: What to build.
        pretrained_backbone: Start from timm's pretrained weights (downloads them). For a new model only: loading a
            checkpoint never does.
    """

    # Checkpoints of training have a classifier, which embeddings don't need.
    _keys_to_ignore_on_load_unexpected = [r"^classifier\."]

    backbone: Any  # a timm model; its forward_features and forward_head have no common type

    def __init__(self, config: PrunNetConfig, pretrained_backbone: bool = False) -> None:
        super().__init__(config)
        if config.prunable and config.capacity < 1.0:
            raise ValueError(
                "A prunable model is dense: capacity must be 1.0 if prunable is true; got "
                f"{format_capacity(config.capacity)}. Build or load the dense model and call "
                f"prune(capacity={format_capacity(config.capacity)})."
            )
        self.backbone = create_backbone(config, pretrained_backbone)
        if config.granularity == "channel":
            prepare_units(self.backbone, config)
        elif config.prunable:
            make_prunable(self.backbone)
        embedding_dim = config.embedding_dim
        self.projector = nn.Sequential(
            nn.Linear(feature_size(self.backbone), embedding_dim), nn.BatchNorm1d(embedding_dim)
        )
        if config.prunable:
            add_statistics(self, len(config.stored_subnetworks))
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self, pixel_values: Tensor, capacity: float | None = None, return_dict: bool | None = None
    ) -> BaseModelOutputWithPooling | tuple[Tensor, ...]:
        """Embed images.

        Args:
            pixel_values: Images `(batch, 3, height, width)`, normalised by the image processor.
            capacity: Run the subnetwork of this capacity, in (0, 1], instead of the dense network.
            return_dict: False returns a tuple.

        Returns:
            `last_hidden_state`, the backbone's features before pooling in its own layout, and `pooler_output`, the
            embeddings `(batch, embedding_dim)`, not normalised.
        """
        if capacity is not None:
            inputs = {"pixel_values": pixel_values, "return_dict": return_dict}
            masked: BaseModelOutputWithPooling = functional_call(self, self.subnetwork(capacity), kwargs=inputs)
            return masked
        _check_images(pixel_values)
        features = self.backbone.forward_features(pixel_values)
        embeddings = self.projector(self.backbone.forward_head(features))
        output = BaseModelOutputWithPooling(last_hidden_state=features, pooler_output=embeddings)
        return output.to_tuple() if return_dict is False else output


@dataclass
class PrunNetClassifierOutput(ImageClassifierOutput):
    """What `PrunNetForImageClassification` returns.

    Attributes:
        loss: The mean cross entropy, if there were labels.
        logits: `(batch, num_labels)`, without margin.
        pooler_output: The embeddings that were classified, `(batch, embedding_dim)`, not normalised.
    """

    pooler_output: Tensor | None = None


class PrunNetForImageClassification(PrunNetPreTrainedModel):
    """`PrunNetModel` with the classifier that training shares among all capacities (see `classifiers`).

    Args:
        config: What to build; `num_labels` is the number of training classes.
        pretrained_backbone: Start from timm's pretrained weights (downloads them).
    """

    is_classifier_new = False
    """Whether the model was loaded from a checkpoint without classifier: then its own is random."""

    def __init__(self, config: PrunNetConfig, pretrained_backbone: bool = False) -> None:
        super().__init__(config)
        self.prunnet = PrunNetModel(config, pretrained_backbone)
        self.classifier: nn.Linear | CosineClassifier = create_classifier(
            config.classifier, config.embedding_dim, config.num_classes, config.logit_scale
        )
        self.post_init()  # type: ignore[no-untyped-call]

    def _init_weights(self, module: nn.Module) -> None:
        # Needed if a checkpoint has no classifier, or one of another size.
        if module is self.classifier:
            init.normal_(self.classifier.weight, std=self.config.embedding_dim**-0.5)
            if isinstance(self.classifier, nn.Linear):
                init.zeros_(self.classifier.bias)

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        capacity: float | None = None,
        return_dict: bool | None = None,
    ) -> PrunNetClassifierOutput | tuple[Tensor, ...]:
        """Classify images.

        Args:
            pixel_values: Images `(batch, 3, height, width)`, normalised by the image processor.
            labels: Class of each image `(batch,)`, from 0 to `num_labels - 1`; gives `loss`, the mean cross entropy,
                which has the classifier's margin while the model is in training mode.
            capacity: Run the subnetwork of this capacity, in (0, 1], instead of the dense network.
            return_dict: False returns a tuple.

        Returns:
            `loss` (with `labels`), `logits` `(batch, num_labels)` and `pooler_output`, the embeddings.

        Raises:
            ValueError: If a label is out of range (checked on a CPU only, and not in compiled models).
        """
        if capacity is not None:
            inputs = {"pixel_values": pixel_values, "labels": labels, "return_dict": return_dict}
            masked: PrunNetClassifierOutput = functional_call(self, self.subnetwork(capacity), kwargs=inputs)
            return masked
        embeddings = self.prunnet(pixel_values).pooler_output
        logits = self.classifier(embeddings)
        loss = None
        if labels is not None:
            _check_labels(labels, self.config.num_classes)
            loss = F.cross_entropy(self._harder(logits, labels), labels)
        if return_dict is False:  # callers unpack two
            return (logits,) if loss is None else (loss, logits)
        return PrunNetClassifierOutput(loss=loss, logits=logits, pooler_output=embeddings)

    def _harder(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The logits from which the loss is computed: with a margin, in training only."""
        config = self.config
        return with_margin(
            logits, labels, config.classifier, config.logit_scale, config.margin if self.training else 0
        )


def _check_images(pixel_values: Tensor) -> None:
    if pixel_values.ndim != 4 or pixel_values.shape[1] != 3:
        raise ValueError(
            f"pixel_values must have the shape (batch, 3, height, width); got {tuple(pixel_values.shape)}. The image "
            "processor (AutoImageProcessor) makes them."
        )


def _check_labels(labels: Tensor, num_labels: int) -> None:
    if torch.compiler.is_compiling():  # reading values would break the graph in two
        return
    if labels.device.type == "cpu" and labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_labels:
        raise ValueError(
            f"labels must be from 0 to {num_labels - 1} (num_labels={num_labels}); got {int(labels.min())} to "
            f"{int(labels.max())}. Set num_labels to the number of classes."
        )
