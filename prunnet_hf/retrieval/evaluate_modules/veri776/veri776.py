"""VeRi-776 as a module of the `evaluate` library: `evaluate.load` takes this file or its folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate

from prunnet_hf.retrieval.metrics import evaluate_veri

_DESCRIPTION = "mAP, CMC@k and mINP of VeRi-776, without images of the query's vehicle by the query's own camera."

_CITATION = """\
@inproceedings{liu2016veri,
    title = {A Deep Learning-Based Approach to Progressive Vehicle Re-identification for Urban Surveillance},
    author = {Liu, Xinchen and Liu, Wu and Mei, Tao and Ma, Huadong},
    booktitle = {ECCV},
    year = {2016}
}
"""

_INPUTS = """
Args:
    predictions: `(num_queries, num_gallery)` gallery indices, the full ordering of each query, best first.
    references: `(num_queries,)` dicts {"id": vehicle, "camera": camera} of the queries, integers.
    gallery_ids: `(num_gallery,)` vehicles of the gallery, integers.
    gallery_cameras: `(num_gallery,)` cameras of the gallery, integers.
    ks: The cut-offs of CMC; 1, 5, 10 if not given.

Returns:
    {"mAP": ..., "CMC@1": ..., "CMC@5": ..., "CMC@10": ..., "mINP": ...}, in [0, 1].

Example:
    >>> from importlib.resources import files
    >>> import evaluate
    >>> veri776 = evaluate.load(str(files("prunnet_hf") / "retrieval/evaluate_modules/veri776"))
    >>> veri776.compute(
    ...     predictions=[[0, 3, 1, 2]],
    ...     references=[{"id": 5, "camera": 1}],
    ...     gallery_ids=[5, 5, 5, 6],
    ...     gallery_cameras=[1, 2, 2, 1],
    ...     ks=[1, 2],
    ... )
    {'mAP': 0.5833333333333333, 'CMC@1': 0.0, 'CMC@2': 1.0, 'mINP': 0.6666666666666666}
"""


class Veri776(evaluate.Metric):  # type: ignore[misc]
    """mAP, CMC and mINP by `prunnet_hf.retrieval.metrics.evaluate_veri`."""

    def _info(self) -> evaluate.MetricInfo:
        features = {
            "predictions": datasets.List(datasets.Value("int64")),
            "references": {"id": datasets.Value("int64"), "camera": datasets.Value("int64")},
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
        gallery_ids: Any,
        gallery_cameras: Any,
        ks: Sequence[int] = (1, 5, 10),
    ) -> dict[str, float]:
        query_ids = [query["id"] for query in references]
        query_cameras = [query["camera"] for query in references]
        return evaluate_veri(predictions, query_ids, query_cameras, gallery_ids, gallery_cameras, ks)
