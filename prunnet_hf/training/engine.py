"""The training run: model, data and loop under accelerate, from arguments to a finished run directory."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate import DistributedDataParallelKwargs
from accelerate.utils import DataLoaderConfiguration
from accelerate.utils import InitProcessGroupKwargs
from accelerate.utils import ProjectConfiguration
from accelerate.utils import set_seed
from datasets import Dataset
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..data.image_folder import check_images
from ..data.loading import load_splits
from ..data.splits import RetrievalSplits
from ..data.splits import hold_out_classes
from ..data.transforms import collate
from ..data.transforms import train_transform
from ..data.transforms import with_train_transform
from ..modeling_prunnet import PrunNetForImageClassification
from .arguments import RunArguments
from .checkpoints import Progress
from .checkpoints import check_output_dir
from .checkpoints import load_checkpoint
from .checkpoints import save_checkpoint
from .evaluation import dataset_name
from .evaluation import evaluate_run
from .evaluation import is_evaluated_again
from .evaluation import measure_running_statistics
from .evaluation import quick_score
from .networks import create_model
from .networks import create_processor
from .networks import load_trained
from .objectives import create_objective
from .run_directory import recorded_training
from .schedules import create_optimizer
from .schedules import create_schedule
from .step import TrainingStep

EVALUATION_TIMEOUT = timedelta(hours=12)
"""How long the other processes wait while the main one evaluates and writes the run directory."""


@dataclass(frozen=True)
class FinishedRun:
    """What is left of a run.

    Attributes:
        directory: Holds `model/`, `subnetworks/`, `metrics.json`, `compatibility.png` and `config.yaml`.
        is_main_process: Whether this process wrote it.
    """

    directory: Path
    is_main_process: bool


def train(arguments: RunArguments) -> FinishedRun:
    """Train (or with `eval_only` only evaluate) as told, and write the run directory.

    Args:
        arguments: See `parse_arguments`.

    Raises:
        ValueError, OSError: If an argument, the data, a checkpoint or the output directory is not usable; the message
            says why and what to do.
    """
    run = Path(arguments.train.output_dir)
    if not arguments.train.eval_only:
        check_output_dir(run, resume=arguments.train.resume)
    accelerator = create_accelerator(arguments)
    set_seed(arguments.train.seed)
    splits = load_splits(arguments.data.dataset, arguments.data.data_dir)
    check_images(splits.query, skip_corrupt=False)  # before hours of training, not after
    if arguments.train.eval_only:
        training = recorded_training(run, dataset_name(arguments)) if is_evaluated_again(arguments) else {}
        model, processor = load_trained(arguments)
    else:
        trainer = Trainer(arguments, accelerator, splits)
        model, training, processor = trainer.run(), trainer.facts(), trainer.processor
    if accelerator.is_main_process:
        evaluate_run(run, model.to(accelerator.device), processor, splits, arguments, training)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return FinishedRun(run, accelerator.is_main_process)


def create_accelerator(arguments: RunArguments) -> Accelerator:
    """Accelerate set up for this run; precision and processes are the launcher's."""
    return Accelerator(
        gradient_accumulation_steps=arguments.train.gradient_accumulation_steps,
        log_with=arguments.train.report_to or None,
        project_config=ProjectConfiguration(
            arguments.train.output_dir, logging_dir=f"{arguments.train.output_dir}/logs"
        ),
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True),
        step_scheduler_with_optimizer=False,
        # Statistics are measured anew when training ends; sending them at every pass would be waste.
        kwargs_handlers=[
            DistributedDataParallelKwargs(broadcast_buffers=False),
            InitProcessGroupKwargs(timeout=EVALUATION_TIMEOUT),
        ],
    )


class Trainer:
    """Trains one model on the training images of `splits`.

    Args:
        arguments: See `parse_arguments`.
        accelerator: See `create_accelerator`.
        splits: The images; test images are touched only where `eval_every` asks for a look at them.
    """

    def __init__(self, arguments: RunArguments, accelerator: Accelerator, splits: RetrievalSplits) -> None:
        self.arguments = arguments
        self.options = arguments.train
        self.directory = Path(arguments.train.output_dir)
        self.accelerator = accelerator
        self.processor = create_processor(arguments.data)
        train = check_images(splits.train, skip_corrupt=arguments.data.skip_corrupt_images)
        self.validation: Dataset = splits.query
        if arguments.data.validation_share > 0:
            train, self.validation = hold_out_classes(train, arguments.data.validation_share, self.options.seed)
        self.train_images = train
        self.model = create_model(arguments, train.features["label"].names)
        for layer in self.model.prunable_layers().values():
            layer.scores.requires_grad_(False)  # gradients set by hand, unknown to autograd and DDP's reducer
        self.progress = Progress()
        self._prepare()

    def run(self) -> PrunNetForImageClassification:
        """Train to the end; returns the calibrated model with a new embedding space."""
        start = time.perf_counter()
        if self.options.resume:
            load_checkpoint(self.accelerator, self.directory)
        elif self.accelerator.is_main_process:
            shutil.rmtree(self.directory / "best", ignore_errors=True)  # of an earlier run
        self.accelerator.init_trackers("prunnet", config=_trackable(self.arguments.as_dict()))
        bar = tqdm(
            total=self.schedule_steps,
            initial=self.progress.step,
            desc=self.options.method,
            unit="step",
            disable=not self.accelerator.is_main_process,
        )
        with bar:
            while self.progress.epoch < self.options.epochs:
                self._epoch(bar)
                self.progress.epoch += 1
                self._after_epoch()
        model = self._finish()
        self.seconds = time.perf_counter() - start
        return model

    def facts(self) -> dict[str, Any]:
        """What `metrics.json` records of the training."""
        return {
            "method": self.options.method,
            "seed": self.options.seed,
            "num_train_classes": self.model.config.num_labels,
            "num_train_images": len(self.train_images),
            "training_seconds": self.seconds,
        }

    def _prepare(self) -> None:
        options = self.options
        transform = train_transform(
            self.arguments.data.image_size,
            resize=self.arguments.data.shorter_side,
            mean=self.processor.image_mean,
            std=self.processor.image_std,
            augmentation=self.arguments.data.augmentation,
        )
        num_workers = self.arguments.data.num_workers
        loader = DataLoader(
            with_train_transform(self.train_images, transform),
            batch_size=options.batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            collate_fn=collate,
        )
        optimizer = create_optimizer(self.model, options)
        self.wrapped, optimizer, self.loader = self.accelerator.prepare(self.model, optimizer, loader)
        self.steps_per_epoch = len(self.loader) // options.gradient_accumulation_steps
        if self.steps_per_epoch == 0:
            raise ValueError(
                f"batch_size={options.batch_size} x {self.accelerator.num_processes} processes x "
                f"gradient_accumulation_steps={options.gradient_accumulation_steps} is more than the "
                f"{len(self.train_images)} training images: choose smaller ones."
            )
        self.schedule_steps = options.epochs * self.steps_per_epoch
        self.schedule: LRScheduler = create_schedule(optimizer.optimizer, options, self.steps_per_epoch)
        self.accelerator.register_for_checkpointing(self.schedule, self.progress)
        objective = create_objective(
            options.method,
            self.model,
            options.capacities,
            alpha=options.alpha,
            projection=options.projection,
            scale_dense_gradients=options.scale_dense_gradients,
        )
        self.step = TrainingStep(
            self.model,
            self.wrapped,
            objective,
            optimizer,
            self.accelerator,
            max_grad_norm=options.max_grad_norm,
            seed=options.seed,
        )

    def _epoch(self, bar: tqdm[None]) -> None:
        self.wrapped.train()
        self.loader.set_epoch(self.progress.epoch)
        accumulation = self.options.gradient_accumulation_steps
        for index, batch in enumerate(self.loader):
            if index >= self.steps_per_epoch * accumulation:
                continue  # too few batches for a step are left; accelerate wants its loader run to the end
            with self.accelerator.accumulate(self.wrapped):
                losses = self.step.backward(batch)
                is_update = (index + 1) % accumulation == 0
                if is_update:
                    self.step.update(self.progress.step)
            if is_update:
                if not self.accelerator.optimizer_step_was_skipped:
                    self.schedule.step()
                self.progress.step += 1
                bar.update()
                self._log(losses, bar)

    def _log(self, losses: torch.Tensor, bar: tqdm[None]) -> None:
        if self.progress.step % self.options.log_every:
            return
        values = losses.tolist()
        capacities = self.step.objective.capacities
        bar.set_postfix(
            epoch=self.progress.epoch, loss=f"{values[0]:.3f}", smallest=f"{values[min(1, len(values) - 1)]:.3f}"
        )
        entries = {f"loss/capacity-{c:.2f}": value for c, value in zip(capacities, values, strict=True)}
        self.accelerator.log({**entries, "learning_rate": self.schedule.get_last_lr()[0]}, step=self.progress.step)

    def _after_epoch(self) -> None:
        options, epoch = self.options, self.progress.epoch
        if options.eval_every and epoch % options.eval_every == 0:
            measure_running_statistics(self.model, self.processor, self.train_images, self.arguments)
            scores = quick_score(self.model, self.processor, self.validation, self.step.objective.capacities)
            self.accelerator.log(scores, step=self.progress.step)
            self._keep_if_best(sum(scores.values()) / len(scores))
        if options.checkpoint_every and epoch % options.checkpoint_every == 0:
            save_checkpoint(self.accelerator, self.directory, self.progress.step, keep=options.keep_checkpoints)

    def _keep_if_best(self, score: float) -> None:
        if self.arguments.data.validation_share == 0 or score <= self.progress.best_score:
            return
        self.progress.best_score = score
        if self.accelerator.is_main_process:
            self.model.renew_embedding_space()
            self.model.save_pretrained(self.directory / "best")
            self.processor.save_pretrained(self.directory / "best")
        self.accelerator.wait_for_everyone()

    def _finish(self) -> PrunNetForImageClassification:
        model: PrunNetForImageClassification
        model = self.accelerator.unwrap_model(self.wrapped, keep_fp32_wrapper=False)
        best = self.directory / "best"
        if self.progress.best_score >= 0 and best.is_dir():
            model = PrunNetForImageClassification.from_pretrained(best).to(self.accelerator.device)
        for layer in model.prunable_layers().values():
            layer.scores.requires_grad_(True)
        measure_running_statistics(model, self.processor, self.train_images, self.arguments)
        model.renew_embedding_space()
        model.train(False)
        return model


def _trackable(arguments: dict[str, object]) -> dict[str, object]:
    return {
        name: value if isinstance(value, (int, float, str, bool)) else str(value) for name, value in arguments.items()
    }
