"""How long reading the lists of Google Landmarks v2 takes, and how much memory, at their full size.

    python benchmarks/gldv2_lists.py

Lists of the true sizes with random ids are written to a temporary folder (about 0.7 GB), beside empty tars, and loaded
as `--streaming true` loads them. Each row is a process of its own, whose peak memory is that of a Python with this
package in it and of the reading.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import numpy as np

from prunnet_hf.commands import CommandParser, run_command
from prunnet_hf.data.sets.gldv2 import load_gldv2
from prunnet_hf.data.streams import num_images

CLEAN_IMAGES, CLEAN_LANDMARKS = 1_580_470, 81_313
TRAIN_IMAGES, TRAIN_LANDMARKS = 4_132_914, 203_094
INDEX_IMAGES, TEST_IMAGES = 761_757, 117_577
TARS = {"train": 500, "index": 100, "test": 20}
ANSWERED = {"Public": 379, "Private": 750}
RELEVANT = 40
Result = TypeVar("Result")
ROWS = (("clean", None), ("clean", 0.3), ("full", None))


def main() -> None:
    """Print one row a subset."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # Not in this process: its peak memory would count as that of the processes it starts.
        in_fresh_process(write_lists, Path(folder))
        print(f"{os.cpu_count()} CPU cores, load {os.getloadavg()[0]:.1f}\n")
        print("| lists | training images | classes | gallery | queries | seconds | peak memory (MiB) |")
        print("|---|---:|---:|---:|---:|---:|---:|")
        print(f"| none: the imports alone | | | | | | {in_fresh_process(peak_mib):.0f} |", flush=True)
        for subset, class_share in ROWS:
            print(in_fresh_process(measure, folder, subset, class_share), flush=True)


def in_fresh_process(function: Callable[..., Result], *arguments: object) -> Result:
    """What a function returns in a new process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def measure(folder: str, subset: str, class_share: float | None) -> str:
    """Load all lists once."""
    start = time.perf_counter()
    splits = load_gldv2(folder, subset=subset, class_share=class_share, streaming=True)
    seconds = time.perf_counter() - start
    train, query, gallery = (num_images(images) for images in (splits.train, splits.query, splits.gallery))
    name = subset if class_share is None else f"{subset}, {class_share:.0%} of the classes"
    counts = f"{train:,} | {splits.num_classes:,} | {gallery:,} | {query:,}"
    return f"| {name} | {counts} | {seconds:.1f} | {peak_mib():.0f} |"


def peak_mib() -> float:
    """Peak resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def write_lists(folder: Path) -> None:
    """Write the five lists, and tars with nothing in them."""
    rng = np.random.default_rng(0)
    train, index, test = (random_ids(count, rng) for count in (TRAIN_IMAGES, INDEX_IMAGES, TEST_IMAGES))
    write_list(folder / "train_clean.csv", "landmark_id,images", clean_lines(train[:CLEAN_IMAGES], rng))
    address = "https://upload.wikimedia.org/wikipedia/commons/e/e7/A_photograph_with_a_name_of_usual_length_{}.jpg"
    landmarks = random_classes(TRAIN_IMAGES, TRAIN_LANDMARKS, rng)
    lines = (f"{image},{address.format(row)},{landmarks[row]}" for row, image in enumerate(train))
    write_list(folder / "train.csv", "id,url,landmark_id", lines)
    write_list(folder / "index.csv", "id", index)
    write_list(folder / "test.csv", "id", test)
    usages = [usage for usage, count in ANSWERED.items() for _ in range(count)]
    relevant = [rng.choice(len(index), RELEVANT, replace=False) for _ in usages]
    answers = [f"{' '.join(index[i] for i in found)},{usage}" for found, usage in zip(relevant, usages, strict=True)]
    answers += ["None,Ignored"] * (TEST_IMAGES - len(answers))
    solution = (f"{image},{answer}" for image, answer in zip(test, answers, strict=True))
    write_list(folder / "retrieval_solution_v2.1.csv", "id,images,Usage", solution)
    for part, count in TARS.items():
        (folder / part).mkdir()
        for number in range(count):
            tarfile.open(folder / part / f"images_{number:03d}.tar", "w").close()


def random_ids(count: int, rng: np.random.Generator) -> list[str]:
    """Distinct ids in no order; a few more are drawn than needed, as some may come twice."""
    drawn = np.unique(rng.integers(2**64, size=count + 1000, dtype=np.uint64))
    return [f"{number:016x}" for number in rng.permutation(drawn)[:count].tolist()]


def random_classes(images: int, landmarks: int, rng: np.random.Generator) -> list[int]:
    """The landmark of each image; each landmark has one at least."""
    more = rng.integers(landmarks, size=images - landmarks)
    return rng.permutation(np.concatenate([np.arange(landmarks), more])).tolist()


def clean_lines(images: list[str], rng: np.random.Generator) -> list[str]:
    """The images of one landmark a line."""
    lines: list[list[str]] = [[] for _ in range(CLEAN_LANDMARKS)]
    for image, landmark in zip(images, random_classes(len(images), CLEAN_LANDMARKS, rng), strict=True):
        lines[landmark].append(image)
    return [f"{landmark},{' '.join(of_landmark)}" for landmark, of_landmark in enumerate(lines)]


def write_list(path: Path, header: str, lines: Iterable[str]) -> None:
    """Write a CSV."""
    with path.open("w") as file:
        file.write(f"{header}\n")
        file.writelines(f"{line}\n" for line in lines)


if __name__ == "__main__":
    sys.exit(run_command("benchmarks/gldv2_lists.py", main))
