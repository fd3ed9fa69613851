"""A run, from arguments to a finished run directory, with accelerate."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import yaml
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, ProjectConfiguration, set_seed

from ..modeling_prunnet import PrunNetModel
from ..retrieval.foreign_encoders import ForeignEncoder
from ..runs.arguments import RunArguments
from ..runs.description import command_line, dataset_name, recipe_of
from ..runs.evaluation import evaluate_run, final_scores, is_evaluated_again
from ..runs.ownership import discard_run
from ..runs.record import TrainingFacts, recorded_training
from ..runs.run_data import load_run_data
from ..runs.run_directory import RunLog, write_text
from .checkpoints import check_output_dir, check_output_dir_is_shared, claim_together
from .dense_phase import DensePhase, arguments_of_phase, has_dense_phase
from .known_space import open_space
from .networks import load_trained
from .processes import NOTHING_LOST, Interruption
from .reports import start_trackers
from .trainer import Trainer

EVALUATION_TIMEOUT = timedelta(hours=12)
"""How long the other processes wait while the main process evaluates and writes the run directory."""


@dataclass(frozen=True)
class FinishedRun:
    """The result of a run.

    Attributes:
        directory: Holds `model/`, `subnetworks/`, `metrics.json`, `compatibility.png` and `config.yaml`.
        is_main_process: Whether this process wrote it.
    """

    directory: Path
    is_main_process: bool


def train(arguments: RunArguments, teacher: PrunNetModel | ForeignEncoder | None = None) -> FinishedRun:
    """Train a network, or with `eval_only` only evaluate one, and write the run directory.

    Args:
        arguments: See `parse_arguments`.
        teacher: A model in memory, in place of the one that `--teacher` names: one of this package, or what
            `load_foreign_encoder` and `foreign_encoder` make.

    Raises:
        ValueError, OSError: If an argument, the data, a checkpoint or the output directory can't be used, for instance
            because another process is writing in it. The message says why, and what to do.
    """
    accelerator = create_accelerator(arguments)
    run = Path(arguments.train.output_dir)
    log = RunLog(run, is_main_process=accelerator.is_main_process)
    with (
        log,
        Interruption(NOTHING_LOST, note=log.add, is_main_process=accelerator.is_main_process) as interruption,
        claim_together(accelerator, run),
    ):
        return _train(arguments, accelerator, interruption, log, teacher)


def _train(
    arguments: RunArguments,
    accelerator: Accelerator,
    interruption: Interruption,
    log: RunLog,
    teacher: PrunNetModel | ForeignEncoder | None,
) -> FinishedRun:
    options, run = arguments.train, Path(arguments.train.output_dir)
    # First, and by all processes: if one stopped alone, the others would wait for it.
    check_output_dir_is_shared(accelerator, run)
    check_output_dir(
        run,
        resume=options.resume,
        overwrite=options.overwrite_output_dir,
        eval_only=options.eval_only,
        has_dense_phase=has_dense_phase(options),
    )
    accelerator.wait_for_everyone()  # before the main process writes what the others would look at
    space = open_space(arguments, accelerator, teacher)
    set_seed(options.seed)
    splits = load_run_data(arguments, is_main_process=accelerator.is_main_process)
    if options.eval_only:
        again = is_evaluated_again(arguments)
        facts = recorded_training(run, dataset_name(arguments)) if again else TrainingFacts()
        model, processor = load_trained(arguments)
        if space is not None:
            space.check_evaluated(model.config.embedding_space, run if again else None)
        step = 0
        start_trackers(accelerator, arguments)
    else:
        trainer = Trainer(arguments, accelerator, splits, space=space, note=log.add)
        first = None
        if has_dense_phase(options):
            first = DensePhase(trainer, splits, create_accelerator(arguments_of_phase(arguments)), log.add)
        if options.overwrite_output_dir and accelerator.is_main_process:
            discard_run(run)  # the trainer has loaded the model that it begins with, which may be the earlier run's
        _write_beginning(arguments, log)
        if first is not None:
            first.run(interruption)
        trained, processor = trainer.run(), trainer.processor
        model, facts, step = trained.model, trained.facts, trained.step
        interruption.advice = trainer.interruption.advice
    reference = None if space is None else space.reference(splits)
    record = evaluate_run(accelerator, model.to(accelerator.device), processor, splits, arguments, facts, reference)
    if record is not None:
        accelerator.log(final_scores(record), step=step)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return FinishedRun(run, accelerator.is_main_process)


def _write_beginning(arguments: RunArguments, log: RunLog) -> None:
    """Write what a run will do before it does it."""
    if log.is_main_process:
        recipe = yaml.safe_dump(recipe_of(arguments), sort_keys=False)
        write_text(Path(arguments.train.output_dir) / "config.yaml", recipe)
    log.begin(f"Began: {command_line()}")


def create_accelerator(arguments: RunArguments) -> Accelerator:
    """Set up accelerate for this run. The launcher decides on processes, and on precision if `arguments` don't."""
    return Accelerator(
        mixed_precision=arguments.train.mixed_precision,
        gradient_accumulation_steps=arguments.train.gradient_accumulation_steps,
        log_with=arguments.train.report_to or None,
        project_config=ProjectConfiguration(
            arguments.train.output_dir, logging_dir=f"{arguments.train.output_dir}/logs"
        ),
        step_scheduler_with_optimizer=False,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=EVALUATION_TIMEOUT)],
    )
