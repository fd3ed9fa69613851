"""ONNX files of a published run, beside the weights of each of its networks, and what the card says of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..export.device_folder import MODEL, ExportedFile, name_default, stored_name, write_onnx_files
from ..export.distances import Precision
from ..export.latency import time_files


@dataclass(frozen=True)
class OnnxRow:
    """A network at a precision.

    Attributes:
        capacity: Of the network.
        file: Its file without the image processing inside.
        latency_ms: Milliseconds that it takes for one image.
    """

    capacity: float
    file: ExportedFile
    latency_ms: float


@dataclass(frozen=True)
class OnnxFiles:
    """What a card says of ONNX files.

    Attributes:
        rows: By capacity and precision.
        num_images: How many images they were compared with torch on; 0 if on noise.
        measured_by: The runtime with its version, and the machine.
    """

    rows: tuple[OnnxRow, ...]
    num_images: int
    measured_by: str

    def of(self, capacity: float) -> OnnxFiles:
        """The files of one network."""
        return OnnxFiles(
            tuple(row for row in self.rows if row.capacity == capacity), self.num_images, self.measured_by
        )


def add_onnx(
    model: Any, folder: Path, precisions: Sequence[Precision], images: Sequence[Path]
) -> dict[tuple[float, str], ExportedFile]:
    """Write `onnx/` into the folder of a saved model.

    Returns:
        The files without the image processing inside, by capacity and precision.
    """
    files = write_onnx_files(model, folder, processing="inside", precisions=precisions, images=images)
    name_default(folder, precisions[0])
    plain = [file for file in files if file.path.name == stored_name(MODEL, file.precision)]
    return {(model.config.capacity, file.precision): file for file in plain}


def measured(files: dict[tuple[float, str], ExportedFile], num_images: int, image_size: int) -> OnnxFiles:
    """What a card says of these files, which take turns at one image."""
    times = time_files({key: file.path for key, file in files.items()}, image_size)
    rows = [OnnxRow(key[0], file, times.milliseconds[key]) for key, file in files.items()]
    rows.sort(key=lambda row: row.capacity)  # precisions stay in their order
    return OnnxFiles(tuple(rows), num_images, f"{times.runtime} on {times.device}")
