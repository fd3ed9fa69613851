"""The losses of joint quantisation by hand, and what a step moves and what it leaves alone."""

from __future__ import annotations

from math import exp, log

import faiss
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st

from prunnet_hf.retrieval.product_quantizer import ProductQuantizer, unit
from prunnet_hf.training.joint_quantization import (
    JointQuantizer,
    JointStep,
    Settings,
    Teaching,
    distillation_loss,
    is_first,
    rank_loss,
)

DIM, COUNT, TRAINING = 8, 3000, 60


def test_the_distillation_loss_is_the_divergence_of_the_two_softmaxes() -> None:
    """At temperature 0.5, scores (0.5, 0) have odds e : 1, the teacher's 1 : 1; the third candidate doesn't count."""
    scores, exact = torch.tensor([[0.5, 0.0, 9.0]]), torch.tensor([[0.0, 0.0, 3.0]])
    loss = distillation_loss(scores, exact, torch.tensor([[True, True, False]]), 0.5)
    expected = 0.5 * log(0.5 / (exp(1) / (1 + exp(1)))) + 0.5 * log(0.5 / (1 / (1 + exp(1))))
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_the_rank_loss_is_what_the_order_of_each_pair_is_worth() -> None:
    """Ranks 1 (wrong), 2 (right), and a right answer that wasn't found; the last doesn't count."""
    scores = torch.tensor([[1.0, 0.0, -1.0, 5.0]])
    reciprocals = torch.tensor([[1.0, 0.5, 0.0, 0.0]])
    is_right = torch.tensor([[False, True, True, False]])
    counts = torch.tensor([[True, True, True, False]])
    expected = (0.5 * log(1 + exp(1)) + 1.0 * log(1 + exp(2))) / 2
    assert rank_loss(scores, reciprocals, is_right, counts).item() == pytest.approx(expected, abs=1e-6)
    assert rank_loss(scores, reciprocals, torch.zeros(1, 4, dtype=torch.bool), counts).item() == 0


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12))
def test_each_candidate_is_first_once(row: list[int]) -> None:
    first = is_first(np.array([row]))[0]
    assert [n for n, is_new in zip(row, first, strict=True) if is_new] == list(dict.fromkeys(row))


def test_an_image_that_is_the_query_itself_teaches_nothing() -> None:
    quantizer, teaching = made()
    teaching.vectors[3] = teaching.dense[5]
    scores = teaching.scores(np.array([5]), np.array([[3, 4]]))
    assert scores[0, 0] == pytest.approx(1)
    step = step_of(quantizer, teaching)
    queries = torch.from_numpy(teaching.dense[[5]])
    before = step._loss(queries, np.array([5]), np.array([[3, 4, 6]]), np.array([[7]]))
    without = step._loss(queries, np.array([5]), np.array([[4, 6]]), np.array([[7]]))
    assert before.item() == pytest.approx(without.item(), abs=1e-6)


def test_half_of_the_queries_are_of_the_gallery_if_there_are_any() -> None:
    dense, rng = np.zeros((12, 2), dtype=np.float32), np.random.default_rng(0)
    drawn = Teaching(dense, 9, dense, np.zeros((12, 1), dtype=np.int64)).draw(8, rng)
    assert sorted(drawn[5:]) == [9, 10, 11]  # there are only three
    assert len(set(drawn[:5])) == 5
    assert max(drawn[:5]) < 9
    assert sorted(Teaching(dense, 12, dense, np.zeros((12, 1), dtype=np.int64)).draw(12, rng)) == list(range(12))


def made() -> tuple[ProductQuantizer, Teaching]:
    rng = np.random.default_rng(0)
    vectors, dense = (
        unit(torch.from_numpy(rng.standard_normal((n, DIM)).astype(np.float32))).numpy() for n in (COUNT, TRAINING)
    )
    index = faiss.index_factory(DIM, "PQ2x8np", faiss.METRIC_INNER_PRODUCT)
    index.train(vectors[:300])
    index.add(vectors)
    exact = np.argsort(-dense @ vectors.T, axis=1)[:, :20]
    return ProductQuantizer(index), Teaching(dense, TRAINING, vectors, exact)


def step_of(quantizer: ProductQuantizer, teaching: Teaching, **settings: float) -> JointStep:
    queries = [torch.from_numpy(teaching.dense), unit(torch.from_numpy(teaching.dense + 0.1))]
    learner = JointQuantizer(quantizer.centroids())
    chosen = Settings(**{"steps": 40, "batch_size": 16, "num_found": 30, "learning_rate": 0.01, **settings})
    optimizer = learner.optimizer(chosen.learning_rate or 0.01, chosen.query_learning_rate)
    return JointStep(
        learner,
        quantizer,
        optimizer,
        lambda network, images: queries[network][torch.from_numpy(images)],
        teaching,
        len(queries),
        chosen,
        Accelerator(),
    )


@pytest.mark.parametrize("labels", [False, True])
def test_steps_move_centroids_in_the_index_leave_codes_alone_and_lower_the_loss(labels: bool) -> None:
    quantizer, teaching = made()
    if labels:
        classes = np.arange(TRAINING) % 4
        nearest = classes[np.argmax(teaching.vectors @ teaching.dense.T, axis=1)]
        teaching = Teaching(teaching.dense, TRAINING, teaching.vectors, teaching.exact, classes, nearest)
    codes, before = quantizer.codes.tobytes(), quantizer.centroids()
    step = step_of(quantizer, teaching)
    losses = [step(number) for number in range(40)]
    assert quantizer.codes.tobytes() == codes
    assert torch.equal(quantizer.centroids(), step.learner.centroids.detach())
    assert not torch.equal(quantizer.centroids(), before)
    assert np.mean(losses[-8:]) < 0.9 * np.mean(losses[:8])
    assert step.search_seconds > 0


def test_what_exact_search_finds_is_found_more_often_after_learning() -> None:
    quantizer, teaching = made()

    def found() -> float:
        rows = quantizer.search(torch.from_numpy(teaching.dense), 10)
        return float(np.mean([len(set(a) & set(b[:10])) for a, b in zip(rows, teaching.exact, strict=True)]))

    before = found()
    step = step_of(quantizer, teaching)
    for number in range(40):
        step(number)
    assert found() > before + 1


def test_without_labels_the_order_moves_queries_and_not_centroids() -> None:
    quantizer, teaching = made()
    images, rng = np.arange(16), np.random.default_rng(0)
    network = torch.nn.Linear(DIM, DIM, bias=False)
    gradients = {}
    for name, networks in (("alone", []), ("with queries", [network])):
        step = step_of(quantizer, teaching)
        step.learner = JointQuantizer(quantizer.centroids(), networks)
        queries = unit(network(torch.from_numpy(teaching.dense[images]))).detach().requires_grad_()
        found = quantizer.search(queries, 30)
        step._loss(queries, images, found, teaching.right(images, rng)).backward()
        gradients[name] = step.learner.centroids.grad, queries.grad
    torch.testing.assert_close(gradients["alone"][0], gradients["with queries"][0])
    assert not torch.allclose(gradients["alone"][1], gradients["with queries"][1])


def test_a_step_is_decided_by_its_number_and_the_seed() -> None:
    losses = []
    for seed in (0, 0, 1):
        step = step_of(*made(), seed=seed)
        losses.append([step(number) for number in (3, 4)])
    assert losses[0] == losses[1] != losses[2]


def test_a_loss_that_is_not_finite_stops() -> None:
    step = step_of(*made())
    with torch.no_grad():
        step.learner.centroids.fill_(torch.nan)
    with pytest.raises(
        FloatingPointError, match=r"loss of step 0 is nan: choose a smaller --learning_rate, .* another --output"
    ):
        step(0)


@pytest.mark.parametrize("name", ["steps", "batch_size", "learning_rate", "query_learning_rate"])
@pytest.mark.parametrize("value", [0, float("nan"), float("inf")])
def test_settings_must_be_above_0(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be above 0 and finite; got {value}"):
        Settings(**{name: value})


def test_a_seed_may_be_0() -> None:
    assert Settings(seed=0).seed == 0
    with pytest.raises(ValueError, match="seed must be at least 0; got -1"):
        Settings(seed=-1)
