"""A folder of ONNX files for devices and browsers, in the layout of the Hub's repositories for transformers.js."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from transformers.utils import CONFIG_NAME

from ..prunable_model import PrunNetPreTrainedModel
from .onnx import OUTPUT, Embedder, check_onnx, export_copy, open_session, require_onnx, to_onnx
from .processing import IMAGE, with_processing

Processing = Literal["outside", "inside"]
FOLDER = "onnx"
MODEL, WITH_PROCESSING = "model.onnx", "model_with_processing.onnx"
PROCESSING_TOLERANCE = 1e-3
"""How far, in cosine distance, an embedding may be from that of the package's own image processor and torch. Resizing
rounds to levels from 0 to 255, of which a few differ by one."""
_TRANSFORMERS_JS = {"transformers.js_config": {"dtype": "fp32"}}
"""Otherwise it looks for model_quantized.onnx in browsers without WebGPU."""


@dataclass(frozen=True)
class ExportedFile:
    """An ONNX file that was written and gives torch's embeddings.

    Attributes:
        path: Where it is.
        size: Its size in bytes.
    """

    path: Path
    size: int


def export_folder(
    model: PrunNetPreTrainedModel, output: str | os.PathLike[str], *, processing: Processing = "outside"
) -> tuple[ExportedFile, ...]:
    """Write a network for devices: `onnx/model.onnx`, `config.json` and `preprocessor_config.json`.

    `onnx/model.onnx` takes `pixel_values` `(batch, 3, size, size)` and gives `pooler_output` `(batch, embedding_dim)`
    of unit length. With `processing="inside"` there is also `onnx/model_with_processing.onnx`, which takes one
    `image`, uint8 `(height, width, 3)` of any size, upright and in RGB, and does as the model's image processor.

    Nothing is left in the folder unless all files give the embeddings of torch and of the image processor.

    Args:
        model: Not changed. Of a prunable model the dense network is written; for another call `model.prune` first.
        output: A new or an empty folder.
        processing: `"inside"` writes the second file, too.

    Raises:
        FileExistsError: If `output` holds something.
        ImportError: If a package of the extra `onnx` isn't installed.
        RuntimeError: If torch can't export the network, or ONNX Runtime doesn't give torch's embeddings.
        ValueError: If `processing` is another, or the image processor can't be written as ONNX.
    """
    folder = Path(output)
    refuse_filled(folder)
    require_onnx()
    with _all_or_nothing(folder) as staging:
        written = write_onnx_files(model, staging, processing=processing)
        model.image_processor.save_pretrained(staging)
        config = deepcopy(model.config)
        config.architectures = [type(model.base_model).__name__]
        config.id2label, config.num_labels = None, 2  # the classes of training; transformers' files leave out 2
        config.save_pretrained(staging)
        content = json.loads((staging / CONFIG_NAME).read_text(encoding="utf-8")) | _TRANSFORMERS_JS
        (staging / CONFIG_NAME).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return tuple(ExportedFile(folder / file.path.relative_to(staging), file.size) for file in written)


def write_onnx_files(
    model: PrunNetPreTrainedModel, folder: Path, *, processing: Processing = "outside"
) -> tuple[ExportedFile, ...]:
    """Write the `onnx/` of `export_folder` into a folder, after all that is going to be in it was checked."""
    if processing not in get_args(Processing):
        raise ValueError(
            f"processing must be one of {', '.join(map(repr, get_args(Processing)))}; got {processing!r}."
        )
    network = export_copy(model, normalize=True)
    contents = {MODEL: to_onnx(network)}
    check_onnx(contents[MODEL], network, folder / FOLDER / MODEL)
    if processing == "inside":
        processor = model.image_processor
        contents[WITH_PROCESSING] = with_processing(contents[MODEL], processor, model.config.image_size)
        _check_processing(contents[WITH_PROCESSING], network, processor)
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    written = []
    for name, content in contents.items():
        (folder / FOLDER / name).write_bytes(content)
        written.append(ExportedFile(folder / FOLDER / name, len(content)))
    return tuple(written)


def refuse_filled(folder: Path) -> None:
    """Refuse a folder that holds something, and a path that isn't one.

    Raises:
        FileExistsError: If it is such.
    """
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists() or folder.is_symlink():
        raise FileExistsError(f"output={str(folder)!r} exists and isn't an empty folder. Choose another name.")


def _pictures(image_size: int) -> list[NDArray[np.uint8]]:
    """Smooth coloured pictures `(height, width, 3)`, always the same: large, tall, wide, tiny, of the size taken."""
    sides = (image_size, 2 * image_size + 1, 5 * image_size)
    shapes = [(sides[1], sides[2]), (sides[2], sides[1]), (sides[0], 7 * sides[0]), (5, 7), (1, 1), (sides[0],) * 2]
    generator = torch.Generator().manual_seed(0)
    corners = torch.randint(0, 256, (len(shapes), 3, 6, 6), generator=generator, dtype=torch.uint8).float()
    pictures = (
        F.interpolate(corners[i : i + 1], shape, mode="bilinear", align_corners=True) for i, shape in enumerate(shapes)
    )
    return [picture[0].permute(1, 2, 0).round().to(torch.uint8).numpy() for picture in pictures]


@torch.inference_mode()
def _check_processing(content: bytes, network: Embedder, processor: Any) -> None:
    session = open_session(content)
    for picture in _pictures(network.network.config.image_size):
        expected = network(processor(Image.fromarray(picture), return_tensors="pt")["pixel_values"])
        found = torch.from_numpy(session.run([OUTPUT], {IMAGE: picture})[0])
        distance = 1 - float((found * expected).sum())
        if not distance <= PROCESSING_TOLERANCE:  # also if it isn't a number
            raise RuntimeError(
                f"{WITH_PROCESSING} isn't written, because its embedding of a picture of {picture.shape[1]} x "
                f"{picture.shape[0]} pixels has a cosine distance of {distance:.1e} from torch's, where "
                f"{PROCESSING_TOLERANCE:g} is allowed. Leave out processing='inside', or try another version of "
                "onnxruntime."
            )


@contextmanager
def _all_or_nothing(folder: Path) -> Iterator[Path]:
    """A new directory, whose files are moved into the empty `folder` when the block ends without an error."""
    existed = folder.is_dir()
    folder.mkdir(parents=True, exist_ok=True)
    staging = folder / f".exporting-{secrets.token_hex(8)}"  # inside, so that moving the files is a rename
    staging.mkdir()
    try:
        yield staging
        for path in sorted(staging.iterdir(), key=lambda path: path.name == CONFIG_NAME):
            os.replace(path, folder / path.name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if not existed:
            with suppress(OSError):
                folder.rmdir()  # only if nothing came of it
