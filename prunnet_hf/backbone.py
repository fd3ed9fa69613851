"""Creates and checks the timm backbone of a PrunNet model."""

import difflib
from collections.abc import Mapping
from typing import Any

import timm
import torch
from torch import nn

from .configuration_prunnet import PrunNetConfig
from .pruning.channel_guard import check_units
from .pruning.channel_rules import find_units
from .pruning.channels import add_units
from .pruning.layers import is_prunable_type
from .pruning.thinning import cut_units

BUILDING_ERRORS = (TypeError, ValueError, RuntimeError, AssertionError, ZeroDivisionError, LookupError)
"""What timm raises for arguments that it can't build a network with."""


def create_backbone(config: PrunNetConfig, pretrained: bool = False) -> nn.Module:
    """Create the timm backbone that `config` names, without classifier.

    Args:
        config: Gives `backbone`, `backbone_kwargs`, `image_size` and `stem_pool`.
        pretrained: Start from timm's pretrained weights (downloads them).

    Raises:
        ValueError: If timm doesn't know the backbone or one of its arguments, or if the backbone can't take the image
            size, has no `maxpool` to leave out, or has nothing prunable.
    """
    if not timm.is_model(config.backbone):
        close = difflib.get_close_matches(config.backbone, timm.list_models(), n=3)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise ValueError(f"backbone must be a model of timm {timm.__version__}; got {config.backbone!r}.{hint}")
    _check_image_size(config)
    return _create(config, pretrained)


def prepare_units(backbone: nn.Module, config: PrunNetConfig) -> None:
    """Give the units of a backbone scores, or leave out those that a pruned checkpoint lacks.

    Args:
        backbone: From `create_backbone`, changed in place.
        config: Of granularity `"channel"`.

    Raises:
        ValueError: If the backbone's blocks have no known units or too few, or `kept_units` doesn't fit it.
    """
    groups = find_units(backbone)
    if config.prunable:
        check_units(config.backbone, backbone, groups, features_of, config.image_size)
        add_units(backbone, groups)
        return
    kept = config.kept_units or {}
    wrong = sorted(kept.keys() ^ groups.keys())
    if wrong:
        raise ValueError(
            f"kept_units must have a number for each group of units in backbone={config.backbone!r}, and no others; "
            f"{wrong[0]!r} {'is not one of its groups' if wrong[0] in kept else 'is missing'}. Save or download the "
            "checkpoint again."
        )
    for name, group in groups.items():
        if kept[name] > group.num_units:
            raise ValueError(
                f"kept_units[{name!r}] must be at most {group.num_units}, which backbone={config.backbone!r} has; got "
                f"{kept[name]!r}. Save or download the checkpoint again."
            )
    # Which units they are shows only in the weights that are loaded.
    cut_units(backbone, groups, {name: torch.arange(kept[name]) for name in groups})


def features_of(backbone: Any, pixel_values: torch.Tensor) -> torch.Tensor:
    """The pooled features of images `(batch, 3, height, width)`, `(batch, feature_size)`."""
    features: torch.Tensor = backbone.forward_head(backbone.forward_features(pixel_values))
    return features


def has_fitting_weights(name: str, arguments: Mapping[str, Any]) -> bool:
    """Whether timm has pretrained weights of a backbone, and these arguments of it change the shape of none.

    Args:
        name: The backbone's name in timm.
        arguments: Further arguments of `timm.create_model`.
    """
    try:
        known = timm.get_pretrained_cfg(name)
    except RuntimeError:  # the name has a tag that timm doesn't know
        return False
    if known is None or not known.has_weights:
        return False
    if not arguments:
        return True
    with torch.device("meta"):
        try:
            built = [timm.create_model(name, num_classes=0, **chosen) for chosen in ({}, arguments)]
        except BUILDING_ERRORS:  # which building the network will name
            return False
    usual, own = ({key: tensor.shape for key, tensor in network.state_dict().items()} for network in built)
    return usual == own


def feature_size(backbone: Any) -> int:
    """Length of the pooled features of a timm backbone."""
    return int(getattr(backbone, "head_hidden_size", None) or backbone.num_features)


def _create(config: PrunNetConfig, pretrained: bool) -> nn.Module:
    arguments = dict(config.backbone_kwargs or {})
    default = timm.get_pretrained_cfg(config.backbone)
    if default is not None and default.fixed_input_size:
        # Such backbones (ViT, Swin) are built for one size; the others take any and refuse the argument.
        arguments.setdefault("img_size", config.image_size)
    try:
        backbone = timm.create_model(config.backbone, pretrained=pretrained, num_classes=0, **arguments)
    except OSError as error:
        reason = " ".join(str(error).split())
        raise OSError(
            f"The pretrained weights of backbone={config.backbone!r} can't be fetched ({reason}). Mend "
            "the connection, or start from random weights with --pretrained_backbone false."
        ) from error
    except BUILDING_ERRORS as error:
        raise ValueError(
            f"timm can't build backbone={config.backbone!r} at image_size={config.image_size} with "
            f"backbone_kwargs={config.backbone_kwargs!r}: {error}"
            + (" Its pretrained weights may not fit: try --pretrained_backbone false." if pretrained else "")
        ) from error
    if not config.stem_pool:
        _remove_stem_pool(backbone, config.backbone)
    if not any(is_prunable_type(module) for module in backbone.modules()):
        raise ValueError(
            f"backbone={config.backbone!r} has no prunable layer: a backbone needs modules whose type is exactly "
            "torch.nn.Conv2d or torch.nn.Linear."
        )
    return backbone


def _remove_stem_pool(backbone: nn.Module, name: str) -> None:
    if not isinstance(getattr(backbone, "maxpool", None), nn.Module):
        raise ValueError(f"stem_pool=False needs a backbone with a module `maxpool`; {name!r} has none.")
    backbone.maxpool = nn.Identity()


def _check_image_size(config: PrunNetConfig) -> None:
    """Run the backbone once on the meta device, which computes only shapes."""
    with torch.device("meta"), torch.no_grad():
        backbone: Any = _create(config, pretrained=False).eval()
        image = torch.empty(1, 3, config.image_size, config.image_size)
        try:
            backbone.forward_head(backbone.forward_features(image))
        except (RuntimeError, ValueError, AssertionError, IndexError, ZeroDivisionError) as error:
            raise ValueError(
                f"backbone={config.backbone!r} can't take image_size={config.image_size} ({error}). "
                f"Choose a larger one, or a multiple of the backbone's patch and window sizes."
            ) from error
        except AttributeError as error:  # such as a stage that was left out
            raise ValueError(
                f"backbone={config.backbone!r} can't run with backbone_kwargs={config.backbone_kwargs!r}: {error}"
            ) from error
