"""Protocols against hand arithmetic and against the plain metrics."""

from __future__ import annotations

import numpy as np
import pytest

from prunnet_hf.retrieval import protocols
from prunnet_hf.retrieval.metrics import (
    LEAVE_ONE_OUT,
    evaluate_gldv2,
    evaluate_in_shop,
    evaluate_revisited,
    evaluate_veri,
    mean_average_precision,
    recall_at_k,
)
from prunnet_hf.retrieval.protocols import (
    PROTOCOLS,
    Side,
    gldv2,
    in_shop,
    leave_one_out,
    resolve_protocol,
    revisited,
    same_image,
    veri776,
)
from prunnet_hf.retrieval.search import search


def on_circle(*degrees):
    angles = np.deg2rad(np.array(degrees))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_leave_one_out_by_hand():
    embeddings = on_circle(0, 50, 20, 90)
    columns = {"label": [0, 0, 1, 1]}
    # 0 ranks 2 1 3: 1/2. 1 (50) ranks 2 3 0: 1/3. 2 (20) ranks 0 1 3: 1/3. 3 (90) ranks 1 2 0: 1/2. None first.
    found = leave_one_out(Side(embeddings, columns), Side(embeddings, columns))
    assert (found["mAP"], found["recall@1"]) == pytest.approx(((1 / 2 + 1 / 3 + 1 / 3 + 1 / 2) / 4, 0))


def test_leave_one_out_across_two_networks_leaves_the_query_image_out():
    columns = {"label": [0, 0, 1, 1]}
    queries, gallery = on_circle(0, 10, 90, 100), on_circle(10, 0, 100, 90)
    found = leave_one_out(Side(queries, columns), Side(gallery, columns))
    assert (found["mAP"], found["recall@1"]) == (1, 1)
    # Gallery image 1 alone moves away: query 0 finds it last (1/3); query 1 still finds gallery image 0.
    gallery = on_circle(10, 200, 100, 90)
    found = leave_one_out(Side(queries, columns), Side(gallery, columns))
    assert (found["mAP"], found["recall@1"]) == pytest.approx(((1 / 3 + 1 + 1 + 1) / 4, 3 / 4))


def test_leave_one_out_equals_search_then_metrics():
    rng = np.random.default_rng(0)
    labels = np.concatenate([np.arange(60), rng.integers(60, size=300), np.arange(60)])
    queries, gallery = rng.standard_normal((2, len(labels), 8)).astype(np.float32) + labels[:, np.newaxis] % 7
    itself = np.arange(len(labels))
    ranks = search(queries, gallery, exclude=itself)
    columns = {"label": labels}
    found = leave_one_out(Side(queries, columns), Side(gallery, columns))
    assert list(found) == list(LEAVE_ONE_OUT)
    assert found["mAP"] == pytest.approx(mean_average_precision(ranks, labels, labels, exclude=itself), abs=1e-12)
    assert found["recall@1"] == recall_at_k(ranks, labels, labels, exclude=itself)["recall@1"]


@pytest.mark.parametrize(
    ("query_columns", "gallery_columns", "message"),
    [
        ({"label": [0, 0, 1, 1]}, {"label": [0, 1, 0, 1]}, "leave_one_out.* labels.* same data set"),
        ({"label": [0, 0, 0, 1]}, {"label": [0, 0, 0, 1]}, r"query 3.*relevant image"),
        ({"camera": [0, 0, 1, 1]}, {"label": [0, 0, 1, 1]}, r"query.*'label'.*\['camera'\]"),
    ],
)
def test_bad_columns_are_refused(query_columns, gallery_columns, message):
    embeddings = on_circle(0, 10, 90, 100)
    with pytest.raises(ValueError, match=message):
        leave_one_out(Side(embeddings, query_columns), Side(embeddings, gallery_columns))


@pytest.mark.parametrize(
    ("embeddings", "columns", "error", "message"),
    [
        (np.ones((4, 2), np.float32), {"label": [0, 0, 1]}, ValueError, r"'label'.* 3 rows.* 4 embeddings"),
        (np.ones(4, np.float32), {}, ValueError, r"embeddings.*\(4,\)"),
        (np.ones((0, 4), np.float32), {}, ValueError, r"embeddings.*\(0, 4\)"),
        (np.ones((4, 2), np.int64), {}, TypeError, "embeddings .*int64"),
        (np.float32([[1, 2], [3, np.nan]]), {}, ValueError, "embeddings row 1 .*nan"),
        (np.float32([[1, 2], [3, 4], [-np.inf, 1]]), {}, ValueError, "embeddings row 2 .*inf"),
    ],
)
def test_a_side_is_checked_when_it_is_made(embeddings, columns, error, message):
    with pytest.raises(error, match=message):
        Side(embeddings, columns)


def test_same_image_by_hand():
    queries, gallery = on_circle(0, 90), on_circle(10, 20, 80)
    # The query at 0 finds its image q, at 20, at rank 2; the one at 90 finds its image r, at 80, at once.
    found = same_image(Side(queries, {"id": ["q", "r"]}), Side(gallery, {"id": ["p", "q", "r"]}))
    assert found == {"mAP": (1 / 2 + 1) / 2, "recall@1": 1 / 2}


def test_in_shop_by_hand():
    queries, gallery = on_circle(0, 90), on_circle(10, 20, 80)
    # The query at 0 meets items 8 7 7 and finds its 7 at rank 2; the one at 90 meets 7 7 8 and finds its 8 at rank 3.
    # Three images have no fourth rank: the larger cut-offs are left out.
    found = in_shop(Side(queries, {"label": [7, 8]}), Side(gallery, {"label": [8, 7, 7]}))
    assert found == {"recall@1": 0, "recall@2": 1 / 2}


def test_veri776_by_hand():
    queries, gallery = on_circle(0), on_circle(1, 20, 30, 40)
    query_columns = {"label": [5], "camera": [1]}
    gallery_columns = {"label": [5, 6, 5, 5], "camera": [1, 1, 2, 3]}
    # Gallery image 0 is junk: 6 5 5 remain, positives at ranks 2 and 3: AP = (1/2 + 2/3) / 2 = 7/12, INP = 2/3.
    found = veri776(Side(queries, query_columns), Side(gallery, gallery_columns))
    assert found == pytest.approx({"mAP": 7 / 12, "CMC@1": 0, "CMC@5": 1, "CMC@10": 1, "mINP": 2 / 3})


def test_gldv2_by_hand():
    queries, gallery = on_circle(0, 90), on_circle(10, 20, 80)
    query_columns = {"id": ["q", "p"], "relevant": [["c", "a"], ["b"]]}
    # q meets a b c: (1/1 + 2/3) / 2 = 5/6. p meets c b a: 1/2. Mean 2/3.
    found = gldv2(Side(queries, query_columns), Side(gallery, {"id": ["a", "b", "c"]}))
    assert found == {"mAP@100": pytest.approx(2 / 3)}


def test_revisited_by_hand():
    queries, gallery = on_circle(0), on_circle(10, 20, 30, 40)
    # Ranks 0 1 2 3. Easy, without 0 and 3: 1 2 with 2 second: AP = (0/1 + 1/2) / 2 = 1/4.
    # Medium, without 0: 1 2 3, positives second and third: ((0/1 + 1/2) / 2 + (1/2 + 2/3) / 2) / 2 = 5/12; P@5 = 2/3.
    # Hard, without 0 and 2: 1 3, as easy.
    found = revisited(Side(queries, {"easy": [[2]], "hard": [[3]], "junk": [[0]]}), Side(gallery, {}))
    assert list(found) == [
        f"{difficulty} {metric}"
        for metric in ("mAP", "mP@1", "mP@5", "mP@10")
        for difficulty in ("medium", "hard", "easy")
    ]
    assert found["easy mAP"] == found["hard mAP"] == 1 / 4
    assert found["easy mP@5"] == 1 / 2
    assert found["medium mAP"] == pytest.approx(5 / 12)
    assert found["medium mP@1"] == 0
    assert found["medium mP@10"] == pytest.approx(2 / 3)


def test_equals_are_ranked_by_gallery_index():
    queries, gallery = on_circle(0), np.tile(on_circle(30), (3, 1))

    # All three are equally near, so the one relevant image has rank 3, wherever a sort would put it.
    def sides(query_columns, gallery_columns):
        return Side(queries, query_columns), Side(gallery, gallery_columns)

    found = gldv2(*sides({"id": ["q"], "relevant": [["c"]]}, {"id": ["a", "b", "c"]}))
    assert found == {"mAP@100": pytest.approx(1 / 3)}
    assert in_shop(*sides({"label": [2]}, {"label": [0, 1, 2]})) == {"recall@1": 0, "recall@2": 0}
    found = veri776(*sides({"label": [2], "camera": [0]}, {"label": [0, 1, 2], "camera": [1, 1, 1]}))
    assert found["mAP"] == pytest.approx(1 / 3)
    # Without the hard image, the easy one has rank 2 behind image 0.
    found = revisited(*sides({"easy": [[2]], "hard": [[1]], "junk": [[]]}, {}))
    assert found["easy mAP"] == (0 / 1 + 1 / 2) / 2


@pytest.fixture
def benchmark():
    """150 queries and 400 images of 30 classes, with many equals, and columns for every protocol."""
    rng = np.random.default_rng(0)
    classes = np.concatenate([np.arange(30), rng.integers(30, size=370)])
    own = rng.integers(30, size=150)
    centers = rng.standard_normal((30, 6)).astype(np.float32)
    # Rounded, so that many images are equally near.
    queries, gallery = (
        np.rint(2 * centers[labels] + rng.standard_normal((len(labels), 6))).astype(np.float32) + np.float32(0.25)
        for labels in (own, classes)
    )
    kinds = rng.integers(3, size=400)
    names = [f"image{image}" for image in range(400)]
    query_columns = {
        "label": own.tolist(),
        "camera": rng.integers(3, size=150).tolist(),
        "id": [f"query{query}" for query in range(150)],
        "relevant": [[names[image] for image in np.flatnonzero(classes == label)] for label in own],
        **{
            name: [np.flatnonzero((classes == label) & (kinds == kind)).tolist() for label in own]
            for kind, name in enumerate(("easy", "hard", "junk"))
        },
    }
    gallery_columns = {"label": classes.tolist(), "camera": rng.integers(3, size=400).tolist(), "id": names}
    return Side(queries, query_columns), Side(gallery, gallery_columns)


def test_protocols_equal_search_then_metrics(benchmark):
    ranks = search(*(side.embeddings for side in benchmark))
    query, images = (side.columns for side in benchmark)
    assert in_shop(*benchmark) == evaluate_in_shop(ranks, query["label"], images["label"])
    assert veri776(*benchmark) == pytest.approx(
        evaluate_veri(ranks, query["label"], query["camera"], images["label"], images["camera"]), abs=1e-12
    )
    solution = dict(zip(query["id"], query["relevant"], strict=True))
    predictions = {name: [images["id"][image] for image in row] for name, row in zip(query["id"], ranks, strict=True)}
    assert gldv2(*benchmark) == pytest.approx(evaluate_gldv2(predictions, solution), abs=1e-12)
    gnd = [{name: query[name][row] for name in ("easy", "hard", "junk")} for row in range(len(ranks))]
    expected = evaluate_revisited(ranks, gnd)
    assert revisited(*benchmark) == pytest.approx(
        {f"{name} {metric}": value for name, values in expected.items() for metric, value in values.items()}, abs=1e-12
    )


@pytest.mark.parametrize("protocol", [veri776, revisited])
def test_protocols_do_not_depend_on_block_size(benchmark, monkeypatch, protocol):
    expected = protocol(*benchmark)
    for block_size in (1, 7, 1000):
        monkeypatch.setattr(protocols, "_QUERIES_AT_A_TIME", block_size)
        assert protocol(*benchmark) == expected


SMALL = {
    leave_one_out: ({"label": [0, 0, 1, 1]}, {"label": [0, 0, 1, 1]}),
    in_shop: ({"label": [0, 0, 1, 1]}, {"label": [0, 1, 0, 1]}),
    veri776: ({"label": [0, 0, 1, 1], "camera": [1] * 4}, {"label": [0, 1, 0, 1], "camera": [2] * 4}),
    gldv2: ({"id": list("pqrs"), "relevant": [["a"], ["b"], ["a", "c"], ["d"]]}, {"id": list("abcd")}),
    revisited: ({"easy": [[0]] * 4, "hard": [[1]] * 4, "junk": [[2], [3], [], []]}, {}),
    same_image: ({"id": list("abcd")}, {"id": list("dcba")}),
}
"""Columns of four queries and four gallery images, for each protocol."""


def test_every_protocol_is_tested_and_found_by_its_name():
    assert list(PROTOCOLS.values()) == list(SMALL)
    for protocol in SMALL:
        assert resolve_protocol(protocol.__name__) is protocol


@pytest.mark.parametrize("protocol", SMALL)
@pytest.mark.parametrize("role", ["queries", "gallery"])
def test_embeddings_without_a_direction_are_refused(protocol, role):
    queries, gallery = on_circle(0, 10, 90, 100), on_circle(5, 15, 95, 105)
    query, images = map(Side, (queries, gallery), SMALL[protocol])
    assert all(0 <= value <= 1 for value in protocol(query, images).values())
    (queries if role == "queries" else gallery)[2] = 0
    with pytest.raises(ValueError, match=rf"{role} row 2.*0"):
        protocol(query, images)


@pytest.mark.parametrize("protocol", SMALL)
def test_a_missing_column_is_named(protocol):
    embeddings = on_circle(0, 10, 90, 100)
    for role, place in (("query", 0), ("gallery", 1)):
        for name in SMALL[protocol][place]:
            columns = [dict(of_side) for of_side in SMALL[protocol]]
            del columns[place][name]
            with pytest.raises(ValueError, match=f"{role}.*'{name}'"):
                protocol(*(Side(embeddings, of_side) for of_side in columns))


@pytest.mark.parametrize(
    ("protocol", "query_columns", "gallery_columns", "message"),
    [
        (in_shop, {"label": [0, 0, 1, 2]}, {}, r"query 3 \(label 2\)"),
        (in_shop, {"label": [[0], [0], [1], [1]]}, {}, r"'label'.*query.*\(4, 1\)"),
        (veri776, {"label": [0, 0, 1, 7]}, {}, r"gallery.*vehicle 7.* query 3"),
        (veri776, {}, {"camera": [1] * 4}, r"query.*camera"),
        (gldv2, {"relevant": [["a"], ["b", "x", "y"], ["a"], ["d"]]}, {}, r"query 'q'.*2.*\['x', 'y'\]"),
        (gldv2, {"relevant": [["a"], [], ["a"], ["d"]]}, {}, r"query 'q'.*one"),
        (gldv2, {"id": list("pqpq")}, {}, r"'id'.*query.*2 ids.*'p'"),
        (gldv2, {}, {"id": list("abcc")}, r"'id'.*gallery.*1 ids.*'c'"),
        (same_image, {"id": list("axdy")}, {}, r"gallery.*lacks 2, first 'x'"),
        (same_image, {}, {"id": list("abcc")}, r"'id'.*gallery.*1 ids.*'c'"),
        (revisited, {"junk": [[4], [], [], []]}, {}, r"gnd\[0\].*image 4"),
        (revisited, {"junk": [[], [1], [], []]}, {}, r"gnd\[1\].*image 1 twice"),
        (revisited, {"hard": [[]] * 4}, {}, r"query.*difficulty hard"),
    ],
)
def test_columns_that_contradict_are_refused(protocol, query_columns, gallery_columns, message):
    embeddings = on_circle(0, 10, 90, 100)
    good_query, good_gallery = SMALL[protocol]
    query, gallery = {**good_query, **query_columns}, {**good_gallery, **gallery_columns}
    with pytest.raises(ValueError, match=message):
        protocol(Side(embeddings, query), Side(embeddings, gallery))


def test_unknown_protocol_names_the_allowed_ones():
    with pytest.raises(
        ValueError, match=r"'leave_two_out'.*gldv2, in_shop, leave_one_out, revisited, same_image, veri776"
    ):
        resolve_protocol("leave_two_out")
