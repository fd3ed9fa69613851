"""Saving and loading of PrunNet models around transformers' own.

What is added: packed subnetworks, directories that are replaced as a whole, and weights that must fit.
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers.utils import CONFIG_NAME
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME
from transformers.utils import SAFE_WEIGHTS_NAME
from transformers.utils import cached_file

from .checkpoint import PACKED_WEIGHTS_NAME
from .checkpoint import load_packed
from .checkpoint import save_packed
from .masking import check_capacity

# Arguments of from_pretrained that say where files are; looking for the packed file needs the same ones.
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
# What a saved model consists of, and a newly saved one replaces.
MODEL_FILES = (
    CONFIG_NAME,
    SAFE_WEIGHTS_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    "model-*-of-*.safetensors",
    PACKED_WEIGHTS_NAME,
)


def save_model(
    model: Any,
    save: Callable[..., None],
    directory: str | os.PathLike[str],
    *,
    is_main_process: bool = True,
    state_dict: dict[str, torch.Tensor] | None = None,
    push_to_hub: bool = False,
    repo_id: str | None = None,
    **kwargs: Any,
) -> None:
    """Save `model` into `directory` so that an interruption never leaves a directory that loads as something else.

    Args:
        model: A PrunNet model; packed if it is a subnetwork below capacity 1.
        save: The `save_pretrained` of transformers, bound to `model`.
        directory: Created where needed.
        is_main_process: Only the main process writes.
        state_dict: Tensors to write instead of the model's own.
        push_to_hub: Also upload, to `repo_id` or a repository named like the directory.
        repo_id: Where to upload.
        **kwargs: Passed to `save`.

    Raises:
        NotADirectoryError: If `directory` is a file.
    """
    if not is_main_process:
        return
    target = Path(directory)
    if target.is_file():
        raise NotADirectoryError(f"save_directory must be a directory; {target} is a file.")
    target.mkdir(parents=True, exist_ok=True)
    # Inside the target, so that moving the files is a rename on the same file system.
    staging = Path(tempfile.mkdtemp(prefix=".saving-", dir=target))
    try:
        if model.config.capacity < 1.0:
            save(staging, state_dict={}, **kwargs)
            save_packed(staging / PACKED_WEIGHTS_NAME, state_dict or model.state_dict(), model.packable_weights())
        else:
            save(staging, state_dict=state_dict, **kwargs)
        _replace_model(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    if push_to_hub:
        model.push_to_hub(repo_id or target.resolve().name, **kwargs)


def _replace_model(staging: Path, target: Path) -> None:
    """Move the model in `staging` over the one in `target`, which is put back if that fails.

    config.json leaves first and arrives last: killed in between, the process leaves a directory that can't be loaded.
    """
    new = [file.name for file in _config_last(staging.iterdir())]
    old = [file.name for file in _config_last(file for pattern in MODEL_FILES for file in target.glob(pattern))]
    replaced = staging / "replaced"
    replaced.mkdir()
    try:
        for name in reversed(old):
            os.replace(target / name, replaced / name)
        for name in new:
            os.replace(staging / name, target / name)
    except BaseException:
        for name in reversed(new):
            if not (staging / name).exists():
                (target / name).unlink()
        for file in _config_last(replaced.iterdir()):
            os.replace(file, target / file.name)
        raise


def _config_last(files: Iterable[Path]) -> list[Path]:
    return sorted(files, key=lambda file: (file.name == CONFIG_NAME, file.name))


def load_model(
    cls: Any, load: Callable[..., Any], path: Any, *model_args: Any, capacity: float | None, **kwargs: Any
) -> Any:
    """Load a dense or packed checkpoint strictly, and prune it where `capacity` is given.

    Args:
        cls: The class of the model.
        load: The `from_pretrained` of transformers, bound to `cls`.
        path: Directory, Hub repository, or None with `config` and `state_dict`.
        *model_args: Passed to `load`.
        capacity: Prune to this kept share after loading.
        **kwargs: Passed to `load`.

    Returns:
        The model, or the model and the loading info where `output_loading_info` is true.

    Raises:
        TypeError: If `capacity` is not a number.
        ValueError: If weights are missing or foreign, other than a classifier's, or `capacity` is outside (0, 1].
        OSError: If a weight file is damaged.
    """
    if capacity is not None:
        capacity = check_capacity(capacity)
    with_info = kwargs.pop("output_loading_info", False)
    kwargs.pop("ignore_mismatched_sizes", None)  # only a classifier may differ, and that always
    config = kwargs.pop("config", None)
    packed = _find_packed(path, kwargs)
    try:
        if packed is not None:
            config = config if isinstance(config, cls.config_class) else _read_config(cls, config or path, kwargs)
            kwargs["state_dict"] = load_packed(packed)
            kwargs = {name: value for name, value in kwargs.items() if name not in HUB_ARGUMENTS}
        source = path if packed is None else None
        model, info = load(
            source, *model_args, config=config, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
        )
    except SafetensorError as error:
        raise OSError(
            f"The weights in {path} are damaged or cut short ({error}). Download or save them again."
        ) from error
    _refuse_wrong_weights(path, info)
    if packed is not None:
        model.config.name_or_path = str(path)
    if capacity is not None:
        model = model.prune(capacity)
    return (model, info) if with_info else model


def _find_packed(path: Any, kwargs: dict[str, Any]) -> str | None:
    if path is None:
        return None
    where = {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs}
    where = {"subfolder": "", **where}
    return cached_file(path, PACKED_WEIGHTS_NAME, _raise_exceptions_for_missing_entries=False, **where)


def _read_config(cls: Any, path: Any, kwargs: dict[str, Any]) -> Any:
    return cls.config_class.from_pretrained(path, **{name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs})


def _refuse_wrong_weights(path: Any, info: dict[str, Any]) -> None:
    problems = []
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        names = [key if isinstance(key, str) else key[0] for key in info[kind]]
        names = sorted(name for name in names if not name.startswith("classifier."))
        if names:
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            problems.append(f"{kind.removesuffix('_keys')} weights: {shown}")
    if problems:
        raise ValueError(
            f"The weights in {path} do not fit the model that its config.json describes; {'; '.join(problems)}. The "
            "two files come from different models, or the checkpoint was edited: save or download it again."
        )
