"""In-shop Clothes Retrieval as a module of the `evaluate` library: `evaluate.load` takes this file or its folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate

from prunnet_hf.retrieval.metrics import evaluate_in_shop

_DESCRIPTION = "Recall@k of In-shop Clothes Retrieval: the share of queries with an image of their item in the top k."

_CITATION = """\
@inproceedings{liu2016deepfashion,
    title = {DeepFashion: Powering Robust Clothes Recognition and Retrieval with Rich Annotations},
    author = {Liu, Ziwei and Luo, Ping and Qiu, Shi and Wang, Xiaogang and Tang, Xiaoou},
    booktitle = {CVPR},
    year = {2016}
}
"""

_INPUTS = """
Args:
    predictions: `(num_queries, k)` gallery indices, best first.
    references: `(num_queries,)` items of the queries, integers.
    gallery_labels: `(num_gallery,)` items of the gallery, integers.
    ks: The cut-offs; 1, 2, 4, 8, 10, 20, 30 if not given. k must reach the largest.

Returns:
    {"recall@1": ..., ...}, in [0, 1].

Example:
    >>> from importlib.resources import files
    >>> import evaluate
    >>> in_shop = evaluate.load(str(files("prunnet_hf") / "retrieval/evaluate_modules/in_shop"))
    >>> in_shop.compute(
    ...     predictions=[[1, 0], [1, 2]], references=[7, 8], gallery_labels=[7, 8, 7], ks=[1, 2]
    ... )
    {'recall@1': 0.5, 'recall@2': 1.0}
"""


class InShop(evaluate.Metric):  # type: ignore[misc]
    """Recall@k by `prunnet_hf.retrieval.metrics.evaluate_in_shop`."""

    def _info(self) -> evaluate.MetricInfo:
        features = {
            "predictions": datasets.List(datasets.Value("int64")),
            "references": datasets.Value("int64"),
        }
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(features),
        )

    def _compute(
        self,
        predictions: Any,
        references: Any,
        gallery_labels: Any,
        ks: Sequence[int] = (1, 2, 4, 8, 10, 20, 30),
    ) -> dict[str, float]:
        return evaluate_in_shop(predictions, references, gallery_labels, ks)
