"""Joint learning of queries and a product quantiser (JPQ), for one index that all capacities search.

A step embeds training images by the network of a capacity drawn at random, lets the index find what it finds now, and
moves the centroids, and if wanted the query network, so that it finds better. Rotation and codes stay, so the images
of the gallery needn't be embedded again, and the index is searched by the new centroids from the next step on.

Without labels the dense network teaches: the scores that it would give by exact search. Half of the queries of a step
are then embeddings of the gallery itself, which is what the index has to tell apart. If query networks learn too, the
loss of JPQ is added for them, with the first exact neighbours as right answers; it doesn't move the centroids, which
serve other networks as well. With labels all learns by JPQ's loss, from the classes.

Sources: JPQ, arXiv 2108.00644, sections 4.2 to 4.4; learning without labels: Distill-VQ, arXiv 2204.00185.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor, nn

from ..modeling_prunnet import PrunNetModel
from ..retrieval.product_quantizer import ProductQuantizer

Rows = NDArray[np.int64]
Queries = Callable[[int, Rows], Tensor]
"""Gives the unit embeddings `(batch, dim)` of images by the network at a place in the list of capacities."""
POSITIVES = 10
"""Without labels, so many images that exact search by the dense network ranks first are right, for JPQ's loss."""
SAME = 0.9999
"""An image of the gallery whose cosine to the one that is searched for is larger is that one: it teaches nothing."""
RATE, RATE_OF_LABELS = 1e-3, 2e-5
"""Learning rates of the centroids, of unit embeddings. JPQ's loss has no end at which it is reached, as exact scores
are; at the larger rate it harms classes that aren't trained."""
_NEVER = -1e9


@dataclass(frozen=True)
class Teaching:
    """What is known about the images that are searched for: training images, and after them some of the gallery.

    Attributes:
        dense: `(n, dim)`, their embeddings by the dense network, of unit length.
        num_training: How many of them are training images.
        vectors: `(num_images, dim)`, the exact embeddings of the gallery, perhaps left on disk.
        exact: `(n, k)`, what exact search by the dense network finds for each, best first.
        classes: `(num_training,)`, the class of each training image; None to learn without labels.
        gallery_classes: `(num_images,)`, of the gallery's images, -1 for other classes and images without a label.
    """

    dense: NDArray[np.float32]
    num_training: int
    vectors: NDArray[np.float32]
    exact: Rows
    classes: Rows | None = None
    gallery_classes: Rows | None = None

    def draw(self, count: int, rng: np.random.Generator) -> Rows:
        """Different images to search for, half of them training images if there are others; these come first."""
        others = len(self.dense) - self.num_training
        half = min(count // 2, others)
        training = rng.choice(self.num_training, count - half, replace=False)
        return np.concatenate([training, self.num_training + rng.choice(others, half, replace=False)])

    def scores(self, images: Rows, rows: Rows) -> Tensor:
        """The dense network's exact scores `(batch, k)` of images of the gallery."""
        return torch.from_numpy(np.einsum("bd,bkd->bk", self.dense[images], self.vectors[rows]))

    def right(self, images: Rows, rng: np.random.Generator) -> Rows:
        """Images of the gallery that are right answers, `(batch, m)`: the exact neighbours, or some of the class."""
        if self.classes is None or self.gallery_classes is None:
            return self.exact[images]
        count = self.exact.shape[1]
        return np.stack([rng.choice(self._of_class(int(self.classes[image])), count) for image in images])

    def is_right(self, images: Rows, rows: Rows) -> Tensor:
        """Which of the rows `(batch, k)` are right answers."""
        if self.classes is None or self.gallery_classes is None:
            right = self.exact[images, :POSITIVES]
            return torch.from_numpy((rows[:, :, None] == right[:, None, :]).any(axis=2))
        return torch.from_numpy(self.gallery_classes[rows] == self.classes[images, None])

    def _of_class(self, label: int) -> Rows:
        return np.flatnonzero(self.gallery_classes == label)


class JointQuantizer(nn.Module):
    """What learns.

    Attributes:
        centroids: `(M, 256, d_out / M)`.
        networks: The query networks that learn, one for each capacity; or none.
    """

    def __init__(self, centroids: Tensor, networks: Sequence[PrunNetModel] = ()) -> None:
        super().__init__()
        self.centroids = nn.Parameter(centroids)
        self.networks = nn.ModuleList(networks)

    def optimizer(self, learning_rate: float, query_learning_rate: float) -> torch.optim.Optimizer:
        """AdamW as in the paper: only what embeds queries decays."""
        queries = [parameter for parameter in self.networks.parameters() if parameter.requires_grad]
        groups: list[dict[str, Any]] = [{"params": [self.centroids], "lr": learning_rate, "weight_decay": 0.0}]
        if queries:
            groups.append({"params": queries, "lr": query_learning_rate, "weight_decay": 0.01})
        return torch.optim.AdamW(groups)


@dataclass
class JointStep:
    """One step of learning, on the images and the capacity that its number and the seed decide.

    Attributes:
        learner: What learns.
        quantizer: The index, which is searched and changed.
        optimizer: Of the learner.
        queries: Embeds the images that are searched for.
        teaching: What is known about them.
        num_capacities: How many networks there are to draw from.
        settings: How it is done.
        accelerator: Has the device.
        search_seconds: Time that searches took so far.
    """

    learner: JointQuantizer
    quantizer: ProductQuantizer
    optimizer: Any
    queries: Queries
    teaching: Teaching
    num_capacities: int
    settings: Settings
    accelerator: Accelerator
    search_seconds: float = 0.0

    def __post_init__(self) -> None:
        self._rates = [group["lr"] for group in self.optimizer.param_groups]

    def __call__(self, number: int) -> float:
        """Learn once, and write the centroids into the index.

        Args:
            number: Of the step, from 0.

        Returns:
            The loss.

        Raises:
            FloatingPointError: If it isn't finite.
        """
        rng = np.random.default_rng([self.settings.seed, number])
        network = int(rng.integers(self.num_capacities))
        images = self.teaching.draw(self.settings.batch_size, rng)
        queries = self.queries(network, images)
        begun = time.perf_counter()
        found = self.quantizer.search(queries, min(self.settings.num_found, len(self.quantizer.codes)))
        self.search_seconds += time.perf_counter() - begun
        loss = self._loss(queries, images, found, self.teaching.right(images, rng))
        if not loss.isfinite():
            raise FloatingPointError(
                f"The loss of step {number} is {loss.item()}: choose a smaller --learning_rate, and with it another "
                "--output."
            )
        self.optimizer.zero_grad()
        self.accelerator.backward(loss)
        if len(self.learner.networks):
            nn.utils.clip_grad_norm_(self.learner.networks.parameters(), self.settings.max_grad_norm)
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * (1 - number / self.settings.steps)
        self.optimizer.step()
        self.quantizer.write(self.learner.centroids)
        return float(loss.detach())

    def _loss(self, queries: Tensor, images: Rows, found: Rows, right: Rows) -> Tensor:
        rows = np.concatenate([found, right], axis=1)
        exact = self.teaching.scores(images, rows).to(queries.device)
        counts = torch.from_numpy(is_first(rows)).to(queries.device) & (exact < SAME)
        centroids, settings = self.learner.centroids, self.settings
        scores = self.quantizer.scores(queries, rows, centroids)
        loss = scores.new_zeros(())
        if self.teaching.classes is None:
            loss = loss + distillation_loss(scores, exact, counts, settings.temperature)
            if not len(self.learner.networks):
                return loss
            scores = self.quantizer.scores(queries, rows, centroids.detach())
        is_right = self.teaching.is_right(images, rows).to(queries.device)
        reciprocals = scores.new_zeros(scores.shape)
        reciprocals[:, : found.shape[1]] = 1 / torch.arange(1, found.shape[1] + 1)
        return loss + rank_loss(scores / settings.temperature, reciprocals, is_right, counts)


@dataclass(frozen=True)
class Settings:
    """How a step learns.

    Attributes:
        steps: Number of steps; the learning rates fall to zero at their end.
        batch_size: Number of queries in a step.
        learning_rate: Of the centroids; None for `RATE`, or with labels `RATE_OF_LABELS`.
        query_learning_rate: Of query networks.
        temperature: What cosines are divided by before a softmax.
        num_found: How many images the index returns for each query.
        num_exact: How many right answers are added to these.
        max_grad_norm: To which the gradient of query networks is clipped.
        seed: Decides what is drawn.
    """

    steps: int = 1000
    batch_size: int = 32
    learning_rate: float | None = None
    query_learning_rate: float = 1e-5
    temperature: float = 0.05
    num_found: int = 200
    num_exact: int = 100
    max_grad_norm: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name == "seed" and value < 0:
                raise ValueError(f"seed must be at least 0; got {value!r}.")
            if name != "seed" and value is not None and not (isfinite(value) and value > 0):
                raise ValueError(f"{name} must be above 0 and finite; got {value!r}.")


def distillation_loss(scores: Tensor, exact: Tensor, counts: Tensor, temperature: float) -> Tensor:
    """How far the index's scores rank candidates from how exact scores do: the mean Kullback-Leibler divergence.

    Args:
        scores: `(batch, k)`, of the index.
        exact: `(batch, k)`, of the teacher.
        counts: `(batch, k)`, False for candidates to pass over.
        temperature: What both are divided by before the softmax.

    Example:
        >>> same = torch.tensor([[0.9, 0.1]])
        >>> distillation_loss(same, same, torch.tensor([[True, True]]), 0.05).item()
        0.0
    """
    own = (scores / temperature).masked_fill(~counts, _NEVER).log_softmax(dim=1)
    wanted = (exact / temperature).masked_fill(~counts, _NEVER).log_softmax(dim=1)
    return F.kl_div(own, wanted, reduction="batchmean", log_target=True)


def rank_loss(scores: Tensor, reciprocals: Tensor, is_right: Tensor, counts: Tensor) -> Tensor:
    """JPQ's loss (equations 10 and 11): the mean, over a right and a wrong answer, of what their order is worth.

    A pair's term is `|1 / rank(wrong) - 1 / rank(right)| * log(1 + exp(score(wrong) - score(right)))`.

    Args:
        scores: `(batch, k)`.
        reciprocals: `(batch, k)`: 1 / rank; 0 for what wasn't found.
        is_right: `(batch, k)`, which are right answers.
        counts: `(batch, k)`, False for candidates to pass over.
    """
    right, wrong = is_right & counts, ~is_right & counts
    most = max(int(right.sum(dim=1).max()), 1)  # few candidates are right: only their pairs are made
    places = right.byte().topk(most, dim=1).indices
    pairs = right.gather(1, places)[:, :, None] & wrong[:, None, :]
    worth = (reciprocals[:, None, :] - reciprocals.gather(1, places)[:, :, None]).abs()
    terms = worth * F.softplus(scores[:, None, :] - scores.gather(1, places)[:, :, None])
    return (terms * pairs).sum() / pairs.sum().clamp(min=1)


def is_first(rows: Rows) -> NDArray[np.bool_]:
    """Which entries of each row are the first of their kind.

    Example:
        >>> is_first(np.array([[3, 5, 3, 3], [1, 1, 2, 0]])).tolist()
        [[True, True, False, False], [True, False, True, True]]
    """
    order = np.argsort(rows, axis=1, kind="stable")
    ordered = np.take_along_axis(rows, order, axis=1)
    new = np.ones(rows.shape, dtype=bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = np.empty_like(new)
    np.put_along_axis(first, order, new, axis=1)
    return first
