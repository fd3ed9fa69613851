"""Metrics against arithmetic done by hand, and against slow obvious versions."""

from __future__ import annotations

import doctest
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunnet_hf.retrieval import metrics
from prunnet_hf.retrieval.metrics import (
    chance_mean_average_precision,
    evaluate_gldv2,
    evaluate_in_shop,
    evaluate_revisited,
    evaluate_veri,
    mean_average_precision,
    recall_at_k,
)

NAMES = ("easy", "hard", "junk")


def slow_average_precision(relevances):
    """`relevances` of the whole ordering, best first."""
    hits, total = 0, 0.0
    for rank, relevant in enumerate(relevances, start=1):
        if relevant:
            hits += 1
            total += hits / rank
    return total / hits


def slow_revisited(ranks, gnd, found, junk, kappas):
    """One difficulty, by lists without junk, and the area under the curve step by step."""
    areas, precisions = [], {k: [] for k in kappas}
    for row, lists in zip(ranks, gnd, strict=True):
        positives = list(chain(*(lists[name] for name in found)))
        ranking = [image for image in row if not any(image in lists[name] for name in junk)]
        if not positives:
            continue
        area, hits, precision_before = 0.0, 0, 1.0
        for rank, image in enumerate(ranking, start=1):
            hits += image in positives
            if image in positives:
                area += (precision_before + hits / rank) / 2 / len(positives)
                last = rank
            precision_before = hits / rank
        areas.append(area)
        for k in kappas:
            depth = min(k, last)
            precisions[k].append(sum(image in positives for image in ranking[:depth]) / depth)
    return {"mAP": mean(areas), **{f"mP@{k}": mean(values) for k, values in precisions.items()}}


def slow_veri(ranks, query_ids, query_cameras, gallery_ids, gallery_cameras, ks):
    """Lists without junk, one query after the other."""
    precisions, penalties, found = [], [], {k: [] for k in ks}
    for row, vehicle, camera in zip(ranks, query_ids, query_cameras, strict=True):
        kept = [image for image in row if (gallery_ids[image], gallery_cameras[image]) != (vehicle, camera)]
        relevances = [gallery_ids[image] == vehicle for image in kept]
        if any(relevances):
            precisions.append(slow_average_precision(relevances))
            last = max(rank for rank, relevant in enumerate(relevances, start=1) if relevant)
            penalties.append(sum(relevances) / last)
            for k in ks:
                found[k].append(any(relevances[:k]))
    cmc = {f"CMC@{k}": mean(values) for k, values in found.items()}
    return {"mAP": mean(precisions), **cmc, "mINP": mean(penalties)}


def slow_gldv2(predictions, solution, k):
    total = 0.0
    for query, relevant in solution.items():
        seen, hits = [], 0
        for rank, image in enumerate(predictions.get(query, [])[:k], start=1):
            if image in relevant and image not in seen:
                hits += 1
                total += hits / rank / min(len(relevant), k)
            seen.append(image)
    return total / len(solution)


def mean(values):
    return sum(values) / len(values)


def in_blocks(ranks, block_size):
    for start in range(0, len(ranks), block_size):
        rows = np.array(ranks[start : start + block_size])
        yield slice(start, start + len(rows)), rows


def test_examples_in_docstrings():
    outcome = doctest.testmod(metrics)
    assert outcome.attempted >= 9
    assert outcome.failed == 0


def test_mean_average_precision_by_hand():
    ranks = [[3, 0, 2, 1], [1, 0, 3, 2]]
    gallery_labels = [7, 8, 7, 8]
    # Query 7: images 0 and 2 at ranks 2 and 3: (1/2 + 2/3) / 2 = 7/12.
    # Query 8: images 1 and 3 at ranks 1 and 3: (1 + 2/3) / 2 = 10/12.
    assert mean_average_precision(ranks, [7, 8], gallery_labels) == pytest.approx(17 / 24)


def test_mean_average_precision_leaving_each_query_out():
    labels = ["a", "a", "a", "b", "b"]
    ranks = [[1, 2, 3, 4], [3, 0, 4, 2], [3, 4, 0, 1], [4, 0, 1, 2], [0, 3, 1, 2]]
    # 1; (1/2 + 2/4) / 2; (1/3 + 2/4) / 2; 1; 1/2. The query itself isn't counted as relevant.
    expected = (1 + 1 / 2 + 5 / 12 + 1 + 1 / 2) / 5
    assert mean_average_precision(ranks, labels, labels, exclude=np.arange(5)) == pytest.approx(expected)


def test_ranks_may_end_after_the_last_relevant_image():
    assert mean_average_precision([[2, 0]], [1], [1, 2, 2]) == pytest.approx(1 / 2)


def test_ranks_too_short_to_hold_all_relevant_images():
    with pytest.raises(ValueError, match=r"short.*mAP: query 1.*2 relevant.*2 ranks.*1"):
        mean_average_precision([[0, 1], [0, 1]], [1, 2], [1, 2, 2])


def test_self_forgotten_in_exclude_is_noticed():
    with pytest.raises(ValueError, match=r"short.*mAP: query 0"):
        mean_average_precision([[1], [0]], ["a", "a"], ["a", "a"])


@given(st.data())
def test_mean_average_precision_equals_the_slow_one(data):
    gallery_labels = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=12))
    query_labels = data.draw(st.lists(st.sampled_from(gallery_labels), min_size=1, max_size=6))
    ranks = [data.draw(st.permutations(range(len(gallery_labels)))) for _ in query_labels]
    slow = [
        slow_average_precision([gallery_labels[image] == label for image in row])
        for row, label in zip(ranks, query_labels, strict=True)
    ]
    found = mean_average_precision(ranks, query_labels, gallery_labels)
    assert found == pytest.approx(mean(slow), abs=1e-12)
    assert 0 < found <= 1


def test_recall_by_hand():
    ranks = [[0, 1, 2], [2, 1, 0], [1, 0, 2], [2, 0, 1]]
    # First hits: query a at rank 1, a at 3, a at 2, and never for z.
    found = recall_at_k(ranks, ["a", "a", "a", "z"], ["a", "b", "c"], ks=(1, 2, 3))
    assert found == {"recall@1": 1 / 4, "recall@2": 2 / 4, "recall@3": 3 / 4}


@pytest.mark.parametrize("k", [0, 3])
def test_recall_beyond_the_ranks_is_refused(k):
    with pytest.raises(ValueError, match=rf"ks.*1.*2 ranks.*query.*{k}"):
        recall_at_k([[0, 1]], ["a"], ["a", "b"], ks=(1, k))


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"ranks": [[0, 1, 1], [0, 1, 2]]}, ValueError, r"ranks.*query 0.*gallery image 1"),
        ({"ranks": [[0, 1, 2], [0, 1, 3]]}, ValueError, r"ranks.*query 1.*gallery.*0.*2"),
        ({"ranks": [[0.0, 1.0], [1.0, 0.0]]}, TypeError, r"ranks.*gallery.*float64"),
        ({"ranks": [[0, 1, 2]]}, ValueError, r"ranks.*\(2, k\).*row.*query.*shape \(1, 3\)"),
        ({"query_labels": [[1], [2]]}, ValueError, r"query_labels.*label.*image"),
        ({"query_labels": ["1", "2"]}, TypeError, r"query_labels.*kind"),
        ({"exclude": [0, 1]}, ValueError, r"ranks.*query 0.*gallery image 0.*exclude.*out"),
        ({"exclude": [0]}, ValueError, r"exclude.*one.*query"),
        ({"exclude": [0, 9]}, ValueError, r"exclude\[1\].*9"),
        ({"exclude": [0.0, 1.0]}, TypeError, r"exclude.*gallery"),
    ],
)
@pytest.mark.parametrize("metric", [mean_average_precision, recall_at_k])
def test_bad_input_is_refused(metric, changed, error, message):
    good = {"ranks": [[0, 1, 2], [0, 1, 2]], "query_labels": [1, 2], "gallery_labels": [1, 2, 2]}
    with pytest.raises(error, match=message):
        metric(**{**good, **changed})


def test_chance_averages_over_queries():
    # One relevant among three comes first, second or third: (1 + 1/2 + 1/3) / 3 = 11/18.
    # Two among three come at ranks 1 2, 1 3 or 2 3: (1 + 5/6 + 7/12) / 3 = 29/36.
    assert chance_mean_average_precision(["a", "b"], ["a", "b", "b"]) == pytest.approx((11 / 18 + 29 / 36) / 2)


def test_chance_is_what_random_orders_get():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(5), 4)
    itself = np.arange(20)
    orders = [[rng.permutation(np.delete(itself, query)) for query in itself] for _ in range(200)]
    drawn = [mean_average_precision(ranks, labels, labels, exclude=itself) for ranks in orders]
    assert np.mean(drawn) == pytest.approx(chance_mean_average_precision(labels, labels, exclude=itself), abs=0.01)


def test_in_shop_by_hand():
    ranks = [[0, 1, 2], [2, 1, 0], [1, 2, 0], [0, 2, 1]]
    # Query 7 finds image 0 at rank 1, at rank 3, at rank 3; query 8 image 1 at rank 3: 1/4 until k = 3.
    found = evaluate_in_shop(ranks, [7, 7, 7, 8], [7, 8, 9], ks=(1, 2, 3))
    assert found == {"recall@1": 1 / 4, "recall@2": 1 / 4, "recall@3": 1}


def test_in_shop_reports_the_published_cutoffs():
    found = evaluate_in_shop([list(range(30))], [29], list(range(30)))
    assert found == {f"recall@{k}": float(k == 30) for k in (1, 2, 4, 8, 10, 20, 30)}


@given(st.data())
def test_in_shop_equals_the_slow_one(data):
    gallery_labels = data.draw(st.lists(st.integers(0, 3), min_size=3, max_size=12))
    query_labels = data.draw(st.lists(st.sampled_from(gallery_labels), min_size=1, max_size=6))
    depth = data.draw(st.integers(2, len(gallery_labels)))
    ranks = [data.draw(st.permutations(range(len(gallery_labels))))[:depth] for _ in query_labels]
    slow = {
        f"recall@{k}": mean(
            [
                any(gallery_labels[image] == label for image in row[:k])
                for row, label in zip(ranks, query_labels, strict=True)
            ]
        )
        for k in (1, 2)
    }
    assert evaluate_in_shop(ranks, query_labels, gallery_labels, ks=(1, 2)) == pytest.approx(slow, abs=1e-12)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"query_labels": [7, 3]}, r"query 1 \(label 3\).*relevant image.*gallery"),
        ({"ks": (1, 3)}, r"^ks.*1.*2 ranks.*query.*3"),
        ({"ranks": [[0, 1], [1, 1]]}, r"ranks.*query 1.*gallery image 1"),
        ({"ranks": [[0, 1], [1, 3]]}, r"ranks.*query 1.*gallery.*0.*2"),
    ],
)
def test_bad_input_of_in_shop_is_refused(changed, message):
    good = {"ranks": [[0, 1], [1, 0]], "query_labels": [7, 8], "gallery_labels": [7, 8, 8], "ks": (1, 2)}
    evaluate_in_shop(**good)
    with pytest.raises(ValueError, match=message):
        evaluate_in_shop(**{**good, **changed})


def test_gldv2_by_hand():
    predictions = {"p": ["b", "x", "a"], "q": ["c", "c", "c", "d"], "r": ["x"]}
    solution = {"p": ["a", "b"], "q": ["c", "d", "e"], "r": ["y"], "s": ["a"]}
    # p: hits at ranks 1 and 3: (1/1 + 2/3) / 2 = 5/6. q: c at rank 1 once, d at rank 4 second: (1/1 + 2/4) / 3 = 1/2.
    # r: nothing. s: no predictions. (5/6 + 1/2) / 4 = 1/3.
    assert evaluate_gldv2(predictions, solution) == {"mAP@100": pytest.approx(1 / 3)}
    # At 2: p's hit at rank 1: 1 / min(2, 2) = 1/2. q: 1 / min(3, 2) = 1/2. (1/2 + 1/2) / 4.
    assert evaluate_gldv2(predictions, solution, k=2) == {"mAP@2": pytest.approx(1 / 4)}


def test_gldv2_counts_no_hit_behind_rank_100():
    relevant = [f"r{number}" for number in range(150)]
    others = [f"x{number}" for number in range(100)]
    assert evaluate_gldv2({"q": others + relevant}, {"q": relevant}) == {"mAP@100": 0}
    # 100 of 150 are as many as can be found: 1, not 2/3.
    assert evaluate_gldv2({"q": relevant}, {"q": relevant}) == {"mAP@100": 1}


@given(
    predictions=st.dictionaries(st.sampled_from("pqr"), st.lists(st.sampled_from("abcdef"), max_size=10)),
    solution=st.fixed_dictionaries(
        {name: st.lists(st.sampled_from("abcdef"), min_size=1, unique=True) for name in "pqr"}
    ),
    k=st.integers(1, 12),
)
def test_gldv2_equals_the_slow_one(predictions, solution, k):
    found = evaluate_gldv2(predictions, solution, k)[f"mAP@{k}"]
    assert found == pytest.approx(slow_gldv2(predictions, solution, k), abs=1e-12)
    assert 0 <= found <= 1


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"k": 0}, ValueError, r"^k.*1.*0"),
        ({"k": 1.5}, TypeError, r"^k.*integers.*1\.5"),
        ({"predictions": {"z": ["a"]}}, ValueError, r"predictions.*1 queries.*solution.*'z'"),
        ({"solution": {}}, ValueError, r"solution.*empty"),
        ({"solution": {"q": []}}, ValueError, r"solution.*query 'q'.*image"),
    ],
)
def test_bad_input_of_gldv2_is_refused(changed, error, message):
    with pytest.raises(error, match=message):
        evaluate_gldv2(**{"predictions": {"q": ["a"]}, "solution": {"q": ["a"]}, **changed})


def test_veri_by_hand():
    gallery_ids, gallery_cameras = [5, 5, 5, 6, 6], [1, 2, 3, 1, 2]
    ranks = [[0, 3, 1, 4, 2], [0, 1, 2, 3, 4]]
    # Query 5 by camera 1: image 0 is junk. Of 3 1 4 2 the positives 1 and 2 are at ranks 2 and 4:
    # AP = (1/2 + 2/4) / 2 = 1/2, INP = 2/4.
    # Query 6 by camera 2: image 4 is junk. Of 0 1 2 3 the positive 3 is at rank 4: AP = 1/4, INP = 1/4.
    found = evaluate_veri(ranks, [5, 6], [1, 2], gallery_ids, gallery_cameras, ks=(1, 2, 4))
    assert found == {"mAP": 3 / 8, "CMC@1": 0, "CMC@2": 1 / 2, "CMC@4": 1, "mINP": 3 / 8}


def test_veri_without_the_junk_rule_would_look_better():
    # The query's own camera fills the first ranks; what counts is image 2, behind another vehicle.
    found = evaluate_veri([[0, 1, 3, 2]], [5], [1], [5, 5, 5, 6], [1, 1, 2, 1])
    assert found == {"mAP": 1 / 2, "CMC@1": 0, "CMC@5": 1, "CMC@10": 1, "mINP": 1 / 2}


def test_veri_leaves_out_a_query_that_only_its_own_camera_saw():
    gallery_ids, gallery_cameras = [5, 6, 5], [1, 1, 2]
    alone = evaluate_veri([[1, 0, 2]], [5], [1], gallery_ids, gallery_cameras)
    # Vehicle 6 by camera 1 has image 1 only, which is junk: the other query's numbers stand. AP = 1/2.
    assert evaluate_veri([[1, 0, 2]] * 2, [5, 6], [1, 1], gallery_ids, gallery_cameras) == alone
    assert alone["mAP"] == 1 / 2


@given(st.data())
def test_veri_equals_the_slow_one(data):
    gallery = data.draw(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=2, max_size=12))
    gallery_ids, gallery_cameras = zip(*gallery, strict=True)
    queries = data.draw(
        st.lists(st.tuples(st.sampled_from(gallery_ids), st.integers(0, 2)), min_size=1, max_size=6).filter(
            lambda queries: any(
                vehicle == other and camera != elsewhere for vehicle, camera in queries for other, elsewhere in gallery
            )
        )
    )
    query_ids, query_cameras = zip(*queries, strict=True)
    ranks = [data.draw(st.permutations(range(len(gallery)))) for _ in queries]
    slow = slow_veri(ranks, query_ids, query_cameras, gallery_ids, gallery_cameras, (1, 3))
    block_size = data.draw(st.integers(1, 7))
    for given_ranks in (ranks, in_blocks(ranks, block_size)):
        found = evaluate_veri(given_ranks, query_ids, query_cameras, gallery_ids, gallery_cameras, (1, 3))
        assert found == pytest.approx(slow, abs=1e-12)
        assert all(0 <= value <= 1 for value in found.values())


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"ranks": [[0, 1]]}, ValueError, r"ranks.*gallery.*images 0.*2.*2.*query"),
        ({"ranks": [[0, 1, 1]]}, ValueError, r"ranks.*query 0.*gallery image 1"),
        ({"ranks": [[0, 1, 3]]}, ValueError, r"ranks.*query 0.*gallery.*0.*2"),
        ({"ranks": [[0.0, 1.0, 2.0]]}, TypeError, r"ranks.*gallery.*indices"),
        ({"query_ids": [9]}, ValueError, r"gallery.*image.*vehicle 9.*query 0"),
        ({"query_cameras": [1, 2]}, ValueError, r"query_ids.*1 images.*query_cameras 2"),
        (
            {"gallery_cameras": [1, 1, 1]},
            ValueError,
            r"find.*query.*image.*vehicle",
        ),
        ({"ks": (0,)}, ValueError, r"^ks.*1.*0"),
    ],
)
def test_bad_input_of_veri_is_refused(changed, error, message):
    good = {
        "ranks": [[0, 1, 2]],
        "query_ids": [5],
        "query_cameras": [1],
        "gallery_ids": [5, 6, 5],
        "gallery_cameras": [1, 2, 2],
    }
    evaluate_veri(**good)
    with pytest.raises(error, match=message):
        evaluate_veri(**{**good, **changed})


def test_revisited_by_hand():
    gnd = [{"easy": [0, 4], "hard": [2], "junk": [1]}]
    found = evaluate_revisited([[1, 2, 3, 0, 5, 4]], gnd, kappas=(1, 5))
    # Easy, without 1 (junk) and 2 (hard): 3 0 5 4. Positives at ranks 2 and 4:
    # AP = ((0/1 + 1/2) / 2 + (1/3 + 2/4) / 2) / 2 = (3/12 + 5/12) / 2 = 1/3; P@1 = 0; P@5 is P@4 = 2/4.
    assert found["easy"] == pytest.approx({"mAP": 1 / 3, "mP@1": 0, "mP@5": 1 / 2})
    # Medium, without 1: 2 3 0 5 4. Positives at ranks 1, 3 and 5:
    # AP = ((1 + 1/1) / 2 + (1/2 + 2/3) / 2 + (2/4 + 3/5) / 2) / 3 = (60 + 35 + 33) / 180 = 32/45; P@5 = 3/5.
    assert found["medium"] == pytest.approx({"mAP": 32 / 45, "mP@1": 1, "mP@5": 3 / 5})
    # Hard, without 1, 0 and 4: 2 3 5. Its one positive leads; P@5 looks no further than rank 1.
    assert found["hard"] == {"mAP": 1, "mP@1": 1, "mP@5": 1}


def test_revisited_leaves_out_a_query_without_positives_where_it_has_none():
    gnd = [{"easy": [0], "hard": [1], "junk": []}, {"easy": [1], "hard": [], "junk": [0]}]
    found = evaluate_revisited([[0, 1, 2], [2, 0, 1]], gnd, kappas=(1,))
    # Easy: query 0 leads with 0: AP 1. Query 1 without 0: 2 1, AP = (0/1 + 1/2) / 2 = 1/4. Mean 5/8.
    assert found["easy"] == {"mAP": 5 / 8, "mP@1": 1 / 2}
    # Hard: query 0 without 0 leads with 1; query 1 has none and isn't counted as 0.
    assert found["hard"] == {"mAP": 1, "mP@1": 1}


@given(st.data())
def test_revisited_equals_the_slow_one(data):
    num_queries, num_gallery = data.draw(st.integers(1, 5)), data.draw(st.integers(2, 10))
    gnd = [{"easy": [0], "hard": [1], "junk": list(range(2, num_gallery, 3))}]  # something to find at each difficulty
    for _ in range(num_queries - 1):
        kinds = data.draw(st.lists(st.sampled_from(["easy", "hard", "junk", ""]), min_size=num_gallery))
        gnd.append({name: [image for image in range(num_gallery) if kinds[image] == name] for name in NAMES})
    ranks = [data.draw(st.permutations(range(num_gallery))) for _ in gnd]
    slow = {
        "easy": slow_revisited(ranks, gnd, ["easy"], ["hard", "junk"], (1, 4)),
        "medium": slow_revisited(ranks, gnd, ["easy", "hard"], ["junk"], (1, 4)),
        "hard": slow_revisited(ranks, gnd, ["hard"], ["easy", "junk"], (1, 4)),
    }
    block_size = data.draw(st.integers(1, 6))
    for given_ranks in (ranks, in_blocks(ranks, block_size)):
        found = evaluate_revisited(given_ranks, gnd, (1, 4))
        assert list(found) == ["easy", "medium", "hard"]
        for difficulty, values in found.items():
            assert values == pytest.approx(slow[difficulty], abs=1e-12)
            assert all(0 <= value <= 1 for value in values.values())


NOTHING_HARD = {"easy": [0], "hard": [], "junk": []}


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"ranks": [[0, 2]]}, ValueError, r"ranks.*gallery.*images 0.*2.*2.*query"),
        ({"ranks": [[0, 0, 1]]}, ValueError, r"ranks.*query 0.*gallery image 0"),
        ({"ranks": [[0, 1, -2]]}, ValueError, r"ranks.*query 0.*gallery"),
        ({"ranks": [[0, 1, 2]] * 2}, ValueError, r"ranks.*\(1, k\).*row.*query.*shape \(2, 3\)"),
        ({"gnd": [NOTHING_HARD]}, ValueError, r"find.*query.*positive.*difficulty hard"),
        ({"gnd": []}, ValueError, r"gnd.*empty"),
        ({"kappas": ()}, ValueError, r"^kappas.*cut-off"),
        ({"kappas": (1.0,)}, TypeError, r"^kappas.*integers"),
    ],
)
def test_bad_input_of_revisited_is_refused(changed, error, message):
    good = {"ranks": [[0, 1, 2]], "gnd": [{"easy": [0], "hard": [1], "junk": []}], "kappas": (1,)}
    evaluate_revisited(**good)
    with pytest.raises(error, match=message):
        evaluate_revisited(**{**good, **changed})
