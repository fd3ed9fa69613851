"""Measure quantised galleries: exact search, PQ, OPQ, learned centroids, learned queries, by bytes an image.

    python benchmarks/quantization.py --set omniglot --data_dir DATA/omniglot --runs OUT \
        --results benchmarks/results/quantization --work_dir WORK --jobs 2

`OUT/<set>/main/default-<units|weights>-seed<n>` are runs of `benchmarks/compare`; those that aren't there are named.
Classes are unseen: of each test class every other image lies in the gallery, the others are the queries, so no query
has been seen by anything that learned. Augmented training images are added to the gallery up to --images. What learns
uses the training images and the gallery's embeddings, and no label.

Each row is written as it is done, and one that is there isn't made again. All rows become `quantization.md` and
`quantization.png` in --results. Latency is the median CPU time of single queries, in turns with exact search.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before faiss and torch are imported

import faiss
import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from prunnet_hf import Embeddings, Gallery, PrunNetModel
from prunnet_hf.commands import CommandParser, run_command
from prunnet_hf.data.loading import load_splits
from prunnet_hf.data.reading import read_image, stored_images
from prunnet_hf.data.splits import LABEL
from prunnet_hf.data.transforms import TrainingCollator, train_transform
from prunnet_hf.retrieval.dataset_encoding import embed
from prunnet_hf.retrieval.gallery_files import INDEX
from prunnet_hf.retrieval.gallery_index import build_index
from prunnet_hf.retrieval.gallery_quantizing import quantize_gallery
from prunnet_hf.retrieval.plots import draw_grid, new_figure, save_png
from prunnet_hf.retrieval.rankings import average_precision
from prunnet_hf.retrieval.search import normalize
from prunnet_hf.runs.run_directory import write_json
from prunnet_hf.runs.yaml_text import load_yaml
from prunnet_hf.training.gallery_learning import Learning, learn_gallery
from prunnet_hf.training.joint_quantization import Settings

METHODS = ("exact", "PQ", "OPQ", "centroids", "queries")
"""`queries` also learns the projector of the subnetwork of `ASKING`."""
RATIOS = (16, 32, 64, 128)
QUERY_RATIOS = (32, 64)
CAPACITIES = (1.0, 0.2)
ASKING = 0.2
SEARCHES, FOUND = 50, 10
ENCODED = 64
COLOURS = {"PQ": "#6b6b6b", "OPQ": "#31688e", "centroids": "#2a9d5c", "queries": "#d1742e"}

Vectors = NDArray[np.float32]
Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A network, and the gallery that it makes."""

    name: str
    run: Path
    arguments: argparse.Namespace

    @property
    def work(self) -> Path:
        """Where its galleries lie."""
        return Path(self.arguments.work_dir) / self.name

    def row(self, method: str, ratio: int) -> Path:
        """The file of a row."""
        return Path(self.arguments.results) / f"{self.name}-{method}-{ratio}x.json"

    def missing(self) -> list[tuple[str, int]]:
        """The rows that aren't there yet."""
        asked = [(method, ratio) for method in self.arguments.methods for ratio in ratios_of(method, self.arguments)]
        return [row for row in asked if not self.row(*row).exists()]


def main() -> None:
    """Make the rows that are missing, and write the table and the picture of all."""
    arguments = parse()
    root = Path(arguments.runs) / arguments.set / "main"
    kinds = [(kind, seed) for seed in arguments.seeds for kind in arguments.kinds]
    named = {f"{arguments.set}-{kind}-seed{seed}": root / f"default-{kind}-seed{seed}" for kind, seed in kinds}
    cases = [Case(name, run, arguments) for name, run in named.items() if (run / "model").is_dir()]
    for absent in sorted(set(named) - {case.name for case in cases}):
        print(f"{absent}: there is no run {named[absent]}", flush=True)
    waiting = [case for case in cases if case.missing()]
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
        for line in pool.map(perform, waiting):
            print(line, flush=True)
    summarise(Path(arguments.results), arguments.set)


def parse() -> argparse.Namespace:
    """The arguments."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", required=True, help="name of the recipe: omniglot or grocery")
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--runs", required=True, help="the --work_dir of benchmarks/compare")
    parser.add_argument("--results", default="benchmarks/results/quantization")
    parser.add_argument("--work_dir", required=True)
    parser.add_argument("--kinds", nargs="+", default=["units", "weights"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--ratios", nargs="+", type=int, default=RATIOS)
    parser.add_argument("--images", type=int, default=100_000, help="size of the gallery")
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--jobs", type=int, default=1, choices=[1, 2])
    return parser.parse_args()


def ratios_of(method: str, arguments: argparse.Namespace) -> list[int]:
    """The ratios at which a method is measured; exact search has the ratio 1."""
    if method == "exact":
        return [1]
    return [ratio for ratio in arguments.ratios if method != "queries" or ratio in QUERY_RATIOS]


def perform(case: Case) -> str:
    """Make the rows of a case that are missing."""
    begun = time.monotonic()
    model: PrunNetModel = PrunNetModel.from_pretrained(case.run / "model").eval()
    splits = load_splits("image_folder", case.arguments.data_dir)
    in_gallery = every_other(splits.gallery[LABEL][:])
    if not (case.work / "exact" / INDEX).exists():
        make_gallery(case, model, splits.gallery.select(np.flatnonzero(in_gallery)), splits.train)
    queries = splits.query.select(np.flatnonzero(~in_gallery))
    names = splits.gallery.features[LABEL].names
    trial = Trial(case, model, splits.train, queries, [names[label] for label in queries[LABEL][:]])
    for method, ratio in case.missing():
        write_json(case.row(method, ratio), trial.measure(method, ratio))
    return f"{case.name}: {time.monotonic() - begun:.0f} s"


def every_other(labels: Sequence[int]) -> NDArray[np.bool_]:
    """Of each class the first, third, ... image.

    Example:
        >>> every_other([0, 0, 0, 1, 1]).tolist()
        [True, False, True, True, False]
    """
    seen: dict[int, int] = {}
    chosen = []
    for label in labels:
        chosen.append(seen.get(label, 0) % 2 == 0)
        seen[label] = seen.get(label, 0) + 1
    return np.array(chosen)


def make_gallery(case: Case, model: PrunNetModel, tested: Dataset, train: Dataset) -> None:
    """Embed the test images of the gallery, and augmented training images, in an order drawn at random."""
    names = tested.features[LABEL].names
    processor: Any = model.image_processor
    plain = stored_images(tested)
    arrays = [
        embed(model, processor([read_image(row) for row in rows], return_tensors="pt")["pixel_values"])
        for rows in in_batches(plain, range(len(plain)))
    ]
    labels: list[str | None] = [names[label] for label in tested[LABEL][:]]
    recipe = load_yaml((case.run / "config.yaml").read_text(encoding="utf-8"))
    transform = train_transform(
        int(recipe["image_size"]),
        resize=int(recipe["resize"]),
        mean=processor.image_mean,
        std=processor.image_std,
        augmentation=str(recipe["augmentation"]),
    )
    collate, images = TrainingCollator(transform, seed=0), stored_images(train)
    while len(labels) < case.arguments.images:
        collate.set_epoch(len(labels))
        for rows in in_batches(images, range(min(len(images), case.arguments.images - len(labels)))):
            numbered = [{**row, "row": place} for place, row in enumerate(rows, start=len(labels))]
            arrays.append(embed(model, collate(numbered)["pixel_values"]))
            labels += [None] * len(rows)
    order = np.random.default_rng(0).permutation(len(labels))
    paths = [f"image-{place:07d}" for place in range(len(order))]
    embeddings = Embeddings(
        np.concatenate(arrays)[order], str(model.config.embedding_space), 1.0, paths, [labels[n] for n in order]
    )
    shutil.rmtree(case.work / "exact", ignore_errors=True)
    Gallery.from_embeddings(embeddings, "Flat").save(case.work / "exact", with_embeddings=False)


def in_batches(images: Dataset, places: range) -> Iterator[list[dict[str, Any]]]:
    """Rows of a data set."""
    for start in range(0, len(places), ENCODED):
        yield [images[place] for place in places[start : start + ENCODED]]


class Trial:
    """Measures the rows of one case."""

    def __init__(self, case: Case, model: PrunNetModel, train: Dataset, queries: Dataset, wanted: list[str]) -> None:
        self.case, self.model, self.train = case, model, train
        self.images = [read_image(row) for row in stored_images(queries)]
        self.wanted = np.array(wanted)
        exact = Gallery.load(case.work / "exact")
        self.labels = np.array([label or "" for label in exact.labels])
        self.vectors: Vectors = np.array(exact._rows.vectors())
        self.dim = self.vectors.shape[1]
        self.flat = faiss.IndexFlatIP(self.dim)
        self.flat.add(self.vectors)
        self.queries = {capacity: self._ask(model.prune(capacity)) for capacity in CAPACITIES}

    def measure(self, method: str, ratio: int) -> Row:
        """One row."""
        row: Row = {"case": self.case.name, "method": method, "ratio": ratio, "images": len(self.vectors)}
        row |= {"capacities": {}, "index_bytes": 4 * self.vectors.size, "bytes": 4 * self.dim // ratio}
        if method == "exact":
            row["capacities"] = {f"{c:.2f}": self._quality(q, self.vectors) for c, q in self.queries.items()}
            return row
        index, facts = self._index(method, 4 * self.dim // ratio)
        decoded = index.reconstruct_n(0, index.ntotal)
        row["capacities"] = {f"{c:.2f}": self._quality(q, decoded) for c, q in self.queries.items()}
        if "network" in facts:
            own = self._ask(PrunNetModel.from_pretrained(facts.pop("network")).eval())
            row["own"] = {f"{ASKING:.2f}": self._quality(own, decoded)}
            row["own exact"] = {f"{ASKING:.2f}": self._quality(own, self.vectors)}
        return row | facts | self._latency(index)

    def _index(self, method: str, num_bytes: int) -> tuple[Any, Row]:
        if method == "PQ":
            index = build_index(self.vectors, f"PQ{num_bytes}x8np")
            return index, {"index_bytes": len(faiss.serialize_index(index))}
        start, facts = self.case.work / f"opq-{num_bytes}", Row()
        if not start.exists():
            quantize_gallery(self.case.work / "exact", start, num_bytes, progress=False)
        folder = start
        if method != "OPQ":
            folder = self.case.work / f"{method}-{num_bytes}"
            facts = self._learn(method, start, folder, num_bytes)
        facts["index_bytes"] = (folder / INDEX).stat().st_size
        return faiss.read_index(str(folder / INDEX)), facts

    def _learn(self, method: str, start: Path, folder: Path, num_bytes: int) -> Row:
        if (folder / INDEX).exists():  # its row is missing: the process was killed in between
            shutil.rmtree(folder)
        learning = Learning(settings=Settings(steps=self.case.arguments.steps))
        if method == "queries":
            learning = Learning([ASKING], "projector", settings=learning.settings)
        learned = learn_gallery(
            start, folder, num_bytes, self.model, self.train, learning, with_embeddings=False, progress=False
        )
        progress = learned.progress
        facts: Row = {"step_ms": 1000 * progress.seconds / progress.step, "steps": progress.step}
        facts["search_share"] = progress.search_seconds / progress.seconds
        return {**facts, "network": str(learned.networks[ASKING])} if learned.networks else facts

    def _ask(self, network: PrunNetModel) -> Vectors:
        return normalize(network.encode(self.images, progress=False))

    def _quality(self, queries: Vectors, decoded: Vectors) -> dict[str, float]:
        found = np.argsort(-(queries @ decoded.T), axis=1, kind="stable")
        hits = self.labels[found] == self.wanted[:, None]
        return {"mAP": float(average_precision(hits, hits.sum(axis=1)).mean()), "recall@1": float(hits[:, 0].mean())}

    def _latency(self, index: Any) -> Row:
        queries, times = self.queries[ASKING], dict[str, list[float]](latency_ms=[], exact_latency_ms=[])
        for place in range(min(SEARCHES, len(queries))):
            for name, searched in (("latency_ms", index), ("exact_latency_ms", self.flat)):
                begun = time.process_time()
                searched.search(queries[place : place + 1], FOUND)
                times[name].append(1000 * (time.process_time() - begun))
        return {name: median(each) for name, each in times.items()}


def summarise(results: Path, name: str) -> None:
    """Write the table and the picture of a set's rows."""
    rows = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(results.glob(f"{name}-*.json"))]
    if not rows:
        return
    kinds = sorted({row["case"].rpartition("-seed")[0] for row in rows})
    lines = [f"mAP and recall@1 in percent, means over seeds; {rows[0]['images']:,} images in the gallery", ""]
    head = ["network", "method", "bytes", "seeds", "1.0 mAP", "R@1", "0.2 mAP", "R@1"]
    head += ["ms a query", "of exact", "step, ms", "search"]
    lines += [f"| {' | '.join(head)} |", "|---|---|" + "---:|" * (len(head) - 2)]
    for kind in kinds:
        own = [row for row in rows if row["case"].rpartition("-seed")[0] == kind]
        lines += table_of(kind, own)
        draw(kind, own, results / f"{kind}.png")
    text = "\n".join(lines) + "\n"
    (results / f"{name}.md").write_text(text, encoding="utf-8")
    print(text, flush=True)


def table_of(kind: str, rows: Sequence[Row]) -> list[str]:
    """The lines of one kind of network."""
    lines = []
    for method in METHODS:
        for ratio in sorted({row["ratio"] for row in rows if row["method"] == method}):
            same = [row for row in rows if (row["method"], row["ratio"]) == (method, ratio)]
            lines.append(line_of(kind, method, same, "capacities"))
            if method == "queries":
                lines += [line_of(kind, "queries, asked by them", same, "own")]
                lines += [line_of(kind, "exact, asked by them", same, "own exact")]
    return lines


def line_of(kind: str, method: str, rows: Sequence[Row], part: str) -> str:
    """The line of rows that differ in their seeds."""
    shown = [
        percent([row[part][capacity][metric] for row in rows if capacity in row[part]])
        for capacity in ("1.00", "0.20")
        for metric in ("mAP", "recall@1")
    ]
    of_exact = [row["latency_ms"] / row["exact_latency_ms"] for row in rows if "latency_ms" in row]
    costs = [average([row["latency_ms"] for row in rows if "latency_ms" in row]), average(of_exact)]
    costs += [average([row["step_ms"] for row in rows if "step_ms" in row])]
    costs += [average([row["search_share"] for row in rows if "search_share" in row])]
    cells = [kind, method, str(rows[0]["bytes"]), str(len(rows)), *shown, *costs]
    return f"| {' | '.join(cells)} |"


def percent(values: Sequence[float]) -> str:
    """The mean in percent."""
    return f"{100 * sum(values) / len(values):.1f}" if values else ""


def average(values: Sequence[float]) -> str:
    """The mean of costs."""
    return f"{sum(values) / len(values):.3g}" if values else ""


def draw(kind: str, rows: Sequence[Row], path: Path) -> None:
    """Draw mAP over bytes for each capacity; exact search is a line across."""
    figure = new_figure(11, 4.6)
    figure.suptitle(f"{kind}: a gallery of {rows[0]['images']:,} images, quantised", fontsize=12)
    panels = figure.subplots(1, len(CAPACITIES))
    for axes, capacity in zip(panels, ("1.00", "0.20"), strict=True):
        for method in METHODS:
            part = "own" if method == "queries" else "capacities"
            points: dict[int, list[float]] = {}
            for row in rows:
                if row["method"] == method and capacity in row[part]:
                    points.setdefault(row["bytes"], []).append(100 * row[part][capacity]["mAP"])
            line = [(size, sum(values) / len(values)) for size, values in sorted(points.items())]
            if method == "exact" and line:
                axes.axhline(line[0][1], color="#1b1b1b", linestyle="--", label=f"exact, {line[0][0]} bytes")
            elif line:
                axes.plot(*zip(*line, strict=True), marker="o", color=COLOURS[method], label=method)
        sizes = sorted({row["bytes"] for row in rows if row["method"] != "exact"})
        axes.set_xscale("log")
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
        axes.set_title(f"queries of capacity {capacity}", fontsize=11)
        axes.set_xlabel("bytes an image")
        axes.set_ylabel("mAP (%)")
        draw_grid(axes)
        axes.legend(fontsize=9, loc="lower right")
    save_png(figure, path)


if __name__ == "__main__":
    sys.exit(run_command("benchmarks/quantization.py", main))
