"""Protocols against hand arithmetic and against the plain metrics."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import ClassLabel
from datasets import Dataset
from datasets import Features
from datasets import Image
from datasets import Value

from prunnet_hf.retrieval.metrics import mean_average_precision
from prunnet_hf.retrieval.metrics import recall_at_k
from prunnet_hf.retrieval.protocols import leave_one_out
from prunnet_hf.retrieval.protocols import read_columns
from prunnet_hf.retrieval.protocols import resolve_protocol
from prunnet_hf.retrieval.search import search


def on_circle(*degrees):
    angles = np.deg2rad(np.array(degrees))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_leave_one_out_by_hand():
    embeddings = on_circle(0, 50, 20, 90)
    columns = {"label": [0, 0, 1, 1]}
    # 0 ranks 2 1 3: 1/2. 1 (50) ranks 2 3 0: 1/3. 2 (20) ranks 0 1 3: 1/3. 3 (90) ranks 1 2 0: 1/2. None first.
    found = leave_one_out(embeddings, embeddings, columns, columns)
    assert found == pytest.approx({"mAP": (1 / 2 + 1 / 3 + 1 / 3 + 1 / 2) / 4, "recall@1": 0})


def test_leave_one_out_across_two_networks_leaves_the_query_image_out():
    columns = {"label": [0, 0, 1, 1]}
    queries, gallery = on_circle(0, 10, 90, 100), on_circle(10, 0, 100, 90)
    assert leave_one_out(queries, gallery, columns, columns) == {"mAP": 1, "recall@1": 1}
    # Gallery image 1 alone moves away: query 0 finds it last (1/3); query 1 still finds gallery image 0.
    gallery = on_circle(10, 200, 100, 90)
    found = leave_one_out(queries, gallery, columns, columns)
    assert found == pytest.approx({"mAP": (1 / 3 + 1 + 1 + 1) / 4, "recall@1": 3 / 4})


def test_leave_one_out_equals_search_then_metrics():
    rng = np.random.default_rng(0)
    labels = np.concatenate([np.arange(60), rng.integers(60, size=300), np.arange(60)])
    queries, gallery = rng.standard_normal((2, len(labels), 8)).astype(np.float32) + labels[:, np.newaxis] % 7
    itself = np.arange(len(labels))
    ranks = search(queries, gallery, exclude=itself)
    expected = {
        "mAP": mean_average_precision(ranks, labels, labels, exclude=itself),
        **recall_at_k(ranks, labels, labels, exclude=itself),
    }
    columns = {"label": labels}
    assert leave_one_out(queries, gallery, columns, columns) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("query_columns", "gallery_columns", "message"),
    [
        ({"label": [0, 0, 1, 1]}, {"label": [0, 1, 0, 1]}, "query and gallery differ in their labels"),
        (
            {"label": [0, 0, 0, 1]},
            {"label": [0, 0, 0, 1]},
            "query 3 .* no relevant image in the gallery besides itself",
        ),
        ({"camera": [0, 0, 1, 1]}, {"label": [0, 0, 1, 1]}, r"query_columns lack 'label'.*\['camera'\]"),
        ({"label": [0, 0, 1, 1]}, {"label": [0, 0, 1]}, r"gallery_columns\['label'\] has shape \(3,\), .* 4 gallery"),
    ],
)
def test_bad_columns_are_refused(query_columns, gallery_columns, message):
    embeddings = on_circle(0, 10, 90, 100)
    with pytest.raises(ValueError, match=message):
        leave_one_out(embeddings, embeddings, query_columns, gallery_columns)


def test_resolve_protocol():
    assert resolve_protocol("leave_one_out") is leave_one_out


def test_unknown_protocol_names_the_allowed_ones():
    with pytest.raises(ValueError, match="protocol 'leave_two_out' is unknown: choose one of leave_one_out"):
        resolve_protocol("leave_two_out")


def test_columns_are_read_without_opening_images():
    features = Features({"image": Image(), "label": ClassLabel(names=["cat", "dog"]), "camera": Value("int32")})
    rows = {"image": ["nowhere/0.jpg", "nowhere/1.jpg"], "label": [1, 0], "camera": [4, 5]}
    dataset = Dataset.from_dict(rows, features=features)
    assert read_columns(dataset) == {"label": [1, 0], "camera": [4, 5]}
    dataset.set_transform(lambda batch: {"pixel_values": batch["image"]})
    assert read_columns(dataset) == {"label": [1, 0], "camera": [4, 5]}
