"""The forms in which weights are saved: which one suits a model, writing it, finding out which is there, reading it.

A checkpoint whose configuration says that it is prunable has bands or plain weights; any other is packed or plain. A
weight file of another form beside those is left over. Plain weights are left to transformers.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_NAME, cached_file

from ..pruning.masking import check_capacities, format_capacity
from .band_index import INDEX_NAME, BandIndex, read_index
from .band_reader import load_bands
from .bands import save_bands
from .packed import PACKED_WEIGHTS_NAME, load_packed, save_packed
from .tensor_file import CheckpointFormatError

# How the configuration of a subnetwork joined from bands differs from the stored one, besides its capacity.
SUBNETWORK_FIELDS: dict[str, Any] = {"prunable": False, "statistics_capacities": []}
# Arguments of from_pretrained that say where files are; looking for other files needs the same ones.
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")


@dataclass(frozen=True)
class Weights:
    """Weights that were found here, for a model that transformers builds around them.

    Attributes:
        state_dict: The tensors; None where they are plain, in one file, which transformers reads.
        form: What they are stored as, for the refusal of a variant.
        statistics: Capacities with stored running statistics, where the tensors are a subnetwork's, joined from bands
            of a prunable model; None otherwise.
    """

    state_dict: dict[str, Tensor] | None
    form: str
    statistics: tuple[float, ...] | None = None


def write_weights(directory: Path, model: Any, state_dict: dict[str, Tensor], bands: Sequence[float] | None) -> None:
    """Write weights in one of the forms that transformers doesn't know."""
    if model.config.capacity < 1.0:
        save_packed(directory / PACKED_WEIGHTS_NAME, state_dict, model.packable_weights())
    elif bands is not None:
        save_bands(directory, state_dict, model.prunable_layers(), bands, model.config.stored_subnetworks)


def check_bands(model: Any, bands: Sequence[float] | None, push_to_hub: bool) -> list[float] | None:
    """Return the edges of `bands`, once they are known to suit the model."""
    if bands is None:
        return None
    edges = check_capacities(bands, "bands")
    if not model.config.prunable:
        raise ValueError(
            f"bands={edges} is for prunable models; this one is pruned to capacity "
            f"{format_capacity(model.config.capacity)} and has no scores. Save it without bands, or save the dense "
            "model it was cut from."
        )
    if push_to_hub:
        raise ValueError(
            f"push_to_hub must be False beside bands={edges}. Save first; then call "
            f"model.push_to_hub(repo_id, bands={edges})."
        )
    return edges


def read_weights(
    cls: Any, path: Any, config: Any, capacity: float | None, variant: str | None, where: dict[str, Any]
) -> Weights | None:
    """Read the weights of a checkpoint; None where there is no file but such as transformers alone knows.

    Args:
        cls: The class of the model.
        path: Directory or Hub repository.
        config: The configuration, where from, or None.
        capacity: What the caller will prune to; of bands only those it needs are fetched.
        variant: Of plain weights; there is none of the other forms.
        where: Those of `HUB_ARGUMENTS` that the caller has given.

    Raises:
        CheckpointFormatError: If a file is damaged, or of another model.
        OSError: If a file that must be there can't be found.
    """
    # Any kind: beside the code of a local folder, transformers imports the configuration's class a second time.
    if not isinstance(config, PreTrainedConfig):
        _find(config or path, CONFIG_NAME, where)  # says what is wrong with the Hub better than the next line
        config = cls.config_class.from_pretrained(config or path, **where)
    weights = _read_bands(path, capacity, where) if config.prunable else _read_packed(path, config, where)
    return weights or (_read_one_file(path, config, where) if variant is None else None)


def model_arguments(weights: Weights, config: Any) -> dict[str, Any]:
    """The arguments of transformers' `from_pretrained` that build a model around `weights`.

    Args:
        weights: What `read_weights` found.
        config: The configuration, or where from.
    """
    if weights.state_dict is None:
        return {"force_download": False}  # it has just been fetched
    arguments = {"config": config, "state_dict": weights.state_dict}
    if weights.statistics is None:
        return arguments
    if not isinstance(config, PreTrainedConfig):
        return arguments | SUBNETWORK_FIELDS  # changes what is read
    config = copy.deepcopy(config)
    for name, value in SUBNETWORK_FIELDS.items():
        setattr(config, name, value)
    return arguments | {"config": config}


def _read_bands(path: Any, capacity: float | None, where: dict[str, Any]) -> Weights | None:
    found = _find(path, INDEX_NAME, where)
    if found is None:
        return None
    index = read_index(found)
    files = {name: _find_band(path, name, index, where) for name in index.needed_files(capacity)}
    return Weights(
        load_bands(index, files, capacity),
        "bands are one set of files",
        None if capacity is None else index.statistics,
    )


def _find_band(path: Any, name: str, index: BandIndex, where: dict[str, Any]) -> str:
    found = _find(path, name, where)
    if found is None:
        raise OSError(
            f"{path} is a checkpoint in bands of capacity {list(index.capacities)}, of which {name} is needed and is "
            "not there. Copy or save all files again, or load once with access to the Hub."
        )
    return found


def _read_packed(path: Any, config: Any, where: dict[str, Any]) -> Weights | None:
    found = None if config.capacity == 1.0 else _find(path, PACKED_WEIGHTS_NAME, where)
    return None if found is None else Weights(load_packed(found), "a packed subnetwork is one file")


def _read_one_file(path: Any, config: Any, where: dict[str, Any]) -> Weights | None:
    # Plain weights, too, are fetched here: of a Hub that refuses them transformers says that there are none.
    found = _find(path, SAFE_WEIGHTS_NAME, where)
    if found is None:
        return None
    if config.prunable:
        _refuse_rank16(found)
    return Weights(None, "plain")


def _refuse_rank16(file: str) -> None:
    """Refuse the form `scores="rank16"` of early versions, which bands have replaced."""
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
    except SafetensorError:
        return  # transformers reads it, and says what is wrong
    if metadata.get("scores") == "rank16":
        raise CheckpointFormatError(
            f"{file} stores scores in the form 'rank16', which this prunnet_hf no longer reads. Load the checkpoint "
            "with prunnet_hf at commit 4281916 and save it plain, or with bands=model.config.capacities, which is "
            "smaller."
        )


def _find(path: Any, name: str, where: dict[str, Any]) -> str | None:
    """Where a file of a checkpoint is, fetched where need be; None where there is none.

    Raises:
        OSError: If the Hub refuses or fails to send it, which transformers would report as a file that isn't there, or
            as a lack of connection.
    """
    arguments = {"subfolder": "", **where}
    found: str | None
    try:
        found = cached_file(path, name, **arguments)
    except OSError as error:
        not_cached = error.__cause__
        reason = not_cached.__cause__ if isinstance(not_cached, FileNotFoundError) else None
        if reason is not None:
            raise OSError(
                f"{name} of {path} is not in the cache, and the Hub did not send it: {reason}\n"
                "Mend what it names, or try again later."
            ) from error
        found = cached_file(path, name, _raise_exceptions_for_missing_entries=False, **arguments)
    return found
