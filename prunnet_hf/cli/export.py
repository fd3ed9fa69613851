"""`prunnet export`: a network as files for devices and browsers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..export.device_folder import (
    CALIBRATION_IMAGES,
    Format,
    Processing,
    check_precisions,
    export_folder,
    find_calibration_images,
    refuse_filled,
    require_format,
)
from ..pruning.masking import format_capacity
from ..retrieval.foreign_encoders import is_foreign
from .networks import load_network


def export(
    model: Annotated[str, typer.Argument(help="Directory (or a run's) or Hub repository of a model.")],
    output: Annotated[Path, typer.Option(help="New or empty folder for the files.")],
    capacity: Annotated[
        float | None, typer.Option(help="The kept share, in (0, 1]; needed unless the model is a subnetwork.")
    ] = None,
    format: Annotated[
        Format, typer.Option(help="onnx; or executorch: .pte files for apps on Android and iOS, of fp32 or int8.")
    ] = "onnx",
    processing: Annotated[
        Processing,
        typer.Option(
            "--processing", help="inside: also a file that resizes, crops and normalises images of any size itself."
        ),
    ] = "outside",
    precision: Annotated[
        list[str] | None,
        typer.Option("--precision", help="fp32 by default, fp16, int8; give the flag once for each that is wanted."),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            "--data_dir", help="Folder of images, best of training: for int8, and to compare files with torch."
        ),
    ] = None,
    calibration_images: Annotated[
        int, typer.Option("--calibration_images", help="How many of these images to take.")
    ] = CALIBRATION_IMAGES,
) -> None:
    """Write the subnetwork of a capacity as ONNX or ExecuTorch."""
    if is_foreign(model):
        raise ValueError(f"model must be one of this package; got {model!r}, which torch.onnx.export may export.")
    refuse_filled(output)
    precisions = precision or ["fp32"]
    images = find_calibration_images(data_dir, calibration_images) if data_dir is not None else []
    chosen = check_precisions(precisions, has_images=bool(images))
    require_format(format, processing, chosen)
    network = load_network(model, capacity)
    if network.config.prunable:
        raise ValueError(
            f"--capacity must be given for {model}, which can be pruned: such as --capacity 0.2, or --capacity 1.0 "
            "for the dense network."
        )
    files = export_folder(network, output, format=format, processing=processing, precisions=chosen, images=images)
    for file in files:
        typer.echo(
            f"{file.path}: capacity {format_capacity(network.config.capacity)}, {file.size / 1e6:.2f} MB, "
            f"cosine distance from torch {file.distance}"
        )
    if network.config.granularity == "weight" and network.config.capacity < 1:
        typer.echo(
            "Single weights that are left out stand in these files as zeros: they are as large and as slow as the "
            "dense network's. Only granularity='channel' makes them small and fast."
        )
