"""Saving and loading of PrunNet models, built on transformers' own.

This adds other forms of weights, directories that are replaced as a whole, and weights that must fit.
"""

import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers.utils.hub import resolve_revision

from ..configuration_prunnet import refuse_copying_code
from ..pruning.allocation import UNIFORM, check_allocation
from ..pruning.calibration import has_statistics, warn_if_below, warn_if_coarse
from ..pruning.dropped_weights import correct_capacity, keep_dropped_at_zero
from ..pruning.masking import check_capacity
from .bands import check_bands
from .form import Source, Weights
from .forms import SUBNETWORK_FIELDS, form_to_write, model_arguments, read_weights, refuse_variant
from .image_processor import read_image_processor, save_image_processor
from .plain import PLAIN, untied
from .replacing import replaced_whole, tidy_directory
from .weights_digest import set_space, settle_space

logger = logging.getLogger(__name__)

# The arguments among HUB_ARGUMENTS that choose the commit.
RESOLVING_ARGUMENTS = ("cache_dir", "local_files_only", "token", "revision")
# Fields of the configuration on which names and shapes of weights depend.
SHAPING_FIELDS = (
    "backbone",
    "backbone_kwargs",
    "image_size",
    "embedding_dim",
    "stem_pool",
    "prunable",
    "statistics_capacities",
    "granularity",
    "kept_units",
)


def save_model(
    model: Any,
    save: Callable[..., None],
    directory: str | os.PathLike[str],
    *,
    bands: Sequence[float] | None = None,
    is_main_process: bool = True,
    state_dict: dict[str, torch.Tensor] | None = None,
    push_to_hub: bool = False,
    repo_id: str | None = None,
    **kwargs: Any,
) -> None:
    """Save `model` into `directory` so that an interruption never leaves a directory that loads as something else.

    Args:
        model: A PrunNet model.
        save: The `save_pretrained` of transformers, bound to `model`.
        directory: Created if necessary.
        bands: Edges of the bands, each in (0, 1], to save in bands; None to save in another form.
        is_main_process: Only the main process writes.
        state_dict: Tensors to write instead of the model's own.
        push_to_hub: Also upload, to `repo_id` or a repository named like the directory.
        repo_id: Where to upload.
        **kwargs: Passed to `save`.

    Raises:
        NotADirectoryError: If `directory` is a file.
        TypeError: If `bands` isn't a list of numbers.
        ValueError: If there is a `variant`, an edge of `bands` isn't allowed, `bands` don't suit the model or
            `push_to_hub`, a score isn't finite, `state_dict` has other names than the model, or
            `register_for_auto_class` was called.
    """
    refuse_copying_code(model)
    refuse_variant(
        kwargs.get("variant"),
        "a directory holds one model, which the next save replaces",
        "Convert a copy of the model, for example by model.to(torch.bfloat16), and save it in another directory.",
    )
    _check_tensors(model, state_dict)
    bands = check_bands(model, bands, push_to_hub)
    if not is_main_process:
        return
    target = Path(directory)
    if target.is_file():
        raise NotADirectoryError(f"save_directory must be a directory; {target} is a file.")
    target.mkdir(parents=True, exist_ok=True)
    settle_space(model, state_dict)
    correct_capacity(model, state_dict)
    with replaced_whole(target) as staging:
        form = PLAIN if bands is None and _is_of_trainer(target) else form_to_write(model.config, bands)
        with _config_without_lost_statistics(model):
            save(staging, state_dict={} if form.write else untied(model, state_dict), **kwargs)
            if form.write:
                form.write(staging, model, state_dict or model.state_dict(), bands)
        save_image_processor(model, staging, target)
    if push_to_hub:
        model.push_to_hub(repo_id or target.resolve().name, **kwargs)


def _check_tensors(model: Any, state_dict: dict[str, torch.Tensor] | None) -> None:
    """Refuse tensors that couldn't be loaded again, before they replace a model that can."""
    given, own = state_dict or {}, model.state_dict()
    foreign = sorted(set(given).difference(own))
    if foreign:
        raise ValueError(
            f"state_dict must have the names of this model's own tensors; got {foreign[0]!r} and "
            f"{len(foreign) - 1} more. Of a wrapper like DataParallel, pass the state of the model in it: "
            "wrapper.module.state_dict()."
        )
    # Only here is the state of another network of the same names likely: that of before pruning.
    wrong = [name for name in given if given[name].shape != own[name].shape] if model.config.kept_units else []
    if wrong:
        raise ValueError(
            f"state_dict must have the shapes of this model's own tensors; got {wrong[0]!r} of shape "
            f"{tuple(given[wrong[0]].shape)}, not {tuple(own[wrong[0]].shape)}, and {len(wrong) - 1} more. Save "
            "the model that these tensors are of."
        )


@contextmanager
def _config_without_lost_statistics(model: Any) -> Iterator[None]:
    """Let the configuration not say that there are statistics of subnetworks if the batch norms have lost theirs."""
    stated = model.config.statistics_capacities
    if model.config.stored_subnetworks and not has_statistics(model):
        logger.warning(
            "The batch norms have no running statistics of subnetworks, as convert_sync_batchnorm leaves them behind: "
            "the model is saved without. Call model.calibrate(images) before saving to have them measured again."
        )
        model.config.statistics_capacities = [1.0]
    try:
        yield
    finally:
        model.config.statistics_capacities = stated


def _is_of_trainer(directory: Path) -> bool:
    """Whether a directory is called as transformers' Trainer calls its checkpoints. It reads plain weights only."""
    return re.fullmatch(r"checkpoint-\d+", directory.resolve().name) is not None


def load_model(
    cls: Any,
    load: Callable[..., Any],
    path: Any,
    *model_args: Any,
    capacity: float | None,
    allocation: str,
    **kwargs: Any,
) -> Any:
    """Load a checkpoint of any form strictly, and prune it if `capacity` is given.

    Args:
        cls: The class of the model.
        load: The `from_pretrained` of transformers, bound to `cls`.
        path: Directory or Hub repository; None if `config` and `state_dict` are given.
        *model_args: Passed to `load`.
        capacity: Prune to this kept share after loading.
        allocation: How to share it among the layers.
        **kwargs: Passed to `load`. Those that are fields of the configuration change it.

    Returns:
        The model; with `output_loading_info=True` the model and the loading info.

    Raises:
        TypeError: If `capacity` is not a number.
        ValueError: If weights are missing or foreign, other than a classifier's, `capacity` is outside (0, 1],
            `allocation` is unknown or given without `capacity`, or there is a `variant` for weights that aren't plain.
        OSError: If a weight file is damaged.
    """
    capacity = _check_pruning(capacity, allocation)
    with_info = kwargs.pop("output_loading_info", False)
    kwargs.pop("ignore_mismatched_sizes", None)  # always allowed, but only for a classifier
    source, weights = path, None
    if path is not None:
        tidy_directory(Path(path, kwargs.get("subfolder") or ""))
        # So all files come from the same commit, and what the cache knows about it isn't requested again.
        kwargs["revision"] = resolve_revision(path, **{n: kwargs[n] for n in RESOLVING_ARGUMENTS if n in kwargs})
        # Only a uniform subnetwork of a known capacity can do with some of the bands.
        known = capacity if allocation == UNIFORM else None
        if kwargs.get("state_dict") is None:  # transformers refuses a state dict beside a path
            weights = read_weights(cls, Source.of(path, kwargs), kwargs.get("config"), known)
    if weights is not None:
        source = path if weights.state_dict is None else None  # transformers refuses a path beside a state dict
        kwargs |= model_arguments(weights, kwargs.get("config") or path)
    try:
        model, info = load(source, *model_args, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs)
    except SafetensorError as error:
        raise OSError(
            f"The weights in {path} are damaged or cut short ({error}). Download or save them again."
        ) from error
    problems = _weight_problems(info)
    if problems:
        raise ValueError(_misfit(path, problems, _changed_fields(cls, Source.of(path, kwargs), model.config, weights)))
    _note_classifier(model, info, Source.of(path, kwargs))
    if weights is not None:
        model.config.name_or_path = str(path)
    model.is_from_hub = path is not None and not os.path.isdir(path)
    model.base_model.own_image_processor = read_image_processor(Source.of(path, kwargs))
    if capacity is not None:
        model = _cut(model, capacity, allocation, weights)
    else:
        keep_dropped_at_zero(model)
    return (model, info) if with_info else model


def _check_pruning(capacity: float | None, allocation: str) -> float | None:
    check_allocation(allocation)
    if capacity is not None:
        return check_capacity(capacity)
    if allocation != UNIFORM:
        raise ValueError(f"allocation={allocation!r} needs a capacity to share among the layers. Pass capacity=, too.")
    return None


def _cut(model: Any, capacity: float, allocation: str, weights: Weights | None) -> Any:
    """Prune a loaded model, unless it is the subnetwork already."""
    if weights is None or weights.statistics is None:
        return model.prune(capacity, allocation=allocation)
    model.config.capacity = capacity
    warn_if_coarse(weights.statistics, capacity)
    warn_if_below(weights.statistics, capacity, stacklevel=5)  # the line that called `from_pretrained`
    keep_dropped_at_zero(model)
    if model.config.embedding_space is not None:
        set_space(model, model.config.embedding_space)
    return model


def _weight_problems(info: dict[str, Any]) -> list[str]:
    problems = []
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        names = [key if isinstance(key, str) else key[0] for key in info[kind]]
        names = sorted(name for name in names if not name.startswith("classifier."))
        if names:
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            problems.append(f"{kind.removesuffix('_keys')} weights: {shown}")
    return problems


def _note_classifier(model: Any, info: dict[str, Any], source: Source) -> None:
    """Note whether the classifier is new, and refuse to classify by random weights unless they are to be trained."""
    asks_for_it = model.config.__dict__.pop("asks_for_classifier", False)
    if not any(key.startswith("classifier.") for key in info["missing_keys"]):
        return
    model.is_classifier_new = True
    if not asks_for_it and model.config.id2label == _stored_labels(model.config, source):
        raise ValueError(
            f"{source.path} has no classifier, so {type(model).__name__} would classify at random. For embeddings "
            "load it with PrunNetModel or AutoModel; to train a new classifier pass num_labels= or id2label=."
        )


def _stored_labels(config: Any, source: Source) -> dict[int, str] | None:
    """The labels in the checkpoint's config.json; None if the caller's configuration is the only one."""
    if source.path is None:
        return None
    try:
        labels: dict[int, str] = type(config).from_pretrained(source.path, **source.where).id2label
    except OSError:
        return None
    return labels


def _changed_fields(cls: Any, source: Source, asked: Any, weights: Weights | None) -> dict[str, tuple[Any, Any]]:
    """Fields that shape weights and differ between `asked` and the checkpoint's config.json, as `(asked, stored)`."""
    if source.path is None:
        return {}
    try:
        stored = cls.config_class.from_pretrained(source.path, **source.where)
    except OSError:  # the caller passed a configuration for weights that have none
        return {}
    # The fields in which a subnetwork from bands always differs are not the caller's wish.
    joined = weights is not None and weights.statistics is not None
    fields = [name for name in SHAPING_FIELDS if not (joined and name in (*SUBNETWORK_FIELDS, "kept_units"))]
    pairs = {name: (getattr(asked, name), getattr(stored, name)) for name in fields}
    return {name: (new, old) for name, (new, old) in pairs.items() if new != old}


def _misfit(path: Any, problems: list[str], changed: dict[str, tuple[Any, Any]]) -> str:
    if not changed:
        return (
            f"The weights in {path} do not fit the model that its config.json describes; {'; '.join(problems)}. The "
            "two files are from different models, or one was edited: save or download the checkpoint again."
        )
    asked = ", ".join(f"{name}={new!r}" for name, (new, _) in changed.items())
    stored = ", ".join(f"{name}={old!r}" for name, (_, old) in changed.items())
    # Only pruning says how many units are left.
    remedy = "" if "kept_units" in changed else f", or build a new model with PrunNetConfig({asked})"
    return (
        f"The weights in {path} do not fit {asked}, which from_pretrained was given: its config.json says {stored}; "
        f"{'; '.join(problems)}. Leave the argument out{remedy}."
    )
