"""A gallery quantised and then learned, from its folder to a new one: prepared, learned with checkpoints, written.

Until the new gallery is whole, what was computed lies in `.learning/` in its folder: the index as faiss made it, the
exact embeddings, what the teacher says, and checkpoints. The same command goes on there, and ends with the same bytes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration
from datasets import Dataset
from numpy.typing import NDArray
from tqdm import tqdm

from ..data.identity import identify
from ..modeling_prunnet import PrunNetModel
from ..pruning.masking import check_capacity, format_capacity
from ..retrieval.embedding_parts import agree_on_plan
from ..retrieval.foreign_encoders import ForeignEncoder
from ..retrieval.gallery_quantizing import StoredRows, check_bytes, write_quantized
from ..retrieval.product_quantizer import ProductQuantizer, own_space
from ..retrieval.spaces import check_compatible
from ..storage.weights_digest import digest_weights, set_space
from .checkpoints import list_checkpoints, load_checkpoint, save_checkpoint
from .gallery_queries import QuerySide, WithKnown, queries_of
from .gallery_teaching import classes_of, is_taught, start_index, teaching_of
from .joint_quantization import RATE, RATE_OF_LABELS, JointQuantizer, JointStep, Settings, Teaching
from .learned_gallery import (
    LOGS,
    SUBNETWORKS,
    WORK,
    Learned,
    Progress,
    keep_results,
    learned_before,
    refuse_learned,
    say_done,
)
from .processes import Agreement, Interruption

START, PLAN = "start.json", "plan.json"


@dataclass(frozen=True)
class Learning:
    """What is learned, and how its progress is kept.

    Attributes:
        capacities: The networks that ask; by default those of training, and the dense one.
        query_side: What of each network learns with the centroids, for this index alone; None leaves all as they are.
        labels: Learn from the classes of the training images, which the gallery's labels must name.
        num_images: At most so many training images are searched for, and as many images of the gallery itself.
        settings: Of a step.
        checkpoint_steps: A checkpoint is saved after so many steps.
        log_every: The loss is logged after so many steps.
        report_to: Names of accelerate's trackers.
    """

    capacities: Sequence[float] | None = None
    query_side: QuerySide | None = None
    labels: bool = False
    num_images: int = 20_000
    settings: Settings = field(default_factory=Settings)
    checkpoint_steps: int = 100
    log_every: int = 10
    report_to: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in ("num_images", "checkpoint_steps", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)!r}.")


def learn_gallery(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    num_bytes: int,
    model: PrunNetModel | ForeignEncoder,
    images: Dataset,
    learning: Learning,
    *,
    seed: int = 0,
    with_embeddings: bool = True,
    progress: bool = True,
) -> Learned:
    """Quantise a gallery as `quantize_gallery` does, and learn its centroids, and if wanted who asks.

    Args:
        source: The gallery's folder.
        output: The folder of the new gallery.
        num_bytes: How many bytes an embedding becomes.
        model: The dense network, prunable, of the gallery's space, on the device to use; or the foreign encoder whose
            space it is, which then asks alone.
        images: Training images, with columns `image` and `label`. Labels are used only if `learning` says so.
        learning: What is learned.
        seed: Decides which images the index is trained on.
        with_embeddings: Also store the embeddings.
        progress: Whether to show bars.

    Raises:
        FileExistsError: If there is a gallery, or something else, at `output`.
        FloatingPointError: If the loss isn't finite any more.
        SystemExit: If SIGINT or SIGTERM asked to stop, after a checkpoint was saved.
        ValueError: If the model is of another space or pruned, an option can't be, what is in `output` was begun
            otherwise, or as in `quantize_gallery`.
    """
    output = Path(output)
    refuse_learned(output)
    rows = StoredRows.of(source)
    check_compatible(rows.about, model)
    check_bytes(num_bytes, rows.about)
    capacities = _capacities(model, learning)
    work = output / WORK
    accelerator = _accelerator(work, learning)
    drawn = _drawn(images, learning)
    classes = classes_of(rows, drawn) if learning.labels else None
    (work / "checkpoints").mkdir(parents=True, exist_ok=True)
    start = {"gallery": rows.state, "bytes": num_bytes, "seed": seed}
    _agree(work, start, {**start, "capacities": capacities, **_plan(model, images, learning)})
    with Interruption("nothing is lost; give the same command again.") as interruption:
        learned = learned_before(output)
        if learned is None:
            index = start_index(work, rows, num_bytes, seed=seed, progress=progress)
            networks = {} if isinstance(model, ForeignEncoder) else {each: model.prune(each) for each in capacities}
            askers: dict[str, PrunNetModel | ForeignEncoder] = {_folder(c): networks.get(c, model) for c in capacities}
            asking = {} if learning.query_side else askers
            teaching, embedded = teaching_of(
                work,
                rows,
                {"dense": model, **asking},
                drawn,
                learning.settings.num_exact,
                classes=classes,
                num_of_gallery=min(learning.num_images, learning.settings.steps * learning.settings.batch_size // 2),
                seed=learning.settings.seed,
                progress=progress,
            )
            known = [embedded[name] for name in asking]
            learner = _Learner(work, index, networks, drawn, known, teaching, learning, interruption, accelerator)
            done = learner.run(progress)
            space = own_space(index, rows.about.embedding_space)
            if learning.query_side:
                _save_networks(work / SUBNETWORKS, networks, str(space))
            say_done(output, str(space), done)
            about = write_quantized(output, rows, index, num_bytes, with_embeddings=with_embeddings, progress=progress)
            learned = Learned(about, done, {})
        keep_results(output)
    folders = {capacity: output / SUBNETWORKS / _folder(capacity) for capacity in capacities}
    return replace(learned, networks=folders if learning.query_side else {})


def _agree(work: Path, start: dict[str, Any], plan: dict[str, Any]) -> None:
    """Go on only with work that was begun alike; as long as only the index is there, that is what `start` says."""
    remedy = f"Give the same arguments again, choose another output, or remove {work}."
    was_begun = (work / START).exists()
    agree_on_plan(work / START, start, remedy)
    if was_begun and not is_taught(work):
        (work / PLAN).unlink(missing_ok=True)
    agree_on_plan(work / PLAN, plan, remedy)


def _plan(model: PrunNetModel | ForeignEncoder, images: Dataset, learning: Learning) -> dict[str, Any]:
    """What the result depends on besides the index that it starts from."""
    return {
        "model": model.config.embedding_space if isinstance(model, ForeignEncoder) else digest_weights(model),
        "images": identify(images)["digest"],
        **{"query_side": learning.query_side, "labels": learning.labels, "num_images": learning.num_images},
        **asdict(learning.settings),
    }


def _accelerator(work: Path, learning: Learning) -> Accelerator:
    accelerator = Accelerator(
        log_with=list(learning.report_to) or None,
        project_config=ProjectConfiguration(str(work), logging_dir=str(work / LOGS)),
    )
    if accelerator.num_processes > 1:
        raise ValueError(
            f"A gallery is learned by one process; there are {accelerator.num_processes}: use no launcher."
        )
    return accelerator


class _Learner:
    """The loop over steps, with a bar, trackers and checkpoints."""

    def __init__(
        self,
        work: Path,
        index: Any,
        networks: dict[float, PrunNetModel],
        images: Dataset,
        embeddings: list[NDArray[np.float32]],
        teaching: Teaching,
        learning: Learning,
        interruption: Interruption,
        accelerator: Accelerator,
    ) -> None:
        self.work, self.learning, self.interruption = work, learning, interruption
        self.accelerator = accelerator
        quantizer = ProductQuantizer(index)
        learned = _learning_networks(networks, learning.query_side)
        settings = learning.settings
        module = JointQuantizer(quantizer.centroids(), learned)
        rate = settings.learning_rate or (RATE_OF_LABELS if learning.labels else RATE)
        optimizer = module.optimizer(rate, settings.query_learning_rate)
        module, optimizer = self.accelerator.prepare(module, optimizer)
        device = self.accelerator.device
        known = torch.from_numpy(teaching.dense[len(images) :])
        training = queries_of(learning.query_side, learned, embeddings, images)
        queries = WithKnown(training, len(images), known, device)
        count = len(learned or embeddings)
        self.step = JointStep(module, quantizer, optimizer, queries, teaching, count, settings, self.accelerator)
        self.progress = Progress()

    def run(self, show: bool) -> Progress:
        """Do the steps that aren't done yet."""
        if list_checkpoints(self.work):
            load_checkpoint(self.accelerator, self.work, {"progress": self.progress})
            self.step.search_seconds = self.progress.search_seconds
            self.step.quantizer.write(self.step.learner.centroids)
        config = {"capacities": str(self.learning.capacities), "query_side": str(self.learning.query_side)}
        self.accelerator.init_trackers("prunnet", config={**config, **asdict(self.learning.settings)})
        steps, agreement = self.learning.settings.steps, Agreement(self.accelerator)
        bar = tqdm(total=steps, initial=self.progress.step, desc="learn", unit="step", disable=not show)
        with bar, self.interruption.held():
            while self.progress.step < steps:
                self._step(bar)
                is_asked_to_stop = self.interruption.is_due(agreement)
                if is_asked_to_stop or self.progress.step % self.learning.checkpoint_steps == 0:
                    self._save()
                if is_asked_to_stop:
                    self.interruption.leave_if_asked()
        self.accelerator.end_training()
        return self.progress

    def _step(self, bar: tqdm[Any]) -> None:
        progress, begun = self.progress, perf_counter()
        loss = self.step(progress.step)
        progress.seconds += perf_counter() - begun
        progress.search_seconds = self.step.search_seconds
        progress.first_loss, progress.last_loss = (progress.first_loss if progress.step else loss), loss
        progress.step += 1
        bar.update()
        if progress.step % self.learning.log_every == 0:
            bar.set_postfix(loss=f"{loss:.4f}")
            share = progress.search_seconds / progress.seconds
            self.accelerator.log({"loss": loss, "search_share": share}, step=progress.step)

    def _save(self) -> None:
        save_checkpoint(self.accelerator, self.work, self.progress.step, keep=1, states={"progress": self.progress})
        self.interruption.advice = f"step {self.progress.step} is saved; give the same command again."


def _capacities(model: PrunNetModel | ForeignEncoder, learning: Learning) -> list[float]:
    if isinstance(model, ForeignEncoder):
        if learning.capacities not in (None, [1.0]) or learning.query_side:
            raise ValueError(
                f"capacities={learning.capacities} and query_side={learning.query_side!r} are for networks of this "
                f"package; {model!r} asks as it is: leave them out."
            )
        return [1.0]
    if not model.config.prunable:
        raise ValueError(
            f"model must be the dense, prunable network, which teaches; got one of capacity "
            f"{format_capacity(model.config.capacity)}. Name the run, or the checkpoint from which it was pruned."
        )
    if learning.capacities is None:
        return [*model.config.capacities, 1.0]
    if not learning.capacities or len(set(learning.capacities)) < len(learning.capacities):
        raise ValueError(f"capacities must be different ones, at least one; got {list(learning.capacities)}.")
    return [check_capacity(capacity) for capacity in learning.capacities]


def _drawn(images: Dataset, learning: Learning) -> Dataset:
    """The training images, or a sample of them."""
    batch = learning.settings.batch_size
    if min(len(images), learning.num_images) < batch:
        raise ValueError(
            f"batch_size={batch} is more than the {min(len(images), learning.num_images)} training images: choose a "
            "smaller one."
        )
    if len(images) <= learning.num_images:
        return images
    rng = np.random.default_rng(learning.settings.seed)
    return images.select(np.sort(rng.choice(len(images), learning.num_images, replace=False)))


def _learning_networks(networks: dict[float, PrunNetModel], query_side: QuerySide | None) -> list[PrunNetModel]:
    if query_side is None:
        return []
    for network in networks.values():
        network.requires_grad_(query_side == "backbone")
        network.projector.requires_grad_(True)
    return list(networks.values())


def _save_networks(folder: Path, networks: dict[float, PrunNetModel], space: str) -> None:
    """Save the networks that learned, as belonging to one index and nothing else."""
    for capacity, network in networks.items():
        network.requires_grad_(True)
        set_space(network, space)
        network.save_pretrained(folder / _folder(capacity))


def _folder(capacity: float) -> str:
    return f"capacity-{format_capacity(capacity)}"
