"""How the paper's code starts a new network, as facts (PrunNet, arXiv 2504.11879); see `initialise_as_paper`."""

from __future__ import annotations

import torch
from timm.models.resnet import ResNet
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from ..modeling_prunnet import PrunNetForImageClassification
from ..pruning.layers import init_scores


@torch.no_grad()
def initialise_as_paper(model: PrunNetForImageClassification, *, is_pretrained: bool) -> None:
    """Draw the weights of a new network again, as the paper's code does.

    Classifier and projector: `kaiming_normal_` by their outputs. A ResNet or ResNeXt from scratch: torch's own
    initialisation of convolutions, and all batch norms at 1. timm draws convolutions otherwise and sets the last norm
    of each block to 0, so that most rows have no gradient in the first steps. Other backbones stay as timm makes them.

    Args:
        model: The network, changed in place.
        is_pretrained: Whether the backbone has trained weights, which stay.
    """
    for weight in (model.classifier.weight, model.prunnet.get_parameter("projector.0.weight")):
        nn.init.kaiming_normal_(weight, mode="fan_out")
    backbone = model.prunnet.backbone
    if is_pretrained or not isinstance(backbone, ResNet):
        return
    for module in backbone.modules():
        if isinstance(module, (nn.Conv2d, _NormBase)):
            module.reset_parameters()
    if model.config.score_init == "magnitude":  # of the new weights
        for layer in model.prunable_layers().values():
            init_scores(layer, model.config.score_init)
