"""What exported files find: each embeds the queries of a test, to search the gallery of the dense network in torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..data.splits import RetrievalSplits
from ..modeling_prunnet import PrunNetModel
from ..retrieval.dataset_encoding import encode_share, pixel_batches
from ..retrieval.protocols import Side, resolve_protocol
from .executorch import PROGRAM, open_program
from .onnx import INPUT, open_session

Key = TypeVar("Key")
_Embed = Callable[[Tensor], NDArray[np.float32]]


def cross_test(
    files: Mapping[Key, Path], dense: PrunNetModel, splits: RetrievalSplits, *, progress: bool = False
) -> tuple[str, dict[Key, float]]:
    """The headline metric of a test, and its value for the queries of each file.

    Args:
        files: They take `pixel_values`; those that end in `.pte` are run by ExecuTorch, others by ONNX Runtime.
        dense: The network of the gallery, whose image processor makes the pixel values.
        splits: Images of the test, and its protocol.
        progress: Whether to show bars.

    Raises:
        ValueError: If an image can't be read.
    """
    protocol, processor = resolve_protocol(splits.protocol), dense.image_processor
    query, gallery = (
        encode_share({1.0: dense}, images, processor, progress=progress).side(1.0)
        for images in (splits.query, splits.gallery)
    )
    metric, values = "", {}
    for key, path in files.items():
        embed = _in_executorch(path) if path.suffix == PROGRAM else _in_onnx_runtime(path)
        found = np.concatenate([embed(batch) for batch in pixel_batches(splits.query, processor)])
        metric, values[key] = next(iter(protocol(Side(found, query.columns), gallery).items()))
    return metric, values


def _in_onnx_runtime(path: Path) -> _Embed:
    session = open_session(path)
    return lambda batch: np.asarray(session.run(None, {INPUT: batch.numpy()})[0])


def _in_executorch(path: Path) -> _Embed:
    embed = open_program(path)
    return lambda batch: np.concatenate([embed(image).numpy() for image in batch.split(1)])
