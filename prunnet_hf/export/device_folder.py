"""A folder of files for devices: ONNX, in the layout of the Hub's repositories for transformers.js, or ExecuTorch."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from transformers.utils import CONFIG_NAME, IMAGE_PROCESSOR_NAME

from ..data.official_files import require_folder
from ..prunable_model import PrunNetPreTrainedModel
from ..retrieval.image_sources import folder_images
from ..storage.replacing import Replaceable, is_free, replaced_whole
from .distances import TOLERANCES, WORST, Distance, Precision, refuse_distance
from .executorch import PRECISIONS, PROGRAM, require_executorch, to_program
from .executorch import distance_from_torch as program_distance
from .onnx import CHECKED_BATCHES, check_onnx, export_copy, require_onnx, to_onnx
from .precisions import SUFFIXES, distance_from_torch, to_precision
from .processing import TOLERANCE, check_processing, distance_with_processing, with_processing

Format = Literal["onnx", "executorch"]
Processing = Literal["outside", "inside"]
FOLDER = "onnx"
MODEL, WITH_PROCESSING = "model.onnx", "model_with_processing.onnx"
"""Of float32."""
FILES = Replaceable(files=(FOLDER, f"model*{PROGRAM}", IMAGE_PROCESSOR_NAME, CONFIG_NAME), last=CONFIG_NAME)
"""What a folder for devices holds."""
BATCH_SIZE = 32
CALIBRATION_IMAGES = 512
_DTYPES: dict[Precision, str] = {"fp32": "fp32", "fp16": "fp16", "int8": "q8"}
"""What transformers.js calls them. Without a name it looks for model_quantized.onnx in browsers without WebGPU."""


@dataclass(frozen=True)
class ExportedFile:
    """A file that was written and gives torch's embeddings.

    Attributes:
        path: Where it is.
        size: Its size in bytes.
        precision: Of its numbers.
        distance: Of its embeddings from torch's, over the images that were given, else noise; with the processing
            inside, over whole images, else pictures of several sizes.
    """

    path: Path
    size: int
    precision: Precision
    distance: Distance


def export_folder(
    model: PrunNetPreTrainedModel,
    output: str | os.PathLike[str],
    *,
    format: Format = "onnx",
    processing: Processing = "outside",
    precisions: Sequence[Precision] = ("fp32",),
    images: Sequence[Any] = (),
) -> tuple[ExportedFile, ...]:
    """Write a network for devices: `onnx/model.onnx`, `config.json` and `preprocessor_config.json`.

    `onnx/model.onnx` takes `pixel_values` `(batch, 3, size, size)` and gives `pooler_output` `(batch, embedding_dim)`
    of unit length. With `processing="inside"` there is also `onnx/model_with_processing.onnx`, which takes one
    `image`, uint8 `(height, width, 3)` of any size, upright and in RGB, and does as the model's image processor.
    With other precisions there are `onnx/model_fp16.onnx`, whose weights have 16 bits, and
    `onnx/model_quantized.onnx`, whose weights and activations have 8; inputs and outputs stay float32.

    With `format="executorch"` there is `model.pte` instead of `onnx/`, for int8 `model_quantized.pte`: programs for
    ExecuTorch that take the `pixel_values` of one image.

    Nothing is left in the folder unless all files give the embeddings of torch and of the image processor.

    Args:
        model: Not changed. Of a prunable model the dense network is written; for another call `model.prune` first.
        output: A new or an empty folder.
        format: `"onnx"` or `"executorch"`.
        processing: `"inside"` writes a second file for each precision.
        precisions: One or more of `"fp32"`, `"fp16"` and `"int8"`.
        images: Images as `model.encode` takes them, such as some hundred of those that the network was trained on:
            int8 takes the ranges of activations from them, and all files are compared with torch on them.

    Raises:
        FileExistsError: If `output` holds something.
        ImportError: If a package of the extra of this name, `onnx` or `executorch`, isn't installed.
        RuntimeError: If torch can't export the network, or the runtime doesn't give torch's embeddings.
        ValueError: If `format`, `processing` or a precision is another, int8 has no images, or the image processor
            can't be written as ONNX.
    """
    folder = Path(output)
    chosen = check_precisions(precisions, has_images=len(images) > 0)
    require_format(format, processing, chosen)
    refuse_filled(folder)
    with _filled(folder) as staging:
        if format == "onnx":
            written = write_onnx_files(model, staging, processing=processing, precisions=chosen, images=images)
        else:
            written = _write_checked(_programs(model, chosen, images), staging)
        model.image_processor.save_pretrained(staging)
        config = deepcopy(model.config)
        config.architectures = [type(model.base_model).__name__]
        config.id2label, config.num_labels = None, 2  # the classes of training; transformers' files leave out 2
        config.save_pretrained(staging)
        if format == "onnx":
            name_default(staging, chosen[0])
    return tuple(replace(file, path=folder / file.path.relative_to(staging)) for file in written)


def write_onnx_files(
    model: PrunNetPreTrainedModel,
    folder: Path,
    *,
    processing: Processing = "outside",
    precisions: Sequence[Precision] = ("fp32",),
    images: Sequence[Any] = (),
) -> tuple[ExportedFile, ...]:
    """Write the `onnx/` of `export_folder` into a folder, after all that is going to be in it was checked."""
    if processing not in get_args(Processing):
        raise ValueError(
            f"processing must be one of {', '.join(map(repr, get_args(Processing)))}; got {processing!r}."
        )
    return _write_checked(_onnx_files(model, folder, processing, precisions, images), folder / FOLDER)


_Made = tuple[Precision, dict[str, tuple[bytes, Distance]]]
"""Files of a precision by their names, and how far the embeddings of each are from torch's."""


def _write_checked(made: Iterable[_Made], folder: Path) -> tuple[ExportedFile, ...]:
    """Write files into a folder when all of them are made, and so none is too far from torch."""
    contents: list[tuple[ExportedFile, bytes]] = []
    for precision, files in made:
        for name, (content, distance) in files.items():
            contents.append((ExportedFile(folder / name, len(content), precision, distance), content))
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in contents:
        file.path.write_bytes(content)
    return tuple(file for file, _ in contents)


def _onnx_files(
    model: PrunNetPreTrainedModel,
    folder: Path,
    processing: Processing,
    precisions: Sequence[Precision],
    images: Sequence[Any],
) -> Iterator[_Made]:
    """The files of a network without and, if asked for, with the processing inside."""
    network = export_copy(model)
    whole = to_onnx(network)
    check_onnx(whole, network, folder / FOLDER / MODEL)
    batches = _pixel_values(model, images) or [network.images(count).numpy() for count in CHECKED_BATCHES]
    for precision in precisions:
        content = to_precision(whole, precision, batches)
        distance = distance_from_torch(content, network, batches)
        refuse_distance(distance, precision, model.config.capacity, images)
        files = {stored_name(MODEL, precision): (content, distance)}
        if processing == "inside":
            processor, size = model.image_processor, model.config.image_size
            inside = with_processing(content, processor, size)
            check_processing(inside, content, processor, size, max(TOLERANCE, TOLERANCES[precision]))
            allowed = max(TOLERANCE, WORST * TOLERANCES[precision])
            distance = distance_with_processing(inside, network, processor, images, size, allowed)
            files[stored_name(WITH_PROCESSING, precision)] = (inside, distance)
        yield precision, files


def _programs(
    model: PrunNetPreTrainedModel, precisions: Sequence[Precision], images: Sequence[Any]
) -> Iterator[_Made]:
    """The `.pte` files of a network."""
    network = export_copy(model)
    batches = _pixel_values(model, images) or [network.images(max(CHECKED_BATCHES)).numpy()]
    for precision in precisions:
        content = to_program(network, precision, batches)
        distance = program_distance(content, network, batches)
        refuse_distance(distance, precision, model.config.capacity, images)
        yield precision, {stored_name(f"model{PROGRAM}", precision): (content, distance)}


def stored_name(name: str, precision: Precision) -> str:
    """The name at some precision of a file that has `name` in float32.

    Example:
        >>> stored_name(MODEL, "fp16")
        'model_fp16.onnx'
    """
    path = Path(name)
    return f"{path.stem}{SUFFIXES[precision]}{path.suffix}"


def name_default(folder: Path, precision: Precision) -> None:
    """Note in a folder's config.json which file transformers.js is to load unless another is asked for."""
    content = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    content["transformers.js_config"] = {"dtype": _DTYPES[precision]}
    (folder / CONFIG_NAME).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def find_calibration_images(data_dir: str | os.PathLike[str], count: int = CALIBRATION_IMAGES) -> list[Path]:
    """A random sample of the images of a folder, and of folders inside it, always the same.

    Args:
        data_dir: The folder.
        count: How many; all if there are fewer.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it holds no images, or `count` is below 1.
    """
    if count < 1:
        raise ValueError(f"calibration_images must be at least 1; got {count}.")
    require_folder("data_dir", data_dir, "It must hold images.")
    found = folder_images(Path(data_dir))
    order = np.random.default_rng(0).permutation(len(found))[:count]
    return [found.root / found.names[place] for place in sorted(order)]


def check_precisions(precisions: Sequence[str], *, has_images: bool) -> list[Precision]:
    """The precisions that are asked for, each once.

    Raises:
        ValueError: If there is none, one is unknown, or int8 has no images.
    """
    unknown = [precision for precision in precisions if precision not in SUFFIXES]
    if unknown or not precisions:
        allowed = ", ".join(map(repr, SUFFIXES))
        raise ValueError(f"precisions must be one or more of {allowed}; got {unknown[0] if unknown else []!r}.")
    if "int8" in precisions and not has_images:
        raise ValueError(
            "precision 'int8' needs images, from which it takes the ranges of activations: pass --data_dir DIR, or "
            "images=[...] in Python, such as some hundred of those that the network was trained on."
        )
    return [known for known in dict.fromkeys(precisions) if known in SUFFIXES]


def require_format(format: Format, processing: Processing, precisions: Sequence[Precision]) -> None:
    """Check that a format can be written here, and can hold what is asked for.

    Raises:
        ImportError: If a package isn't installed.
        ValueError: If it can't, or there is no such format.
    """
    if format not in get_args(Format):
        raise ValueError(f"format must be one of {', '.join(map(repr, get_args(Format)))}; got {format!r}.")
    if format == "onnx":
        require_onnx()
        return
    others = [precision for precision in precisions if precision not in PRECISIONS]
    if others:
        raise ValueError(
            f"precision {others[0]!r} must be left out with format 'executorch', which has "
            f"{' and '.join(map(repr, PRECISIONS))}."
        )
    if processing != "outside":
        raise ValueError(
            f"processing={processing!r} must be left out with format 'executorch': a .pte file takes what the image "
            "processor makes. Process images on the device as preprocessor_config.json says."
        )
    require_executorch()


def refuse_filled(folder: Path) -> None:
    """Refuse a folder that holds something, and a path that isn't one. What a killed export has left is removed.

    Raises:
        FileExistsError: If it is such.
    """
    if not is_free(folder, FILES):
        raise FileExistsError(f"output={str(folder)!r} exists and isn't an empty folder. Choose another name.")


def _pixel_values(model: PrunNetPreTrainedModel, images: Sequence[Any]) -> list[NDArray[np.float32]]:
    """The images as batches of pixel values."""
    batches = (list(images[start : start + BATCH_SIZE]) for start in range(0, len(images), BATCH_SIZE))
    return [model.image_processor(batch, return_tensors="np")["pixel_values"] for batch in batches]


@contextmanager
def _filled(folder: Path) -> Iterator[Path]:
    """A new directory, whose files are moved into the empty `folder` when the block ends without an error."""
    existed = folder.is_dir()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with replaced_whole(folder, FILES) as staging:
            yield staging
    finally:
        if not existed:
            with suppress(OSError):
                folder.rmdir()  # only if nothing came of it
