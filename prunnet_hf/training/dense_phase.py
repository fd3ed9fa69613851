"""The first phase of a run by distillation: the dense network is trained alone, in `output_dir/dense`.

It is a training by the method `independent`, with checkpoints and trackers of its own. What it has learnt is saved as
a model: the teacher of the second phase, and where the run's network goes on from.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from ..data.splits import LABEL, RetrievalSplits
from ..modeling_prunnet import PrunNetForImageClassification
from ..pruning.layers import scored_modules
from ..runs.arguments import RunArguments, TrainArguments
from ..runs.description import recipe_of
from ..runs.manifest import find_damage
from ..runs.methods import find_method
from ..runs.ownership import DENSE, PHASE, discard_stages
from ..runs.run_directory import write_json
from ..runs.unused import OF_TRAINING
from ..storage.json_text import load_json
from .checkpoints import changed_arguments, check_same_data, list_checkpoints, save_whole
from .distillation import DistillationObjective
from .networks import create_model, lay_out
from .processes import Interruption
from .teachers import load_teacher
from .trainer import Trainer

logger = logging.getLogger(__name__)

SAVED = "the dense network is saved; continue with the same command and --resume."
"""What to do if a run is stopped between the end of the first phase and the second one's first checkpoint."""


def has_dense_phase(options: TrainArguments) -> bool:
    """Whether a run trains the dense network alone first."""
    return find_method(options.method).has_dense_phase and bool(options.dense_epochs)


def arguments_of_phase(arguments: RunArguments) -> RunArguments:
    """The arguments of the first phase, which trains as the run does, but one network alone."""
    options = arguments.train
    directory = Path(options.output_dir) / DENSE
    epochs, rate = cast("int", options.dense_epochs), cast("float", options.dense_learning_rate)
    of_subnetworks: dict[str, Any] = {each.name: each.default for each in fields(options) if each.name in OF_TRAINING}
    return replace(
        arguments,
        train=replace(
            options,
            **of_subnetworks,
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


class DensePhase:
    """The first phase of a run, which an earlier sitting may have finished.

    Args:
        run: The training of the second phase.
        splits: The images.
        accelerator: One for this phase alone.
        note: Called with a line for the run's log now and then.

    Raises:
        ValueError: If `run` goes on from a checkpoint, and this phase never was.
    """

    def __init__(
        self, run: Trainer, splits: RetrievalSplits, accelerator: Accelerator, note: Callable[[str], None]
    ) -> None:
        self.second = run
        self.arguments = arguments_of_phase(run.arguments)
        self.directory = Path(self.arguments.train.output_dir)
        self.accelerator = accelerator
        self.note = note
        self._trainer: Trainer | None = None
        if not (run.options.resume and (self.directory / "model").is_dir()):
            self._check_not_left_out()
            self._trainer = self._create_trainer(splits)

    def run(self, interruption: Interruption) -> None:
        """Train the dense network alone, and let the second phase begin with it. All processes must call this.

        Args:
            interruption: That of the run; it is kept informed of what to do after it.

        Raises:
            ValueError: If the model that an earlier sitting left is damaged, or of another network or other images.
        """
        if self._trainer is not None:
            self._train(self._trainer, interruption)
            self._trainer = None
            self.accelerator.free_memory()  # only now: nothing refers to the first phase's network any more
        interruption.advice = self.second.interruption.advice = SAVED
        set_seed(self.second.options.seed)  # whether this phase was done now or in an earlier sitting
        self._teach()

    def _check_not_left_out(self) -> None:
        run = self.second
        if run.options.resume and list_checkpoints(run.directory):
            raise ValueError(
                f"--resume found checkpoints in {run.directory / 'checkpoints'}, but not {self.directory / 'model'}, "
                "from which --method distilled goes on. Give the --method from before, or --dense_epochs 0 if there "
                "was no first phase; or put that folder back; or start without --resume in another --output_dir."
            )

    def _create_trainer(self, splits: RetrievalSplits) -> Trainer:
        run = self.second
        set_seed(run.options.seed)  # the phase is the training of one network alone with this seed
        model = create_model(self.arguments, run.train_images.features[LABEL].names)
        model.keep_statistics([])  # no subnetwork is used, so none is calibrated
        return Trainer(
            self.arguments,
            self.accelerator,
            splits,
            images=(run.train_images, run.validation),
            model=model,
            space=run.space,
            title="dense network",
            note=lambda line: self.note(f"Dense network: {line}"),
        )

    def _train(self, trainer: Trainer, interruption: Interruption) -> None:
        trained = trainer.run()
        interruption.advice = trainer.interruption.advice  # until the model is saved
        if self.accelerator.is_main_process:
            known = {
                "seconds": trained.seconds,
                "skipped": trained.facts.skipped_steps,
                "data": trainer.progress.data,
                "recipe": recipe_of(self.arguments),
            }
            write_json(self.directory / PHASE, known)
            save_whole(self.directory / "model", trained.model.prune(1.0), trainer.processor)
        self.accelerator.wait_for_everyone()
        for tracker in self.accelerator.trackers:
            tracker.finish()

    def _teach(self) -> None:
        run, model = self.second, self.directory / "model"
        damage = find_damage(model)
        if damage:
            raise ValueError(
                f"{model}, the teacher of this run, is damaged: it {damage}. Start again with --overwrite_output_dir."
            )
        known = load_json((self.directory / PHASE).read_text(encoding="utf-8"))
        check_same_data(known["data"], run.progress.data or {})
        if run.accelerator.is_main_process:
            discard_stages(self.directory)
            self._warn_of_changes(changed_arguments(known["recipe"], recipe_of(self.arguments)))
        teacher = load_teacher(str(model), run.model.config, run.processor, run.accelerator)
        check_same_network(run.model, teacher.model, str(model))
        take_over(run.model, teacher.model)
        lay_out(teacher.model, run.memory_format)
        run.progress.seconds += known["seconds"]
        has_classifier = not (run.options.trains_into and teacher.model.is_classifier_new)
        run.progress.teacher = teacher.identity(has_classifier=has_classifier)
        run.step.skipped += known["skipped"]
        if isinstance(run.step.objective, DistillationObjective):
            run.step.objective.teacher = teacher.logits

    def _warn_of_changes(self, changes: list[str]) -> None:
        if changes:
            logger.warning(
                "The dense network in %s was trained with other arguments and stays as it is: %s.",
                self.directory,
                ", ".join(changes),
            )


def check_same_network(
    model: PrunNetForImageClassification, dense: PrunNetForImageClassification, source: str
) -> None:
    """Make sure that a dense network has what a prunable one can take over.

    Args:
        model: A prunable network.
        dense: A network that was cut at capacity 1.
        source: Where that came from.

    Raises:
        ValueError: If they are different networks.
    """
    scores = {module.scores for module in scored_modules(model)}
    wanted = {name: tuple(tensor.shape) for name, tensor in model.named_parameters() if tensor not in scores}
    found = {name: tuple(tensor.shape) for name, tensor in dense.named_parameters()}
    differing = [name for name in sorted(wanted | found) if wanted.get(name) != found.get(name)]
    if differing:
        name = differing[0]
        raise ValueError(
            f"{source}, which this run has to go on from, is another network: {name} is {found.get(name, 'missing')} "
            f"there and {wanted.get(name, 'missing')} here. Give the --backbone and the --classifier from before, or "
            "start again with --overwrite_output_dir."
        )


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
