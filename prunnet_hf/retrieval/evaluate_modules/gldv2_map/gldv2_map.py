"""Google Landmarks v2 as a module of the `evaluate` library: `evaluate.load` takes this file or its folder."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate

from prunnet_hf.retrieval.metrics import evaluate_gldv2

_DESCRIPTION = "mAP@100 of Google Landmarks v2 retrieval."

_CITATION = """\
@inproceedings{weyand2020gldv2,
    title = {Google Landmarks Dataset v2 -- A Large-Scale Benchmark for Instance-Level Recognition and Retrieval},
    author = {Weyand, Tobias and Araujo, Andre and Cao, Bingyi and Sim, Jack},
    booktitle = {CVPR},
    year = {2020}
}
"""

_INPUTS = """
Args:
    predictions: For each query the ids of index images, best first; an empty list if nothing was predicted.
    references: For each query, in the same order, the ids of all relevant index images, at least one.
    k: How many predictions count; 100 if not given.

Returns:
    {"mAP@100": ...}, in [0, 1].

Example:
    >>> from importlib.resources import files
    >>> import evaluate
    >>> gldv2_map = evaluate.load(str(files("prunnet_hf") / "retrieval/evaluate_modules/gldv2_map"))
    >>> gldv2_map.compute(
    ...     predictions=[["x", "x"], []], references=[["x", "y"], ["z"]]
    ... )
    {'mAP@100': 0.25}
"""


class Gldv2Map(evaluate.Metric):  # type: ignore[misc]
    """mAP@k by `prunnet_hf.retrieval.metrics.evaluate_gldv2`."""

    def _info(self) -> evaluate.MetricInfo:
        features = {
            "predictions": datasets.List(datasets.Value("string")),
            "references": datasets.List(datasets.Value("string")),
        }
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(features),
        )

    def _compute(self, predictions: Any, references: Any, k: int = 100) -> dict[str, float]:
        predicted, relevant = (
            {str(query): images for query, images in enumerate(lists)} for lists in (predictions, references)
        )
        return evaluate_gldv2(predicted, relevant, k)
