"""The forms in which weights are saved, the choice among them, and the reading of whichever is there.

The first form in `FORMS` that suits a model's configuration is written, and looked for first. A weight file of a form
that comes later is then ignored. To add a form, write its module and add it here.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig
from transformers.utils import CONFIG_NAME, IMAGE_PROCESSOR_NAME

from .band_reader import BANDS
from .form import Form, Source, Weights
from .packed import PACKED
from .plain import PLAIN
from .tensor_file import damaged

FORMS = (BANDS, PACKED, PLAIN)
MODEL_FILES = (CONFIG_NAME, IMAGE_PROCESSOR_NAME, *(pattern for form in FORMS for pattern in form.files))
"""Patterns of the files of a saved model, which the next save replaces."""
SUBNETWORK_FIELDS: dict[str, Any] = {"prunable": False, "statistics_capacities": []}
"""In what, besides its capacity and its kept units, a subnetwork's configuration differs from its checkpoint's."""


def weights_bytes(folder: Path) -> int:
    """Bytes of the files with tensors in a model's folder; 0 if there are none."""
    patterns = [pattern for pattern in MODEL_FILES if not pattern.endswith(".json")]
    return sum(file.stat().st_size for pattern in patterns for file in folder.glob(pattern))


def form_to_write(config: Any, bands: Sequence[float] | None) -> Form:
    """The form in which a model with this configuration is saved; `bands` are the edges that were asked for."""
    return next(form for form in FORMS if form.suits(config) and form.on_request == (bands is not None))


def read_weights(cls: Any, source: Source, config: Any, capacity: float | None) -> Weights | None:
    """Read the weights of a checkpoint. Returns None if only transformers can find the files.

    Args:
        cls: The class of the model.
        source: Where the weights are.
        config: The configuration, or where it is; None if it is with the weights.
        capacity: The capacity to which the caller will prune. Of bands, only those that it needs are downloaded.

    Raises:
        CheckpointFormatError: If a file is damaged, or of another model.
        OSError: If a file that must be there can't be found.
        ValueError: If a variant is asked for and the weights aren't plain.
    """
    # Any kind of configuration: transformers imports its class a second time from the code in a local folder.
    if not isinstance(config, PreTrainedConfig):
        # Called first because it says more clearly than the next line what is wrong with the Hub.
        Source(config or source.path, source.where).find(CONFIG_NAME)
        config = cls.config_class.from_pretrained(config or source.path, **source.where)
    for form in FORMS:
        weights = form.read(source, capacity) if form.suits(config) else None
        if weights is not None:
            refuse_variant(
                source.variant, f"the form {form.name!r} has none", "dtype=torch.bfloat16 converts on loading."
            )
            _check_granularity(weights, config, source)
            return weights
    return None


def _check_granularity(weights: Weights, config: Any, source: Source) -> None:
    """Refuse a subnetwork from bands of another granularity than the configuration's."""
    has_units = weights.kept_units is not None
    if weights.statistics is not None and has_units != (config.granularity == "channel"):
        raise damaged(
            f"{source.path} has bands of {'whole units' if has_units else 'single weights'}, but the configuration "
            f"has granularity={config.granularity!r}"
        )


def refuse_variant(variant: str | None, reason: str, remedy: str) -> None:
    """Raise a ValueError if there is a `variant`."""
    if variant is not None:
        raise ValueError(f"variant must be None, as {reason}; got {variant!r}. {remedy}")


def model_arguments(weights: Weights, config: Any) -> dict[str, Any]:
    """The arguments of transformers' `from_pretrained` that build a model around `weights`.

    Args:
        weights: What `read_weights` found.
        config: The configuration, or where it is.
    """
    if weights.state_dict is None:
        return {"force_download": False}  # it has just been downloaded
    arguments = {"config": config, "state_dict": weights.state_dict}
    fields = {**SUBNETWORK_FIELDS, "kept_units": weights.kept_units}
    if weights.statistics is None:
        return arguments
    if not isinstance(config, PreTrainedConfig):
        return arguments | fields  # changes what is read
    config = copy.deepcopy(config)
    for name, value in fields.items():
        setattr(config, name, value)
    return arguments | {"config": config}
