"""The training loop: steps, epochs, checkpoints, interruption, and the choice of the best model."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import gather_object
from datasets import IterableDataset
from tqdm import tqdm

from ..data.identity import identify
from ..data.splits import LABEL, RetrievalSplits, has_classes
from ..data.streams import ImageDataset, num_images
from ..data.transforms import TrainingCollator, train_transform
from ..modeling_prunnet import PrunNetForImageClassification
from ..pruning.calibration import batch_norms
from ..pruning.layers import scored_modules
from ..runs.arguments import RunArguments
from ..runs.description import command_line, describe_base, describe_device, recipe_of
from ..runs.evaluation import measure_running_statistics, quick_score
from ..runs.methods import find_method, into_weights
from ..runs.record import TrainingFacts
from ..runs.run_data import set_apart
from .batches import Batches, create_batches
from .capacities import OwnCapacity, PassCapacities, pass_capacities
from .checkpoints import (
    Progress,
    best_directory,
    check_best,
    forget_others,
    keep_best,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
    settle_trained,
    warn_of_changes,
    warn_of_other_processes,
)
from .earlier_defaults import keep_earlier_defaults
from .into_space import IntoSpaceObjective, class_means, create_losses, freeze_classifier
from .kept_weights import leave_out
from .known_space import KnownSpace, open_space
from .methods import Circumstances, create_objective
from .networks import SyncedBatchNorms, create_model, create_processor, keep_statistics_unsent, lay_out
from .optimizers import create_optimizer, create_schedule, resume_schedule
from .processes import NOTHING_LOST, Agreement, Interruption
from .reports import TrainingReport, start_trackers
from .state_files import Stateful
from .step import TrainingStep
from .teachers import load_teacher


@dataclass(frozen=True)
class TrainedModel:
    """The result of a training.

    Attributes:
        model: The network, calibrated and with a new embedding space.
        facts: What `metrics.json` records about the training.
        seconds: Duration of the training.
        step: Number of steps.
    """

    model: PrunNetForImageClassification
    facts: TrainingFacts
    seconds: float
    step: int


class Trainer:
    """Trains one model on the training images of `splits`.

    Args:
        arguments: See `parse_arguments`.
        accelerator: See `create_accelerator`.
        splits: The images. Only `eval_every` uses the test images.
        images: What `set_apart` returned for `splits`, if it was already called.
        model: The network to train, prunable or a subnetwork; by default `create_model` makes one.
        space: The space that exists into which the network is trained, if the arguments name one and it is open.
        kept: Prunes weights for good: masks by the name of each prunable weight. Weights that they leave out are set
            to zero, and stay exactly zero. Only for the method `independent`.
        title: Of the progress bar, by default the method; the lines of epochs begin with it if it is given.
        note: Called with a line for the run's log now and then.

    Raises:
        ValueError: If `kept` doesn't fit the method or the model.
    """

    def __init__(
        self,
        arguments: RunArguments,
        accelerator: Accelerator,
        splits: RetrievalSplits,
        *,
        images: tuple[ImageDataset, RetrievalSplits] | None = None,
        model: PrunNetForImageClassification | None = None,
        space: KnownSpace | None = None,
        kept: Mapping[str, torch.Tensor] | None = None,
        title: str | None = None,
        note: Callable[[str], None] | None = None,
    ) -> None:
        self.arguments = arguments
        self.options = arguments.train
        if self.options.resume:
            keep_earlier_defaults(arguments)
        self.directory = Path(arguments.train.output_dir)
        self.accelerator = accelerator
        self.processor = create_processor(arguments.data)
        self.title = title or arguments.train.method
        self.train_images, self.validation = images or set_apart(
            splits, arguments, is_main_process=accelerator.is_main_process
        )
        self.space = space or open_space(arguments, accelerator)
        if self.space is not None:
            self.space.check(self.train_images)
        self.model = model or create_model(arguments, self.train_images.features[LABEL].names)
        # Before output_dir exists, which may have the same name.
        self.base = describe_base(arguments.model, is_subnetwork=not self.model.config.prunable)
        self.model.image_processor = self.processor
        self.memory_format = torch.channels_last if self.options.channels_last else torch.contiguous_format
        self._ready_model(kept)
        self.norms: SyncedBatchNorms | None = None
        if self.options.sync_batchnorm:
            self.norms = SyncedBatchNorms(self.model.to(accelerator.device))
        self.progress = Progress(data=identify(self.train_images), evaluated=0)
        self.note = note or (lambda line: None)
        self.interruption = Interruption(NOTHING_LOST, note=self.note, is_main_process=accelerator.is_main_process)
        self._agreement = Agreement(accelerator)
        self.batches = self._create_batches()
        self.steps_per_epoch = self.batches.updates_per_epoch
        self.schedule_steps = self.options.epochs * self.steps_per_epoch
        optimizer = create_optimizer(self.model, self.options)
        self.wrapped, prepared = accelerator.prepare(self.model, optimizer)
        keep_statistics_unsent(self.wrapped)
        self.schedule = create_schedule(prepared.optimizer, self.options, self.steps_per_epoch)
        self.states: dict[str, Stateful] = {"schedule": self.schedule, "progress": self.progress}
        self.step = self._create_step(prepared, kept)
        self.report = TrainingReport(accelerator, arguments, self.step.capacities.names, self.steps_per_epoch, title)
        self._begun = self._epoch_begun = 0.0

    def run(self) -> TrainedModel:
        """Train to the end.

        Raises:
            FloatingPointError: If a loss or gradient is not finite any more.
            SystemExit: If SIGINT or SIGTERM asked the run to stop, after a checkpoint was saved.
        """
        with self.interruption:
            return self._run()

    def _run(self) -> TrainedModel:
        self._begin()
        bar = tqdm(
            total=self.progress.step + self.schedule_steps - self.schedule.last_epoch,
            initial=self.progress.step,
            desc=self.title,
            unit="step",
            disable=not self.accelerator.is_main_process,
        )
        with bar, self.interruption.held():
            if self._was_stopped_evaluating():
                self._conclude_epoch()
            while self.progress.epoch < self.options.epochs:
                self._epoch(bar)
                self.progress.epoch += 1
                self._after_epoch()
        self.step.watch.check()
        waiting_share = self._waiting_share()
        model = self._finish()
        seconds = time.perf_counter() - self._begun
        facts = TrainingFacts(
            method=self.options.method,
            seed=self.options.seed,
            num_train_classes=model.config.num_labels if has_classes(self.train_images) else None,
            num_train_images=num_images(self.train_images),
            training_seconds=seconds,
            waiting_for_data=waiting_share,
            skipped_steps=self.step.skipped,
            **self.base,
            training_device=describe_device(),
            training_command=command_line(),
        )
        return TrainedModel(model, facts, seconds, self.progress.step)

    def _ready_model(self, kept: Mapping[str, torch.Tensor] | None) -> None:
        if kept is not None:
            leave_out(self.model, kept)
        lay_out(self.model, self.memory_format)
        self.model.classifier.requires_grad_(self._trains_classifier)
        for module in scored_modules(self.model):
            module.scores.requires_grad_(False)  # the objective sets their gradients; autograd and DDP ignore them

    @property
    def _trains_classifier(self) -> bool:
        return find_method(self.options.method).has_classifier and not self.options.trains_into

    def _create_batches(self) -> Batches:
        data = self.arguments.data
        transform = train_transform(
            data.image_size,
            resize=data.shorter_side,
            mean=self.processor.image_mean,
            std=self.processor.image_std,
            augmentation=data.augmentation,
        )
        collate = TrainingCollator(transform, self.options.seed)
        return create_batches(self.train_images, collate, self.arguments, self.accelerator)

    def _create_step(self, optimizer: AcceleratedOptimizer, kept: Mapping[str, torch.Tensor] | None) -> TrainingStep:
        options = self.options
        teacher = None
        if options.teacher is not None and not options.trains_into:
            teacher = load_teacher(options.teacher, self.model.config, self.processor, self.accelerator)
            lay_out(teacher.model, self.memory_format)
            self.progress.teacher = teacher.identity(has_classifier=find_method(options.method).has_classifier)
        circumstances = Circumstances(self.steps_per_epoch, teacher)
        objective = create_objective(self.model, options, circumstances, kept=kept)
        return TrainingStep(
            self.model,
            self.wrapped,
            objective,
            self._pass_capacities(),
            optimizer,
            self.accelerator,
            max_grad_norm=options.max_grad_norm,
            seed=options.seed,
            skip_nonfinite=options.skip_nonfinite_steps,
            memory_format=self.memory_format,
        )

    def _pass_capacities(self) -> PassCapacities:
        options = self.options
        if not self.model.config.prunable:
            return OwnCapacity(self.model.config.capacity)
        return pass_capacities(
            options.method,
            options.capacities,
            sampling=options.capacity_sampling,
            num_draws=options.capacity_draws,
            shrink_steps=round(options.shrink_share * self.schedule_steps),
            seed=options.seed,
        )

    def _aim(self, space: KnownSpace) -> None:
        """Let the objective learn the targets of a space that exists."""
        weights = into_weights(self.options.into_loss)
        targets = space.targets(self.train_images, with_neighbours="csd" in weights)
        self.progress.targets = {"source": space.name, "digest": targets.digest}
        if "classifier" in weights:
            names = self.train_images.features[LABEL].names
            vectors = space.class_vectors(names)
            if vectors is None:
                vectors = class_means(targets.vectors, torch.tensor(self.train_images[LABEL][:]), len(names))
            freeze_classifier(self.model, vectors)
        if isinstance(self.step.objective, IntoSpaceObjective):
            self.step.objective.losses = create_losses(weights, targets)

    def _begin(self) -> None:
        if self.space is not None:
            self._aim(self.space)
        if self.options.resume and list_checkpoints(self.directory):  # else an earlier phase goes on
            self._resume()
        elif self.accelerator.is_main_process:
            forget_others(self.directory, -1)  # of a run that never came to a checkpoint
        self.progress.recipe = recipe_of(self.arguments)
        self.progress.num_processes = self.accelerator.num_processes
        self.progress.steps_per_epoch = self.steps_per_epoch
        self._begun = time.perf_counter() - self.progress.seconds
        self.report.begin()
        start_trackers(self.accelerator, self.arguments)

    def _resume(self) -> None:
        load_checkpoint(self.accelerator, self.directory, self.states)
        if self.progress.best_step >= 0:
            check_best(self.directory, self.progress.best_step)
        before, position = self.progress, self.schedule.last_epoch
        if before.steps_per_epoch not in (None, self.steps_per_epoch):
            position = before.epoch * self.steps_per_epoch  # epochs now have more or fewer steps
        resume_schedule(self.schedule, self.model, self.options, position)
        self.step.capacities.resume(before.step, position)
        self.step.skipped = before.skipped
        self.batches.waiting_seconds = before.waiting_seconds
        if self.accelerator.is_main_process:
            warn_of_changes(before.recipe, recipe_of(self.arguments))
            is_stream = isinstance(self.train_images, IterableDataset)
            warn_of_other_processes(before.num_processes, self.accelerator.num_processes, is_stream=is_stream)

    def _epoch(self, bar: tqdm[None]) -> None:
        self.wrapped.train()
        if self._keeps_statistics:
            for norm in batch_norms(self.model).values():
                norm.train(False)
        position, self.progress.position = self.progress.position, None
        self._epoch_begun = time.perf_counter() - self.progress.epoch_seconds
        for batch in self.batches.epoch(self.progress.epoch, position):
            with nullcontext() if batch.is_update else self.accelerator.no_sync(self.wrapped):
                losses = self.step.backward(batch.tensors, self.progress.step, batch.weight)
            if batch.is_update:
                self.step.update(self.progress.step)
                self._after_step(losses, bar)
        self.progress.epoch_seconds = time.perf_counter() - self._epoch_begun

    def _after_step(self, losses: torch.Tensor, bar: tqdm[None]) -> None:
        # Uneven shards of a stream can make an epoch longer than planned. The schedule then waits for the next epoch.
        ahead = self.schedule.last_epoch >= (self.progress.epoch + 1) * self.steps_per_epoch
        if not (ahead or self.accelerator.optimizer_step_was_skipped):
            self.schedule.step()
        self.progress.step += 1
        bar.update()
        self._log(losses, bar)
        every = self.options.checkpoint_steps
        is_asked_to_stop = self.interruption.is_due(self._agreement)
        if is_asked_to_stop or (every and self.progress.step % every == 0):
            self.progress.epoch_seconds = time.perf_counter() - self._epoch_begun
            self.progress.position = self.batches.position()
            self._save_checkpoint()
            self.progress.position = None
        if is_asked_to_stop:
            self.interruption.leave_if_asked()

    def _save_checkpoint(self) -> None:
        self.step.watch.check()
        self.progress.seconds = time.perf_counter() - self._begun
        self.progress.waiting_seconds = self.batches.waiting_seconds
        self.progress.skipped = self.step.skipped
        save_checkpoint(
            self.accelerator,
            self.directory,
            self.progress.step,
            keep=self.options.keep_checkpoints,
            states=self.states,
        )
        if self.accelerator.is_main_process:
            forget_others(self.directory, self.progress.best_step)
        self.interruption.advice = f"step {self.progress.step} is saved; continue with the same command and --resume."
        self.note(f"Saved a checkpoint after step {self.progress.step}.")

    def _log(self, losses: torch.Tensor, bar: tqdm[None]) -> None:
        self.report.step(losses, self.schedule_steps - self.schedule.last_epoch)
        if self.progress.step % self.options.log_every:
            return
        self.step.watch.check()
        self.report.log(losses, self._rate(), self.progress.step, self.progress.epoch, bar)

    def _rate(self) -> float:
        return float(self.schedule.get_last_lr()[0])

    def _after_epoch(self) -> None:
        options, epoch = self.options, self.progress.epoch
        self.step.watch.check()
        self.report.epoch(self._rate(), self.progress.step, epoch)
        self.note(f"Epoch {epoch} of {options.epochs} is done.")
        self._conclude_epoch()

    def _conclude_epoch(self) -> None:
        options, epoch = self.options, self.progress.epoch
        if options.eval_every and epoch % options.eval_every == 0:
            self._save_checkpoint()  # so a signal needn't wait for the evaluation, which can be done again
            if self.interruption.is_due(self._agreement):
                self.interruption.leave_if_asked()
            with self.interruption.released():
                self._evaluate()
            self.progress.evaluated = epoch
        is_asked_to_stop = self.interruption.is_due(self._agreement)
        is_due = options.checkpoint_every and epoch % options.checkpoint_every == 0
        if is_asked_to_stop or is_due or epoch >= options.epochs:  # calibration and evaluation come after the last one
            self._save_checkpoint()
        if is_asked_to_stop:
            self.interruption.leave_if_asked()

    def _evaluate(self) -> None:
        with self.norms.undone() if self.norms else nullcontext():
            self._measure_statistics(self.model, progress=False)
        known = None if self.space is None else self.space.gallery_of(self.validation)
        scores = quick_score(self.accelerator, self.model, self.processor, self.validation, self.arguments, known)
        self.accelerator.log(scores, step=self.progress.step)
        self._keep_if_best(sum(scores.values()) / len(scores))

    def _was_stopped_evaluating(self) -> bool:
        progress, every = self.progress, self.options.eval_every
        is_between_epochs = progress.position is None and progress.epoch > 0
        is_open = progress.evaluated is not None and progress.evaluated < progress.epoch
        return bool(is_between_epochs and is_open and every and progress.epoch % every == 0)

    def _keep_if_best(self, score: float) -> None:
        self.step.watch.check()
        if self.arguments.data.validation_share == 0 or score <= self.progress.best_score:
            return
        self.progress.best_score, self.progress.best_step = score, self.progress.step
        if self.accelerator.is_main_process:
            keep_best(self.directory, self.progress.step, self.model, self.processor, self._known_id)
            if not list_checkpoints(self.directory):  # a checkpoint could name an earlier one
                forget_others(self.directory, self.progress.step)
        self.accelerator.wait_for_everyone()

    def _waiting_share(self) -> float:
        # The others wait for the process that waits longest.
        waited: float = max(gather_object([self.batches.waiting_seconds]))
        share = waited / max(self.progress.epoch_seconds, 1e-9)
        if self.accelerator.is_main_process:
            print(f"Waiting for data took {share:.1%} of {self.progress.epoch_seconds:.0f} s of steps.")
        return share

    def _finish(self) -> PrunNetForImageClassification:
        model: PrunNetForImageClassification
        model = self.accelerator.unwrap_model(self.wrapped, keep_fp32_wrapper=False, keep_torch_compile=False)
        if self.norms:
            self.norms.undo()
        if self.progress.best_score >= 0:
            best = best_directory(self.directory, self.progress.best_step)
            model = PrunNetForImageClassification.from_pretrained(best).to(self.accelerator.device)
        lay_out(model, torch.contiguous_format)
        for module in scored_modules(model):
            module.scores.requires_grad_(True)
        model.classifier.requires_grad_(True)
        model.is_classifier_new = not self._has_classifier  # and then isn't saved
        self._measure_statistics(model, progress=True)
        settle_trained(model, self._known_id)
        model.train(False)
        return model

    def _measure_statistics(self, model: PrunNetForImageClassification, *, progress: bool) -> None:
        if not self._keeps_statistics:
            images, arguments = self.train_images, self.arguments
            measure_running_statistics(self.accelerator, model, self.processor, images, arguments, progress=progress)

    @property
    def _keeps_statistics(self) -> bool:
        """Whether batch norms keep their statistics, as those of a subnetwork that may stay in its space do.

        They are what puts it there: with those of other images it would begin, and end, far from its own gallery.
        """
        return self.space is not None and self.space.before is not None and not self.model.config.prunable

    @property
    def _known_id(self) -> str | None:
        """The id of the space that exists; None if it is not, or not yet, known whether the network is in one."""
        return None if self.space is None or self.space.before is not None else self.space.embedding_space

    @property
    def _has_classifier(self) -> bool:
        """Whether the network's classifier means anything: it was trained, or embeddings were trained towards it."""
        return self._trains_classifier or (self.options.trains_into and self.options.needs_labels)
