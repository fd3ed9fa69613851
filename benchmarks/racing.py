r"""Start pairs of encoders for one output, the second at a random moment, and look at what they leave.

    python benchmarks/racing.py --pairs 60

In each pair one process must end with status 0 and the other be refused, naming the first, or find that the file is
there; and the table must hold every image once, with the embeddings that a single process gives. Everything else is
counted as wrong, and the exit status is then 1.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
import tempfile
import time
from collections import Counter
from multiprocessing.queues import Queue
from pathlib import Path

import numpy as np
from PIL import Image

from prunnet_hf import PrunNetConfig, PrunNetImageProcessor, PrunNetModel
from prunnet_hf.retrieval.embedding_table import read_embeddings
from prunnet_hf.retrieval.folder_encoding import encode_folder

IMAGES, SIDE = 60, 32


def main() -> int:
    """Race, print the counts, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_photos(root / "photos")
        begun = time.perf_counter()
        encode(root, root / "alone.parquet")
        seconds = time.perf_counter() - begun
        for number in range(arguments.pairs):
            counts[_race(root, root / f"{number}.parquet", rng.uniform(0, 1.2 * seconds))] += 1
    print(f"{arguments.pairs} pairs, each process alone takes {seconds:.2f} s: {dict(counts)}")
    return int(any(kind.startswith("WRONG") for kind in counts))


def encode(root: Path, output: Path) -> None:
    """Embed the images, each part with two of them."""
    model = _model()
    encode_folder(model, root / "photos", output, _processor(), batch_size=2, images_per_part=2, progress=False)


def _report(root: Path, output: Path, results: Queue[str]) -> None:
    try:
        encode(root, output)
        results.put("")
    except (OSError, RuntimeError, ValueError) as error:
        results.put(f"{type(error).__name__}: {error}")


def _race(root: Path, output: Path, delay: float) -> str:
    context = multiprocessing.get_context("forkserver")  # which imports once, and has no threads yet
    context.set_forkserver_preload(["prunnet_hf.retrieval.folder_encoding"])
    results: Queue[str] = context.Queue()
    processes = [context.Process(target=_report, args=(root, output, results)) for _ in range(2)]
    processes[0].start()
    time.sleep(delay)
    processes[1].start()
    said = sorted(results.get() for _ in processes)
    for process in processes:
        process.join()
    return _verdict(said, output, root / "alone.parquet")


def _verdict(said: list[str], output: Path, alone: Path) -> str:
    refused = said[1].startswith("BlockingIOError") and "is being written by process" in said[1]
    late = said[1].startswith("FileExistsError")
    if said[0] or not (refused or late):
        return f"WRONG: {said}"
    try:
        found, expected = read_embeddings(output), read_embeddings(alone)
    except ValueError as error:
        return f"WRONG: {error}"
    if found.paths != expected.paths or not np.array_equal(found.embeddings, expected.embeddings):
        return f"WRONG: {len(found.paths)} rows of {len(set(found.paths))} images"
    left = [path.name for path in output.parent.iterdir() if output.name in path.name and path != output]
    if left:
        return f"WRONG: leaves {left}"
    return "refused, naming the first" if refused else "found the finished file"


def make_photos(folder: Path) -> None:
    """Images of noise, the same at each call."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in range(IMAGES):
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)).save(folder / f"{number:02d}.png")


def _model() -> PrunNetModel:
    config = PrunNetConfig(
        backbone="resnet10t", backbone_kwargs={"channels": [4, 4, 8, 8], "stem_width": 4}, embedding_dim=8
    )
    model = PrunNetModel(config).eval()
    for parameter in model.parameters():
        parameter.data.fill_(0.01)
    model.renew_embedding_space()
    return model


def _processor() -> PrunNetImageProcessor:
    crop = {"height": SIDE, "width": SIDE}
    return PrunNetImageProcessor(size={"shortest_edge": SIDE}, crop_size=crop)


if __name__ == "__main__":
    sys.exit(main())
