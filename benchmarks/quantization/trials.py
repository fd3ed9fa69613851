"""What is measured: a network, the gallery that it makes, and the rows of what is made of it."""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import faiss
import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from prunnet_hf import Embeddings, Gallery, PrunNetModel
from prunnet_hf.data.loading import load_splits
from prunnet_hf.data.reading import read_image, stored_images
from prunnet_hf.data.splits import LABEL
from prunnet_hf.data.transforms import TrainingCollator, train_transform
from prunnet_hf.retrieval.dataset_encoding import embed
from prunnet_hf.retrieval.gallery_files import INDEX
from prunnet_hf.retrieval.gallery_index import build_index
from prunnet_hf.retrieval.gallery_quantizing import quantize_gallery
from prunnet_hf.retrieval.rankings import average_precision
from prunnet_hf.retrieval.search import normalize
from prunnet_hf.runs.run_directory import write_json
from prunnet_hf.runs.yaml_text import load_yaml
from prunnet_hf.training.gallery_learning import Learning, learn_gallery
from prunnet_hf.training.joint_quantization import Settings

EXACT, BOUND, QUERIES = "exact", "bound", "queries"
METHODS = (EXACT, "PQ", "OPQ", "centroids", BOUND, QUERIES)
"""`queries` also learns the projector of the subnetwork of `ASKING`. The centroids of `bound` learn from the very
queries that test it: what these codes would allow, if one knew what will be asked."""
ONLY_AT = {BOUND: (32,), QUERIES: (32, 64)}
CAPACITIES = (1.0, 0.2)
ASKING = 0.2
SEARCHES, FOUND = 50, 10
ENCODED = 64

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


def ratios_of(method: str, arguments: argparse.Namespace) -> list[int]:
    """The ratios at which a method is measured; exact search has the ratio 1."""
    if method == EXACT:
        return [1]
    return [ratio for ratio in arguments.ratios if ratio in ONLY_AT.get(method, arguments.ratios)]


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
        self.case, self.model, self.train, self.tested = case, model, train, queries
        self.images = [read_image(row) for row in stored_images(queries)]
        numbers = {label: number for number, label in enumerate(sorted(set(wanted)))}
        self.wanted = np.array([numbers[label] for label in wanted])
        exact = Gallery.load(case.work / "exact")
        self.labels = np.array([numbers.get(label or "", -1) for label in exact.labels])
        self.vectors: Vectors = np.array(exact._rows.vectors())
        self.dim = self.vectors.shape[1]
        self.flat = faiss.IndexFlatIP(self.dim)
        self.flat.add(self.vectors)
        self.queries = {capacity: self._ask(model.prune(capacity)) for capacity in CAPACITIES}

    def measure(self, method: str, ratio: int) -> Row:
        """One row."""
        row: Row = {"case": self.case.name, "method": method, "ratio": ratio, "images": len(self.vectors)}
        row |= {"capacities": {}, "index_bytes": 4 * self.vectors.size, "bytes": 4 * self.dim // ratio}
        if method == EXACT:
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
        images = self.tested if method == BOUND else self.train
        batch_size = min(Settings.batch_size, len(images))
        learning = Learning(settings=Settings(steps=self.case.arguments.steps, batch_size=batch_size))
        if method == QUERIES:
            learning = replace(learning, capacities=[ASKING], query_side="projector")
        learned = learn_gallery(
            start, folder, num_bytes, self.model, images, learning, with_embeddings=False, progress=False
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
