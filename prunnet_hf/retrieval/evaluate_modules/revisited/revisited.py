"""Revisited Oxford and Paris as a module of the `evaluate` library: `evaluate.load` takes this file or its folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate

from prunnet_hf.retrieval.metrics import evaluate_revisited

_DESCRIPTION = "mAP and mP@k of revisited Oxford and Paris at the difficulties easy, medium and hard."

_CITATION = """\
@inproceedings{radenovic2018revisiting,
    title = {Revisiting Oxford and Paris: Large-Scale Image Retrieval Benchmarking},
    author = {Radenovic, Filip and Iscen, Ahmet and Tolias, Giorgos and Avrithis, Yannis and Chum, Ondrej},
    booktitle = {CVPR},
    year = {2018}
}
"""

_INPUTS = """
Args:
    predictions: `(num_queries, num_gallery)` gallery indices, the full ordering of each query, best first.
    references: For each query a dict of gallery indices {"easy": [...], "hard": [...], "junk": [...]},
        without other keys; a list may be empty.
    kappas: The cut-offs of mP@k; 1, 5, 10 if not given.

Returns:
    {"easy": {"mAP": ..., "mP@1": ..., "mP@5": ..., "mP@10": ...}, "medium": {...}, "hard": {...}}, in [0, 1].

Example:
    >>> from importlib.resources import files
    >>> import evaluate
    >>> revisited = evaluate.load(str(files("prunnet_hf") / "retrieval/evaluate_modules/revisited"))
    >>> revisited.compute(
    ...     predictions=[[1, 0, 3, 2]],
    ...     references=[{"easy": [2], "hard": [0], "junk": [1]}],
    ...     kappas=[1, 2],
    ... )["medium"]
    {'mAP': 0.7916666666666666, 'mP@1': 1.0, 'mP@2': 0.5}
"""


class Revisited(evaluate.Metric):  # type: ignore[misc]
    """mAP and mP@k by `prunnet_hf.retrieval.metrics.evaluate_revisited`."""

    def _info(self) -> evaluate.MetricInfo:
        indices = datasets.List(datasets.Value("int64"))
        features = {"predictions": indices, "references": {"easy": indices, "hard": indices, "junk": indices}}
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(features),
        )

    def _compute(
        self, predictions: Any, references: Any, kappas: Sequence[int] = (1, 5, 10)
    ) -> dict[str, dict[str, float]]:
        return evaluate_revisited(predictions, references, kappas)
