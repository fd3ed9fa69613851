"""Tiny random image encoders of timm and transformers, as their users save them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import save_for_hf
from transformers import (
    CLIPConfig,
    CLIPModel,
    PreTrainedModel,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    ViTModel,
)

SIDE = 32
VIT: dict[str, Any] = {
    **{"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8},
    **{"image_size": SIDE, "patch_size": 16},
}


def save_timm(folder: Path, seed: int = 0) -> str:
    """Save a ResNet with vectors of length 8; returns how it is named."""
    torch.manual_seed(seed)
    kwargs = {"layers": [1, 1, 1, 1], "channels": [4, 4, 8, 8]}
    model = timm.create_model("resnet18", num_classes=3, **kwargs)
    model.pretrained_cfg.update(input_size=(3, SIDE, SIDE), crop_pct=1.0)
    save_for_hf(model, folder, model_args=kwargs, safe_serialization=True)
    return f"timm:local-dir:{folder}"


def save_transformers(folder: Path, kind: str, seed: int = 0) -> str:
    """Save a model of transformers with its processor; returns how it is named.

    `vit` pools by weights of its own, `classifier` has none for that, and `clip` has vectors of length 6, shared with
    texts.
    """
    torch.manual_seed(seed)
    model: PreTrainedModel
    if kind == "clip":
        text = {**VIT, "vocab_size": 20, "max_position_embeddings": 5, "bos_token_id": 0, "eos_token_id": 1}
        model = CLIPModel(CLIPConfig(vision_config=VIT, text_config=text, projection_dim=6))
    else:
        model = (ViTModel if kind == "vit" else ViTForImageClassification)(ViTConfig(**VIT))
    model.save_pretrained(folder)
    ViTImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return f"transformers:{folder}"
