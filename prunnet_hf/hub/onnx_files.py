"""ONNX files of a published run, beside the weights of each of its networks, and what the card says of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..data.splits import RetrievalSplits
from ..export.cross_test import cross_test
from ..export.device_folder import MODEL, ExportedFile, name_default, stored_name, write_onnx_files
from ..export.distances import Precision
from ..export.latency import time_files
from ..modeling_prunnet import PrunNetModel
from ..runs.arguments import parse_arguments
from ..runs.run_data import load_run_data


@dataclass(frozen=True)
class OnnxRow:
    """A network at a precision.

    Attributes:
        capacity: Of the network.
        file: Its file without the image processing inside.
        latency_ms: Milliseconds that it takes for one image.
        score: What its queries find in the gallery of the run's own model, in [0, 1]; None if it wasn't measured.
    """

    capacity: float
    file: ExportedFile
    latency_ms: float
    score: float | None


@dataclass(frozen=True)
class OnnxFiles:
    """What a card says of ONNX files.

    Attributes:
        rows: By capacity and precision.
        num_images: How many images they were compared with torch on; 0 if on noise.
        measured_by: The runtime with its version, and the machine.
        metric: Of the scores; empty if there are none.
    """

    rows: tuple[OnnxRow, ...]
    num_images: int
    measured_by: str
    metric: str = ""

    def of(self, capacity: float) -> OnnxFiles:
        """The files of one network."""
        return replace(self, rows=tuple(row for row in self.rows if row.capacity == capacity))


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


def measured(
    files: dict[tuple[float, str], ExportedFile], num_images: int, model: PrunNetModel, test: RetrievalSplits | None
) -> OnnxFiles:
    """What a card says of these files, which take turns at one image.

    Args:
        files: By capacity and precision.
        num_images: How many images they were compared with torch on; 0 if on noise.
        model: The run's own, whose gallery they search.
        test: The run's test images; None measures no scores.
    """
    paths = {key: file.path for key, file in files.items()}
    times = time_files(paths, model.config.image_size)
    metric, scores = ("", {}) if test is None else cross_test(paths, model, test, progress=True)
    rows = [OnnxRow(key[0], file, times.milliseconds[key], scores.get(key)) for key, file in files.items()]
    rows.sort(key=lambda row: row.capacity)  # precisions stay in their order
    return OnnxFiles(tuple(rows), num_images, f"{times.runtime} on {times.device}", metric)


def load_test(run: Path) -> RetrievalSplits:
    """The test images of a run, from where they were when it was trained, or from `PRUNNET_DATA`.

    Raises:
        FileNotFoundError: If they aren't there any more.
        ValueError: If one can't be read.
    """
    flags = ["--config", str(run / "config.yaml"), "--output_dir", str(run), "--eval_only", "true"]
    return load_run_data(parse_arguments(flags))
