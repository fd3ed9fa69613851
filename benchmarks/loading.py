"""Time to load and to save each form of a checkpoint, against the plain dense one.

    python benchmarks/loading.py
    python benchmarks/loading.py --backbone resnet50 --capacity 0.2 --dtype bfloat16 --rounds 9

The plain form is the dense network without scores, as transformers saves and loads it. All forms take turns in one
process, their files in the page cache; a ratio is the median over rounds of the form's time to the plain one's of the
same round. The weights are random: times depend on their number alone.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar

from prunnet_hf import PrunNetConfig, PrunNetModel
from prunnet_hf.commands import CommandParser, run_command


@dataclass(frozen=True)
class Form:
    """A form of a checkpoint, and how it is written and read.

    Attributes:
        name: For the table.
        model: What is saved.
        save: Arguments of `save_pretrained`.
        load: Arguments of `from_pretrained`.
    """

    name: str
    model: PrunNetModel
    save: dict[str, Any] = field(default_factory=dict)
    load: dict[str, Any] = field(default_factory=dict)


def forms(dense: PrunNetModel, capacity: float) -> list[Form]:
    """The forms to compare, the plain one first."""
    bands = {"bands": [0.2, 0.4, 0.6, 0.8]}
    return [
        Form("plain dense", dense.prune(1.0)),
        Form(f"packed at {capacity:g}", dense.prune(capacity)),
        Form("prunable, full scores", dense),
        Form("all bands", dense, bands),
        Form(f"bands for {capacity:g}", dense, bands, {"capacity": capacity}),
    ]


def main() -> None:
    """Print one row a form."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--capacity", type=float, default=0.2)
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    disable_progress_bar()
    torch.manual_seed(0)
    dtype = getattr(torch, arguments.dtype)
    compared = forms(PrunNetModel(PrunNetConfig(backbone=arguments.backbone)).to(dtype), arguments.capacity)
    print(f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}")
    print(f"{arguments.backbone}, {arguments.dtype}, median of {arguments.rounds} rounds, warm page cache\n")
    with tempfile.TemporaryDirectory() as folder:
        times = [one_round(compared, Path(folder), dtype) for _ in range(arguments.rounds + 1)][1:]
        sizes = [sum(file.stat().st_size for file in path.iterdir()) for path in directories(compared, Path(folder))]
    print("| form | MB | load (s) | / plain | save (s) | / plain |\n|---|---:|---:|---:|---:|---:|")
    for index, form in enumerate(compared):
        print(f"| {form.name} | {sizes[index] / 1e6:.1f} | {' | '.join(columns(times, index))} |")


def directories(compared: list[Form], folder: Path) -> list[Path]:
    """Where each form is saved."""
    return [folder / str(index) for index in range(len(compared))]


def one_round(compared: list[Form], folder: Path, dtype: torch.dtype) -> list[tuple[float, float]]:
    """Save, then load, all forms once; `(load, save)` seconds of each."""
    places = list(zip(compared, directories(compared, folder), strict=True))
    saving = [clocked(lambda f=form, p=place: f.model.save_pretrained(p, **f.save)) for form, place in places]
    loading = [
        clocked(lambda f=form, p=place: PrunNetModel.from_pretrained(p, dtype=dtype, **f.load))
        for form, place in places
    ]
    return list(zip(loading, saving, strict=True))


def columns(times: list[list[tuple[float, float]]], index: int) -> list[str]:
    """Seconds and ratio of loading, then of saving, for one form."""
    cells = []
    for action in (0, 1):
        seconds = statistics.median(row[index][action] for row in times)
        ratio = statistics.median(row[index][action] / row[0][action] for row in times)
        cells += [f"{seconds:.3f}", f"{ratio:.2f}"]
    return cells


def clocked(action: Callable[[], object]) -> float:
    """Seconds that `action` takes."""
    start = time.perf_counter()
    result = action()
    seconds = time.perf_counter() - start
    del result  # releasing it is not counted
    return seconds


if __name__ == "__main__":
    sys.exit(run_command("benchmarks/loading.py", main))
