"""What fp16 and int8 cost a subnetwork that searches the dense network's gallery, and what they save.

    python benchmarks/devices.py out/omniglot out/grocery
    python benchmarks/devices.py out/photos --data_dir photos --capacity 0.1

Takes finished runs. The subnetwork is exported as `prunnet export` does it, with 512 training images for int8: to
ONNX, and to ExecuTorch if that is installed. Every file embeds the queries in its runtime, to search the gallery that
the dense network embedded in torch, in float32. A program that is refused has no row, but a line that says why. A
time is that of one image by one thread: the thread's CPU time, the median over rounds in which the files take turns.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from prunnet_hf import PrunNetModel
from prunnet_hf.commands import CommandParser, run_command
from prunnet_hf.data.splits import RetrievalSplits
from prunnet_hf.export.cross_test import cross_test
from prunnet_hf.export.device_folder import CALIBRATION_IMAGES, ExportedFile, Format, export_folder
from prunnet_hf.export.distances import Precision
from prunnet_hf.export.executorch import PRECISIONS, has_executorch
from prunnet_hf.export.latency import describe_cpu, time_files
from prunnet_hf.export.precisions import SUFFIXES
from prunnet_hf.runs.arguments import parse_arguments
from prunnet_hf.runs.run_data import load_run_data
from prunnet_hf.training.networks import load_trained

ROUNDS = 31
DENSE = "dense, fp32"


def main(command_line: list[str] | None = None) -> None:
    """Print a Markdown table with a row for each file."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="finished run directories")
    parser.add_argument("--capacity", type=float, default=0.2)
    parser.add_argument(
        "--data_dir", help="the folder of the runs' data set, if it isn't the one they were trained on"
    )
    options = parser.parse_args(command_line)
    print("| run | file | KB | metric (%) | against fp32 | cosine distance | of the worst image | ms |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for run in options.runs:
        report(run, options.capacity, options.data_dir)
    print(f"\ncapacity {options.capacity}, {describe_cpu(threads=1)}, {ROUNDS} rounds")


def report(run: Path, capacity: float, data_dir: str | None) -> None:
    """Print the rows of one run."""
    flags = ["--config", str(run / "config.yaml"), "--output_dir", str(run), "--eval_only", "true"]
    arguments = parse_arguments([*flags, *(["--data_dir", data_dir] if data_dir else [])])
    model, processor = load_trained(arguments)
    model.image_processor = processor
    splits, dense = load_run_data(arguments), model.prunnet
    with tempfile.TemporaryDirectory() as folder:
        thin = dense.prune(capacity)
        files = export(thin, Path(folder) / "thin", splits, list(SUFFIXES))
        for precision in PRECISIONS if has_executorch() else ():
            try:
                program = export(thin, Path(folder) / f"program-{precision}", splits, [precision], "executorch")
            except RuntimeError as error:  # too far from torch, or ExecuTorch can't do it
                print(f"{run.name}, ExecuTorch: {error}", file=sys.stderr)
            else:
                files[f"{precision}, ExecuTorch"] = program[precision]
        files[DENSE] = export(dense.prune(1.0), Path(folder) / "dense", splits, ["fp32"])["fp32"]
        paths = {name: file.path for name, file in files.items()}
        metric, values = cross_test(paths, dense, splits)
        milliseconds = time_files(paths, dense.config.image_size, rounds=ROUNDS).milliseconds
    whole, *_ = values.values()
    for name, value in values.items():
        difference = round(100 * (value - whole), 2) + 0.0  # not -0.00
        distance = files[name].distance
        print(
            f"| {run.name} | {name} | {files[name].size / 1e3:.0f} | {metric} {100 * value:.2f} | "
            f"{difference:+.2f} | {distance.mean:.1g} | {distance.worst:.1g} | {milliseconds[name]:.3f} |",
            flush=True,
        )


def export(
    network: PrunNetModel,
    folder: Path,
    splits: RetrievalSplits,
    precisions: list[Precision],
    format: Format = "onnx",
) -> dict[str, ExportedFile]:
    """The files of a network, by precision."""
    train: Any = splits.train
    order = np.random.default_rng(0).permutation(len(train))[:CALIBRATION_IMAGES]
    images = train.select(sorted(order))["image"]
    files = export_folder(network, folder, format=format, precisions=precisions, images=list(images))
    return {file.precision: file for file in files}


if __name__ == "__main__":
    sys.exit(run_command("benchmarks/devices.py", main))
