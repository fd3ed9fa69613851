"""The image processor that belongs to a model, `preprocessor_config.json`: saved and read with it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from transformers.utils import IMAGE_PROCESSOR_NAME

from ..image_processing_prunnet import PrunNetImageProcessor
from .form import Source
from .json_text import load_json


def save_image_processor(model: Any, staging: Path, target: Path) -> None:
    """Write a model's image processor beside its weights.

    Args:
        model: A PrunNet model.
        staging: The directory to write to.
        target: The directory that `staging` will replace. A model without an image processor keeps that of `target`,
            which the user may have saved before the model.
    """
    there = target / IMAGE_PROCESSOR_NAME
    if model.base_model.own_image_processor is None and there.is_file():
        shutil.copyfile(there, staging / IMAGE_PROCESSOR_NAME)
    else:
        model.image_processor.save_pretrained(staging)


def read_image_processor(source: Source) -> PrunNetImageProcessor | None:
    """Read the image processor of a checkpoint; None if it has none.

    Raises:
        ValueError: If the file is damaged.
    """
    found = source.find(IMAGE_PROCESSOR_NAME) if source.path is not None else None
    if found is None:
        return None
    try:
        content = load_json(Path(found).read_text(encoding="utf-8"))
        processor: PrunNetImageProcessor = PrunNetImageProcessor.from_dict(content)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{found} is damaged: it doesn't describe an image processor ({error}). Download or save it again."
        ) from error
    return processor
