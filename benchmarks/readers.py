"""Seconds to read the lists of In-shop, VeRi-776 and the revisited sets, at their published sizes.

    python benchmarks/readers.py

The lists are made here, in the official layout; the images they name are empty files, as reading opens none but the
queries of the revisited sets, which it crops. For GLDv2 see gldv2_lists.py.
"""

from __future__ import annotations

import os
import pickle
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
from PIL import Image

from prunnet_hf.commands import run_command
from prunnet_hf.data.sets.in_shop import load_in_shop
from prunnet_hf.data.sets.revisited import load_revisited
from prunnet_hf.data.sets.veri776 import load_veri776
from prunnet_hf.data.splits import RetrievalSplits


def main() -> None:
    """Print one row a data set."""
    print(f"{os.cpu_count()} CPU cores, load {os.getloadavg()[0]:.1f}\n")
    print("| data set | images listed | seconds | as streams |\n|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        row("In-shop", make_in_shop(root / "in_shop"), lambda **how: load_in_shop(root / "in_shop", **how))
        row("VeRi-776", make_veri776(root / "veri776"), lambda **how: load_veri776(root / "veri776", **how))
        for name, gallery in (("roxford5k", 4993), ("rparis6k", 6322)):
            images = make_revisited(root / name, name, gallery)
            row(name, images, lambda name=name, **how: load_revisited(root / name, name, **how))


def row(name: str, images: int, load: Callable[..., RetrievalSplits]) -> None:
    """Read twice, first as data sets."""
    seconds = []
    for streaming in (False, True):
        start = time.perf_counter()
        load(streaming=streaming)
        seconds.append(time.perf_counter() - start)
    print(f"| {name} | {images:,} | {seconds[0]:.1f} | {seconds[1]:.1f} |", flush=True)


def make_in_shop(root: Path) -> int:
    """25,882 images of 3,997 items to train on, 14,218 queries and 12,612 gallery images of 3,985 others."""
    lines = []
    number = count()
    for status, images, items, first in (
        ("train", 25_882, 3_997, 1),
        ("query", 14_218, 3_985, 3_998),
        ("gallery", 12_612, 3_985, 3_998),
    ):
        for image in range(images):
            item = f"id_{first + image % items:08d}"
            name = f"img/{'WOMEN' if image % 2 else 'MEN'}/Tees/{item}/{next(number):06d}_front.jpg"
            lines.append(f"{name:<90}{item:<16}{status}\n")
            touch(root / name)
    (root / "Eval").mkdir()
    head = f"{len(lines)}\nimage_name item_id evaluation_status\n"
    (root / "Eval/list_eval_partition.txt").write_text(head + "".join(lines))
    return len(lines)


def make_veri776(root: Path) -> int:
    """37,778 images of 576 vehicles to train on, 1,678 queries and 11,579 gallery images of 200 others."""
    total = 0
    for part, images, vehicles, first in (
        ("train", 37_778, 576, 201),
        ("query", 1_678, 200, 1),
        ("test", 11_579, 200, 1),
    ):
        names = [f"{first + i % vehicles:04d}_c{1 + i % 20:03d}_{i:08d}_0.jpg" for i in range(images)]
        for name in names:
            touch(root / f"image_{part}" / name)
        (root / f"name_{part}.txt").write_text("".join(f"{name}\n" for name in names))
        total += images
    return total


def make_revisited(root: Path, name: str, gallery: int) -> int:
    """70 queries of 1024 x 768 pixels, and for each 300 gallery images judged."""
    rng = np.random.default_rng(0)
    imlist = [f"all_souls_{number:06d}" for number in range(gallery)]
    qimlist = [f"query_{number:06d}" for number in range(70)]
    photo = Image.fromarray(rng.integers(0, 256, (768, 1024, 3), dtype=np.uint8))
    for image in imlist:
        touch(root / "jpg" / f"{image}.jpg")
    for query in qimlist:
        photo.save(root / "jpg" / f"{query}.jpg")
    gnd = []
    for _ in qimlist:
        judged = rng.permutation(gallery)[:300]
        easy, hard, junk = judged[:100].tolist(), judged[100:200].tolist(), judged[200:].tolist()
        gnd.append({"bbx": [136.5, 34.1, 648.5, 955.7], "easy": easy, "hard": hard, "junk": junk})
    with (root / f"gnd_{name}.pkl").open("wb") as file:
        pickle.dump({"imlist": imlist, "qimlist": qimlist, "gnd": gnd}, file, protocol=2)
    return gallery + len(qimlist)


def touch(path: Path) -> None:
    """Make an empty file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


if __name__ == "__main__":
    sys.exit(run_command("benchmarks/readers.py", main))
