"""The first phase of a run by distillation: the dense network is trained alone, in `output_dir/dense`.

It is a training by the method `independent`, with checkpoints of its own. What it has learnt is saved as a model: the
teacher of the second phase, and where the run's network goes on from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from accelerate import Accelerator

from ..data.splits import RetrievalSplits
from ..modeling_prunnet import PrunNetForImageClassification
from ..pruning.layers import scored_modules
from ..runs.arguments import RunArguments, TrainArguments
from ..runs.manifest import find_damage
from ..runs.methods import find_method
from ..runs.ownership import DENSE, discard_stages
from ..runs.run_directory import write_json
from ..storage.json_text import load_json
from .checkpoints import check_same_data, list_checkpoints, save_whole
from .distillation import DistillationObjective
from .teachers import load_teacher
from .trainer import Trainer

PHASE = "phase.json"
"""What is known about the phase beside its model: the images, and how long it took."""


def has_dense_phase(options: TrainArguments) -> bool:
    """Whether a run trains the dense network alone first."""
    return find_method(options.method).has_dense_phase and bool(options.dense_epochs)


def arguments_of_phase(arguments: RunArguments) -> RunArguments:
    """The arguments of the first phase, which trains as the run does, but one network alone."""
    options = arguments.train
    directory = Path(options.output_dir) / DENSE
    epochs, rate = cast("int", options.dense_epochs), cast("float", options.dense_learning_rate)
    return replace(
        arguments,
        train=replace(
            options,
            method="independent",
            capacities=[1.0],
            eval_capacities=[],
            epochs=epochs,
            learning_rate=rate,
            dense_epochs=None,
            dense_learning_rate=None,
            output_dir=str(directory),
            resume=options.resume and bool(list_checkpoints(directory)),
            overwrite_output_dir=False,
        ),
    )


def create_dense_trainer(
    run: Trainer, splits: RetrievalSplits, accelerator: Accelerator, note: Callable[[str], None]
) -> Trainer | None:
    """The training of the first phase; None if an earlier sitting has finished it.

    Args:
        run: The training of the second phase.
        splits: The images.
        accelerator: One for this phase alone.
        note: Called with a line for the run's log now and then.
    """
    arguments = arguments_of_phase(run.arguments)
    if run.options.resume and (Path(arguments.train.output_dir) / "model").is_dir():
        return None
    return Trainer(
        arguments,
        accelerator,
        splits,
        images=(run.train_images, run.validation),
        title="dense network",
        note=lambda line: note(f"Dense network: {line}"),
    )


def train_dense(trainer: Trainer) -> None:
    """Train the dense network alone, and save it. All processes must call this."""
    accelerator = trainer.accelerator
    trained = trainer.run()
    if accelerator.is_main_process:
        write_json(trainer.directory / PHASE, {"seconds": trained.seconds, "data": trainer.progress.data})
        save_whole(trainer.directory / "model", trained.model.prune(1.0), trainer.processor)
        discard_stages(trainer.directory)
    accelerator.wait_for_everyone()
    for tracker in accelerator.trackers:
        tracker.finish()
    accelerator.free_memory()


def learn_from_dense(run: Trainer) -> None:
    """Let the second phase begin with what the first has learnt, and learn from it.

    Raises:
        ValueError: If the model that the first phase left is damaged, or was trained on other images.
    """
    directory = run.directory / DENSE
    damage = find_damage(directory / "model")
    if damage:
        raise ValueError(
            f"{directory / 'model'}, the teacher of this run, is damaged: it {damage}. Start again with "
            "--overwrite_output_dir."
        )
    phase = load_json((directory / PHASE).read_text(encoding="utf-8"))
    check_same_data(phase["data"], run.progress.data or {})
    run.progress.seconds += phase["seconds"]
    teacher = load_teacher(str(directory / "model"), run.model.config, run.processor, run.accelerator)
    take_over(run.model, teacher.model)
    if isinstance(run.step.objective, DistillationObjective):
        run.step.objective.teacher = teacher.logits


@torch.no_grad()
def take_over(model: PrunNetForImageClassification, dense: PrunNetForImageClassification) -> None:
    """Copy all that a dense network has learnt; scores, which it doesn't have, stay as they are.

    Args:
        model: A prunable network.
        dense: The same, cut at capacity 1.
    """
    scores = {module.scores for module in scored_modules(model)}
    learnt = dict(dense.named_parameters())
    for name, parameter in model.named_parameters():
        if parameter not in scores:
            parameter.copy_(learnt[name])
